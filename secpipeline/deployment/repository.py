"""Write a channel: sign its metadata and commit it in one rename.

Everything new gets a new name (numbered metadata, directories named by what they hold), so nothing that a reader may be
looking at is ever written over but ``timestamp.json``, and replacing that is the commit. Killed anywhere before, the
old state stands; what is left over is swept by the next publication.

>>> with publication(directory, ring, memory, now) as repository:        # doctest: +SKIP
...     repository.commit(state, state.record, state.targets.signed.targets)
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from secpipeline.deployment.client import TARGETS, Deployment, open_channel, recall, recall_roots
from secpipeline.deployment.metadata import (
    LIFETIMES,
    TIME_FORMAT,
    Record,
    State,
    encode,
    file_name,
    numbers,
    read_roots,
    read_state,
    root_of,
)
from secpipeline.digests import tree_digest, tree_files
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance.keys import CHANNEL, OWNERS, KeyRing
from secpipeline.provenance.trust import OWNER_THRESHOLD
from secpipeline.store import exclusive, sync_directory, write_atomic

RELEASER = "releaser"
# Metadata is signed again once less than a third of its lifetime is left.
_DUE = 1 / 3
_SIGNERS = {Targets.type: RELEASER, Snapshot.type: CHANNEL, Timestamp.type: CHANNEL}


@contextmanager
def publication(directory: Path, ring: KeyRing, memory: Path, now: dt.datetime) -> Iterator[Repository]:
    """Hold a channel for one publication, what killed ones left behind swept away first.

    Raises
    ------
    InputError
        If the channel cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with exclusive(directory):
            repository = Repository(directory, ring, memory, now)
            repository.sweep()
            yield repository
    except OSError as error:
        raise InputError(f"{directory}: cannot publish here ({error}); check its permissions") from error


