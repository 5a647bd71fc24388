"""Digests of files and directories, and the one JSON form that is hashed and signed.

>>> from secpipeline.digests import canonical_json, sha256_bytes
>>> sha256_bytes(canonical_json({"b": 1, "a": [True, None]}))[:12]
'b7c64ebef429'

Every file is opened without following a link and without waiting for a pipe's writer, and read exactly once. Many files
are hashed two at a time where that is quicker, see :mod:`secpipeline.paired_sha256`.
"""

from __future__ import annotations

import errno
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
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from secpipeline.errors import InputError, IntegrityError, SecpipelineError
from secpipeline.paired_sha256 import Pairing, Reading, pairing, reading

StrPath = str | os.PathLike[str]
_T = TypeVar("_T")
Look = Callable[[int, os.stat_result], _T]
# What was seen of a file, and its bytes in the buffer that was given or, if they do not fit, their digest.
_Read = Callable[[StrPath, memoryview], tuple[_T, memoryview | str]]

_BUFFER_BYTES = 512 << 10  # few system calls, yet hashed out of the processor's second-level cache
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CHUNK_FILES = 64  # a future for every small file would cost as much as its digest
_SOMETHING_ELSE = "it is something else"
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
    extension_reads = reading()
    if extension_reads is None:
        found = look_and_hash(_look_at_nothing, paths, threads, progress)
    else:
        found = _hash_files(partial(_read_at_once, extension_reads), paths, threads, progress)
    return [digest for _, digest in found]


def look_and_hash(
    look: Look[_T], paths: Iterable[StrPath], threads: int | None = None, progress: bool | None = None
) -> list[tuple[_T, str]]:
    """SHA-256 of many files, each with what ``look`` says about it, in their order.

    Parameters
    ----------
    look
        Is given the descriptor and the status of a file that was just opened, before anything of it is read.
    paths, threads, progress
        As :func:`map_files`.

    Raises
    ------
    InputError, FileChanged
        As :func:`sha256_file`, for the first file in order that cannot be hashed.
    """
    return _hash_files(partial(_look_and_read, look), paths, threads, progress)


def _look_at_nothing(descriptor: int, status: os.stat_result) -> None:
    pass


def _look_and_read(look: Look[_T], path: StrPath, buffer: memoryview) -> tuple[_T, memoryview | str]:
    descriptor, status = open_plain(path)
    try:
        seen = look(descriptor, status)
        if status.st_size < _BUFFER_BYTES:
            return seen, _read_whole(descriptor, path, status.st_size, buffer)
        digest = _FRESH.copy()
        read_through(descriptor, path, status.st_size, digest.update)
        return seen, digest.hexdigest()
    finally:
        os.close(descriptor)


def _read_at_once(extension_reads: Reading, path: StrPath, buffer: memoryview) -> tuple[None, memoryview | str]:
    """As :func:`_look_and_read`, all without the interpreter lock, so nothing of Python can look in between."""
    error = errno.EINTR
    while error == errno.EINTR:
        error, mode, size, count = extension_reads(path, _OPEN_FLAGS, buffer)
    if error:
        reason = os.strerror(error)
        raise _unreadable(path, reason) from OSError(error, reason, os.fspath(path))
    if not stat.S_ISREG(mode):
        raise _unreadable(path, _SOMETHING_ELSE)
    if size >= _BUFFER_BYTES:
        return None, sha256_file(path)
    if count != size:
        raise FileChanged(path, size, count)
    return None, buffer[:count]


def _hash_files(
    read: _Read[_T], paths: Iterable[StrPath], threads: int | None, progress: bool | None
) -> list[tuple[_T, str]]:
    pair = pairing()
    return _map_runs(partial(_hash_run, read, pair), paths, threads, progress)


def _hash_run(read: _Read[_T], pair: Pairing, paths: Sequence[StrPath]) -> list[tuple[_T, str]]:
    """Files that fit a buffer are read one after the other and hashed in pairs, longer ones by hashlib alone.

    A file is read to its end before the next is opened, so the first that fails in order is the one that is reported.
    """
    seen: list[_T] = []
    digests = [""] * len(paths)
    waiting: tuple[int, memoryview] | None = None  # a file that was read and has no partner yet
    buffers = _take_buffer(), _take_buffer()
    try:
        for index, path in enumerate(paths):
            said, data = read(path, buffers[waiting is not None])
            seen.append(said)
            if isinstance(data, str):
                digests[index] = data
            elif waiting is None:
                waiting = index, data
            else:
                earlier, earlier_data = waiting
                waiting = None
                digests[earlier], digests[index] = (found.hex() for found in pair(earlier_data, data))
        if waiting is not None:
            digests[waiting[0]] = hashlib.sha256(waiting[1]).hexdigest()
    finally:
        _spare_buffers.extend(buffers)
    return list(zip(seen, digests, strict=True))


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
    return _map_runs(lambda run: [function(path) for path in run], paths, threads, progress)


def _map_runs(
    function: Callable[[Sequence[StrPath]], list[_T]],
    paths: Iterable[StrPath],
    threads: int | None,
    progress: bool | None,
) -> list[_T]:
    paths = list(paths)
    threads = _default_threads() if threads is None else threads
    step = max(1, min(_CHUNK_FILES, len(paths) // (8 * threads) * 2))  # even: files are hashed in pairs
    runs = [paths[start : start + step] for start in range(0, len(paths), step)]
    if threads == 1 or len(runs) < 2:
        return _gather(map(function, runs), len(paths), progress)
    with ThreadPoolExecutor(threads) as pool:
        return _gather(pool.map(function, runs), len(paths), progress)


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
        raise _unreadable(path, _SOMETHING_ELSE)
    return descriptor, status


def read_through(descriptor: int, path: StrPath, size: int, *updates: Callable[[memoryview], object]) -> None:
    """Read a file from its position to its end and hand every part to each of ``updates``.

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
    buffer = _take_buffer()
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


def _read_whole(descriptor: int, path: StrPath, size: int, buffer: memoryview) -> memoryview:
    """The ``size`` bytes of a file, fewer than a buffer has; raises as :func:`read_through`."""
    try:
        count = total = os.readv(descriptor, (buffer,))
        while count and total < size:
            count = os.readv(descriptor, (buffer[total:],))
            total += count
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    if total != size:
        raise FileChanged(path, size, total)
    return buffer[:total]


def _take_buffer() -> memoryview:
    """A buffer of the caller's own, until it is appended to the spare ones.

    The buffers are kept, because the first touch of a new one costs more than hashing a small file, and start on a
    page, because some processors copy into such several times faster than into a ``bytearray``. They are private: one
    that a forked process shared would mix the two processes' files.
    """
    try:
        return _spare_buffers.pop()
    except IndexError:
        return memoryview(mmap.mmap(-1, _BUFFER_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


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
