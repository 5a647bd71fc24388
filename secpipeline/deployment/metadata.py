"""What the metadata of a channel looks like, and how it is read before anybody trusts it.

The format is that of The Update Framework 1.0 (https://theupdateframework.github.io/specification/latest/), with two
fields of our own, both signed: ``deployment`` in the targets metadata names what is active, ``signed_on`` in the
timestamp tells when the channel last spoke.

>>> Record.parse(metadata.signed).version                                # doctest: +SKIP
'0f3a5c7e9b1d2f40'
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, SSlibKey
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from secpipeline.digests import canonical_json, open_plain
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance import envelopes
from secpipeline.provenance.trust import OWNER_THRESHOLD

# The shorter a role's key is away from people, the shorter it is believed: the owners meet once a year, a deployment
# is renewed once a quarter, and a reader who is cut off from the channel notices within a week.
LIFETIMES = {
    Root.type: dt.timedelta(days=365),
    Targets.type: dt.timedelta(days=90),
    Snapshot.type: dt.timedelta(days=30),
    Timestamp.type: dt.timedelta(days=7),
}
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
TIMESTAMP = "timestamp.json"
_VERSION = re.compile(r"[0-9a-f]{16}")
_NUMBERED = re.compile(r"([1-9][0-9]{0,14})\.(root|targets|snapshot)\.json")
_CODES: Sequence[tuple[type[Exception], str]] = (
    (ExpiredMetadataError, "channel-expired"),
    (BadVersionNumberError, "channel-rewound"),
    (UnsignedMetadataError, "channel-signature"),
    (LengthOrHashMismatchError, "channel-signature"),
    (DownloadLengthMismatchError, "channel-signature"),
    (DownloadError, "channel-missing"),
)
_T = TypeVar("_T", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True)
class Record:
    """What the releaser says is deployed.

    Attributes
    ----------
    version
        Sixteen hex digits of the digest over files and evidence of the active deployment.
    previous
        The deployment to go back to, or "".
    activated_at
        RFC 3339.
    revocations
        Sixteen hex digits that name the set of revocations, or "" if there are none.
    """

    version: str
    previous: str
    activated_at: str
    revocations: str

    @classmethod
    def parse(cls, targets: Targets) -> Record:
        """Read the record from targets metadata.

        Raises
        ------
        AttestationError
            With code ``channel-malformed``.
        """
        try:
            record = cls(**targets.unrecognized_fields["deployment"])
            parse_time(record.activated_at)
            named = (record.version, record.previous or record.version, record.revocations or record.version)
            whole = all(_VERSION.fullmatch(name) for name in named)
        except (KeyError, TypeError, ValueError):
            whole = False
        if not whole:
            raise AttestationError("channel-malformed", "the targets metadata does not say what is deployed")
        return record

    def to_json(self) -> dict[str, str]:
        """The same as it is signed."""
        return asdict(self)


@dataclass(frozen=True)
class State:
    """The signed metadata of a channel, its signatures checked and its expiry not.

    Attributes
    ----------
    root, timestamp, targets
        As they are on disk.
    targets_info
        How the snapshot names the targets metadata.
    """

    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    targets: Metadata[Targets]
    targets_info: MetaFile

    @property
    def record(self) -> Record:
        """What is deployed."""
        return Record.parse(self.targets.signed)


def file_name(role: str, version: int) -> str:
    """Where one version of a role's metadata lies; the timestamp alone is written over."""
    return TIMESTAMP if role == Timestamp.type else f"{version}.{role}.json"


def numbers(directory: Path, role: str) -> list[int]:
    """The versions of a role's metadata that lie in a directory, committed or not, ascending."""
    matches = (_NUMBERED.fullmatch(path.name) for path in directory.glob(f"*.{role}.json"))
    return sorted(int(match[1]) for match in matches if match)


def encode(metadata: Metadata[Any]) -> bytes:
    """The one byte string that a channel holds for this metadata."""
    return canonical_json(metadata.to_dict())


