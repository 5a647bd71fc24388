"""What the owners say about keys and about things: which key was a role's, when, and what must no longer be used.

One document, signed by two of three owners, replaced as a whole and numbered. When keys change hands is told in entries
of the log, because the log is the only clock that nobody can turn: a key counts for entries from ``start`` up to, and
not including, ``end``. So that a stolen key of the log cannot turn it either, the document holds the root that the log
had when it was signed: a log with another past is refused.

>>> trust = first(ring)                                                  # doctest: +SKIP
>>> trust = trust.key_revoked("trainer", 57, "laptop stolen")         # doctest: +SKIP
>>> data = sign(trust, {"root.layout": digest}, ring)                    # doctest: +SKIP
>>> read(data, ring.owners()).version                                    # doctest: +SKIP
2
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from securesystemslib.signer import Key, Signer, SSlibKey

from secpipeline.digests import canonical_json
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance import envelopes, merkle, statements
from secpipeline.provenance.keys import FUNCTIONARIES, LOG, OWNERS, KeyRing, parse_public_key, public_pem
from secpipeline.provenance.log import CHECKPOINT_TYPE, LogView

OWNER_THRESHOLD = 2
PREDICATE = "https://github.com/secpipeline/predicates/trust/v0.1"
ROTATED, REVOKED = "rotated", "revoked"
SOURCE = "source"
KINDS = (SOURCE, "release", "detector", "file")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOG_NAME = re.compile(r"[0-9a-f]{32}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")
_TIME = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]Z")


@dataclass(frozen=True)
class KeyPeriod:
    """A key and the entries of the log that it may sign for.

    Attributes
    ----------
    key
        The public key.
    start, end
        From this entry, counted from 0, up to but not including that one; ``end`` is None while the key is in use.
    ended
        ``rotated`` or ``revoked``; empty while the key is in use.
    reason
        Why it ended.
    """

    key: SSlibKey
    start: int
    end: int | None = None
    ended: str = ""
    reason: str = ""

    def covers(self, entry: int) -> bool:
        """Whether the key counts for this entry of the log."""
        return self.start <= entry and (self.end is None or entry < self.end)


@dataclass(frozen=True)
class Revocation:
    """Something that nothing may be built from any more.

    Attributes
    ----------
    kind
        ``source``, ``release``, ``detector`` or ``file``.
    name
        The source's name, or the SHA-256 of the rest (a release is named by that of its manifest).
    reason
        For people.
    time
        RFC 3339 in UTC, to the second.

    Raises
    ------
    InputError
        If there is no such kind, a name or reason is missing or cannot be printed on one line, or the time is none.
    """

    kind: str
    name: str
    reason: str
    time: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} was revoked on {self.time}: {self.reason}"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"{self.kind!r}: cannot be revoked; {', '.join(KINDS)} can")
        if self.kind != SOURCE and not _SHA256.fullmatch(self.name):
            raise InputError(f"{self.name!r}: a {self.kind} is named by its SHA-256, 64 lower-case hex digits")
        if not all(text.strip() and text.isprintable() for text in (self.name, self.reason)):
            raise InputError(f"{self.kind} {self.name!r}: say on one line what is revoked, and on one line why")
        if not _TIME.fullmatch(self.time):
            raise InputError(f"{self.time!r}: a time is written like 2026-11-24T07:47:26Z")


@dataclass(frozen=True)
class Trust:
    """The owners' word.

    Attributes
    ----------
    version
        Grows by one with every change.
    log
        The name of the log that all entry numbers refer to.
    roles
        Each role's keys, oldest first.
    revoked
        What must no longer be used, oldest first.
    size, root
        How many entries the log had when this was signed, and the root of its tree in hex.
    subjects
        SHA-256 by name of what it was signed together with, once it is read: the layout.
    """

    version: int
    log: str
    roles: Mapping[str, tuple[KeyPeriod, ...]]
    revoked: tuple[Revocation, ...] = ()
    size: int = 0
    root: str = merkle.Frontier().root().hex()
    subjects: Mapping[str, str] = field(default_factory=dict, compare=False)

    def current(self, role: str) -> SSlibKey | None:
        """The key that a role signs with now; none after a revocation that no rotation followed."""
        last = self.roles[role][-1]
        return last.key if last.end is None else None

    def keys(self, role: str) -> tuple[SSlibKey, ...]:
        """Every key that a role ever had, oldest first."""
        return tuple(period.key for period in self.roles[role])

    def unrevoked_keys(self, role: str) -> tuple[SSlibKey, ...]:
        """The keys of a role that were never revoked, oldest first."""
        return tuple(key for key in self.keys(role) if key.keyid not in self.revoked_keys())

    def rotated(self, role: str, key: SSlibKey, entry: int) -> Trust:
        """The same with a new key for ``role`` from ``entry`` on."""
        earlier = self.roles[role]
        if earlier[-1].end is None:
            earlier = (*earlier[:-1], replace(earlier[-1], end=entry, ended=ROTATED, reason="a new key"))
        return self._with_role(role, (*earlier, KeyPeriod(key, entry)))

    def key_revoked(self, role: str, entry: int, reason: str) -> Trust:
        """The same with the key that ``role`` had at ``entry`` revoked from there on; other keys are left alone.

        The entry may lie in the past, and the key may have been rotated since, or revoked from a later entry on.

        Raises
        ------
        InputError
            If the role had no key at this entry, or the reason cannot be printed on one line.
        """
        if not reason.strip() or not reason.isprintable():
            raise InputError(f"{role}: say on one line why its key is revoked")
        periods = self.roles[role]
        number = next((number for number, period in enumerate(periods) if period.covers(entry)), None)
        if number is None:
            raise InputError(
                f"{role}: no key of its own counts for entry {entry} of the log; "
                f"its last was {periods[-1].ended or 'made'} at entry {periods[-1].end or periods[-1].start}"
            )
        revoked = replace(periods[number], end=entry, ended=REVOKED, reason=reason)
        return self._with_role(role, (*periods[:number], revoked, *periods[number + 1 :]))

    def with_revocation(self, revocation: Revocation) -> Trust:
        """The same with one thing more that must not be used.

        Raises
        ------
        InputError
            If it is revoked already.
        """
        if any((r.kind, r.name) == (revocation.kind, revocation.name) for r in self.revoked):
            raise InputError(f"{revocation.kind} {revocation.name}: revoked already")
        return replace(self, version=self.version + 1, revoked=(*self.revoked, revocation))

    def open(self, data: bytes, role: str, entry: int, payload_type: str = envelopes.PAYLOAD_TYPE) -> dict[str, Any]:
        """The payload of an envelope signed by a key that was the role's at this entry of the log.

        Raises
        ------
        AttestationError
            With code ``key-retired`` or ``key-revoked`` if the key was the role's at another time, ``signature`` if it
            never was, or as :func:`secpipeline.provenance.envelopes.verify`.
        """
        periods = self.roles[role]
        try:
            return envelopes.verify(data, [period.key for period in periods if period.covers(entry)], 1, payload_type)
        except AttestationError as error:
            if error.code != "signature":
                raise
            for period in periods:
                if not period.covers(entry) and _verifies(data, period.key, payload_type):
                    raise AttestationError(*_out_of_time(role, period, entry)) from error
            raise AttestationError("signature", f"{role}: {error.message}") from error

    def revoked_keys(self) -> frozenset[str]:
        """The ids of the keys that were revoked."""
        return frozenset(
            period.key.keyid for periods in self.roles.values() for period in periods if period.ended == REVOKED
        )

    def revoked_sources(self) -> dict[str, str]:
        """The reason by name of each revoked source."""
        return {r.name: r.reason for r in self.revoked if r.kind == SOURCE}

    def _with_role(self, role: str, periods: tuple[KeyPeriod, ...]) -> Trust:
        return replace(self, version=self.version + 1, roles={**self.roles, role: periods})


def _out_of_time(role: str, period: KeyPeriod, entry: int) -> tuple[str, str]:
    where = f"signed at entry {entry} of the log by a key of {role}"
    if entry < period.start:
        return "key-retired", f"{where} that counts from entry {period.start} on"
    code = "key-retired" if period.ended == ROTATED else "key-revoked"
    return code, f"{where} that was {period.ended} at entry {period.end} ({period.reason})"


def check_log(log: LogView, own: Trust, newest: Trust | None = None) -> None:
    """Hold a log against what the owners say about it.

    Parameters
    ----------
    log
        Checked against its checkpoint.
    own
        The trust document that lies beside the log.
    newest
        A later one that came by another way, if there is one; the log may be older than this one.

    Raises
    ------
    AttestationError
        With code ``log-rewound`` or ``log-forked`` if its past is not the one that the owners signed, ``key-retired``
        or ``key-revoked`` if its checkpoint was signed by a key that was the log's at another time.
    """
    size = log.checkpoint.size
    (newest or own).open(log.signed, LOG, size - 1, CHECKPOINT_TYPE)
    if size < own.size:
        raise AttestationError("log-rewound", f"the log has {size} entries; it had {own.size} when the owners signed")
    for said in (own, newest or own):
        if said.size <= size and log.root_at(said.size) != said.root:
            raise AttestationError(
                "log-forked", f"the first {said.size} entries of the log are not those that the owners saw"
            )


def first(ring: KeyRing) -> Trust:
    """What the owners say before anything was logged: a new log, and for every role the key of the ring."""
    return Trust(1, secrets.token_hex(16), {role: (KeyPeriod(ring.public(role), 0),) for role in FUNCTIONARIES})


def renumbered(trust: Trust) -> Trust:
    """The same said anew."""
    return replace(trust, version=trust.version + 1)


def sign(trust: Trust, subjects: Mapping[str, str], ring: KeyRing) -> bytes:
    """The document in its envelope, a Statement about the layout, signed by every owner whose key is here.

    Raises
    ------
    AttestationError
        If fewer than two owners' keys are here, or two roles have one key.
    """
    _refuse_shared_keys(trust, ring.owners())
    content = statements.statement(subjects, PREDICATE, _predicate(trust))
    return envelopes.sign(canonical_json(content), envelopes.PAYLOAD_TYPE, owner_signers(ring))


def owner_signers(ring: KeyRing) -> list[Signer]:
    """A signer for every owner whose key is here and usable, and for those whose next key is prepared.

    An owner who is about to get a new key signs with both, so that what is signed verifies before and after.

    Raises
    ------
    AttestationError
        If fewer than two owners can sign.
    """
    signers: list[Signer] = []
    broken: list[AttestationError] = []
    for owner in OWNERS:
        try:
            if ring.uri(owner):
                signers.append(ring.signer(owner))
        except AttestationError as error:
            broken.append(error)
        if following := ring.next_signer(owner):
            signers.append(following)
    owners = {key.keyid for key in ring.owners()}
    if len(owners & {signer.public_key.keyid for signer in signers}) < OWNER_THRESHOLD:
        if broken:
            raise broken[0]
        found = ", ".join(owner for owner in OWNERS if ring.uri(owner)) or "none"
        raise AttestationError("key-missing", f"{OWNER_THRESHOLD} owners must sign; the keys here are of {found}")
    return signers


def _predicate(trust: Trust) -> dict[str, Any]:
    return {
        "version": str(trust.version),
        "log": trust.log,
        "logSize": str(trust.size),
        "logRoot": trust.root,
        "roles": {role: [_period(period) for period in periods] for role, periods in trust.roles.items()},
        "revoked": [{"kind": r.kind, "name": r.name, "reason": r.reason, "revokedOn": r.time} for r in trust.revoked],
    }


def _period(period: KeyPeriod) -> dict[str, str]:
    entry = {
        "keyid": period.key.keyid,
        "keytype": period.key.keytype,
        "scheme": period.key.scheme,
        "public": public_pem(period.key).decode(),
        "from": str(period.start),
    }
    if period.end is not None:
        entry |= {"until": str(period.end), "ended": period.ended, "reason": period.reason}
    return entry


def read(data: bytes, owners: Sequence[Key]) -> Trust:
    """Check the owners' signatures and read the document.

    Raises
    ------
    AttestationError
        With a code that begins with ``trust-``.
    """
    try:
        content = envelopes.verify(data, owners, OWNER_THRESHOLD)
    except AttestationError as error:
        raise AttestationError(f"trust-{error.code}", f"the trust document is {error.message}") from error
    if content.get("predicateType") != PREDICATE:
        raise AttestationError("trust-malformed", f"a trust document expected, not {content.get('predicateType')!r}")
    try:
        trust = replace(_parse(content["predicate"]), subjects=_subjects(content))
    except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
        raise AttestationError(
            "trust-malformed", f"the trust document cannot be read ({type(error).__name__}: {error})"
        ) from error
    _refuse_shared_keys(trust, owners)
    return trust


def _subjects(content: Mapping[str, Any]) -> dict[str, str]:
    subjects = {entry["name"]: entry["digest"]["sha256"] for entry in content["subject"]}
    if content != statements.statement(subjects, PREDICATE, content["predicate"]):
        raise ValueError("no Statement about a layout")
    return subjects


def _parse(predicate: Mapping[str, Any]) -> Trust:
    roles = {role: tuple(_read_period(entry) for entry in predicate["roles"][role]) for role in FUNCTIONARIES}
    if not all(roles.values()):
        raise ValueError("every role has a key")
    for role, periods in roles.items():
        for earlier, later in itertools.pairwise(periods):
            if earlier.end is None or later.start < earlier.end:
                raise ValueError(f"the keys of {role} overlap")
    revoked = tuple(Revocation(e["kind"], e["name"], e["reason"], e["revokedOn"]) for e in predicate["revoked"])
    if len({(revocation.kind, revocation.name) for revocation in revoked}) < len(revoked):
        raise ValueError("something is revoked twice")
    if not _LOG_NAME.fullmatch(predicate["log"]) or not _SHA256.fullmatch(predicate["logRoot"]):
        raise ValueError("the log has no name, or no root")
    size = _number(predicate["logSize"])
    trust = Trust(_number(predicate["version"]), predicate["log"], roles, revoked, size, predicate["logRoot"])
    if _predicate(trust) != predicate:
        raise ValueError("it says more than is known, or says it in another form")
    return trust


def _read_period(entry: Mapping[str, str]) -> KeyPeriod:
    key = parse_public_key(entry["public"].encode())
    start, end = _number(entry["from"]), _number(entry["until"]) if "until" in entry else None
    if end is None:
        return KeyPeriod(key, start)
    if end < start:
        raise ValueError(f"a key counts from entry {start} until {end}")
    if entry["ended"] not in (ROTATED, REVOKED) or not entry["reason"].isprintable():
        raise ValueError(f"a key ends {ROTATED} or {REVOKED}, with a reason on one line, not {entry['ended']!r}")
    return KeyPeriod(key, start, end, entry["ended"], entry["reason"])


def _verifies(data: bytes, key: SSlibKey, payload_type: str) -> bool:
    try:
        envelopes.verify(data, [key], 1, payload_type)
    except AttestationError:
        return False
    return True


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a number")
    return int(text)


def _refuse_shared_keys(trust: Trust, owners: Sequence[Key]) -> None:
    holders = {key.keyval["public"]: "owner" for key in owners}
    for role in trust.roles:
        for key in trust.keys(role):
            other = holders.setdefault(key.keyval["public"], role)
            if other != role:
                raise AttestationError("trust-shared-key", f"the roles {other} and {role} have one key")
