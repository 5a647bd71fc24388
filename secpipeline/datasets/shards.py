"""Uncompressed tar shards: one file for thousands of images, readable by ``tar`` and by offset.

The headers hold nothing but name and size, so equal images give equal shards.
"""

from __future__ import annotations

import io
import mmap
import tarfile
from dataclasses import dataclass
from pathlib import Path

from secpipeline.errors import InputError
from secpipeline.store import write_atomic

SHARD_BYTES = 64 << 20


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
        A shard is closed once it is at least this large.
    """

    def __init__(self, directory: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._directory = directory
        self._shard_bytes = shard_bytes
        self._start()
        self.names: list[str] = []

    def _start(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by close()

    def add(self, name: str, data: bytes) -> Location:
        """Append a file."""
        shard = f"shards/{len(self.names):05d}.tar"
        header = tarfile.TarInfo(name)
        header.size = len(data)
        header.mode = 0o644
        self._tar.addfile(header, io.BytesIO(data))
        end = self._buffer.tell()
        padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if end >= self._shard_bytes:
            self.close()
        return Location(shard, end - padded, len(data))

    def close(self) -> None:
        """Write the open shard if it holds anything."""
        if self._buffer.tell() == 0:
            return
        self._tar.close()
        shard = f"shards/{len(self.names):05d}.tar"
        write_atomic(self._directory / shard, self._buffer.getvalue())
        self.names.append(shard)
        self._start()


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
