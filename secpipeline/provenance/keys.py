"""One ECDSA P-256 key a role, kept outside the project.

P-256 because every key service, hardware module and external verifier takes it. Private keys are PEM files that only
their owner may read; they are opened through securesystemslib's ``file2:`` URIs.

>>> import tempfile
>>> ring = KeyRing.create(Path(tempfile.mkdtemp()) / "keys")
>>> ring.public("trainer").keyid != ring.public("red-team").keyid
True
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey

from secpipeline.digests import sha256_bytes
from secpipeline.errors import AttestationError, InputError

OWNERS = ("owner-1", "owner-2", "owner-3")
FUNCTIONARIES = ("ingestor", "validator", "label-auditor", "trainer", "red-team", "releaser", "monitor")
ROLES = (*OWNERS, *FUNCTIONARIES)


def default_key_directory(root: Path) -> Path:
    """Where a project's keys lie: ``$SECPIPELINE_KEYS``, or a directory of its own under ``$XDG_DATA_HOME``."""
    chosen = os.environ.get("SECPIPELINE_KEYS")
    if chosen:
        return Path(chosen)
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    return data / "secpipeline/keys" / sha256_bytes(str(root.resolve()).encode())[:12]


@dataclass(frozen=True)
class KeyRing:
    """The keys of every role on this machine."""

    directory: Path

    @classmethod
    def create(cls, directory: Path) -> KeyRing:
        """Open the ring, making every key first if there is none yet.

        Raises
        ------
        InputError
            If the directory cannot be written.
        AttestationError
            As :meth:`open`.
        """
        if not directory.exists():
            _make(directory)
        return cls.open(directory)

    @classmethod
    def open(cls, directory: Path) -> KeyRing:
        """Open an existing ring.

        Raises
        ------
        AttestationError
            If a role's public key is missing, or a private key may be read by others.
        """
        for role in ROLES:
            if not (directory / "public" / f"{role}.pem").is_file():
                raise AttestationError("key-missing", f"{directory}: the public key of {role} is missing; restore it")
            private = directory / "private" / f"{role}.pem"
            if private.is_file() and stat.S_IMODE(private.stat().st_mode) & 0o077:
                raise AttestationError("key-exposed", f"{private}: others may read it; run chmod 600, or replace it")
        return cls(directory)

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role, owners first."""
        return ROLES

    def public(self, role: str) -> SSlibKey:
        """The public key of a role."""
        return read_public_key(self.directory / "public" / f"{role}.pem")

    def owners(self) -> tuple[SSlibKey, ...]:
        """The public keys of the owners: the root of all trust."""
        return tuple(self.public(owner) for owner in OWNERS)

    def signer(self, role: str) -> Signer:
        """What signs for a role.

        Raises
        ------
        AttestationError
            If this machine does not hold the role's private key.
        """
        path = self.directory / "private" / f"{role}.pem"
        try:
            return CryptoSigner.from_priv_key_uri(f"file2:{path}", self.public(role))
        except (OSError, ValueError) as error:
            raise AttestationError("key-missing", f"{path}: cannot sign for {role} with it ({error})") from error


def read_public_key(path: Path) -> SSlibKey:
    """A public key from PEM; its key id is computed from the key, never read from a file.

    Raises
    ------
    AttestationError
        If the file is missing or no public key.
    """
    try:
        return SSlibKey.from_crypto(load_pem_public_key(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise AttestationError("key-missing", f"{path}: not a public key in PEM ({error})") from error


def public_pem(key: SSlibKey) -> bytes:
    """The PEM form that ``openssl`` and ``in-toto-verify`` read."""
    pem: str = key.keyval["public"]
    loaded = load_pem_public_key(pem.encode())
    return loaded.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _make(directory: Path) -> None:
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".keys-"))
    except OSError as error:
        raise InputError(f"{directory.parent}: cannot write keys here ({error.strerror})") from error
    try:
        (fresh / "private").mkdir(mode=0o700)
        (fresh / "public").mkdir()
        for role in ROLES:
            signer = CryptoSigner.generate_ecdsa()
            descriptor = os.open(fresh / "private" / f"{role}.pem", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(signer.private_bytes)
                os.fsync(file.fileno())
            (fresh / "public" / f"{role}.pem").write_bytes(public_pem(signer.public_key))
        fresh.rename(directory)
    except OSError as error:
        if not directory.exists():  # another process may have won the race
            raise InputError(f"{directory}: cannot write keys here ({error.strerror})") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
