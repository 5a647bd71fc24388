"""Read a channel without believing anything in it but the owners' signatures.

The client workflow is python-tuf's (section 5 of https://theupdateframework.github.io/specification/latest/); what it
leaves to its user is done here: where trust begins, that nothing of what was seen before is gone, and that every target
is checked where it lies, so that no model is copied only to be verified.

>>> deployment = open_channel(channels / "production", owners, memory)   # doctest: +SKIP
>>> model = deployment.read("detector.onnx")                             # doctest: +SKIP
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import SSlibKey
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from secpipeline.deployment.metadata import (
    TIMESTAMP,
    Record,
    file_name,
    parse_time,
    read_bytes,
    read_roots,
    refusals,
    whole_seconds,
)
from secpipeline.digests import StrPath, check_name, map_files, sha256_bytes, sha256_file
from secpipeline.errors import AttestationError, InputError, SecpipelineError
from secpipeline.provenance import envelopes
from secpipeline.store import exclusive

TARGETS = "targets"
# How far a channel's clock may be ahead of the reader's.
CLOCK_TOLERANCE = dt.timedelta(minutes=5)


@dataclass(frozen=True)
class Deployment:
    """What a channel serves, verified.

    Attributes
    ----------
    directory
        The channel.
    record
        What the releaser says is deployed.
    targets
        SHA-256 of every target by its path below ``targets/``.
    metadata
        The version of each role's metadata.
    signed_on
        When the channel last spoke.
    expires
        When this stops being valid if the channel does not speak again.
    """

    directory: Path
    record: Record
    targets: Mapping[str, str]
    metadata: Mapping[str, int]
    signed_on: dt.datetime
    expires: dt.datetime

    @property
    def version(self) -> str:
        """Sixteen hex digits that name the active deployment."""
        return self.record.version

    @property
    def previous(self) -> str:
        """The deployment before, or ""."""
        return self.record.previous

    @property
    def files(self) -> Path:
        """The directory of the deployed files."""
        return place(self.directory, self.version) / "files"

    @property
    def evidence(self) -> Path:
        """The evidence store that speaks for them."""
        return place(self.directory, self.version) / "evidence"

    @property
    def policy(self) -> Path | None:
        """The directory of the policy that they passed, if it was published."""
        directory = place(self.directory, self.version) / "policy"
        return directory if self.digests("policy") else None

    @property
    def revocations(self) -> Path | None:
        """The directory of the published revocations, or none if nothing was revoked."""
        return revocations_place(self.directory, self.record.revocations) if self.record.revocations else None

    def digests(self, part: str = "files") -> dict[str, str]:
        """SHA-256 by name of the files, or of another ``part`` of the active deployment."""
        prefix = f"versions/{self.version}/{part}/"
        return {path.removeprefix(prefix): digest for path, digest in self.targets.items() if path.startswith(prefix)}

    def read(self, name: str) -> bytes:
        """The bytes of a deployed file, checked as they are returned.

        Raises
        ------
        AttestationError
            With code ``channel-target``.
        """
        return self._read(f"versions/{self.version}/files/{name}")

    def copy_evidence(self, directory: Path) -> tuple[Path, Path | None]:
        """Write evidence and revocations elsewhere, each file checked as it is read, so that they cannot be swapped.

        Returns
        -------
        tuple
            The copied evidence store and the directory of revocations, or none if nothing was revoked.

        Raises
        ------
        AttestationError
            With code ``channel-target``.
        """
        parts = {f"versions/{self.version}/evidence/": directory / "evidence"}
        if self.record.revocations:
            parts[f"revocations/{self.record.revocations}/"] = directory / "revocations"
        for prefix, copy in parts.items():
            for path in (path for path in self.targets if path.startswith(prefix)):
                target = copy / path.removeprefix(prefix)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(self._read(path))
        return directory / "evidence", directory / "revocations" if self.record.revocations else None

    def _read(self, path: str) -> bytes:
        where = self.directory / TARGETS / path
        expected = self.targets.get(path, "")
        data = where.read_bytes() if expected and where.is_file() else None
        found = "" if data is None else sha256_bytes(data)
        if data is None or found != expected:
            raise _wrong_target(where, expected, found)
        return data


def place(directory: Path, version: str) -> Path:
    """Where a deployment lies in a channel."""
    return directory / TARGETS / "versions" / version


def revocations_place(directory: Path, name: str) -> Path:
    """Where a set of revocations lies in a channel."""
    return directory / TARGETS / "revocations" / name


def open_channel(
    directory: Path,
    owners: Sequence[SSlibKey],
    memory: Path,
    *,
    at_least_version: int | None = None,
    max_age: dt.timedelta | None = None,
    now: dt.datetime | None = None,
) -> Deployment:
    """Verify a channel and every byte of what it publishes.

    Parameters
    ----------
    directory
        The channel.
    owners
        The public keys that trust begins with; two of them must have signed a root.
    memory
        A directory outside the channel for what was seen of it before. Without it, an older state is taken for the
        present one until it expires; the next two parameters bound that.
    at_least_version
        The version that the timestamp must have.
    max_age
        How long ago the channel may have spoken last.
    now
        The time to judge by; the clock's by default.

    Raises
    ------
    AttestationError
        ``channel-missing``
            Nothing is deployed, or metadata is not there.
        ``channel-malformed``
            Metadata cannot be read, or says what a channel never says.
        ``channel-signature``
            Metadata is not what its role signed.
        ``channel-rewound``
            Older than what was seen before.
        ``channel-expired``
            The channel has not spoken for too long, or a role's metadata was not renewed.
        ``channel-too-old``
            Older than was asked for.
        ``channel-target``
            A file is not the one that was published; names the file and both digests.
        ``clock``
            This machine's clock is behind the channel's.
        ``memory``
            What was seen before cannot be read.
    InputError
        If ``memory`` cannot be written.
    """
    judged = whole_seconds(now)
    try:
        memory.mkdir(parents=True, exist_ok=True)
        with exclusive(memory):
            # Without a time of its own, python-tuf takes the clock's when it begins.
            deployment = _refresh(directory, owners, memory, judged if now else None)
    except OSError as error:
        raise InputError(f"{memory}: cannot keep what is seen there ({error.strerror}); check the path") from error
    _require_fresh(deployment, judged, at_least_version, max_age)
    return deployment


def recall(memory: Path) -> dict[str, int]:
    """The highest version seen of each role's metadata but the root's.

    Raises
    ------
    AttestationError
        With code ``memory`` if what was kept cannot be read.
    """
    seen = {}
    for role in (Timestamp.type, Snapshot.type, Targets.type):
        path = memory / f"{role}.json"
        if path.exists():
            try:
                seen[role] = int(envelopes.parse_object(path.read_bytes())["signed"]["version"])
            except (AttestationError, OSError, KeyError, TypeError, ValueError) as error:
                raise AttestationError("memory", f"{path}: damaged; find out why, then remove {memory}") from error
    return seen


def recall_roots(memory: Path) -> dict[str, bytes]:
    """Every root seen before, by its file name in the channel."""
    return {path.name: path.read_bytes() for path in sorted((memory / "root_history").glob("*.root.json"))}


class _LocalFetcher(FetcherInterface):
    """Reads metadata where it lies and keeps what it read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.read: dict[str, bytes] = {}

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self.directory / url.rpartition("/")[2]
        if path.name.endswith(f".{Root.type}.json") and not path.exists():
            raise DownloadHTTPError(f"{path}: not there", 404)  # how a client learns that there is no newer root
        self.read[path.name] = read_bytes(path)
        yield self.read[path.name]


