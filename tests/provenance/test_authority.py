"""Keys that change hands, keys and things that are revoked, and every moment at which that can be interrupted."""

import contextlib
import datetime as dt
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner, Signer
from tiny_chain import NOW, SPECS, TinyChain

from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance import authority, envelopes, evidence, keys, log, merkle, trust
from secpipeline.provenance.evidence import EvidenceStore
from secpipeline.provenance.keys import FUNCTIONARIES, OWNERS, STEP_ROLES, KeyPlace, KeyRing, public_pem
from secpipeline.provenance.log import CHECKPOINT_TYPE, Checkpoint
from secpipeline.provenance.memory import Memory
from secpipeline.provenance.trust import Revocation

TIME = "2026-11-24T07:47:26Z"
VENDOR = Revocation("source", "vendor-x", "sold twice", TIME)
OTHER = Revocation("detector", "ab" * 32, "leaked", TIME)
STEP_OF = {"ingestor": "ingest", "trainer": "train", "red-team": "gate", "safety": "gate", "releaser": "release"}


@pytest.fixture
def own(chain, ring, tmp_path):
    """A chain whose keys a test may change."""
    shutil.copytree(ring.directory, tmp_path / "ring")
    return replace(chain, ring=KeyRing.open(tmp_path / "ring"))


def rotate(own, role, place=None):
    return authority.rotate(own.store, own.ring, SPECS, role, place)


def revoke(own, revocation=VENDOR):
    return authority.revoke(own.store, own.ring, SPECS, revocation)


def revoke_key(own, role, entry=None, reason="stolen"):
    return authority.revoke_key(own.store, own.ring, SPECS, role, reason, entry)


def renew(own):
    authority.renew(own.store, own.ring, SPECS)


def stolen(own, name="thief"):
    """A copy of every private key as it is now."""
    shutil.copytree(own.ring.directory, own.root.parent / name)
    return KeyRing.open(own.root.parent / name)


def files(*places):
    """Every file in some directories, with its bytes."""
    return {path: path.read_bytes() for place in places for path in place.rglob("*") if path.is_file()}


def everything(own):
    return files(own.store.directory, own.ring.directory / "private", own.ring.directory / "public")


def codes(own, **keywords):
    return set(own.verify(**keywords).codes)


def code(action, kind=AttestationError):
    with pytest.raises(kind) as raised:
        action()
    assert "\n" not in str(raised.value)
    return raised.value.code if kind is AttestationError else str(raised.value)


def verifies(own):
    report = own.verify()
    assert report.ok, report.text()
    return True


def run_all(own):
    """Every step once more, each with the keys that are there now."""
    for spec in SPECS:
        own.sign(spec.name, materials={"delivery/instances.json": "cd" * 32} if spec.name == "ingest" else {})


@pytest.mark.parametrize("role", STEP_OF)
def test_a_new_key_signs_from_now_on_and_what_the_old_one_signed_still_counts(own, role):
    thief = stolen(own)
    old, size = own.ring.public(role), own.store.log.size()
    new = rotate(own, role)
    assert new == own.ring.public(role) == own.trust().current(role) != old
    assert verifies(own)
    before, now = own.trust().roles[role]
    assert (before.key, before.start, before.end, before.ended) == (old, 0, size, "rotated")
    assert (now.key, now.start, now.end) == (new, size, None)
    own.sign(STEP_OF[role], materials={"delivery/instances.json": "ef" * 32} if role == "ingestor" else {}, ring=thief)
    assert codes(own) >= {"key-retired"}
    run_all(own)
    assert verifies(own)


def test_the_layout_lists_an_old_key_only_while_evidence_it_signed_is_current(own):
    old = own.ring.public("trainer")
    rotate(own, "trainer")
    assert old.keyid in envelopes.read_unverified(own.store.layout.read_bytes())["keys"]
    run_all(own)
    assert verifies(own)
    renew(own)
    assert old.keyid not in envelopes.read_unverified(own.store.layout.read_bytes())["keys"]
    assert verifies(own)


