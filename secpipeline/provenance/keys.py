"""One key a role, kept outside the project and found by URI.

ECDSA P-256 unless a key service decides otherwise, because every key service, hardware module and external verifier
takes it. A private key is a PEM file that only its owner may read (``file2:``), or ``private/<role>.uri`` names where
it is: ``hsm:`` for a hardware module, ``gcpkms:``, ``awskms:``, ``azurekms:``, ``hv:`` for a key service. Secrets that
a URI needs (the PIN of a module) come from ``$SECPIPELINE_PIN`` or are asked for.

>>> import tempfile
>>> ring = KeyRing.create(Path(tempfile.mkdtemp()) / "keys")
>>> ring.public("trainer").keyid != ring.public("red-team").keyid
True
"""

from __future__ import annotations

import getpass
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.exceptions import Error as SslibError
from securesystemslib.exceptions import KeyMismatchError, UnverifiedSignatureError
from securesystemslib.signer import KEY_TYPE_ED25519, CryptoSigner, Key, SecretsHandler, Signature, Signer, SSlibKey

from secpipeline.digests import sha256_bytes
from secpipeline.errors import AttestationError, InputError, SecpipelineError
from secpipeline.store import exclusive, sync_directory, write_atomic

OWNERS = ("owner-1", "owner-2", "owner-3")
# Those who sign steps of the chain, then those who sign for services: the log's checkpoints, the channels' freshness.
STEP_ROLES = ("ingestor", "validator", "label-auditor", "trainer", "red-team", "safety", "releaser", "monitor")
LOG, CHANNEL = "log", "channel"
FUNCTIONARIES = (*STEP_ROLES, LOG, CHANNEL)
ROLES = (*OWNERS, *FUNCTIONARIES)
# A ring made before 0.3 has no keys of these; every later one has all of them from the start.
_SINCE_0_3 = ("safety", LOG, CHANNEL)
_FILE = "file2"
_SCHEMES = (_FILE, "hsm", "gcpkms", "awskms", "azurekms", "hv")


def default_key_directory(root: Path) -> Path:
    """Where a project's keys lie: ``$SECPIPELINE_KEYS``, or a directory of its own under ``$XDG_DATA_HOME``."""
    chosen = os.environ.get("SECPIPELINE_KEYS")
    if chosen:
        return Path(chosen)
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    return data / "secpipeline/keys" / sha256_bytes(str(root.resolve()).encode())[:12]


@dataclass(frozen=True)
class KeyPlace:
    """A key that lies elsewhere: where its private part is found, and its public part in PEM.

    Raises
    ------
    InputError
        If the URI is of no known kind, or ``public`` is no public key.
    """

    uri: str
    public: bytes

    def __post_init__(self) -> None:
        scheme, separator, rest = self.uri.partition(":")
        if scheme not in _SCHEMES or not separator or not self.uri.isprintable():
            raise InputError(f"{self.uri!r}: not where a key is; use {':, '.join(_SCHEMES)}:")
        if scheme == _FILE and not rest.startswith("/"):
            raise InputError(f"{self.uri}: give the whole path of the key file, {_FILE}:/…")
        try:
            parse_public_key(self.public)
        except ValueError as error:
            raise InputError(f"{self.uri}: what is given as its public key is none ({error}); give PEM") from error