def _refresh(directory: Path, owners: Sequence[SSlibKey], memory: Path, now: dt.datetime | None) -> Deployment:
    recall(memory)
    trusted, _ = read_roots(directory, owners)
    _require_remembered_roots(directory, memory)
    fetcher = _LocalFetcher(directory)
    with refusals(directory):
        updater = Updater(str(memory), "channel:///", fetcher=fetcher, bootstrap=trusted)
        if now is not None:
            updater._trusted_set.reference_time = now  # python-tuf 7 takes no time from its caller
        updater.refresh()
    root = Metadata[Root].from_bytes((memory / "root.json").read_bytes())
    timestamp = Metadata[Timestamp].from_bytes((memory / TIMESTAMP).read_bytes())
    snapshot = Metadata[Snapshot].from_bytes((memory / "snapshot.json").read_bytes())
    targets = Metadata[Targets].from_bytes((memory / "targets.json").read_bytes())
    _require_as_seen(directory, memory, fetcher.read[TIMESTAMP], (snapshot, targets))
    require_published(directory, targets.signed)
    signed = (root.signed, timestamp.signed, snapshot.signed, targets.signed)
    return Deployment(
        directory=directory,
        record=Record.parse(targets.signed),
        targets={path: target.hashes["sha256"] for path, target in sorted(targets.signed.targets.items())},
        metadata={metadata.type: metadata.version for metadata in signed},
        signed_on=_signed_on(timestamp.signed),
        expires=min(metadata.expires for metadata in signed),
    )