def test_evidence_of_a_new_key_from_before_it_was_given_does_not_count(own):
    data = own.store.current("train").statement
    payload = canonical_json(envelopes.read_unverified(data))
    rotate(own, "trainer")
    early = envelopes.sign(payload, envelopes.PAYLOAD_TYPE, [own.ring.signer("trainer")])
    said, size = own.trust(), own.store.log.size()
    assert code(lambda: said.open(early, "trainer", 2)) == "key-retired"
    assert said.open(early, "trainer", size)


@pytest.mark.parametrize("role", FUNCTIONARIES)
def test_every_role_can_be_given_a_new_key_several_times(own, role):
    known = {own.ring.public(role).keyid}
    for _ in range(3):
        known.add(rotate(own, role).keyid)
        assert verifies(own)
    assert len(known) == 4
    assert [period.key.keyid in known for period in own.trust().roles[role]] == [True] * 4
    run_all(own)
    assert verifies(own)


def test_all_owners_can_be_replaced_one_after_the_other_and_nothing_they_said_is_lost(own):
    old = own.ring.owners()
    revoke(own)
    rotate(own, "trainer")
    revoke_key(own, "monitor")
    roles, version = own.trust().roles, own.trust().version
    for owner in OWNERS:
        rotate(own, owner)
        assert verifies(own)
        revoke(own, Revocation("source", f"of {owner}", "x", TIME))
        assert verifies(own)
    assert [r.name for r in own.trust().revoked] == ["vendor-x", *(f"of {owner}" for owner in OWNERS)]
    assert own.trust().roles == roles
    assert own.trust().version == version + 6
    assert "trust-signature" in codes(own, owners=old)
    run_all(own)
    assert verifies(own)


def test_an_owners_change_verifies_with_the_old_keys_too_until_something_else_is_signed(own):
    old = own.ring.owners()
    for owner in OWNERS:
        rotate(own, owner)
    assert verifies(own)
    assert own.verify(owners=(old[0], own.ring.public("owner-2"), old[2])).ok
    renew(own)
    assert verifies(own)
    assert "trust-signature" in codes(own, owners=(old[0], own.ring.public("owner-2"), old[2]))


def test_a_stranger_is_not_let_in_by_anything_that_owners_can_do(own, strangers):
    before = everything(own)
    theirs = replace(own, ring=strangers)
    for act in (
        lambda: rotate(theirs, "trainer"), lambda: rotate(theirs, "owner-1"), lambda: rotate(theirs, "log"),
        lambda: revoke(theirs), lambda: revoke_key(theirs, "trainer"), lambda: renew(theirs),
    ):  # fmt: skip
        assert code(act) == "trust-signature"
    assert everything(own) == before


def test_a_revoked_key_signs_nothing_from_then_on_until_it_is_replaced(own):
    size = own.store.log.size()
    said = revoke_key(own, "trainer", reason="laptop stolen")
    assert said == own.trust()
    ended = said.roles["trainer"][-1]
    assert (ended.end, ended.ended, ended.reason) == (size, "revoked", "laptop stolen")
    assert said.current("trainer") is None
    assert verifies(own)
    own.sign("train", materials={"recipes/a.yaml": "ab" * 32})
    assert codes(own) >= {"key-revoked"}
    rotate(own, "trainer")
    run_all(own)
    assert verifies(own)


def test_a_key_can_be_revoked_from_an_entry_of_the_past_on(own):
    number = next(n for n, e in enumerate(own.store.log.read(own.trust().keys("log"), own.trust().log).entries)
                  if e.get("stage") == "train")  # fmt: skip
    revoke_key(own, "trainer", number + 1)
    assert verifies(own)
    revoke_key(own, "trainer", number)
    assert codes(own) >= {"key-revoked"}
    assert "key-revoked" not in codes(own, only=("ingest",))
    rotate(own, "trainer")
    assert codes(own) >= {"key-revoked"}
    run_all(own)
    assert verifies(own)


def test_a_theft_that_is_found_out_after_the_key_was_replaced_can_still_be_told(own):
    rotate(own, "trainer")
    assert verifies(own)
    revoke_key(own, "trainer", 1, reason="the old one was stolen before")
    assert codes(own) >= {"key-revoked"}
    assert own.trust().current("trainer") == own.ring.public("trainer")
    run_all(own)
    assert verifies(own)


