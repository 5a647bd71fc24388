"""Channels: where a deployment becomes the one that is served, in one rename, or not at all.

``channels/<name>/`` is a repository of The Update Framework. Its targets are ``versions/<version>/files`` and
``…/evidence`` of the active deployment and of the one before it, the ``…/policy`` they passed, and
``revocations/<set>/``, each directory named by a digest over what it holds. The owners sign who may speak for the
channel, the releaser what is deployed, and the channel's own key, often, that this is still so. Read it with
:func:`secpipeline.deployment.client.open_channel`; any other client of TUF can read it too, if it is told not to
prefix the names of targets with hashes.

>>> activate(channels, "production", files, evidence, ring, verify, memory)   # doctest: +SKIP
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tuf.api.metadata import Root, TargetFile

from secpipeline.deployment.client import (
    TARGETS,
    Deployment,
    find_wrong_target,
    open_channel,
    place,
    require_published,
    require_targets,
    revocations_place,
)
from secpipeline.deployment.metadata import TIME_FORMAT, Record, State, numbers, whole_seconds
from secpipeline.deployment.repository import Repository, publication
from secpipeline.digests import check_name, sha256_bytes, tree_files
from secpipeline.errors import AttestationError, GateRefused, InputError
from secpipeline.provenance import envelopes
from secpipeline.provenance.evidence import EvidenceStore
from secpipeline.provenance.keys import KeyRing
from secpipeline.provenance.report import Report
from secpipeline.store import write_atomic

# Called with the files, their evidence store and the directory of revocations, or none if nothing was revoked.
# What must be the same for a deployment to be published already: its own evidence and the layout it is held to.
_EVIDENCE_NAMES = ("current/deploy.json", "root.layout")
Verify = Callable[[Path, Path, Path | None], Report]


def activate(
    channels: Path,
    name: str,
    files: Path,
    evidence: Path,
    ring: KeyRing,
    verify: Verify,
    memory: Path,
    *,
    revocations: Mapping[str, bytes] | None = None,
    policy: Path | None = None,
    now: dt.datetime | None = None,
) -> Deployment:
    """Copy a deployment and its evidence, verify the copy, and make it the active one.

    Where these files are active already and still verify, only what expires soon is signed again.

    Parameters
    ----------
    channels
        The directory of all channels.
    name
        Of this channel.
    files, evidence
        What to publish and what speaks for it.
    ring
        Holds the keys of the releaser and of the channel; the first time, and whenever one of them has a new key, also
        those of two owners.
    verify
        Called with the copied files, the copied evidence and the directory of revocations.
    memory
        What this machine saw of the channel before, outside the project.
    revocations
        Every revocation that readers must know of; those that the channel holds by default. The names are for
        messages only.
    policy
        The policy file that the deployment passed, to be published beside it.
    now
        The time that is signed; the clock's by default.

    Raises
    ------
    InputError
        If files or evidence cannot be copied.
    GateRefused
        If verification refuses; the channel is as it was.
    AttestationError
        With code ``key-missing`` if a key is not here that must sign, or ``channel-signature`` if these owners never
        signed for this channel.
    """
    with publication(channels / check_name(name), ring, memory, whole_seconds(now)) as repository:
        repository.restore_roots()
        state = _readable(repository)
        digests = tree_files(files)
        if not digests:
            raise InputError(f"{files}: there is nothing to deploy; run the stage deploy again")
        same = state is not None and _same_evidence(place(repository.directory, state.record.version), evidence)
        if state is not None and same and _still_stands(repository, state, digests, verify, revocations):
            return _keep(repository, state)
        with repository.staging() as fresh:
            staged = fresh / "deployment"
            _stage(staged, files, evidence, policy)
            known = _published(repository, state) if revocations is None else revocations
            revoked = _stage_revocations(fresh / "revocations", known)
            _require(verify(staged / "files", staged / "evidence", revoked), name)
            version, targets = repository.install(staged, "versions")
            revoked_name, revoked_targets = _install_revocations(repository, revoked)
        record = Record(version, _way_back(state, digests), _said(repository), revoked_name)
        before = state.targets.signed.targets if state else {}
        return repository.commit(state, *_select(repository, record, {**before, **targets, **revoked_targets}))


def rollback(
    channels: Path, name: str, ring: KeyRing, verify: Verify, memory: Path, *, now: dt.datetime | None = None
) -> Deployment:
    """Publish that the deployment before the active one is active again, once it is verified.

    Raises
    ------
    InputError
        If there is none.
    GateRefused
        If it no longer verifies; the channel is as it was.
    AttestationError
        If the channel does not verify (expiry apart), or the deployment's bytes changed.
    """
    with _existing(channels, name, ring, memory, now) as repository:
        state = repository.state()
        active = state.record
        if not active.previous:
            raise InputError(f"{repository.directory}: there is no version before {active.version} to go back to")
        require_targets(repository.directory, _below(f"versions/{active.previous}/", state.targets.signed.targets))
        back = place(repository.directory, active.previous)
        _require(verify(back / "files", back / "evidence", _revocations(repository, active)), name)
        record = replace(active, version=active.previous, previous=active.version, activated_at=_said(repository))
        return repository.commit(state, *_select(repository, record, state.targets.signed.targets))


def refresh(channels: Path, name: str, ring: KeyRing, memory: Path, *, now: dt.datetime | None = None) -> Deployment:
    """Sign anew that what is deployed is still deployed, and whatever else expires soon.

    The channel's key is enough for most of it; the releaser's and the owners' are used where they are here.

    Raises
    ------
    AttestationError
        If the channel does not verify (expiry apart), or a key is missing that cannot wait.
    """
    with _existing(channels, name, ring, memory, now) as repository:
        state = repository.state()
        return repository.commit(state, state.record, state.targets.signed.targets)


def publish_revocations(
    channels: Path,
    name: str,
    ring: KeyRing,
    revocations: Mapping[str, bytes],
    memory: Path,
    *,
    now: dt.datetime | None = None,
) -> Deployment | None:
    """Publish which revocations readers must know of, with the deployment as it is.

    The signed envelopes in ``revocations`` replace those published before; their names are for messages only. Whether
    the deployment may still be used is for its readers to judge.

    Returns
    -------
    Deployment or None
        What the channel serves; none if nothing was ever deployed.

    Raises
    ------
    InputError
        If a revocation is no JSON object.
    AttestationError
        As :func:`refresh`.
    """
    if not numbers(channels / check_name(name), Root.type):
        return None
    with _existing(channels, name, ring, memory, now) as repository:
        state = repository.state()
        if _named(revocations) == _named(_published(repository, state)):
            return _keep(repository, state)
        with repository.staging() as fresh:
            revoked, targets = _install_revocations(repository, _stage_revocations(fresh / "revocations", revocations))
        record = replace(state.record, revocations=revoked)
        return repository.commit(state, record, {**_below("versions/", state.targets.signed.targets), **targets})


@contextmanager
def _existing(channels: Path, name: str, ring: KeyRing, memory: Path, now: dt.datetime | None) -> Iterator[Repository]:
    directory = channels / check_name(name)
    if not directory.is_dir():
        raise AttestationError("channel-missing", f"{directory}: nothing is deployed here")
    with publication(directory, ring, memory, whole_seconds(now)) as repository:
        yield repository


def _readable(repository: Repository) -> State | None:
    """What the channel says; nothing if it is damaged or rewound, since activating is what mends it."""
    try:
        return repository.state()
    except AttestationError as error:
        if error.code == "memory":
            raise
        return None


def _still_stands(
    repository: Repository,
    state: State,
    digests: Mapping[str, str],
    verify: Verify,
    revocations: Mapping[str, bytes] | None,
) -> bool:
    """Whether a channel serves these files already, whole, with these revocations, and verification still accepts."""
    record = state.record
    if _file_digests(state) != digests:
        return False
    try:
        require_published(repository.directory, state.targets.signed)
        if revocations is not None and _named(revocations) != _named(_published(repository, state)):
            return False
    except AttestationError:
        return False
    active = place(repository.directory, record.version)
    return verify(active / "files", active / "evidence", _revocations(repository, record)).ok


def _same_evidence(active: Path, evidence: Path) -> bool:
    """Whether the deployment step's own evidence, which names all that it rests on, is published with this layout."""
    pairs = [(active / "evidence" / name, evidence / name) for name in _EVIDENCE_NAMES]
    return all(old.is_file() and new.is_file() and old.read_bytes() == new.read_bytes() for old, new in pairs)