def read_bytes(path: Path) -> bytes:
    """A metadata file that can only be read one way.

    TUF signs what the JSON means, not its bytes; asking for the canonical bytes closes what that leaves open, such as a
    key that is there twice.

    Raises
    ------
    AttestationError
        With code ``channel-missing`` or ``channel-malformed``.
    """
    try:
        descriptor, _ = open_plain(path)
    except InputError as error:
        raise AttestationError("channel-missing", f"{error}; restore it, or activate a deployment again") from error
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(envelopes.MAX_BYTES + 1)
    try:
        content = envelopes.parse_object(data)
        signatures = [entry["sig"] for entry in content["signatures"]]
        canonical = canonical_json(content) == data and all(sig == sig.lower() for sig in signatures)
        Metadata[Any].from_bytes(data)
    except DeserializationError as error:
        raise AttestationError("channel-malformed", f"{path}: no metadata ({error.__cause__}); restore it") from error
    except (AttestationError, InputError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise AttestationError("channel-malformed", f"{path}: no metadata ({error}); restore it") from error
    if not canonical:
        raise AttestationError("channel-malformed", f"{path}: not written as a channel writes; restore it")
    return data


def read_state(directory: Path, owners: Sequence[SSlibKey]) -> State:
    """What a channel says, whether or not it expired: what a publisher builds on.

    Raises
    ------
    AttestationError
        With code ``channel-missing``, ``channel-malformed``, ``channel-signature`` or ``channel-rewound``.
    """
    _, root = read_roots(directory, owners)
    timestamp = _read(directory, Timestamp, root, None)
    snapshot = _read(directory, Snapshot, root, timestamp.signed.snapshot_meta)
    with refusals(directory):
        info = snapshot.signed.meta.get("targets.json")
        if info is None:
            raise RepositoryError("the snapshot does not name the targets metadata")
    targets = _read(directory, Targets, root, info)
    Record.parse(targets.signed)
    return State(root, timestamp, targets, info)


def read_roots(directory: Path, owners: Sequence[SSlibKey]) -> tuple[bytes, Metadata[Root]]:
    """The roots of a channel: the first that two of these owners signed, where trust begins, and the newest.

    Each root must be signed as the one before it asks. None is believed because it lies in the channel: roots before
    the first returned were signed by owners who were replaced since.

    Raises
    ------
    AttestationError
        With code ``channel-missing``, ``channel-malformed``, ``channel-signature`` or ``channel-rewound``.
    """
    anchor = root_of({Root.type: owners}, dt.datetime.max.replace(tzinfo=dt.UTC), 1)
    trusted, newest = b"", None
    for version in range(1, max(numbers(directory, Root.type), default=0) + 1):
        path = directory / file_name(Root.type, version)
        data = read_bytes(path)
        with refusals(path):
            root = _parse(Root, data)
            before = newest.signed if newest else root.signed
            for signed in (root.signed, before):
                signed.verify_delegate(Root.type, root.signed_bytes, root.signatures)
            _require_every_signature(root, {**before.keys, **root.signed.keys})
            _require_version(root, version)
        if not trusted and anchor.get_verification_result(Root.type, root.signed_bytes, root.signatures):
            trusted = data
        newest = root
    if newest is None:
        raise AttestationError(
            "channel-missing", f"{directory}: nothing is deployed here; `secpipeline run` deploys what passes the gate"
        )
    if not trusted:
        raise AttestationError(
            "channel-signature",
            f"{directory}: none of its roots is signed by {OWNER_THRESHOLD} of these owners; if all of them have new "
            "keys, remove the channel and activate a deployment again",
        )
    return trusted, newest


def root_of(keys: dict[str, Sequence[Key]], expires: dt.datetime, version: int) -> Root:
    """A root that names these keys by role; two of the owners' must sign it, one of any other role's is enough."""
    root = Root(version=version, expires=expires, consistent_snapshot=True)
    for role, holders in keys.items():
        for key in holders:
            root.add_key(key, role)
    root.roles[Root.type].threshold = OWNER_THRESHOLD
    return root


def _read(directory: Path, kind: type[_T], root: Metadata[Root], info: MetaFile | None) -> Metadata[_T]:
    path = directory / file_name(kind.type, info.version if info else 1)
    data = read_bytes(path)
    with refusals(path):
        metadata = _parse(kind, data)
        root.signed.verify_delegate(kind.type, metadata.signed_bytes, metadata.signatures)
        if info is not None:
            info.verify_length_and_hashes(data)
            _require_version(metadata, info.version)
    return metadata


def _parse(kind: type[_T], data: bytes) -> Metadata[_T]:
    metadata = Metadata[_T].from_bytes(data)
    if metadata.signed.type != kind.type:
        raise RepositoryError(f"{metadata.signed.type} metadata, expected {kind.type}")
    return metadata


def _require_every_signature(root: Metadata[Root], keys: dict[str, Key]) -> None:
    """Refuse a signature that does not count, though enough others do: it is no owner's, or was changed."""
    for keyid, signature in root.signatures.items():
        if keyid not in keys:
            raise UnsignedMetadataError(f"signed by the unknown key {keyid[:8]}")
        try:
            keys[keyid].verify_signature(signature, root.signed_bytes)
        except UnverifiedSignatureError as error:
            raise UnsignedMetadataError(f"the signature of {keyid[:8]} is not valid") from error


def _require_version(metadata: Metadata[Any], version: int) -> None:
    if metadata.signed.version != version:
        raise BadVersionNumberError(f"it holds version {metadata.signed.version}, expected {version}")


@contextmanager
def refusals(where: Path) -> Iterator[None]:
    """Turn what python-tuf raises into a refusal with a code."""
    try:
        yield
    except (RepositoryError, DownloadError) as error:
        code = next((code for kind, code in _CODES if isinstance(error, kind)), "channel-malformed")
        raise AttestationError(code, f"{where}: {error}") from error


def whole_seconds(now: dt.datetime | None = None) -> dt.datetime:
    """The time that was given, or the clock's, in UTC and without fractions of a second."""
    return (now or dt.datetime.now(dt.UTC)).astimezone(dt.UTC).replace(microsecond=0)


def parse_time(text: str) -> dt.datetime:
    """A time as metadata writes it; ValueError or TypeError if it is none."""
    return dt.datetime.strptime(text, TIME_FORMAT).replace(tzinfo=dt.UTC)