@pytest.mark.parametrize("role", ["log", "channel", *OWNERS, "boss", ""])
def test_a_key_whose_revocation_would_change_nothing_is_to_be_replaced_instead(own, role):
    before = everything(own)
    assert "rotate" in code(lambda: revoke_key(own, role), InputError)
    assert everything(own) == before


@pytest.mark.parametrize("entry", [-1, 10**6])
def test_a_key_is_revoked_from_an_entry_that_the_log_has_or_the_next(own, entry):
    before = everything(own)
    assert "the log has 6 entries" in code(lambda: revoke_key(own, "trainer", entry), InputError)
    assert "say on one line" in code(lambda: revoke_key(own, "trainer", reason=" "), InputError)
    assert everything(own) == before
    revoke_key(own, "trainer", 6)
    assert "no key of its own counts" in code(lambda: revoke_key(own, "trainer"), InputError)
    assert verifies(own)


def test_a_thing_is_revoked_once(own):
    revoke(own, Revocation("source", "vendor-a", "sold twice", TIME))
    assert codes(own) >= {"revoked"}
    before = everything(own)
    assert "revoked already" in code(lambda: revoke(own, Revocation("source", "vendor-a", "again", TIME)), InputError)
    assert everything(own) == before


def forge(own, thief, signer, entries):
    """Write a whole log of its own, as somebody with a key of the log and access to the disk could."""
    said = own.trust()
    own.store.log.path.unlink()
    own.store.log.checkpoint_path.unlink()
    for entry in entries:
        own.store.log.append({**entry, "time": 0}, signer, said.log)


def authority_entry(own):
    return {
        "kind": "authority",
        "layout": sha256_bytes(own.store.layout.read_bytes()),
        "trust": sha256_bytes(own.store.trust.read_bytes()),
    }


def retrained(own, ring, size_to_hide_in=None):
    """Evidence of a training nobody ran, signed with somebody's keys, and not logged."""
    spec = own.spec("train")
    read = {f"ingest/{name}": digest for name, digest in own.store.current("ingest").files("ingest").items()}
    signed = evidence.attest(ring, spec, {"train/detector.safetensors": "ee" * 32}, read, {"x": "1"}, {})
    for data in (signed.statement, *signed.links):
        own.store._keep(data)
    (own.store.directory / "current/train.json").write_bytes(canonical_json(signed.digests()))
    return {"kind": "run", "stage": "train", **signed.digests()}


def runs(own):
    view = own.store.read_log(own.trust().keys("log"), own.trust().log)
    return [{k: v for k, v in e.items() if k != "time"} for e in view.entries if e["kind"] == "run"]


def test_an_old_key_and_the_logs_key_together_can_append_nothing_that_counts(own):
    thief = stolen(own)
    rotate(own, "trainer")
    own.store.log.append({**retrained(own, thief), "time": 0}, own.ring.signer("log"))
    assert "key-retired" in codes(own, artifacts=None, only=("ingest", "train"))


def test_an_old_key_and_the_logs_key_together_cannot_write_the_log_anew(own):
    thief = stolen(own)
    rotate(own, "trainer")
    others = [entry for entry in runs(own) if entry["stage"] != "train"]
    entry = retrained(own, thief)
    for entries in ([authority_entry(own), entry], [entry, *others, authority_entry(own)] * 3):
        forge(own, thief, own.ring.signer("log"), entries)
        assert codes(own, artifacts=None, only=("ingest", "train")) & {"log-rewound", "log-forked"}
        assert code(lambda: renew(own)) in ("log-rewound", "log-forked")


def test_without_the_owners_root_in_it_the_log_could_be_written_anew(own):
    """Shows what the root guards against: the same forgery passes with a document that has none."""
    thief = stolen(own)
    rotate(own, "trainer")
    said = replace(own.trust(), size=0, root=merkle.Frontier().root().hex())
    digest = sha256_bytes(own.store.layout.read_bytes())
    document = trust.sign(said, {"root.layout": digest}, own.ring)
    own.store.trust.write_bytes(document)
    own.store._keep(document)
    ingested = next(entry for entry in runs(own) if entry["stage"] == "ingest")
    forge(own, thief, own.ring.signer("log"), [ingested, retrained(own, thief), authority_entry(own)])
    assert own.verify(artifacts=None, only=("ingest", "train")).ok