def _require_remembered_roots(directory: Path, memory: Path) -> None:
    for name, seen in recall_roots(memory).items():
        path = directory / name
        if not path.is_file() or path.read_bytes() != seen:
            raise AttestationError(
                "channel-rewound",
                f"{path}: not the root that was seen here before; restore the channel, or activate a deployment again. "
                f"If it was replaced on purpose, remove {memory}",
            )


def _require_as_seen(
    directory: Path,
    memory: Path,
    timestamp: bytes,
    numbered: Sequence[Metadata[Snapshot] | Metadata[Targets]],
) -> None:
    """Where python-tuf used what it had kept, the channel must still hold the same bytes for everybody else."""
    found = {TIMESTAMP: timestamp}
    for metadata in numbered:
        path = directory / file_name(metadata.signed.type, metadata.signed.version)
        found[f"{metadata.signed.type}.json"] = read_bytes(path)
    for name, data in found.items():
        if data != (memory / name).read_bytes():
            raise AttestationError(
                "channel-signature", f"{directory}: its {name} has the version but not the bytes that were seen here"
            )


def _require_fresh(
    deployment: Deployment, now: dt.datetime, at_least_version: int | None, max_age: dt.timedelta | None
) -> None:
    version, age = deployment.metadata[Timestamp.type], now - deployment.signed_on
    if age < -CLOCK_TOLERANCE:
        raise AttestationError(
            "clock", f"{deployment.directory}: signed on {deployment.signed_on}, this machine's clock says {now}"
        )
    if at_least_version is not None and version < at_least_version:
        raise AttestationError(
            "channel-too-old", f"{deployment.directory}: version {version}; at least {at_least_version} was asked for"
        )
    if max_age is not None and age > max_age:
        raise AttestationError(
            "channel-too-old",
            f"{deployment.directory}: signed on {deployment.signed_on}, {age} ago; at most {max_age} was asked for",
        )


def _signed_on(timestamp: Timestamp) -> dt.datetime:
    try:
        return parse_time(timestamp.unrecognized_fields["signed_on"])
    except (KeyError, TypeError, ValueError) as error:
        raise AttestationError("channel-malformed", "the timestamp does not say when it was signed") from error


def require_published(directory: Path, targets: Targets) -> None:
    """Compare everything that a channel publishes with its targets metadata.

    Raises
    ------
    AttestationError
        With code ``channel-target``, or ``channel-malformed`` if the metadata says what a channel never says.
    """
    record = Record.parse(targets)
    for part in ("files", "evidence"):
        if not any(path.startswith(f"versions/{record.version}/{part}/") for path in targets.targets):
            raise AttestationError("channel-malformed", f"{directory}: version {record.version} has no {part}")
    require_targets(directory, targets.targets)
    wholes = [place(directory, record.version)]
    wholes += [revocations_place(directory, record.revocations)] if record.revocations else []
    for found in sorted(
        path for whole in wholes for path in whole.rglob("*") if path.is_symlink() or not path.is_dir()
    ):
        if found.relative_to(directory / TARGETS).as_posix() not in targets.targets:
            raise AttestationError("channel-target", f"{found}: was never published; remove it")


def require_targets(directory: Path, targets: Mapping[str, TargetFile]) -> None:
    """Raise what :func:`find_wrong_target` finds."""
    wrong = find_wrong_target(directory, targets)
    if wrong is not None:
        raise wrong


def find_wrong_target(directory: Path, targets: Mapping[str, TargetFile]) -> AttestationError | None:
    """The refusal of the first target whose bytes in the channel are not those that its metadata names, or none.

    Raises
    ------
    AttestationError
        With code ``channel-malformed`` if a target has an unsafe name or no SHA-256.
    """
    base = Path(os.path.realpath(directory / TARGETS))
    for path, target in targets.items():
        try:
            check_name(path)
        except InputError as error:
            raise AttestationError("channel-malformed", f"{directory}: {error}") from error
        if set(target.hashes) != {"sha256"}:
            raise AttestationError("channel-malformed", f"{directory}: {path} has no sha256, or other digests beside")
    found = map_files(_digest, [base / path for path in targets])
    for (path, target), digest in zip(targets.items(), found, strict=True):
        if digest != target.hashes["sha256"]:
            return _wrong_target(directory / TARGETS / path, target.hashes["sha256"], digest)
    return None


def _digest(path: StrPath) -> str:
    """SHA-256 of a plain file that is reached through no link; empty if it is none, or cannot be read."""
    try:
        return sha256_file(path) if os.path.realpath(path) == os.fspath(path) else ""
    except SecpipelineError:
        return ""


def _wrong_target(path: Path, expected: str, found: str) -> AttestationError:
    state = f"found {found}" if found else "found no plain file"
    return AttestationError(
        "channel-target", f"{path}: expected sha256 {expected}, {state}; activate the deployment again"
    )
