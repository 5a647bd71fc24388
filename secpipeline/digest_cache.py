"""SHA-256 digests of unchanged files, remembered between verifications.

>>> import os, tempfile
>>> from pathlib import Path
>>> place, key = Path(tempfile.mkdtemp()), os.urandom(32)
>>> _ = (place / "weights").write_bytes(b"abc")
>>> cache = DigestCache.open(place / "digests.cache", key)
>>> cache.sha256([place / "weights"])[place / "weights"][:12]
'ba7816bf8f01'
>>> cache.hits, cache.hashed
(0, 1)
>>> cache.save()

What is trusted, and why
------------------------
A recorded digest is used again only while the file's device, inode, size, modification time and change time (ctime,
in nanoseconds) are all as recorded. Whoever may write the file but is not root can set its modification time back but
never its ctime: the kernel sets that to the current time whenever bytes or metadata change. Four ways around this
are closed:

- **The clock is coarse.** Two changes within one tick share a ctime, so a file changed right after it was hashed could
  keep its ctime (git calls such an entry racily clean). A digest is recorded only if the ctime lay at least two
  seconds before the hashing.
- **A change that began earlier.** A store through a shared writable mapping moves the ctime only when it first dirties
  a page, and a ``write`` moves it before it copies, so a writer who was there already could change bytes without a
  trace. A digest is recorded only if, once the file was open, no process had it open or mapped for writing: only then
  does Linux grant a read lease, which is given back at once. The file's owner and root may ask for one.
- **File systems without a kept ctime.** A memory file system misses stores through a mapping, FAT keeps no ctime,
  a network or user-space file system reports what its server says. Digests are recorded on ext4, XFS and F2FS alone.
- **A crash or a power cut** can keep new bytes and lose the ctime that went with them, and a disk can be altered while
  the machine is off. A cache is good only for the boot that wrote it.

Where one of these cannot be told, as on systems other than Linux, the file is hashed every time: slower, never wrong.

The cache file itself may lie where an attacker can write: it is authenticated as a whole by HMAC-SHA256 (RFC 2104)
under a key of 32 bytes that the caller keeps elsewhere, one key a machine. Without the key nobody can add or alter an
entry; a missing, damaged, foreign or malformed cache is an empty one. An older cache of one's own put back in place
does no harm, because each of its entries still holds only for the file with that very ctime.

What it does not protect from: whoever is root or holds the key, turns the clock back, mounts another disk in the
place of this one, or writes to the raw disk; a page of the file that an attacker pinned for direct input that has not
come yet; a kernel or a disk that lies, or loses bits silently; and bytes that change after the verification.
``full=True`` reads every byte and so closes all of these but a lying kernel and the last. It hashes with hashlib alone,
so what the extension module of :mod:`secpipeline.paired_sha256` said is checked by another implementation. Verify in
full before a deployment, and from time to time.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from secpipeline.digests import look_and_hash, open_plain
from secpipeline.errors import InputError
from secpipeline.paired_sha256 import hashlib_alone
from secpipeline.store import write_atomic

KEY_BYTES = 32

_HEADER = b"secpipeline digest cache 1\n"
_MOST_BYTES = 1 << 30  # four million files; a longer file was not written here
_SETTLED_NS = 2_000_000_000
_FILE_SYSTEMS = frozenset({"ext4", "xfs", "f2fs"})

_Identity = tuple[int, ...]  # device, inode, size, mtime_ns, ctime_ns
_Entry = tuple[_Identity, str]


def _boot_id() -> str:
    return _read_text("/proc/sys/kernel/random/boot_id").strip()


def _devices() -> frozenset[int]:
    """Device numbers of the mounted file systems that keep a ctime, from proc_pid_mountinfo(5)."""
    found = set()
    for line in _read_text("/proc/self/mountinfo").splitlines():
        mount, _, kind = line.partition(" - ")
        if kind.split(" ")[0] in _FILE_SYSTEMS:
            major, _, minor = mount.split(" ")[2].partition(":")
            found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


@dataclass(frozen=True)
class Host:
    """What a cache must know about the machine it runs on.

    Attributes
    ----------
    now
        The time in nanoseconds since 1970, on the clock that stamps files.
    boot
        Names this boot; another one makes the cache empty.
    devices
        Device numbers of the file systems whose ctime can be relied on.
    """

    now: Callable[[], int] = time.time_ns
    boot: str = field(default_factory=_boot_id)
    devices: frozenset[int] = field(default_factory=_devices)


class DigestCache:
    """Digests by file, used again while the file is the recorded one; the module's text says what that rests on.

    Attributes
    ----------
    hits, hashed
        How many files were answered from the cache and how many were read, since it was opened.
    """

    def __init__(self, path: Path, key: bytes, host: Host, entries: dict[str, _Entry], *, full: bool = False) -> None:
        self.path = path
        self.hits = self.hashed = 0
        self._key, self._host, self._entries, self._full = key, host, entries, full

    @classmethod
    def open(cls, path: Path, key: bytes, *, full: bool = False, host: Host | None = None) -> DigestCache:
        """Open the cache at ``path``; it is empty if none was written there in this boot under ``key``.

        Parameters
        ----------
        path
            The cache file; need not be there.
        key
            32 secret bytes, kept outside every directory that is verified.
        full
            Ignore what is recorded, read every byte, hash it with hashlib alone, and let :meth:`save` write what was
            found instead.
        host
            By default the machine this runs on.

        Raises
        ------
        InputError
            If the key has not 32 bytes.
        """
        if len(key) != KEY_BYTES:
            raise InputError(f"{path}: the key of a digest cache has {KEY_BYTES} bytes, not {len(key)}; make a new one")
        host = host or Host()
        return cls(path, key, host, {} if full else _load(path, key, host.boot), full=full)

    def sha256(
        self, paths: Iterable[Path], threads: int | None = None, progress: bool | None = None
    ) -> dict[Path, str]:
        """SHA-256 of every file in lower-case hex; parameters as :func:`secpipeline.digests.map_files`.

        Raises
        ------
        InputError, FileChanged
            As :func:`secpipeline.digests.sha256_file`, for the first file in order that is not remembered and cannot
            be hashed.
        """
        paths = list(dict.fromkeys(paths))
        known = {path: digest for path in paths if (digest := self._recall(path))}
        unknown = [path for path in paths if path not in known]
        with hashlib_alone(self._full):
            found = look_and_hash(self._settled_identity, unknown, threads, progress)
        for path, (identity, digest) in zip(unknown, found, strict=True):
            known[path] = digest
            if identity:
                self._entries[_name(path)] = identity, digest
        self.hits += len(paths) - len(unknown)
        self.hashed += len(unknown)
        return {path: known[path] for path in paths}

    def save(self) -> None:
        """Write the cache anew, without the files that are gone, in one rename.

        Raises
        ------
        InputError
            If its directory cannot be written.
        """
        entries = {name: entry for name, entry in self._entries.items() if os.path.lexists(name)}
        body = json.dumps(entries, separators=(",", ":")).encode()
        code = _authenticator(self._key, self._host.boot, body)
        write_atomic(self.path, _HEADER + code + b"\n" + body, mode=0o600)

    def _recall(self, path: Path) -> str:
        """The recorded digest if the file is still the recorded one, else nothing."""
        name = _name(path)
        if name not in self._entries:
            return ""
        identity, digest = self._entries[name]
        try:
            status = os.lstat(name)
        except OSError:  # hashing it will say what is wrong
            return ""
        return digest if _identity(status) == identity and status.st_dev in self._host.devices else ""

    def _settled_identity(self, descriptor: int, status: os.stat_result) -> _Identity:
        """What to record the digest of an open, unread file under; empty if it must not be recorded."""
        latest = self._host.now() - _SETTLED_NS
        settled = status.st_ctime_ns <= latest and status.st_dev in self._host.devices and _no_writer(descriptor)
        return _identity(status) if settled else ()


def _load(path: Path, key: bytes, boot: str) -> dict[str, _Entry]:
    try:
        descriptor, _ = open_plain(path)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(_MOST_BYTES)
    except (InputError, OSError):
        return {}
    code, _, body = data.removeprefix(_HEADER).partition(b"\n")
    if not data.startswith(_HEADER) or not hmac.compare_digest(code, _authenticator(key, boot, body)):
        return {}
    return {name: (tuple(identity), digest) for name, (identity, digest) in json.loads(body).items()}


def _authenticator(key: bytes, boot: str, body: bytes) -> bytes:
    return hmac.new(key, _HEADER + boot.encode() + b"\n" + body, hashlib.sha256).hexdigest().encode()


def _name(path: Path) -> str:
    """An absolute name, links in it unresolved: it only finds the entry, the identity decides."""
    return os.path.join(os.getcwd(), path)  # noqa: PTH109, PTH118 - runs for every file of a large dataset


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _no_writer(descriptor: int) -> bool:
    """Whether nobody has the file open or mapped for writing: else the kernel grants no read lease, fcntl(2)."""
    if sys.platform != "linux":
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # SIGIO, sent if a writer comes just now, would kill us
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True
