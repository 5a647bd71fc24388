"""Content-addressed artifacts with atomic references.

Every file a stage has ever produced lies in ``objects/`` under its SHA-256, read-only. ``artifacts/<stage>/`` holds
the current outputs under their own names, as hard links to the objects, so that people, DVC and auditors see plain
files and nothing is stored twice.

>>> from pathlib import Path
>>> import tempfile
>>> home = Path(tempfile.mkdtemp())
>>> (home / "new").mkdir(); _ = (home / "new/report.json").write_text("{}")
>>> store = Store(home)
>>> files = store.put(home / "new")
>>> store.publish("validate", files)
>>> (home / "artifacts/validate/report.json").read_text()
'{}'
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from secpipeline.digests import sha256_files, tree_files
from secpipeline.errors import InputError, IntegrityError


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file so that a reader, or a crash, sees the old bytes or the new ones and never a part.

    Raises
    ------
    InputError
        If the directory cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InputError(f"{path}: cannot write here ({error.strerror}); check the directory's permissions") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold a directory: one process, or thread, at a time.

    Raises
    ------
    InputError
        If it cannot be opened.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(f"{directory}: cannot be opened ({error.strerror}); check its permissions") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Make the renames inside ``directory`` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Store:
    """The artifacts of one workspace.

    Parameters
    ----------
    home
        The workspace directory; created on first use.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.objects = home / "objects"
        self.artifacts = home / "artifacts"

    def object_path(self, digest: str) -> Path:
        """Where the object with this SHA-256 lies, whether or not it is there."""
        return self.objects / digest[:2] / digest[2:]

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """A private directory on the store's own file system, removed afterwards.

        Raises
        ------
        InputError
            If the workspace cannot be written.
        """
        parent = self.home / "scratch"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            path = Path(tempfile.mkdtemp(dir=parent, prefix=f"{name}-"))
        except OSError as error:
            raise InputError(f"{parent}: cannot write here ({error.strerror}); check its permissions") from error
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def put(self, directory: Path) -> dict[str, str]:
        """Move every file of ``directory`` into the store.

        Returns
        -------
        dict
            SHA-256 by relative name.

        Raises
        ------
        InputError
            If a name is unsafe or an entry is not a plain file.
        """
        files = tree_files(directory)
        found = self._found(files.values())
        for name, digest in files.items():
            if found[digest] == digest:
                (directory / name).unlink()
            else:
                self._adopt(directory / name, digest)
        return files

    def _found(self, digests: Iterable[str]) -> dict[str, str]:
        """What the object of each digest really hashes to; empty where there is no plain file."""
        objects = {digest: self.object_path(digest) for digest in digests}
        present = {digest: path for digest, path in objects.items() if path.is_file() and not path.is_symlink()}
        return dict.fromkeys(objects, "") | dict(zip(present, sha256_files(present.values()), strict=True))

    def _adopt(self, source: Path, digest: str) -> None:
        target = self.object_path(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as file:
            os.fsync(file.fileno())
        source.chmod(0o444)
        source.replace(target)
        sync_directory(target.parent)

    def publish(self, stage: str, files: Mapping[str, str]) -> None:
        """Make ``files`` the current outputs of ``stage``, in one rename.

        Raises
        ------
        IntegrityError
            If an object is missing or no longer has its digest.
        """
        found = self._found(files.values())
        for name, digest in files.items():
            if found[digest] != digest:
                hint = "run the stage again to rebuild it"
                raise IntegrityError(f"{stage}/{name} in the object store", digest, found[digest], hint)
        with self.scratch(f"publish-{stage}") as scratch:
            fresh = scratch / "fresh"
            fresh.mkdir()
            for name, digest in files.items():
                (fresh / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(self.object_path(digest), fresh / name)
            current = self.artifacts / stage
            self.artifacts.mkdir(parents=True, exist_ok=True)
            if current.exists():
                current.rename(scratch / "old")
            fresh.rename(current)
            sync_directory(self.artifacts)

    def is_published(self, stage: str, files: Mapping[str, str]) -> bool:
        """Whether the current outputs of ``stage`` are exactly ``files``, byte for byte."""
        directory = self.artifacts / stage
        return directory.is_dir() and tree_files(directory) == dict(sorted(files.items()))

    def has(self, files: Mapping[str, str]) -> bool:
        """Whether every object of ``files`` is in the store with its own digest."""
        return all(digest == found for digest, found in self._found(files.values()).items())

    def withdraw(self, stage: str) -> None:
        """Take the current outputs of ``stage`` away; the objects stay."""
        current = self.artifacts / stage
        if current.exists():
            with self.scratch(f"withdraw-{stage}") as scratch:
                current.rename(scratch / "old")