@dataclass(frozen=True)
class Repository:
    """A channel that is held for writing.

    Attributes
    ----------
    directory
        The channel.
    ring
        Signs for the owners, the releaser and the channel.
    memory
        What this machine saw of the channel before; its versions are never fallen behind.
    now
        The time that is signed.
    """

    directory: Path
    ring: KeyRing
    memory: Path
    now: dt.datetime

    def state(self) -> State:
        """What the channel says, expired or not.

        Raises
        ------
        AttestationError
            If it does not verify, or is older than what was seen before: nobody shall sign a rewound channel anew.
        """
        state = read_state(self.directory, self.ring.owners())
        version, seen = state.timestamp.signed.version, recall(self.memory).get(Timestamp.type, 0)
        if version < seen:
            raise AttestationError(
                "channel-rewound",
                f"{self.directory}: version {version}; version {seen} was seen here. Restore the channel, or activate "
                "a deployment again",
            )
        return state

    def restore_roots(self) -> None:
        """Put back the roots that were seen before, so that a channel that was lost is continued and not begun anew."""
        for name, data in recall_roots(self.memory).items():
            path = self.directory / name
            if not path.is_file() or path.read_bytes() != data:
                write_atomic(path, data)

    def commit(self, state: State | None, record: Record, targets: Mapping[str, TargetFile]) -> Deployment:
        """Sign and publish; then read the channel as everybody else does.

        Parameters
        ----------
        state
            What the channel says so far; none if it says nothing that could be read.
        record, targets
            What it says from now on.

        Raises
        ------
        AttestationError
            With code ``key-missing`` if this machine cannot sign what must be signed.
        """
        root = self._root_for_both()
        targets_info = self._sign_targets(state, record, targets)
        version = self._next(Snapshot.type, Timestamp.type)
        snapshot = Snapshot(version, expires=self._expiry(Snapshot.type), meta={"targets.json": targets_info})
        snapshot_info = self._sign(snapshot)
        timestamp = Timestamp(version, expires=self._expiry(Timestamp.type), snapshot_meta=snapshot_info)
        timestamp.unrecognized_fields["signed_on"] = self.now.strftime(TIME_FORMAT)
        self._sign(timestamp)
        self._root_for_present(root)
        return open_channel(self.directory, self.ring.owners(), self.memory, now=self.now)

    def due(self, state: State) -> bool:
        """Whether something should be signed again by now: it expires soon, or a role has a new key."""
        signed = (state.root.signed, state.targets.signed, state.timestamp.signed)
        return any(self._due(metadata) for metadata in signed) or _keys_of(state.root.signed) != self._keys()

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A directory on the channel's own file system, removed afterwards."""
        parent = self.directory / TARGETS
        parent.mkdir(exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=parent, prefix=".new-"))
        try:
            yield fresh
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def install(self, fresh: Path, parent: str) -> tuple[str, dict[str, TargetFile]]:
        """Move a staged directory under the name of what it holds.

        Returns
        -------
        tuple
            The name, and its targets by path.
        """
        digests = tree_files(fresh)
        name = tree_digest(digests)[:16]
        targets = {
            path: TargetFile((fresh / file).stat().st_size, {"sha256": digest}, path)
            for file, digest in digests.items()
            for path in [f"{parent}/{name}/{file}"]
        }
        final = self.directory / TARGETS / parent / name
        if not _is_whole(final, digests):
            _sync_tree(fresh)
            final.parent.mkdir(exist_ok=True)
            if final.exists():  # damaged, so no reader accepts it
                final.rename(fresh.with_name(f"{fresh.name}-damaged"))
            fresh.rename(final)
            sync_directory(final.parent)
            sync_directory(final.parent.parent)
        return name, targets

    def sweep(self) -> None:
        """Remove what a killed publication left behind; it lies under hidden names, and only here."""
        for left in (*self.directory.glob(".*"), *(self.directory / TARGETS).glob(".*")):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()

    def _expiry(self, role: str) -> dt.datetime:
        return self.now + LIFETIMES[role]

    def _due(self, signed: Signed) -> bool:
        return signed.expires - self.now < LIFETIMES[signed.type] * _DUE

    def _next(self, *roles: str) -> int:
        """A version that is above all that were ever seen, and above all that a killed publication left behind."""
        seen = recall(self.memory)
        known = [number for role in roles for number in (*numbers(self.directory, role), seen.get(role, 0))]
        return max(known, default=0) + 1

    def _sign(self, signed: Snapshot | Timestamp | Targets) -> MetaFile:
        metadata: Metadata[Any] = Metadata(signed)
        metadata.sign(self.ring.signer(_SIGNERS[signed.type]))
        data = encode(metadata)
        write_atomic(self.directory / file_name(signed.type, signed.version), data)
        return MetaFile.from_data(signed.version, data, ["sha256"])

    def _sign_targets(self, state: State | None, record: Record, targets: Mapping[str, TargetFile]) -> MetaFile:
        said = {"deployment": record.to_json()}
        fresh = Targets(expires=self._expiry(Targets.type), targets=dict(targets), unrecognized_fields=said)
        if state is not None:
            old, signers = state.targets.signed, state.targets.signatures
            same = old.unrecognized_fields == said and old.targets == fresh.targets
            usable = same and self.ring.public(RELEASER).keyid in signers and not old.is_expired(self.now)
            if usable and (not self._due(old) or not self.ring.uri(RELEASER)):
                return state.targets_info
        fresh.version = self._next(Targets.type)
        return self._sign(fresh)

    def _keys(self) -> dict[str, dict[str, Key]]:
        """Who the root should name, by role and key id."""
        holders = {Root.type: OWNERS, **{role: (holder,) for role, holder in _SIGNERS.items()}}
        return {role: {key.keyid: key for key in map(self.ring.public, names)} for role, names in holders.items()}

    def _root_for_both(self) -> Metadata[Root]:
        """A root under which the present metadata verifies as well as that which is about to be signed.

        Readers see a new root before the commit. So a role that has a new key has both until then.
        """
        wanted = self._keys()
        if not numbers(self.directory, Root.type):
            return self._sign_root(wanted, None)
        _, root = read_roots(self.directory, self.ring.owners())
        named = _keys_of(root.signed)
        covered = wanted[Root.type] == named[Root.type] and all(
            wanted[role].keys() <= named[role].keys() for role in wanted
        )
        absent = sum(bool(self.ring.uri(owner)) for owner in OWNERS) < OWNER_THRESHOLD
        if covered and (not self._due(root.signed) or (absent and not root.signed.is_expired(self.now))):
            return root
        both = {role: {**named[role], **wanted[role]} for role in _SIGNERS}
        return self._sign_root({**both, Root.type: wanted[Root.type]}, root)

    def _root_for_present(self, root: Metadata[Root]) -> None:
        wanted = self._keys()
        if _keys_of(root.signed) != wanted:
            self._sign_root(wanted, root)

    def _sign_root(self, keys: Mapping[str, Mapping[str, Key]], before: Metadata[Root] | None) -> Metadata[Root]:
        version = before.signed.version + 1 if before else 1
        root = root_of({role: [*holders.values()] for role, holders in keys.items()}, self._expiry(Root.type), version)
        metadata = Metadata(root)
        for signer in self._owner_signers([root, *([before.signed] if before else [])]):
            metadata.sign(signer, append=True)
        write_atomic(self.directory / file_name(Root.type, version), encode(metadata))
        return metadata

    def _owner_signers(self, roots: Sequence[Root]) -> list[Signer]:
        """Every owner who is here and whom one of these roots names, so that one of them can be replaced later."""
        here = {self.ring.public(owner).keyid: owner for owner in OWNERS if self.ring.uri(owner)}
        for root in roots:
            if len(here.keys() & {*root.roles[Root.type].keyids}) < OWNER_THRESHOLD:
                raise AttestationError(
                    "key-missing",
                    f"{self.directory}: {OWNER_THRESHOLD} owners that its root names must sign a new one; the keys "
                    f"here are of {', '.join(here.values()) or 'none'}",
                )
        return [self.ring.signer(owner) for owner in here.values()]


def _keys_of(root: Root) -> dict[str, dict[str, Key]]:
    return {name: {keyid: root.keys[keyid] for keyid in role.keyids} for name, role in root.roles.items()}


def _is_whole(directory: Path, digests: Mapping[str, str]) -> bool:
    with contextlib.suppress(InputError):
        return directory.is_dir() and tree_files(directory) == digests
    return False


def _sync_tree(directory: Path) -> None:
    """Make every file below ``directory`` survive a power cut."""
    for path in (directory, *directory.rglob("*")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