def _keep(repository: Repository, state: State) -> Deployment:
    if repository.due(state):
        return repository.commit(state, state.record, state.targets.signed.targets)
    return open_channel(repository.directory, repository.ring.owners(), repository.memory, now=repository.now)


def _stage(directory: Path, files: Path, evidence: Path, policy: Path | None) -> None:
    try:
        shutil.copytree(files, directory / "files", symlinks=True)
        EvidenceStore(evidence).copy_current(directory / "evidence")
        if policy is not None:
            (directory / "policy").mkdir()
            shutil.copyfile(policy, directory / "policy" / policy.name)
    except OSError as error:
        raise InputError(f"{files}, {evidence}: cannot be copied into the channel ({error})") from error


def _stage_revocations(directory: Path, revocations: Mapping[str, bytes]) -> Path | None:
    for label, data in revocations.items():
        try:
            envelopes.parse_object(data)
        except AttestationError as error:
            raise InputError(f"the revocation {label} cannot be published: {error.message}") from error
        write_atomic(directory / f"{sha256_bytes(data)}.dsse.json", data)
    return directory if revocations else None


def _install_revocations(repository: Repository, staged: Path | None) -> tuple[str, dict[str, TargetFile]]:
    return ("", {}) if staged is None else repository.install(staged, "revocations")


