"""SHA-256 of two messages at once: nearly twice as many bytes per CPU-second where a processor has SHA instructions.

>>> from secpipeline.paired_sha256 import pairing
>>> [digest.hex()[:12] for digest in pairing()(b"abc", b"")]
['ba7816bf8f01', 'e3b0c44298fc']

The quick way is an extension module of ours, ``secpipeline._paired_sha256``: it is built where there is a C compiler
and runs on x86-64 processors with SHA instructions. Everywhere else :mod:`hashlib` answers, so digests never depend on
what was built. The module also reads files, in one call each, because threads that hash so fast would wait for the
interpreter lock. Three things keep a wrong extension from being believed: a process uses it only after it agreed with
hashlib; ``secpipeline verify --full`` uses hashlib alone and Python's own reads; and so does all that runs with
``SECPIPELINE_HASHLIB=1``.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar

HASHLIB_VARIABLE = "SECPIPELINE_HASHLIB"

_Message = bytes | memoryview
Pairing = Callable[[_Message, _Message], tuple[bytes, bytes]]
Reading = Callable[[str | os.PathLike[str], int, memoryview], tuple[int, int, int, int]]

_LENGTHS = range(301)  # whole blocks from none to four, each followed by every possible rest
_LONG_PAIRS, _LONGEST = 4, 300_000

_hashlib_alone: ContextVar[bool] = ContextVar("hashlib_alone", default=False)


def pairing() -> Pairing:
    """The function that hashes two messages here and now: the extension's, or :func:`hashlib_pair`.

    It releases the interpreter lock and returns 32 bytes a message. Ask in the thread that started the work:
    :func:`hashlib_alone` does not reach those of a pool.
    """
    if _hashlib_alone.get() or os.environ.get(HASHLIB_VARIABLE):
        return hashlib_pair
    return _trusted_extension() or hashlib_pair


def reading() -> Reading | None:
    """The extension's function that reads a file for what :func:`pairing` gives, or nothing where that is hashlib's.

    It takes a path, the flags to open it with and a buffer, and returns errno or 0, the file's mode, its size in bytes
    when it was opened, and how many bytes were read: none unless it is a plain file shorter than the buffer; more than
    its size if it grew. EINTR is the caller's to answer with another call.
    """
    if pairing() is hashlib_pair:
        return None
    try:
        from secpipeline._paired_sha256 import read_file  # noqa: PLC0415 - optional, as below
    except ImportError:
        return None
    return read_file


def hashlib_pair(first: _Message, second: _Message) -> tuple[bytes, bytes]:
    """SHA-256 of two messages, one after the other, by the library that Python was built with (OpenSSL's)."""
    return hashlib.sha256(first).digest(), hashlib.sha256(second).digest()


@contextlib.contextmanager
def hashlib_alone(wanted: bool = True) -> Iterator[None]:
    """Within it, :func:`pairing` is :func:`hashlib_pair`: what hashes again must be another implementation.

    Parameters
    ----------
    wanted
        False changes nothing, also not what an outer one asked for.
    """
    token = _hashlib_alone.set(wanted or _hashlib_alone.get())
    try:
        yield
    finally:
        _hashlib_alone.reset(token)


def agrees_with_hashlib(pair: Pairing) -> bool:
    """Whether ``pair`` gives hashlib's digests of random messages of every short length and of some long ones."""
    noise = secrets.token_bytes(_LONGEST)
    short = [noise[:length] for length in _LENGTHS]
    long = [noise[secrets.randbelow(_LONGEST) :] for _ in range(2 * _LONG_PAIRS)]
    pairs = [*zip(short, short, strict=True), *zip(short, reversed(short), strict=True)]
    pairs += [*zip(long[::2], long[1::2], strict=True), *zip(long[:_LONG_PAIRS], short[::64], strict=False)]
    expected = {message: hashlib.sha256(message).digest() for message in (*short, *long)}
    return all(pair(one, other) == (expected[one], expected[other]) for one, other in pairs)


@functools.cache
def _trusted_extension() -> Pairing | None:
    try:
        from secpipeline._paired_sha256 import pair  # noqa: PLC0415 - optional, and of no use where hashlib is asked for
    except ImportError:
        return None
    if agrees_with_hashlib(pair):
        return pair
    warnings.warn(
        "secpipeline._paired_sha256 disagrees with hashlib about SHA-256 and is not used, only hashlib; "
        f"install secpipeline anew, or set {HASHLIB_VARIABLE}=1",
        RuntimeWarning,
        stacklevel=2,
    )
    return None
