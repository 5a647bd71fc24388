"""What owners do: renew the layout, give a role a new key, revoke a key or a thing.

Each of these is a new layout and a new trust document, signed together and logged together; the latest pair in the log
is the one that counts. Killed anywhere, the old pair counts or the new one, and the next of these commands puts in
place what the log says.

>>> found(store, ring, specs)                                            # doctest: +SKIP
>>> rotate(store, ring, specs, "trainer")                                # doctest: +SKIP
"""

from __future__ import annotations

import datetime as dt
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from securesystemslib.signer import Signer, SSlibKey

from secpipeline.digests import sha256_bytes
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance import envelopes, layout
from secpipeline.provenance import trust as trusts
from secpipeline.provenance.evidence import AUTHORITY, LAYOUT, EvidenceStore
from secpipeline.provenance.keys import LOG, OWNERS, ROLES, STEP_ROLES, KeyPlace, KeyRing
from secpipeline.provenance.layout import StepSpec
from secpipeline.provenance.trust import Revocation, Trust
from secpipeline.store import write_atomic


def said(store: EvidenceStore, ring: KeyRing) -> Trust:
    """What the owners say now.

    Raises
    ------
    AttestationError
        If it is missing or two owners did not sign it.
    """
    if not store.trust.is_file():
        raise AttestationError("trust-missing", f"{store.trust}: not there; run `secpipeline layout`, or restore it")
    return trusts.read(envelopes.read_file(store.trust), ring.owners())


def found(store: EvidenceStore, ring: KeyRing, specs: Sequence[StepSpec]) -> None:
    """Sign the first layout and the first trust document of a new log; what is there already is left alone.

    Raises
    ------
    AttestationError
        If one of them is missing and the log does not say which it was.
    """
    if store.trust.is_file() and store.layout.is_file():
        return
    with _alone(store):
        if _is_new(store):
            publish(store, ring, specs, trusts.first(ring))
        else:
            _settle(store, ring)


def publish(
    store: EvidenceStore, ring: KeyRing, specs: Sequence[StepSpec], trust: Trust, now: dt.datetime | None = None
) -> None:
    """Sign and log a layout for ``specs``, valid for thirty days, together with ``trust`` over the log as it is.

    The layout lists each role's present key, and an earlier one that was rotated while evidence it signed is current.

    Raises
    ------
    AttestationError
        If fewer than two owners' keys, or not the log's key, are here, or the log is broken.
    """
    roles = {role for spec in specs for role in spec.roles}
    keys = {role: _listed(store, specs, trust, role) for role in roles}
    signed = layout.sign(specs, keys, ring, now or dt.datetime.now(dt.UTC))
    document = trusts.sign(_over_the_log(store, trust), {LAYOUT: sha256_bytes(signed)}, ring)
    store.record_authority(signed, document, trust.log, _log_signer(store, ring, trust))


def renew(store: EvidenceStore, ring: KeyRing, specs: Sequence[StepSpec]) -> None:
    """Sign the layout anew, after it expired or the table of stages changed."""
    with _alone(store):
        trust = trusts.first(ring) if _is_new(store) else trusts.renumbered(_settle(store, ring))
        publish(store, ring, specs, trust)


def rotate(
    store: EvidenceStore, ring: KeyRing, specs: Sequence[StepSpec], role: str, place: KeyPlace | None = None
) -> SSlibKey:
    """Give a role a new key from the next entry of the log on; what the old one signed before still counts.

    The old key is forgotten last, once the new one is published. Killed before, call it again: it finishes with the
    same new key. An owner's new key must reach every verifier by another way, as the old one did; until everything is
    signed once more, what is signed verifies with either.

    Raises
    ------
    InputError
        If there is no such role, another role has this key, or the role had it before.
    AttestationError
        If fewer than two owners' keys, or not the log's key, are here; then nothing has changed.
    """
    if role not in ROLES:
        raise InputError(f"{role}: no such role; there are {', '.join(ROLES)}")
    with _alone(store):
        before = _settle(store, ring)
        key = ring.prepare(role, place)
        if role in OWNERS or key != before.current(role):
            _announce(store, ring, specs, role, before)
        ring.adopt(role)
    return key


def revoke_key(
    store: EvidenceStore, ring: KeyRing, specs: Sequence[StepSpec], role: str, reason: str, entry: int | None = None
) -> Trust:
    """Refuse what the role's key signs from an entry of the log on, by default the next; earlier evidence still counts.

    Raises
    ------
    InputError
        If the role had no key at this entry, signs no steps, or the entry lies outside the log.
    AttestationError
        If fewer than two owners' keys, or not the log's key, are here.
    """
    if role not in STEP_ROLES:
        raise InputError(f"{role}: signs no steps; rotate its key, and nothing new counts that the old one signs")
    with _alone(store):
        before, size = _settle(store, ring), store.log.size()
        if entry is not None and not 0 <= entry <= size:
            raise InputError(f"{entry}: the log has {size} entries")
        publish(store, ring, specs, before.key_revoked(role, size if entry is None else entry, reason))
        return said(store, ring)


