"""Tampering with the log, the evidence store around it, and time."""

from __future__ import annotations

import base64
import datetime as dt
import os
import shutil
import string
from collections.abc import Callable, Mapping
from typing import Any

from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.drills.tampering import Group, Tamper
from secpipeline.drills.throwaway import ThrowawayChain
from secpipeline.provenance import authority, envelopes
from secpipeline.provenance.evidence import EvidenceStore
from secpipeline.provenance.keys import LOG, KeyRing
from secpipeline.provenance.log import CHECKPOINT, CHECKPOINT_TYPE
from secpipeline.provenance.log import LOG as LOG_FILE
from secpipeline.provenance.verification import Expectations

LOGS = Group("the log and the evidence store", ThrowawayChain.verify)
_FIFTY_MEGABYTES = 50 << 20
_TEN_THOUSAND = 10_000
_ONE_TERABYTE = 1 << 40


def _rewrite(chain: ThrowawayChain, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path = chain.store.log.path
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def _checkpoint(chain: ThrowawayChain) -> dict[str, Any]:
    return envelopes.parse_object(chain.store.log.checkpoint_path.read_bytes())


def _resign_checkpoint(
    chain: ThrowawayChain, role: str, *, payload_type: str = CHECKPOINT_TYPE, **changes: Any
) -> None:
    content = envelopes.read_unverified(chain.store.log.checkpoint_path.read_bytes(), CHECKPOINT_TYPE)
    signed = envelopes.sign(canonical_json({**content, **changes}), payload_type, [chain.ring.signer(role)])
    chain.store.log.checkpoint_path.write_bytes(signed)


@LOGS.refused("log-truncated")
def log_truncated(chain: ThrowawayChain) -> None:
    """The last entry of the log is cut off."""
    _rewrite(chain, lambda lines: lines[:-1])


@LOGS.refused("log-changed")
def log_reordered(chain: ThrowawayChain) -> None:
    """Two entries of the log change places."""
    _rewrite(chain, lambda lines: [lines[0], lines[2], lines[1], *lines[3:]])


@LOGS.refused("log-changed")
def log_entry_rewritten(chain: ThrowawayChain) -> None:
    """An entry of the log is made to be about another stage."""
    _rewrite(chain, lambda lines: [line.replace(b'"stage":"train"', b'"stage":"drain"') for line in lines])


@LOGS.refused("log-changed")
def log_entry_inserted(chain: ThrowawayChain) -> None:
    """An entry is put into the middle of the log."""
    _rewrite(chain, lambda lines: [*lines[:3], lines[2], *lines[3:]])


@LOGS.refused("log-missing")
def log_removed(chain: ThrowawayChain) -> None:
    """The log is deleted."""
    chain.store.log.path.unlink()


@LOGS.refused("log-missing")
def checkpoint_removed(chain: ThrowawayChain) -> None:
    """The signature over the log is deleted."""
    chain.store.log.checkpoint_path.unlink()


@LOGS.refused("log-missing")
def pipe_instead_of_the_checkpoint(chain: ThrowawayChain) -> None:
    """A named pipe takes the place of the log's checkpoint."""
    chain.store.log.checkpoint_path.unlink()
    os.mkfifo(chain.store.log.checkpoint_path)


@LOGS.refused("checkpoint-signature")
def log_signed_by_a_stranger(chain: ThrowawayChain) -> None:
    """The log is rewritten from its beginning and signed by somebody who is not its keeper."""
    chain.store.log.path.unlink()
    chain.store.log.checkpoint_path.unlink()
    origin = chain.workspace.trust().log if chain.store.trust.is_file() else ""
    chain.store.log.append({"kind": "run", "stage": "train"}, chain.strangers.signer(LOG), origin)


@LOGS.refused("checkpoint-signature")
def log_signed_by_another_role(chain: ThrowawayChain) -> None:
    """The trainer signs the log's checkpoint."""
    _resign_checkpoint(chain, "trainer")


@LOGS.refused("checkpoint-signature")
def checkpoint_edited(chain: ThrowawayChain) -> None:
    """The checkpoint is edited to cover an entry less."""
    outer = _checkpoint(chain)
    content = envelopes.read_unverified(canonical_json(outer), CHECKPOINT_TYPE)
    outer["payload"] = base64.b64encode(canonical_json({**content, "size": content["size"] - 1})).decode()
    chain.store.log.checkpoint_path.write_bytes(canonical_json(outer))


@LOGS.refused("checkpoint-malformed")
def checkpoint_of_a_strange_size(chain: ThrowawayChain) -> None:
    """The log's key signs a checkpoint whose size is true, which some would read as one."""
    _resign_checkpoint(chain, LOG, size=True)


@LOGS.refused("checkpoint-malformed")
def checkpoint_in_other_letters(chain: ThrowawayChain) -> None:
    """The checkpoint's signature is written with another base64 letter that stands for the same bytes."""
    while not (outer := _checkpoint(chain))["signatures"][0]["sig"].endswith("="):
        chain.store.log.refresh(chain.ring.signer(LOG))
    (signature,) = outer["signatures"]
    letters = signature["sig"].rstrip("=")
    same = next(
        text
        for letter in string.ascii_letters + string.digits + "+/"
        if (text := letters[:-1] + letter + "=" * (len(signature["sig"]) - len(letters))) != signature["sig"]
        and base64.b64decode(text) == base64.b64decode(signature["sig"])
    )
    chain.store.log.checkpoint_path.write_bytes(canonical_json({**outer, "signatures": [{**signature, "sig": same}]}))


@LOGS.refused("checkpoint-payload-type")
def checkpoint_of_another_type(chain: ThrowawayChain) -> None:
    """The log's key signs the checkpoint as if it were a Statement."""
    _resign_checkpoint(chain, LOG, payload_type=envelopes.PAYLOAD_TYPE)


@LOGS.refused("log-forked")
def log_forked(chain: ThrowawayChain) -> None:
    """The keeper of the log writes another history of the same length and signs it with the true key."""
    store, entries = chain.store, chain.store.log.path.read_bytes().splitlines()
    said, signer = authority.said(store, chain.ring), chain.ring.signer(LOG)
    store.log.path.unlink()
    store.log.checkpoint_path.unlink()
    for line in entries:
        store.log.append({**envelopes.parse_object(line), "time": 1}, signer, said.log)


@LOGS.refused("log-rewound")
def whole_evidence_put_back(chain: ThrowawayChain) -> None:
    """Files and evidence are put back together to what they were before the last verification."""
    kept = chain.root / "kept"
    shutil.copytree(chain.workspace.home, kept)
    (chain.artifacts / "monitor/report.json").write_bytes(canonical_json({"state": "alarm"}))
    chain.run("monitor")
    chain.verify().require()
    shutil.rmtree(chain.workspace.home)
    kept.rename(chain.workspace.home)


@LOGS.refused("log-origin")
def log_of_another_chain(chain: ThrowawayChain) -> None:
    """The log is exchanged for that of another chain whose log has the same key."""
    other = EvidenceStore(chain.root / "other")
    authority.found(other, chain.ring, chain.specs)
    for name in (LOG_FILE, CHECKPOINT):
        shutil.copyfile(other.directory / name, chain.store.directory / name)


@LOGS.refused("key-retired")
def log_continued_by_a_retired_key(chain: ThrowawayChain) -> None:
    """The log gets a new key, and somebody who kept the old one adds an entry."""
    shutil.copytree(chain.workspace.keys, chain.root / "stolen")
    evidence = chain.attest("monitor")
    kept = {path: path.read_bytes() for path in (chain.store.log.path, chain.store.log.checkpoint_path)}
    authority.rotate(chain.store, chain.ring, chain.specs, LOG)
    newer = chain.store.log.path.read_bytes().removeprefix(kept[chain.store.log.path])
    for path, data in kept.items():
        path.write_bytes(data)
    thief = KeyRing(chain.root / "stolen").signer(LOG)
    for line in newer.splitlines():
        chain.store.log.append(envelopes.parse_object(line), thief)
    chain.store.record("monitor", evidence, thief)


@LOGS.refused("malformed")
def log_entry_of_wrong_types(chain: ThrowawayChain) -> None:
    """The log's key signs an entry that names its envelopes by numbers."""
    chain.store.log.append({"kind": "run", "links": 5, "stage": 5, "statement": 5}, chain.ring.signer(LOG))


@LOGS.refused("evidence-missing")
def envelope_removed(chain: ThrowawayChain) -> None:
    """The envelope of a current Statement is deleted."""
    _history(chain, sha256_bytes(chain.current("train").statement)).unlink()


@LOGS.refused("evidence-missing")
def old_envelope_removed(chain: ThrowawayChain) -> None:
    """The envelope of an earlier run, that nothing current needs, is deleted."""
    earlier = sha256_bytes(chain.current("monitor").statement)
    chain.run("monitor")
    _history(chain, earlier).unlink()


@LOGS.refused("evidence-missing")
def envelope_with_more_whitespace(chain: ThrowawayChain) -> None:
    """A space is added to an envelope, which changes nothing of what it says."""
    path = _history(chain, sha256_bytes(chain.current("train").statement))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b":", b": ", 1))


