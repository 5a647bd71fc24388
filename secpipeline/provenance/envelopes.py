"""DSSE envelopes, read strictly.

securesystemslib signs and checks single signatures. What it leaves open is closed here: it counts key ids rather than
keys, does not look at the payload type, and takes any JSON. The format is
https://github.com/secure-systems-lab/dsse (v1).

>>> from securesystemslib.signer import CryptoSigner
>>> signer = CryptoSigner.generate_ecdsa()
>>> envelope = sign(b'{"a":1}', PAYLOAD_TYPE, [signer])
>>> verify(envelope, [signer.public_key], 1)
{'a': 1}
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Key, Signature, Signer

from secpipeline.digests import canonical_json
from secpipeline.errors import AttestationError

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_BYTES = 16 << 20
MAX_DEPTH = 64
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - set(_STEPS))


def sign(payload: bytes, payload_type: str, signers: Sequence[Signer]) -> bytes:
    """An envelope around ``payload`` with one signature a signer, as canonical JSON."""
    envelope = Envelope(payload, payload_type, {})
    for signer in signers:
        envelope.sign(signer)
    return canonical_json(envelope.to_dict())


def verify(data: bytes, keys: Sequence[Key], threshold: int, payload_type: str = PAYLOAD_TYPE) -> dict[str, Any]:
    """Check an envelope and return its payload.

    Parameters
    ----------
    data
        The envelope's bytes.
    keys
        Who may sign.
    threshold
        How many *different* keys must have signed, at least 1.
    payload_type
        The only accepted type.

    Raises
    ------
    AttestationError
        With code ``malformed``, ``payload-type``, or ``signature``.
    """
    payload, signatures = _open(data, payload_type)
    envelope = Envelope(payload, payload_type, {})
    signed_by = set()
    for key in keys:
        signature = signatures.get(key.keyid)
        if signature is None:
            continue
        try:
            key.verify_signature(signature, envelope.pae())
        except (UnverifiedSignatureError, VerificationError):
            continue
        # Two ids of one key are one signer: compare the key itself.
        signed_by.add(json.dumps(key.to_dict()["keyval"], sort_keys=True))
    if threshold < 1 or len(signed_by) < threshold:
        found = (
            ", ".join(sorted(ascii(keyid[:8])[1:-1] for keyid in signatures)) or "nobody"
        )  # anybody may have written it
        wanted = ", ".join(sorted(key.keyid[:8] for key in keys))
        raise AttestationError(
            "signature",
            f"signed by {found}; {threshold} valid signatures of {wanted} are needed, {len(signed_by)} found",
        )
    return parse_object(payload)


def _open(data: bytes, payload_type: str) -> tuple[bytes, dict[str, Signature]]:
    envelope = parse_object(data)
    if set(envelope) != {"payload", "payloadType", "signatures"}:
        raise AttestationError("malformed", f"an envelope has three fields, this has {sorted(envelope)}")
    if envelope["payloadType"] != payload_type:
        raise AttestationError("payload-type", f"payload type {envelope['payloadType']!r}, expected {payload_type!r}")
    if not isinstance(envelope["signatures"], list):
        raise AttestationError("malformed", "signatures must be a list")
    signatures: dict[str, Signature] = {}
    for entry in envelope["signatures"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("keyid"), str) or set(entry) != {"keyid", "sig"}:
            raise AttestationError("malformed", "a signature has a keyid and a sig")
        if entry["keyid"] in signatures:
            raise AttestationError("malformed", f"key id {entry['keyid'][:8]!a} signs twice")
        signatures[entry["keyid"]] = Signature(entry["keyid"], _base64(entry["sig"]).hex())
    return _base64(envelope["payload"]), signatures


def _base64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise AttestationError("malformed", "base64 text expected")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise AttestationError("malformed", f"not base64: {error}") from error
    if base64.b64encode(data).decode() != text:  # the bits before the padding are nothing, and must be zero
        raise AttestationError("malformed", "base64 that can be written in another way")
    return data


def read_file(path: Path) -> bytes:
    """The bytes of a file of evidence, which nobody can make endless, or make its reader wait for.

    Raises
    ------
    AttestationError
        With code ``malformed`` if it is no plain file, or is larger than evidence can be.
    OSError
        If it is not there or may not be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise AttestationError("malformed", f"{path}: not a plain file")
        if status.st_size > MAX_BYTES:
            raise AttestationError("malformed", f"{path}: {status.st_size} bytes; evidence has at most {MAX_BYTES}")
        return file.read(MAX_BYTES)


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse JSON that can only be read one way.

    Raises
    ------
    AttestationError
        With code ``malformed``: too large, too deep, not UTF-8, not JSON, a key twice, a number that JSON lacks, or
        anything but an object.
    """
    if len(data) > MAX_BYTES:
        raise AttestationError("malformed", f"{len(data)} bytes; evidence has at most {MAX_BYTES}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise AttestationError("malformed", f"not UTF-8 at byte {error.start}") from error
    _refuse_depth(data)
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise AttestationError("malformed", f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise AttestationError("malformed", "a JSON object expected")
    return value


def _refuse_depth(data: bytes) -> None:
    """Bound the nesting before the recursive parser meets it."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Without escapes, every second part between quotation marks is a string.
    brackets = b"".join(data.split(b'"')[::2]).translate(None, _NO_BRACKETS)
    depths = itertools.accumulate(_STEPS[bracket] for bracket in brackets)
    if max(depths, default=0) > MAX_DEPTH:
        raise AttestationError("malformed", f"nested deeper than {MAX_DEPTH}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise AttestationError("malformed", "a key is there twice")
    return found


def _no_constant(name: str) -> float:
    raise AttestationError("malformed", f"{name} is not a JSON number")


def _finite(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _no_constant(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)


def read_unverified(data: bytes, payload_type: str = PAYLOAD_TYPE) -> dict[str, Any]:
    """The payload of an envelope whose signatures were checked before, or are about to be shown as unverified."""
    payload, _ = _open(data, payload_type)
    return parse_object(payload)
