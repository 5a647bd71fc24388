"""Digests of files and directories, and the one JSON form that is hashed and signed.

>>> from secpipeline.digests import canonical_json, sha256_bytes
>>> sha256_bytes(canonical_json({"b": 1, "a": [True, None]}))[:12]
'b7c64ebef429'

Every file is opened without following a link and without waiting for a pipe's writer, and read exactly once.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import stat
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from secpipeline.errors import InputError, IntegrityError, SecpipelineError

StrPath = str | os.PathLike[str]
_T = TypeVar("_T")

_BUFFER_BYTES = 512 << 10  # few system calls, yet hashed out of the processor's second-level cache
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CHUNK_FILES = 64  # a future for every small file would cost as much as its digest
_MOST_THREADS = 8  # opening files holds the interpreter lock, so more threads than this gain nothing

# Copying a fresh hash is quicker than asking OpenSSL for a new one, which looks the algorithm up every time.
_FRESH = hashlib.sha256()

_spare_buffers: list[memoryview] = []


class FileChanged(IntegrityError):
    """The size of a file changed while it was read, so no digest describes it.

    Parameters
    ----------
    path
        The file.
    size, count
        Bytes it had when it was opened, and bytes that were read.
    """

    def __init__(self, path: StrPath, size: int, count: int) -> None:
        message = f"{os.fspath(path)}: had {size} bytes and gave {count}: it changed while it was read"
        SecpipelineError.__init__(self, f"{message}; stop what writes to it and try again")
        self.name, self.expected, self.found = os.fspath(path), "", ""


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of ``data`` in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: StrPath) -> str:
    """SHA-256 of a file's bytes in lower-case hex.

    Raises
    ------
    InputError
        If the file is missing, may not be read, or is no plain file (a link, a pipe, a device, a directory).
    FileChanged
        If its size changes while it is read.
    """
    digest = _FRESH.copy()
    descriptor, status = open_plain(path)
    try:
        read_through(descriptor, path, status.st_size, digest.update)
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def file_digests(path: StrPath, algorithms: Sequence[str] = ("sha256",)) -> dict[str, str]:
    """Several digests of a file in one pass over its bytes.

    Parameters
    ----------
    path
        A plain file.
    algorithms
        Names that :mod:`hashlib` knows, such as ``sha256`` for evidence or ``md5`` for DVC.

    Returns
    -------
    dict
        Lower-case hex digest by algorithm.

    Raises
    ------
    InputError
        As :func:`sha256_file`, or if there is no algorithm, or one that is unknown or of no fixed length.
    FileChanged
        As :func:`sha256_file`.
    """
    try:
        digests = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    except ValueError as error:
        raise InputError(f"{os.fspath(path)}: {error}; use such as sha256 or md5") from error
    if not digests or not all(digest.digest_size for digest in digests.values()):
        raise InputError(f"{os.fspath(path)}: {[*digests]} gives no digest of fixed length; use such as sha256 or md5")
    descriptor, status = open_plain(path)
    try:
        read_through(descriptor, path, status.st_size, *(digest.update for digest in digests.values()))
    finally:
        os.close(descriptor)
    return {name: digest.hexdigest() for name, digest in digests.items()}


def sha256_files(paths: Iterable[StrPath], threads: int | None = None, progress: bool | None = None) -> list[str]:
    """SHA-256 of many files, in their order; see :func:`map_files` for the parameters.

    Raises
    ------
    InputError, FileChanged
        As :func:`sha256_file`, for the first file in order that cannot be hashed.
    """
    return map_files(sha256_file, paths, threads, progress)


def map_files(
    function: Callable[[StrPath], _T],
    paths: Iterable[StrPath],
    threads: int | None = None,
    progress: bool | None = None,
) -> list[_T]:
    """Apply ``function`` to every path on several threads and return the results in order.

    Parameters
    ----------
    function
        Spends its time outside the interpreter lock, as reading and hashing do.
    paths
        Handed out in runs, so that a thousand small files cost few futures and ten large ones keep all threads busy.
    threads
        At least 1; by default as many as there are cores to run on, at most 8.
    progress
        Whether to show a bar; by default on a terminal, once the work has taken a second.

    Raises
    ------
    Exception
        The first that ``function`` raises, in the order of ``paths``; what has not begun by then is not begun.
    """
    paths = list(paths)
    threads = _default_threads() if threads is None else threads
    step = max(1, min(_CHUNK_FILES, len(paths) // (4 * threads)))
    chunks = [paths[start : start + step] for start in range(0, len(paths), step)]

    def run(chunk: Sequence[StrPath]) -> list[_T]:
        return [function(path) for path in chunk]

    if threads == 1 or len(chunks) < 2:
        return _gather(map(run, chunks), len(paths), progress)
    with ThreadPoolExecutor(threads) as pool:
        return _gather(pool.map(run, chunks), len(paths), progress)


def _gather(parts: Iterator[list[_T]], total: int, progress: bool | None) -> list[_T]:
    if progress is False or (progress is None and not sys.stderr.isatty()):
        return [result for part in parts for result in part]
    from tqdm import tqdm  # noqa: PLC0415 - only a person who waits needs it

    results: list[_T] = []
    with tqdm(desc="hash", total=total, unit="file", leave=False, delay=0 if progress else 1) as bar:
        for part in parts:
            results += part
            bar.update(len(part))
    return results


def _default_threads() -> int:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(cores, _MOST_THREADS)


def open_plain(path: StrPath) -> tuple[int, os.stat_result]:
    """Open a plain file for reading; the caller closes the descriptor.

    Returns
    -------
    tuple
        The descriptor and its status.

    Raises
    ------
    InputError
        As :func:`sha256_file`. ``O_NOFOLLOW`` refuses a link and ``O_NONBLOCK`` keeps a pipe from hanging the open.
    """
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise _unreadable(path, "it is something else")
    return descriptor, status


def read_through(descriptor: int, path: StrPath, size: int, *updates: Callable[[memoryview], object]) -> None:
    """Read a file from its position to its end and hand every part to each of ``updates``.

    The buffers are kept, because the first touch of a new one costs more than hashing a small file, and start on a
    page, because some processors copy into such several times faster than into a ``bytearray``. They are private: one
    that a forked process shared would mix the two processes' files.

    Parameters
    ----------
    descriptor
        From :func:`open_plain`.
    path
        Its name, for messages.
    size
        Its size in bytes when it was opened.
    updates
        Such as ``hashlib.sha256().update``; none may keep the part it is given.

    Raises
    ------
    FileChanged
        If the end does not come after ``size`` bytes.
    InputError
        If the bytes cannot be read.
    """
    try:
        buffer = _spare_buffers.pop()
    except IndexError:
        buffer = memoryview(mmap.mmap(-1, _BUFFER_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    target, total, count = (buffer,), 0, _BUFFER_BYTES
    try:
        # At the expected size a part-filled buffer proves the end; a full one must be followed by an empty read.
        while count and (total < size or (total == size and count == _BUFFER_BYTES)):
            count = os.readv(descriptor, target)
            part = buffer[:count]
            for update in updates:
                update(part)
            total += count
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    finally:
        _spare_buffers.append(buffer)
    if total != size:
        raise FileChanged(path, size, total)


def _unreadable(path: StrPath, reason: str | None) -> InputError:
    hint = "only plain files are read, not links, pipes or devices; check what is there and its permissions"
    return InputError(f"{os.fspath(path)}: cannot be read as a plain file ({reason}); {hint}")


def canonical_json(value: Any) -> bytes:
    """Serialize to the one byte string that equal values share: sorted keys, no spaces, UTF-8, one final newline.

    Raises
    ------
    InputError
        If a number is NaN or infinite (JSON has no such thing), a key is not a string, or a text is not Unicode.
    """
    _refuse_non_json(value, "$")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def _refuse_non_json(value: Any, where: str) -> None:
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{where}: the text {value!a} is not Unicode") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where}: {value} cannot be written as JSON")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InputError(f"{where}: the key {key!r} is not a string")
            _refuse_non_json(key, where)
            _refuse_non_json(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_non_json(item, f"{where}[{index}]")


def check_name(name: str) -> str:
    """Return ``name`` if two tools can only read it one way.

    in-toto folds backslashes into slashes and a newline inside a name forges a manifest line, so such names never
    enter evidence.

    Raises
    ------
    InputError
        If the name is empty, absolute, not NFC, or holds ``..``, a backslash or a control character.
    """
    parts = name.split("/")
    bad = (
        not name
        or name.startswith("/")
        or "\\" in name
        or any(part in ("", ".", "..") for part in parts)
        or (not name.isprintable() and any(unicodedata.category(character).startswith("C") for character in name))
        or not unicodedata.is_normalized("NFC", name)
    )
    if bad:
        raise InputError(f"{name!r} is not a safe relative file name; rename the file")
    return name


def tree_files(directory: Path) -> dict[str, str]:
    """SHA-256 of every file under ``directory``, keyed by its relative POSIX name and sorted by it.

    Raises
    ------
    InputError
        If a name is unsafe, an entry is neither a plain file nor a directory (a symbolic link, a device), or
        something cannot be read.
    FileChanged
        As :func:`sha256_file`.
    """
    paths = dict(sorted(_plain_files(directory)))
    return dict(zip(paths, sha256_files(paths.values()), strict=True))


def _plain_files(directory: Path) -> Iterator[tuple[str, str]]:
    """The relative name and the path of every file; a stack, because a hostile tree is deeper than Python recurses."""
    pending = [("", os.fspath(directory))]
    while pending:
        prefix, place = pending.pop()
        try:
            with os.scandir(place) as found:
                entries = list(found)
        except OSError as error:
            raise InputError(f"{place}: cannot be listed ({error.strerror}); check it and its permissions") from error
        for entry in entries:
            name = check_name(prefix + entry.name)
            if entry.is_dir(follow_symlinks=False):
                pending.append((f"{name}/", entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield name, entry.path
            else:
                raise InputError(f"{entry.path}: only plain files and directories can be recorded, no links or devices")


def manifest_bytes(files: Mapping[str, str]) -> bytes:
    """Render ``{name: sha256}`` as ``sha256sum`` does, sorted by name, so that ``sha256sum -c`` can check it."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items())).encode()


def tree_digest(files: Mapping[str, str]) -> str:
    """One digest for a set of files: SHA-256 of its manifest."""
    return sha256_bytes(manifest_bytes(files))