def revoke(store: EvidenceStore, ring: KeyRing, specs: Sequence[StepSpec], revocation: Revocation) -> Trust:
    """Refuse, from now on, whatever is built from a source, release, detector or file.

    Raises
    ------
    InputError
        If it is revoked already.
    AttestationError
        If fewer than two owners' keys, or not the log's key, are here.
    """
    with _alone(store):
        publish(store, ring, specs, _settle(store, ring).with_revocation(revocation))
        return said(store, ring)


@contextmanager
def _alone(store: EvidenceStore) -> Iterator[None]:
    """One of these commands at a time: each builds on what the one before said."""
    try:
        store.directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{store.directory}: cannot write here ({error.strerror}); check its permissions") from error
    descriptor = os.open(store.directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_new(store: EvidenceStore) -> bool:
    return not store.trust.is_file() and not store.layout.is_file() and not store.log.size()


def _settle(store: EvidenceStore, ring: KeyRing) -> Trust:
    """What the log says counts, put in place where a killed command did not come to it."""
    entry = next((entry for entry in store.log.unverified() if entry.get("kind") == AUTHORITY), None)
    if entry is None:
        raise AttestationError("log-missing", f"{store.log.path}: names no layout; restore the log and its checkpoint")
    envelope = {name: store.envelope(str(entry.get(name))) for name in ("layout", "trust")}
    if envelope["layout"] is None or envelope["trust"] is None:
        raise AttestationError("evidence-missing", f"{store.directory}/history: lacks the layout that the log names")
    trust = trusts.read(envelope["trust"], ring.owners())
    trusts.check_log(store.read_log(trust.keys(LOG), trust.log), trust)
    _refuse_rewound(store, ring, trust)
    for path, data in ((store.layout, envelope["layout"]), (store.trust, envelope["trust"])):
        if not path.is_file() or path.read_bytes() != data:
            write_atomic(path, data)
    return trust


def _refuse_rewound(store: EvidenceStore, ring: KeyRing, logged: Trust) -> None:
    try:
        present = said(store, ring)
    except AttestationError:
        return  # missing or damaged, and about to be put right
    if present.version > logged.version:
        raise AttestationError(
            "trust-rewound",
            f"{store.trust}: has version {present.version}, the log names version {logged.version} as the last; "
            "restore the later log",
        )


def _over_the_log(store: EvidenceStore, trust: Trust) -> Trust:
    if not store.log.size():
        return trust
    checkpoint = store.read_log(trust.keys(LOG), trust.log).checkpoint
    return replace(trust, size=checkpoint.size, root=checkpoint.root)


def _announce(store: EvidenceStore, ring: KeyRing, specs: Sequence[StepSpec], role: str, before: Trust) -> None:
    """Publish the key that is prepared for a role, or forget it: one that cannot sign must not stay in the way."""
    key = ring.prepared.public(role)
    if role not in OWNERS and key in before.keys(role):
        ring.discard(role)
        raise InputError(f"{role}: had the key {key.keyid[:16]} before; give it another")
    after = trusts.renumbered(before) if role in OWNERS else before.rotated(role, key, store.log.size())
    try:
        publish(store, ring, specs, after)
    except AttestationError:
        if key != ring.public(role):  # else it is the present one already, and only has to be put in place
            ring.discard(role)
        raise


def _log_signer(store: EvidenceStore, ring: KeyRing, trust: Trust) -> Signer:
    """The log's key by this trust document; if it is only about to take the old one's place, it is let in first."""
    signer = ring.next_signer(LOG)
    if signer is None or signer.public_key != trust.current(LOG):
        return ring.signer(LOG)
    old: list[Signer] = []
    with suppress(AttestationError):  # a lost key is why it is replaced
        old.append(ring.signer(LOG))
    store.log.hand_over(trust.keys(LOG), [*old, signer])
    return signer


def _listed(store: EvidenceStore, specs: Sequence[StepSpec], trust: Trust, role: str) -> list[SSlibKey]:
    signers: set[str] = set()
    for spec in specs:
        if role in spec.roles:
            with suppress(AttestationError):  # damaged evidence must not keep an owner from revoking
                evidence = store.current(spec.name)
                for link in evidence.links if evidence else ():
                    signers |= {signature["keyid"] for signature in envelopes.parse_object(link)["signatures"]}
    return [
        period.key
        for period in trust.roles[role]
        if period.end is None or (period.ended == trusts.ROTATED and period.key.keyid in signers)
    ]