@LOGS.refused("evidence-missing")
def pipe_instead_of_an_envelope(chain: ThrowawayChain) -> None:
    """A named pipe takes the place of an envelope."""
    path = _history(chain, sha256_bytes(chain.current("train").statement))
    path.unlink()
    os.mkfifo(path)


def _history(chain: ThrowawayChain, digest: str) -> Any:
    return chain.store.directory / "history" / digest[:2] / digest[2:]


@LOGS.refused("evidence-missing")
def stage_forgotten(chain: ThrowawayChain) -> None:
    """What says which evidence of the gate is current is deleted."""
    (chain.store.directory / "current/gate.json").unlink()


@LOGS.refused("malformed")
def evidence_of_terabytes(chain: ThrowawayChain) -> None:
    """An envelope and the log grow to a terabyte each, which takes no room on disk and more than there is in memory."""
    envelope = _history(chain, sha256_bytes(chain.current("train").statement))
    for path in (envelope, chain.store.log.path):
        path.chmod(0o644)
        os.truncate(path, _ONE_TERABYTE)


def _point(data: bytes) -> Tamper:
    def tamper(chain: ThrowawayChain) -> None:
        (chain.store.directory / "current/gate.json").write_bytes(data)

    return tamper


def _point_and_say(more: bytes) -> Tamper:
    def tamper(chain: ThrowawayChain) -> None:
        path = chain.store.directory / "current/gate.json"
        path.write_bytes(b"{" + more + b"," + path.read_bytes()[1:])

    return tamper