def test_an_old_key_of_the_log_can_append_nothing(own):
    thief = stolen(own)
    rotate(own, "log")
    assert code(lambda: own.store.log.append(retrained(own, own.ring), thief.signer("log"))) == "checkpoint-signature"
    view = own.store.read_log(own.trust().keys("log"), own.trust().log)
    line = canonical_json({**retrained(own, own.ring), "time": 0})
    frontier = view.checkpoint.frontier.append(merkle.leaf_hash(line))
    checkpoint = Checkpoint(
        own.trust().log, frontier.size, view.checkpoint.length + len(line), frontier, view.checkpoint.time
    )
    own.store.log.path.write_bytes(own.store.log.path.read_bytes() + line)
    own.store.log.checkpoint_path.write_bytes(
        envelopes.sign(checkpoint.to_bytes(), CHECKPOINT_TYPE, [thief.signer("log")])
    )
    assert "key-retired" in codes(own)
    assert code(lambda: renew(own)) == "key-retired"
    assert code(lambda: own.store.log.append({"kind": "x"}, own.ring.signer("log"))) == "checkpoint-signature"


def test_a_copy_from_before_the_logs_key_changed_verifies_with_the_later_word(own, tmp_path):
    copy = own.copy(tmp_path / "copy")
    revoke(own)
    rotate(own, "log")
    (tmp_path / "newer").mkdir()
    shutil.copy(own.store.trust, tmp_path / "newer/trust.dsse.json")
    assert copy.verify(newer_trust=tmp_path / "newer").ok


@pytest.mark.parametrize("absent", [OWNERS[1:], OWNERS, ("log",)], ids=str)
def test_where_it_could_not_be_published_nothing_changes(own, absent):
    for role in absent:
        (own.ring.directory / "private" / f"{role}.pem").unlink()
    before = everything(own)
    acts = [
        lambda: rotate(own, "trainer"), lambda: rotate(own, "channel"), lambda: revoke(own),
        lambda: revoke_key(own, "trainer"), lambda: renew(own), lambda: rotate(own, "owner-1"),
    ]  # fmt: skip
    for act in acts:
        assert code(act) == "key-missing"
        assert everything(own) == before
    assert verifies(own)
    assert own.ring.signer("trainer").sign(b"x")


@pytest.mark.parametrize("absent", [("log",), ("owner-2",), ("owner-1",), ("trainer",)], ids=str)
def test_a_key_that_was_lost_is_replaced_by_those_who_have_theirs(own, absent):
    for role in absent:
        (own.ring.directory / "private" / f"{role}.pem").unlink()
        rotate(own, role)
    assert verifies(own)
    run_all(own)
    assert verifies(own)


def test_a_broken_key_of_one_owner_keeps_nobody_from_speaking(own):
    shutil.copy2(own.ring.directory / "private/trainer.pem", own.ring.directory / "private/owner-3.pem")
    revoke(own)
    assert verifies(own)
    rotate(own, "owner-3")
    assert verifies(own)
    shutil.copy2(own.ring.directory / "private/trainer.pem", own.ring.directory / "private/owner-1.pem")
    (own.ring.directory / "private/owner-2.pem").unlink()
    assert code(lambda: revoke(own, OTHER)) == "key-mismatch"


def test_damaged_evidence_keeps_no_owner_from_revoking(own):
    (own.store.directory / "current/train.json").write_bytes(b"{")
    revoke(own)
    revoke_key(own, "trainer")
    rotate(own, "trainer")
    assert "malformed" in codes(own)
    run_all(own)
    assert verifies(own)


def test_owners_do_not_sign_over_a_broken_log(own):
    path = own.store.log.path
    path.write_bytes(path.read_bytes().replace(b'"stage":"train"', b'"stage":"tr4in"'))
    before = everything(own)
    for act in (lambda: renew(own), lambda: revoke(own), lambda: rotate(own, "trainer")):
        assert code(act) == "log-changed"
    path.unlink()
    for act in (lambda: renew(own), lambda: revoke(own), lambda: rotate(own, "trainer")):
        assert code(act) in ("log-truncated", "log-missing")
    own.store.log.checkpoint_path.unlink()
    for act in (lambda: renew(own), lambda: revoke(own), lambda: rotate(own, "trainer")):
        assert code(act) == "log-missing"
    assert not path.exists() or not path.read_bytes()
    assert everything(own).items() <= before.items() | everything(own).items()