def _published(repository: Repository, state: State | None) -> dict[str, bytes]:
    """The revocations that a channel holds, by path."""
    if state is None or not state.record.revocations:
        return {}
    targets = _below(f"revocations/{state.record.revocations}/", state.targets.signed.targets)
    require_targets(repository.directory, targets)
    return {path: (repository.directory / TARGETS / path).read_bytes() for path in targets}


def _named(revocations: Mapping[str, bytes]) -> set[str]:
    return {sha256_bytes(data) for data in revocations.values()}


def _revocations(repository: Repository, record: Record) -> Path | None:
    return revocations_place(repository.directory, record.revocations) if record.revocations else None


def _file_digests(state: State) -> dict[str, str]:
    prefix = f"versions/{state.record.version}/files/"
    targets = _below(prefix, state.targets.signed.targets)
    return {path.removeprefix(prefix): target.hashes["sha256"] for path, target in targets.items()}


def _way_back(state: State | None, digests: Mapping[str, str]) -> str:
    """What to go back to: the version that was active, unless that had the same files and only new evidence comes."""
    if state is None:
        return ""
    return state.record.previous if _file_digests(state) == digests else state.record.version


def _select(
    repository: Repository, record: Record, targets: Mapping[str, TargetFile]
) -> tuple[Record, dict[str, TargetFile]]:
    """The targets that a record speaks of; a deployment whose bytes changed is no way back."""
    before = _below(f"versions/{record.previous}/", targets) if record.previous != record.version else {}
    if not before or find_wrong_target(repository.directory, before) is not None:
        record, before = replace(record, previous=""), {}
    revoked = _below(f"revocations/{record.revocations}/", targets)
    return record, {**_below(f"versions/{record.version}/", targets), **before, **revoked}


def _below(prefix: str, targets: Mapping[str, TargetFile]) -> dict[str, TargetFile]:
    return {path: target for path, target in targets.items() if path.startswith(prefix)}


def _said(repository: Repository) -> str:
    return repository.now.strftime(TIME_FORMAT)


def _require(report: Report, name: str) -> None:
    if not report.ok:
        raise GateRefused([f"channel {name}: {refusal}" for refusal in report.refusals])