_POINTERS: Mapping[str, tuple[Tamper, str]] = {
    "a path upwards": (_point(b'{"links":["../../../etc/passwd"],"statement":"../x"}'), "evidence-missing"),
    "wrong types": (_point(b'{"links":1,"statement":[]}'), "malformed"),
    "nothing": (_point(b""), "malformed"),
    "50 MB": (_point(b'{"statement":"' + b"x" * _FIFTY_MEGABYTES + b'"}'), "malformed"),
    "a million escaped quotes": (_point(b'{"a":"' + b'\\"' * 1_000_000), "malformed"),
    "a key twice": (_point_and_say(b'"statement":""'), "malformed"),
    "NaN": (_point_and_say(b'"more":NaN'), "malformed"),
    "an infinite number": (_point_and_say(b'"more":1e999'), "malformed"),
    "bytes that are not UTF-8": (_point_and_say(b'"more":"\xff"'), "malformed"),
    "10,000 levels": (_point_and_say(b'"more":' + b"[" * _TEN_THOUSAND + b"]" * _TEN_THOUSAND), "malformed"),
}
for _word, (_tamper, _code) in _POINTERS.items():
    _sentence = f"What says which evidence of the gate is current holds {_word}."
    LOGS.add(f"pointer with {_word}", _sentence, _code, _tamper)


@LOGS.refused("memory")
def memory_damaged(chain: ThrowawayChain) -> None:
    """What this machine remembers of earlier verifications is overwritten."""
    for path in chain.workspace.memory.glob("*.json"):
        path.write_bytes(b'{"root":"","size":0,"trust":0}')


@LOGS.refused("memory")
def memory_replaced_by_a_directory(chain: ThrowawayChain) -> None:
    """A directory takes the place of what this machine remembers."""
    for path in chain.workspace.memory.glob("*.json"):
        path.unlink()
        path.mkdir()


@LOGS.refused("clock")
def clock_set_back(chain: ThrowawayChain) -> Expectations:  # noqa: ARG001 - the chain is as it was
    """The verifier's clock is set back by a month, so that an expired layout would hold again."""
    return Expectations(now=dt.datetime.now(dt.UTC) - dt.timedelta(days=31))


@LOGS.refused("too-old")
def nothing_new_for_an_hour(chain: ThrowawayChain) -> Expectations:  # noqa: ARG001 - the chain is as it was
    """An old state is shown to a verifier that asks for one of the last hour."""
    return Expectations(max_age=dt.timedelta(hours=1), now=dt.datetime.now(dt.UTC) + dt.timedelta(hours=2))


@LOGS.refused("too-old")
def fewer_entries_than_asked(chain: ThrowawayChain) -> Expectations:
    """A short log is shown to a verifier that asks for a longer one."""
    return Expectations(at_least_version=chain.store.log.size() + 1)