def test_a_log_that_was_put_back_does_not_put_back_what_the_owners_said(own):
    copies = {path: path.read_bytes() for path in (own.store.log.path, own.store.log.checkpoint_path)}
    revoke(own)
    word = own.store.trust.read_bytes()
    for path, data in copies.items():
        path.write_bytes(data)
    for act in (lambda: renew(own), lambda: revoke(own, OTHER), lambda: rotate(own, "trainer")):
        assert code(act) == "trust-rewound"
    assert own.store.trust.read_bytes() == word


def test_a_key_elsewhere_takes_over_and_a_wrong_one_changes_nothing(own, monkeypatch):
    made, other = CryptoSigner.generate_ecdsa(), CryptoSigner.generate_ecdsa()
    held = {"right": made, "wrong": other}

    class Service(Signer):
        def __init__(self, name, public_key):
            self.name, self.key = name, public_key

        @classmethod
        def from_priv_key_uri(cls, priv_key_uri, public_key, secrets_handler=None):
            return cls(priv_key_uri.partition(":")[2], public_key)

        @property
        def public_key(self):
            return self.key

        def sign(self, payload):
            signature = held[self.name].sign(payload)
            signature.keyid = self.key.keyid
            return signature

    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "awskms", Service)
    public = public_pem(made.public_key)
    before = everything(own)
    for role in ("log", "owner-2"):
        assert code(lambda role=role: rotate(own, role, KeyPlace("awskms:wrong", public))) == "key-mismatch"
        assert everything(own) == before
    for role in ("log", "trainer", "owner-2"):
        held["right"] = CryptoSigner.generate_ecdsa()
        place = KeyPlace(f"awskms:{role}", public_pem(held["right"].public_key))
        held[role] = held["right"]
        assert rotate(own, role, place) == held[role].public_key
        assert own.ring.uri(role) == f"awskms:{role}"
        assert verifies(own)
    run_all(own)
    assert verifies(own)
    renew(own)
    assert verifies(own)


def test_a_key_that_another_role_has_is_refused_and_nothing_changes(own):
    before = everything(own)
    for other in ("monitor", "owner-1"):
        place = KeyPlace("hsm:2", public_pem(own.ring.public(other)))
        assert other in code(lambda place=place: rotate(own, "trainer", place), InputError)
    assert "no such role" in code(lambda: rotate(own, "boss"), InputError)
    assert everything(own) == before


def test_a_key_that_the_role_had_before_is_not_given_to_it_again(own):
    old = public_pem(own.ring.public("trainer"))
    revoke_key(own, "trainer")
    rotate(own, "trainer")
    before = everything(own)
    assert "before" in code(lambda: rotate(own, "trainer", KeyPlace("hsm:2", old)), InputError)
    assert everything(own) == before
    rotate(own, "trainer")
    assert verifies(own)


class Killed(BaseException):
    """What no handler takes for an error of its own."""


def kill_at(patch, number):
    """Let the program die at the ``number``-th change it makes to a file; without syncs, for speed."""
    count, inside = iter(range(1, 10_000)), []

    def deadly(function):
        def step(*arguments, **keywords):
            if not inside and next(count) == number:
                raise Killed
            inside.append(function)  # what a write is made of is not counted again
            try:
                return function(*arguments, **keywords)
            finally:
                inside.pop()

        return step

    patch.setattr(os, "fsync", lambda _: None)
    for module in (keys, evidence, log, authority):
        patch.setattr(module, "write_atomic", deadly(module.write_atomic))
    for name in ("replace", "unlink"):
        patch.setattr(Path, name, deadly(getattr(Path, name)))


def version_of(own):
    return own.trust().version if own.store.trust.is_file() else 0


# What each command must have brought about in the end, however often it was tried.
COMMANDS = {
    "layout": (renew, lambda own: True),
    "revoke": (revoke, lambda own: VENDOR in own.trust().revoked),
    "keys revoke": (
        lambda own: revoke_key(own, "monitor"),
        lambda own: own.trust().roles["monitor"][-1].ended == "revoked",
    ),
    **{
        f"keys rotate {role}": (
            lambda own, role=role: rotate(own, role),
            lambda own, role=role: [p.key for p in own.trust().roles[role]][1:] == [own.ring.public(role)],
        )
        for role in ("trainer", "log")
    },
    **{
        f"keys rotate {owner}": (lambda own, owner=owner: rotate(own, owner), lambda own: True)
        for owner in ("owner-1", "owner-3")
    },
}