@dataclass(frozen=True)
class KeyRing:
    """The keys of every role on this machine."""

    directory: Path

    @classmethod
    def create(cls, directory: Path, places: Mapping[str, KeyPlace] | None = None) -> KeyRing:
        """Open the ring, making every key first if there is none yet.

        A ring made before 0.3 gets the keys of the roles that were new then and keeps those that it has. A ring that
        lost some keys is refused: others may rest on them.

        Parameters
        ----------
        directory
            Of the ring.
        places
            The roles whose keys lie elsewhere; a key file is made for every other role.

        Raises
        ------
        InputError
            If the directory cannot be written, a place is of no role, or two roles would have one key.
        AttestationError
            As :meth:`open`.
        """
        if not directory.exists():
            _make(directory, places or {})
        elif not all(cls(directory)._public_file(role).is_file() for role in _SINCE_0_3):
            cls(directory)._bring_up()
        return cls.open(directory)

    @classmethod
    def open(cls, directory: Path) -> KeyRing:
        """Open an existing ring.

        Raises
        ------
        AttestationError
            If a role's public key is missing, or others may read a private key or put another in its place.
        """
        ring = cls(directory)
        for role in ROLES:
            if not ring._public_file(role).is_file():
                raise AttestationError("key-missing", f"{directory}: the public key of {role} is missing; restore it")
            for private in ring._private_files(role):
                if private.is_file():
                    _refuse_exposed(private)
        if (directory / "private").is_dir():
            _refuse_exposed(directory / "private")
        return ring

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role, owners first."""
        return ROLES

    @property
    def prepared(self) -> KeyRing:
        """The keys that :meth:`prepare` made and :meth:`adopt` has not put in place yet; it need not have any."""
        return KeyRing(self.directory / "prepared")

    def public(self, role: str) -> SSlibKey:
        """The public key of a role."""
        return read_public_key(self._public_file(role))

    def owners(self) -> tuple[SSlibKey, ...]:
        """The public keys of the owners: the root of all trust."""
        return tuple(self.public(owner) for owner in OWNERS)

    def signer(self, role: str) -> Signer:
        """What signs for a role.

        A key file that is not that of the public key is noticed here; a key that lies elsewhere is held against its
        public key with every signature, because it cannot be looked at.

        Raises
        ------
        AttestationError
            With code ``key-missing`` if this machine does not hold the role's private key or what holds it cannot be
            reached, ``key-exposed`` if others may read it, ``key-mismatch`` if it is not that of the public key.
        """
        uri = self.uri(role)
        if not uri:
            place = self._private_files(role)[0]
            raise AttestationError("key-missing", f"{place}: this machine cannot sign for {role}; run where its key is")
        public = self.public(role)
        try:
            if uri.startswith(f"{_FILE}:"):
                return _read_key_file(Path(uri.removeprefix(f"{_FILE}:")), public)
            return _KeyElsewhere(role, uri, Signer.from_priv_key_uri(uri, public, _secrets(role, uri)))
        except SecpipelineError:
            raise
        except KeyMismatchError as error:
            raise _mismatch(role, uri) from error
        except Exception as error:
            raise _unusable(role, uri, error) from error

    def next_signer(self, role: str) -> Signer | None:
        """What signs with the key that is prepared for a role; none if there is none, or it is in place.

        Raises
        ------
        AttestationError
            As :meth:`signer`.
        """
        prepared = self.prepared
        whole = prepared._public_file(role).is_file() and prepared.uri(role)
        return prepared.signer(role) if whole else None

    def uri(self, role: str) -> str:
        """Where the private key of a role is; empty if this machine does not know.

        Raises
        ------
        AttestationError
            If the file that should say so cannot be read.
        """
        file, named = self._private_files(role)
        if named.is_file():
            try:
                return named.read_text().strip()
            except (OSError, ValueError) as error:
                raise AttestationError("key-missing", f"{named}: does not say where the key of {role} is") from error
        return f"{_FILE}:{file}" if file.is_file() else ""

    def replace(self, role: str, place: KeyPlace | None = None) -> SSlibKey:
        """Give a role a new key and forget the private part of the old one.

        Returns
        -------
        SSlibKey
            The new public key.

        Raises
        ------
        InputError
            As :meth:`prepare`.
        """
        key = self.prepare(role, place)
        self.adopt(role)
        return key

    def prepare(self, role: str, place: KeyPlace | None = None) -> SSlibKey:
        """Make the key that a role is to have next, and leave the present one in use.

        The same asked for again gives the same key, until it is adopted or discarded.

        Raises
        ------
        InputError
            If there is no such role, another role has this key, or nothing can be written.
        """
        if role not in ROLES:
            raise InputError(f"{role}: no such role; there are {', '.join(ROLES)}")
        if place is not None:
            _refuse_shared({self.public(other).keyid: other for other in ROLES if other != role}, role, place)
        if not self._is_prepared(role, place):
            self.discard(role)
            _write_key(self.prepared.directory, role, place)
        return self.prepared.public(role)

    def _is_prepared(self, role: str, place: KeyPlace | None) -> bool:
        prepared = self.prepared
        if not prepared._public_file(role).is_file():
            return False
        key = prepared.public(role)
        held = prepared.uri(role)
        if not held and key.keyid == self.public(role).keyid:  # adopting it was all but finished
            held = self.uri(role)
        if place is not None:
            return held == place.uri and key.keyid == parse_public_key(place.public).keyid
        return held in {f"{_FILE}:{ring._private_files(role)[0]}" for ring in (self, prepared)}

    def _bring_up(self) -> None:
        """Give a ring of an earlier version the keys that it has not; killed anywhere, it is finished the next time."""
        joining = self.directory / "joining"
        with exclusive(self.directory):
            if self._is_older() and not joining.exists():
                fresh = self.directory / ".joining"
                shutil.rmtree(fresh, ignore_errors=True)
                for role in _SINCE_0_3:
                    _write_key(fresh, role, None)
                fresh.rename(joining)
                sync_directory(self.directory)
            for path in sorted(joining.glob("*/*.pem")):  # the private parts first
                path.replace(self.directory / path.relative_to(joining))
            shutil.rmtree(joining, ignore_errors=True)

    def _is_older(self) -> bool:
        """Whether it holds every role's key but those of the roles that came later, and nothing of these."""
        whole = all(self._public_file(role).is_file() for role in ROLES if role not in _SINCE_0_3)
        return whole and not any(
            path.exists() for role in _SINCE_0_3 for path in (self._public_file(role), *self._private_files(role))
        )

    def discard(self, role: str) -> None:
        """Forget what was prepared for a role."""
        for path in (self.prepared._public_file(role), *self.prepared._private_files(role)):
            path.unlink(missing_ok=True)

    def adopt(self, role: str) -> None:
        """Put the prepared key of a role in the place of the present one, whose private part is forgotten.

        Killed anywhere, it is finished by calling it again.
        """
        prepared = self.prepared
        write_atomic(self._public_file(role), prepared._public_file(role).read_bytes())
        moves = list(zip(prepared._private_files(role), self._private_files(role), strict=True))
        if any(fresh.is_file() for fresh, _ in moves):
            for fresh, present in moves:
                if not fresh.is_file():
                    present.unlink(missing_ok=True)
            for fresh, present in moves:
                if fresh.is_file():
                    fresh.replace(present)
            sync_directory(self.directory / "private")
        prepared._public_file(role).unlink()

    def _public_file(self, role: str) -> Path:
        return self.directory / "public" / f"{role}.pem"

    def _private_files(self, role: str) -> tuple[Path, Path]:
        """The key itself, or the file that says where it is; there is only ever one of them."""
        private = self.directory / "private"
        return private / f"{role}.pem", private / f"{role}.uri"


