"""Uncompressed tar shards: one file for thousands of images, readable by ``tar`` and by offset.

The headers hold nothing but name and size, so equal images give equal shards. Where a shard ends depends on the file
after which it ends and on nothing else, so images that come or go change the shards they are in and leave the bytes of
the others alone (content-defined chunking, as in Muthitacharoen, Chen and Mazières, "A low-bandwidth network file
system", SOSP 2001).
"""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from secpipeline.digests import sha256_bytes
from secpipeline.errors import InputError
from secpipeline.store import write_atomic

SHARD_BYTES = 64 << 20
_MOST = 4  # times the expected size, where a shard ends wherever it stands


@dataclass(frozen=True)
class Location:
    """Where a file's content lies: ``length`` bytes from ``offset`` of the shard."""

    shard: str
    offset: int
    length: int


class ShardWriter:
    """Writes ``shards/00000.tar``, ``shards/00001.tar`` … below a directory, each in one atomic step.

    Parameters
    ----------
    directory
        The release's directory.
    shard_bytes
        The expected size of a shard.
    find
        Returns a file with this SHA-256 that may be linked to instead of writing a shard, or None.

    Attributes
    ----------
    locations
        Where each file lies, by its name; complete once :meth:`close` was called.
    digests
        SHA-256 of each shard, by its name.
    reused
        How many shards are links to files that were there.
    """

    def __init__(
        self,
        directory: Path,
        shard_bytes: int = SHARD_BYTES,
        find: Callable[[str], Path | None] | None = None,
    ) -> None:
        self._directory = directory
        self._is_own = not directory.exists()
        self._shard_bytes = shard_bytes
        self._find = find
        self._start()
        self.locations: dict[str, Location] = {}
        self.digests: dict[str, str] = {}
        self.reused = 0

    def _start(self) -> None:
        self._buffer = io.BytesIO()
        self._open: list[tuple[str, int, int]] = []

    def add(self, name: str, data: bytes) -> None:
        """Append a file."""
        header = tarfile.TarInfo(name)
        header.size = len(data)
        header.mode = 0o644
        self._buffer.write(header.tobuf(tarfile.PAX_FORMAT))
        self._open.append((name, self._buffer.tell(), len(data)))
        self._buffer.write(data)
        end = self._pad(tarfile.BLOCKSIZE)
        if _ends_after(name, len(data), self._shard_bytes) or end >= _MOST * self._shard_bytes:
            self.close()

    def _pad(self, block: int) -> int:
        """Fill the open shard with zeros to a multiple of ``block`` bytes, and return its length."""
        self._buffer.write(bytes(-self._buffer.tell() % block))
        return self._buffer.tell()

    def close(self) -> None:
        """Write the open shard if it holds anything."""
        if not self._open:
            return
        self._buffer.write(bytes(2 * tarfile.BLOCKSIZE))
        self._pad(tarfile.RECORDSIZE)
        data = self._buffer.getvalue()
        name, digest = f"shards/{len(self.digests):05d}.tar", sha256_bytes(data)
        known = self._find(digest) if self._find else None
        if known is not None and self._link(known, name):
            self.reused += 1
        else:
            write_atomic(self._directory / name, data)
        self.digests[name] = digest
        self.locations |= {file: Location(name, offset, length) for file, offset, length in self._open}
        self._start()

    def _link(self, known: Path, name: str) -> bool:
        target = self._directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(known, target)
        except OSError:  # another file system, or one without links
            return False
        return True

    def discard(self) -> None:
        """Remove what was written."""
        for name in self.digests:
            (self._directory / name).unlink(missing_ok=True)
        own = (self._directory / "shards", *((self._directory,) if self._is_own else ()))
        for directory in own:
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()


def _ends_after(name: str, length: int, shard_bytes: int) -> bool:
    """Whether a shard ends after this file: by chance, with odds of its length to the expected size of a shard."""
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return draw * shard_bytes < (length + tarfile.BLOCKSIZE) << 64


class ShardReader:
    """Reads files out of shards by offset, through memory maps that stay open.

    Parameters
    ----------
    root
        The directory that shard names are relative to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._maps: dict[str, mmap.mmap] = {}

    def read(self, location: Location) -> bytes:
        """The bytes at a location.

        Raises
        ------
        InputError
            If the shard is missing or too short.
        """
        data = self._open(location.shard)
        end = location.offset + location.length
        if location.offset < 0 or location.length < 0 or end > len(data):
            raise InputError(
                f"{self._root / location.shard}: {len(data)} bytes, but an image should end at byte {end}; "
                "restore the shard or run ingest again"
            )
        return data[location.offset : end]

    def _open(self, shard: str) -> mmap.mmap:
        if shard not in self._maps:
            path = self._root / shard
            try:
                with path.open("rb") as file:
                    self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
                raise InputError(f"{path}: cannot be read ({error}); restore it or run ingest again") from error
        return self._maps[shard]