def copied(own, folder):
    shutil.copytree(own.root, folder / "chain")
    shutil.copytree(own.ring.directory, folder / "ring")
    return TinyChain(folder / "chain", KeyRing.open(folder / "ring"))


def again(command, own):
    """Repeat a command; that it was done already is an answer."""
    try:
        command(own)
    except InputError as error:
        assert "already" in str(error) or "no key of its own" in str(error)  # noqa: PT017 - it need not raise


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_any_write_a_command_is_finished_by_repeating_it_or_by_layout(own, tmp_path, name, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    command, done = COMMANDS[name]
    (own.ring.directory / "private/owner-3.pem").unlink()  # no owner to spare
    version, number, finished = own.trust().version, 0, False
    while not finished:
        number += 1
        killed = copied(own, tmp_path / f"killed-{number}")
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, number)
            try:
                command(killed)
                finished = True
            except Killed:
                pass
        for way, mend in (("repeated", lambda own: again(command, own)), ("layout", renew)):
            mended = copied(killed, tmp_path / f"{way}-{number}")
            before = mended.verify().ok
            mend(mended)
            assert verifies(mended), f"write {number}, {way}"
            assert version_of(mended) > version or before
        repeated = TinyChain(tmp_path / f"repeated-{number}/chain", KeyRing.open(tmp_path / f"repeated-{number}/ring"))
        assert done(killed if finished else repeated), f"write {number}"
        assert not files(repeated.ring.prepared.directory / "public")
        run_all(repeated)
        assert verifies(repeated), f"write {number}"
        again(command, repeated)
        assert verifies(repeated), f"write {number}, once more"
    assert number > 5


def test_a_key_that_is_half_in_place_is_not_forgotten_when_it_cannot_be_published(own, tmp_path):
    key = own.ring.prepare("owner-1")
    renew(own)
    shutil.copy2(own.ring.prepared.directory / "public/owner-1.pem", own.ring.directory / "public/owner-1.pem")
    for owner in OWNERS[1:]:
        shutil.move(own.ring.directory / f"private/{owner}.pem", tmp_path / f"{owner}.pem")
    assert code(lambda: rotate(own, "owner-1")) == "key-mismatch"
    for owner in OWNERS[1:]:
        shutil.move(tmp_path / f"{owner}.pem", own.ring.directory / f"private/{owner}.pem")
    assert rotate(own, "owner-1") == key == own.ring.public("owner-1")
    assert verifies(own)


