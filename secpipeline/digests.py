"""Digests of files and directories, and the one JSON form that is hashed and signed.

>>> from secpipeline.digests import canonical_json, sha256_bytes
>>> sha256_bytes(canonical_json({"b": 1, "a": [True, None]}))[:12]
'e1aa6a79a93a'
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secpipeline.errors import InputError

_BUFFER_BYTES = 256 << 10


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of ``data`` in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes in lower-case hex.

    The buffer comes from ``mmap`` because it starts on a page: the kernel copies into it several times faster than
    into a ``bytearray``.
    """
    digest = hashlib.sha256()
    with mmap.mmap(-1, _BUFFER_BYTES) as buffer, path.open("rb", buffering=0) as file:
        view = memoryview(buffer)
        while count := file.readinto(view):
            digest.update(view[:count])
        view.release()
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """Serialize to the one byte string that equal values share: sorted keys, no spaces, UTF-8, one final newline.

    Raises
    ------
    InputError
        If a number is NaN or infinite (JSON has no such thing), or a key is not a string.
    """
    _refuse_non_json(value, "$")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def _refuse_non_json(value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where}: {value} cannot be written as JSON")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InputError(f"{where}: the key {key!r} is not a string")
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
        or any(unicodedata.category(character).startswith("C") for character in name)
        or unicodedata.normalize("NFC", name) != name
    )
    if bad:
        raise InputError(f"{name!r} is not a safe relative file name; rename the file")
    return name


def tree_files(directory: Path) -> dict[str, str]:
    """SHA-256 of every file under ``directory``, keyed by its relative POSIX name and sorted by it.

    Raises
    ------
    InputError
        If a name is unsafe or an entry is neither a plain file nor a directory (a symbolic link, a device).
    """
    digests = {}
    for path in sorted(directory.rglob("*")):
        name = check_name(path.relative_to(directory).as_posix())
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise InputError(f"{path}: only plain files and directories can be recorded, not links or devices")
        if path.is_file():
            digests[name] = sha256_file(path)
    return dict(sorted(digests.items()))


def manifest_bytes(files: Mapping[str, str]) -> bytes:
    """Render ``{name: sha256}`` as ``sha256sum`` does, sorted by name, so that ``sha256sum -c`` can check it."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items())).encode()


def tree_digest(files: Mapping[str, str]) -> str:
    """One digest for a set of files: SHA-256 of its manifest."""
    return sha256_bytes(manifest_bytes(files))