class _KeyElsewhere(Signer):
    """Signs with a key that is out of sight, and lets nothing out that its public key does not verify."""

    def __init__(self, role: str, uri: str, inner: Signer) -> None:
        self._role, self._uri, self._inner = role, uri, inner

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> _KeyElsewhere:
        """The same for a key that is no role's."""
        inner = Signer.from_priv_key_uri(priv_key_uri, public_key, secrets_handler)
        return cls(f"key {public_key.keyid[:8]}", priv_key_uri, inner)

    @property
    def public_key(self) -> Key:
        return self._inner.public_key

    def sign(self, payload: bytes) -> Signature:
        try:
            signature = self._inner.sign(payload)
        except SecpipelineError:
            raise
        except Exception as error:
            raise _unusable(self._role, self._uri, error) from error
        try:
            self.public_key.verify_signature(signature, payload)
        except UnverifiedSignatureError as error:
            raise _mismatch(self._role, self._uri) from error
        return signature


def _unusable(role: str, uri: str, error: Exception) -> AttestationError:
    """One line for whatever the library of a key service, or of a module's maker, raises."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return AttestationError("key-missing", f"{uri}: cannot sign for {role} with it ({reason[:300]})")


def _mismatch(role: str, uri: str) -> AttestationError:
    return AttestationError(
        "key-mismatch",
        f"{uri}: does not belong to the public key of {role}; restore the pair, or repeat `secpipeline keys rotate`",
    )


def _secrets(role: str, uri: str) -> Callable[[str], str]:
    def secret(name: str) -> str:
        given = os.environ.get("SECPIPELINE_PIN")
        if given:
            return given
        if not any(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr)):
            raise AttestationError("key-missing", f"{uri}: the {name} to sign for {role} is not in $SECPIPELINE_PIN")
        return getpass.getpass(f"{name} to sign for {role} ({uri}): ")

    return secret


def _read_key_file(path: Path, public: SSlibKey) -> CryptoSigner:
    data = path.read_bytes()
    _refuse_exposed(path)
    return CryptoSigner(load_pem_private_key(data, None), public)


def _refuse_exposed(path: Path) -> None:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        mode = "700" if path.is_dir() else "600"
        raise AttestationError("key-exposed", f"{path}: others may read it; run chmod {mode}, or replace it")


def read_public_key(path: Path) -> SSlibKey:
    """A public key from PEM; its key id is computed from the key, never read from a file.

    Raises
    ------
    AttestationError
        If the file is missing or no public key.
    """
    try:
        return parse_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise AttestationError("key-missing", f"{path}: not a public key in PEM ({error})") from error


def parse_public_key(pem: bytes) -> SSlibKey:
    """A public key from the bytes of PEM.

    Raises
    ------
    ValueError
        If it is none, or of a kind that nothing here verifies.
    """
    try:
        return SSlibKey.from_crypto(load_pem_public_key(pem))
    except (UnsupportedAlgorithm, SslibError) as error:
        raise ValueError(str(error)) from error


def public_pem(key: SSlibKey) -> bytes:
    """The PEM form that ``openssl`` and ``in-toto-verify`` read."""
    public: str = key.keyval["public"]
    if key.keytype == KEY_TYPE_ED25519:  # the one kind that securesystemslib does not keep in PEM
        loaded: PublicKeyTypes = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    else:
        loaded = load_pem_public_key(public.encode())
    return loaded.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _make(directory: Path, places: Mapping[str, KeyPlace]) -> None:
    holders: dict[str, str] = {}
    for role, place in places.items():
        if role not in ROLES:
            raise InputError(f"{role}: no such role; there are {', '.join(ROLES)}")
        _refuse_shared(holders, role, place)
        holders[parse_public_key(place.public).keyid] = role
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".keys-"))
    except OSError as error:
        raise InputError(f"{directory.parent}: cannot write keys here ({error.strerror})") from error
    try:
        for role in ROLES:
            _write_key(fresh, role, places.get(role))
        fresh.rename(directory)
        sync_directory(directory.parent)
    except OSError as error:
        if not directory.exists():  # another process may have won the race
            raise InputError(f"{directory}: cannot write keys here ({error.strerror})") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _refuse_shared(holders: Mapping[str, str], role: str, place: KeyPlace) -> None:
    other = holders.get(parse_public_key(place.public).keyid)
    if other is not None:
        raise InputError(f"{place.uri}: the public key given for {role} is that of {other}; one key a role")


def _write_key(directory: Path, role: str, place: KeyPlace | None) -> None:
    """Write the private part first: a public key without its private one would refuse everything signed from now on."""
    try:
        (directory / "private").mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{directory}: cannot write keys here ({error.strerror})") from error
    file, named = directory / "private" / f"{role}.pem", directory / "private" / f"{role}.uri"
    if place is None:
        signer = CryptoSigner.generate_ecdsa()
        write_atomic(file, signer.private_bytes, mode=0o600)
        named.unlink(missing_ok=True)
        public = public_pem(signer.public_key)
    else:
        write_atomic(named, place.uri.encode() + b"\n", mode=0o600)
        file.unlink(missing_ok=True)
        public = public_pem(parse_public_key(place.public))
    write_atomic(directory / "public" / f"{role}.pem", public)