@pytest.mark.slow
def test_killed_at_any_write_while_all_owners_are_replaced_the_trust_is_never_lost(own, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    (own.ring.directory / "private/owner-3.pem").unlink()
    revoke(own)
    for first in range(1, 15):
        unlucky = copied(own, tmp_path / f"unlucky-{first}")
        for owner in ("owner-1", "owner-2", "owner-3"):
            with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
                kill_at(patch, first)
                rotate(unlucky, owner)
        for owner in OWNERS:
            rotate(unlucky, owner)
        assert verifies(unlucky), f"write {first}"
        assert unlucky.trust().revoked == (VENDOR,)
        renew(unlucky)
        assert verifies(unlucky)


@pytest.mark.slow
def test_killed_at_any_write_of_the_first_layout_the_next_run_begins(ring, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    number, finished = 0, False
    while not finished:
        number += 1
        store = EvidenceStore(tmp_path / f"new-{number}")
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, number)
            try:
                authority.found(store, ring, SPECS)
                finished = True
            except Killed:
                pass
        authority.found(store, ring, SPECS)
        said = authority.said(store, ring)
        entries = store.read_log(said.keys("log"), said.log).entries
        assert [entry["kind"] for entry in entries] == ["authority"]
        authority.found(store, ring, SPECS)
        authority.renew(store, ring, SPECS)
        assert store.log.size() == 2
    assert number > 5


@pytest.mark.parametrize("lost", [("layout",), ("trust",), ("layout", "trust")], ids=str)
def test_a_layout_or_trust_document_that_is_gone_comes_back_from_the_history(own, lost):
    revoke(own)
    before = everything(own)
    for name in lost:
        getattr(own.store, name).unlink()
    assert not own.verify().ok
    authority.found(own.store, own.ring, SPECS)
    assert everything(own) == before
    assert verifies(own)


def test_what_was_put_in_the_place_of_the_latest_layout_is_replaced_by_it(own, strangers):
    older = own.store.trust.read_bytes(), own.store.layout.read_bytes()
    revoke(own)
    own.store.trust.write_bytes(older[0])
    own.store.layout.write_bytes(older[1])
    assert codes(own) >= {"layout-superseded"}
    renew(own)
    assert VENDOR in own.trust().revoked
    assert verifies(own)


def test_where_nothing_is_left_a_new_log_begins_with_another_name(own):
    name = own.trust().log
    shutil.rmtree(own.store.directory)
    authority.found(own.store, own.ring, SPECS)
    assert own.trust().log != name
    assert own.trust().version == 1


PROGRAM = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from tiny_chain import SPECS, TinyChain
from secpipeline.provenance import authority
from secpipeline.provenance.keys import KeyRing
from secpipeline.provenance.trust import Revocation

chain = TinyChain(Path(sys.argv[2]), KeyRing.open(Path(sys.argv[3])))
for number in range(int(sys.argv[5])):
    if sys.argv[4] == "revoke":
        wanted = Revocation("source", f"{sys.argv[6]}-{number}", "x", "2026-11-24T07:47:26Z")
        authority.revoke(chain.store, chain.ring, SPECS, wanted)
    elif sys.argv[4] == "rotate":
        authority.rotate(chain.store, chain.ring, SPECS, sys.argv[6])
    elif sys.argv[4] == "found":
        authority.found(chain.store, chain.ring, SPECS)
"""


def start(own, what, many, name=""):
    here = str(Path(__file__).parent)
    arguments = [here, str(own.root), str(own.ring.directory), what, str(many), name]
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stderr=subprocess.PIPE)


def finish(*started):
    for process in started:
        assert process.wait(timeout=60) == 0, process.stderr.read().decode()


def test_two_who_revoke_at_once_lose_neither_word(own):
    finish(start(own, "revoke", 4, "a"), start(own, "revoke", 4, "b"))
    assert {r.name for r in own.trust().revoked} == {f"{who}-{n}" for who in "ab" for n in range(4)}
    assert own.trust().version == 9
    assert verifies(own)


def test_two_who_rotate_at_once_leave_keys_that_work(own):
    finish(start(own, "rotate", 3, "trainer"), start(own, "rotate", 3, "trainer"), start(own, "rotate", 2, "owner-1"))
    assert len(own.trust().roles["trainer"]) == 7
    assert own.trust().current("trainer") == own.ring.public("trainer")
    run_all(own)
    assert verifies(own)


def test_two_who_begin_at_once_begin_one_log(own):
    shutil.rmtree(own.store.directory)
    finish(*(start(own, "found", 1) for _ in range(3)))
    assert own.store.log.size() == 1
    assert own.trust().version == 1


def test_an_expired_layout_is_renewed_and_says_the_same(own):
    revoke(own)
    own.sign_layout(now=NOW - dt.timedelta(days=31))
    assert codes(own) == {"layout-expired"}
    before = own.trust()
    renew(own)
    assert verifies(own)
    after = own.trust()
    assert (after.roles, after.revoked, after.log) == (before.roles, before.revoked, before.log)
    assert (after.version, after.size) == (before.version + 1, before.size + 1)


def test_what_the_owners_said_before_is_not_taken_for_their_last_word_where_that_was_seen(own, tmp_path):
    memory = Memory(tmp_path / "seen")
    older = files(own.store.directory)
    revoke(own)
    assert own.verify(memory=memory).ok
    for path, data in older.items():
        path.chmod(0o644)
        path.write_bytes(data)
    assert "trust-rewound" in codes(own, memory=memory)
    assert verifies(own)


def test_every_step_role_signs_a_step_here_or_is_known_to_sign_none(own):
    assert set(STEP_OF) == {role for spec in SPECS for role in spec.roles}
    assert set(STEP_OF) < set(STEP_ROLES)
