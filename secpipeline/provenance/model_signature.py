"""A signature beside the deployed files that verifies with the OpenSSF model-signing tool and nothing of ours.

The format is OpenSSF Model Signing v1.0 (https://github.com/ossf/model-signing-spec): an in-toto Statement with the
SHA-256 of every file, in a Sigstore bundle, signed with an ECDSA key. Whoever has the public key types::

    model_signing verify key files --signature files.sig --public_key releaser.pem --no-ignore-git-paths

The last flag matters: without it that tool passes over ``.git``, ``.gitattributes``, ``.github`` and ``.gitignore``,
so a file of such a name can be added unseen. :func:`verify` never passes over anything.

>>> sign(Path("files"), Path("files.sig"), Path("keys/private/releaser.pem"))      # doctest: +SKIP
>>> verify(Path("files"), Path("files.sig"), Path("keys/public/releaser.pem"))     # doctest: +SKIP
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from secpipeline.digests import tree_files
from secpipeline.errors import AttestationError, InputError, SecpipelineError
from secpipeline.provenance import envelopes
from secpipeline.store import write_atomic

CODE = "model-signature"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
# Whole files by SHA-256, no links followed, nothing ignored: a signature that says anything else covers less.
_SERIALIZATION = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}


def sign(directory: Path, signature: Path, key: Path) -> None:
    """Sign every file of a directory and write the signature beside it.

    Parameters
    ----------
    directory
        What is deployed.
    signature
        The file to write, atomically; not inside ``directory``, where it would be a file that it does not cover.
    key
        An unencrypted private key in PEM, on the curve P-256, P-384 or P-521.

    Raises
    ------
    InputError
        If the directory is missing or empty or holds anything but plain files and directories, or the signature's
        place is inside it.
    IntegrityError
        If a file changes while it is read.
    AttestationError
        With code ``model-signature`` if the key cannot sign.
    """
    files = _files(directory)
    if signature.resolve().is_relative_to(directory.resolve()):
        raise InputError(f"{signature}: lies inside {directory}, which it is to cover; put it beside the directory")
    from model_signing import signing  # noqa: PLC0415 - imports all of sigstore

    with tempfile.TemporaryDirectory() as private:
        written = Path(private) / signature.name
        try:
            signer = signing.Config().set_hashing_config(_everything()).use_elliptic_key_signer(private_key=key)
            signer.sign(directory, written)
        except (OSError, AttributeError, TypeError, ValueError, UnsupportedAlgorithm) as error:
            raise AttestationError(CODE, f"{directory}: cannot be signed with {key} ({_reason(error)})") from error
        data = written.read_bytes()
    _require_covered(_signed_files(data, signature), files, directory)
    write_atomic(signature, data)


def verify(directory: Path, signature: Path, key: Path) -> None:
    """Check that a directory holds exactly the files that were signed, byte for byte.

    Parameters
    ----------
    directory, signature
        What is deployed, and the file beside it.
    key
        The signer's public key in PEM.

    Raises
    ------
    AttestationError
        With code ``model-signature``: a file was changed, added, removed or renamed, the signature is missing, damaged,
        of another key, or covers less than every file.
    """
    try:
        files, data = _files(directory), signature.read_bytes()
    except (SecpipelineError, OSError) as error:
        raise AttestationError(CODE, f"{directory}: cannot be verified ({error})") from error
    _require_covered(_signed_files(data, signature), files, directory)
    _require_signed(directory, data, key)


def _files(directory: Path) -> dict[str, str]:
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory")
    files = tree_files(directory)
    if not files:
        raise InputError(f"{directory}: holds no file")
    return files


def _everything() -> Any:
    """The hashing configuration that passes over nothing, git's files least of all."""
    from model_signing import hashing  # noqa: PLC0415 - imports all of sigstore

    return hashing.Config().set_ignored_paths(paths=(), ignore_git_paths=False)


def _require_signed(directory: Path, data: bytes, key: Path) -> None:
    """Let the library check the signature over the bytes that were read."""
    from model_signing import verifying  # noqa: PLC0415 - imports all of sigstore

    with tempfile.TemporaryDirectory() as private:
        copy = Path(private) / "signature"
        copy.write_bytes(data)
        try:
            verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
            verifier.set_hashing_config(_everything()).verify(directory, copy)
        except InvalidSignature as error:
            raise AttestationError(CODE, f"{directory}: the signature is not of the key {key}") from error
        except (OSError, AttributeError, LookupError, TypeError, ValueError, UnsupportedAlgorithm) as error:
            raise AttestationError(
                CODE, f"{directory}: the signature does not verify with {key} ({_reason(error)})"
            ) from error


def _signed_files(data: bytes, signature: Path) -> dict[str, str]:
    """SHA-256 by name of what a signature claims to cover; whether it is signed is for the library to say."""
    try:
        bundle = envelopes.parse_object(data)
        if not bundle["verificationMaterial"]["publicKey"]["hint"]:
            raise ValueError("names no key")
        statement = envelopes.parse_object(base64.b64decode(bundle["dsseEnvelope"]["payload"], validate=True))
        predicate: Mapping[str, Any] = statement["predicate"]
        if statement["predicateType"] != PREDICATE_TYPE or predicate["serialization"] != _SERIALIZATION:
            raise ValueError("does not cover whole files by SHA-256, or covers not all of them")
        resources = predicate["resources"]
        signed = {str(entry["name"]): str(entry["digest"]) for entry in resources if entry["algorithm"] == "sha256"}
        if len(signed) != len(resources):
            raise ValueError("names a file twice, or without SHA-256")
    except (AttestationError, LookupError, TypeError, ValueError) as error:
        raise AttestationError(
            CODE, f"{signature}: no signature over every file ({_reason(error)}); sign again"
        ) from error
    return signed


def _require_covered(signed: Mapping[str, str], files: Mapping[str, str], directory: Path) -> None:
    for name in sorted(signed.keys() | files.keys()):
        if name not in signed:
            raise AttestationError(CODE, f"{directory / name}: was not signed")
        if name not in files:
            raise AttestationError(CODE, f"{directory / name}: was signed and is gone")
        if files[name] != signed[name]:
            raise AttestationError(
                CODE, f"{directory / name}: signed with sha256 {signed[name]}, found sha256 {files[name]}"
            )


def _reason(error: Exception) -> str:
    """The first line that says something."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
