"""Tampering with the owners' word: the layout, the keys of roles, revocations."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from typing import Any

from securesystemslib.signer import SSlibKey

from secpipeline.digests import canonical_json, sha256_file
from secpipeline.drills.tampering import Group
from secpipeline.drills.throwaway import Edit, ThrowawayChain, reworded, sign
from secpipeline.provenance import authority, envelopes, trust
from secpipeline.provenance.keys import KeyRing, public_pem
from secpipeline.provenance.trust import KINDS, SOURCE, Revocation
from secpipeline.provenance.verification import Expectations

LAYOUTS = Group("the layout", ThrowawayChain.verify)
TRUSTS = Group("keys and revocations", ThrowawayChain.verify)
_TWO = ("owner-1", "owner-2")
_LATER = dt.timedelta(days=31)
_ONE_TERABYTE = 1 << 40
_RED_TEAM, _SAFETY, _TRAINER = "red-team", "safety", "trainer"


def _publish(chain: ThrowawayChain, *, layout: bytes = b"", document: bytes = b"") -> None:
    """Make a layout or a trust document the one that counts by the log, whatever it says."""
    store = chain.store
    before = store.layout.read_bytes(), store.trust.read_bytes()
    origin = authority.said(store, chain.ring).log
    store.record_authority(layout or before[0], document or before[1], origin, chain.ring.signer("log"))


def _resign_layout(chain: ThrowawayChain, edit: Edit, *owners: str) -> None:
    content = envelopes.read_unverified(chain.store.layout.read_bytes())
    edit(content)
    _publish(chain, layout=sign(content, chain.ring, *(owners or _TWO)))


def _resign_trust(chain: ThrowawayChain, edit: Edit, *owners: str) -> None:
    content = envelopes.read_unverified(chain.store.trust.read_bytes())
    edit(content)
    _publish(chain, document=sign(content, chain.ring, *(owners or _TWO)))


@LAYOUTS.refused("layout-missing")
def layout_removed(chain: ThrowawayChain) -> None:
    """The layout is deleted."""
    chain.store.layout.unlink()


@LAYOUTS.refused("layout-missing")
def pipe_instead_of_the_layout(chain: ThrowawayChain) -> None:
    """A named pipe takes the place of the layout."""
    chain.store.layout.unlink()
    os.mkfifo(chain.store.layout)


@LAYOUTS.refused("layout-expired")
def layout_expired(chain: ThrowawayChain) -> None:
    """The owners last signed a layout a month ago."""
    chain.renew(now=dt.datetime.now(dt.UTC) - _LATER)


@LAYOUTS.refused("layout-signature")
def layout_expiry_edited(chain: ThrowawayChain) -> None:
    """The layout is edited to hold for decades."""
    data = chain.store.layout.read_bytes()
    chain.store.layout.write_bytes(reworded(data, lambda layout: layout.update(expires="2099-01-01T00:00:00Z")))


@LAYOUTS.refused("layout-signature")
def layout_by_one_owner(chain: ThrowawayChain) -> None:
    """One owner signs a layout without the others."""
    _resign_layout(chain, lambda _: None, "owner-1")


@LAYOUTS.refused("layout-signature")
def layout_by_one_owner_twice(chain: ThrowawayChain) -> None:
    """One owner's signature is put under the key id of another as well."""
    outer = envelopes.parse_object(chain.store.layout.read_bytes())
    first, second = outer["signatures"][:2]
    signatures = [first, {**second, "sig": first["sig"]}]
    _publish(chain, layout=canonical_json({**outer, "signatures": signatures}))


@LAYOUTS.refused("layout-signature")
def layout_by_one_owner_under_two_ids(chain: ThrowawayChain) -> None:
    """One owner's key signs twice, the second time under an id of its own making."""
    outer = envelopes.parse_object(chain.store.layout.read_bytes())
    first = outer["signatures"][0]
    signatures = [first, {**first, "keyid": "ab" * 32}]
    _publish(chain, layout=canonical_json({**outer, "signatures": signatures}))


@LAYOUTS.refused("layout-signature")
def layout_by_strangers(chain: ThrowawayChain) -> None:
    """Three who own nothing sign the same layout."""
    content = envelopes.read_unverified(chain.store.layout.read_bytes())
    _publish(chain, layout=sign(content, chain.strangers, *_TWO))


@LAYOUTS.refused("layout-signature")
def layout_by_other_roles(chain: ThrowawayChain) -> None:
    """The red team and the releaser sign the layout."""
    _resign_layout(chain, lambda _: None, _RED_TEAM, "releaser")


@LAYOUTS.refused("layout-superseded")
def earlier_layout_put_back(chain: ThrowawayChain) -> None:
    """A layout that has not expired yet, but was replaced since, is put back."""
    earlier = chain.store.layout.read_bytes()
    chain.renew(now=dt.datetime.now(dt.UTC) + dt.timedelta(seconds=5))
    chain.store.layout.write_bytes(earlier)


@LAYOUTS.refused("layout-differs")
def layout_without_the_gate(chain: ThrowawayChain) -> None:
    """Two owners are talked into a layout that lacks the gate."""
    chain.renew(specs=[spec for spec in chain.specs if spec.name != "gate"])


@LAYOUTS.refused("layout-differs")
def layout_without_a_rule(chain: ThrowawayChain) -> None:
    """Two owners are talked into a layout in which training need not read what curation made."""
    _resign_layout(chain, lambda layout: _step(layout, "train")["expected_materials"].pop(0))


@LAYOUTS.refused("layout-differs")
def layout_with_one_gate_run(chain: ThrowawayChain) -> None:
    """Two owners are talked into a layout in which one run of the gate is enough."""
    _resign_layout(chain, lambda layout: _step(layout, "gate").update(threshold=1))


@LAYOUTS.refused("layout-differs")
def layout_with_a_true_threshold(chain: ThrowawayChain) -> None:
    """Two owners are talked into a layout whose threshold is true, which equals 1 in some languages."""
    _resign_layout(chain, lambda layout: _step(layout, "train").update(threshold=True))


@LAYOUTS.refused("layout-differs")
def layout_without_its_inspection(chain: ThrowawayChain) -> None:
    """Two owners are talked into a layout that no longer asks for a passed verdict."""
    _resign_layout(chain, lambda layout: layout.update(inspect=[]))


@LAYOUTS.refused("layout-key")
def layout_with_a_strangers_key(chain: ThrowawayChain) -> None:
    """Two owners are talked into a layout that names a key that they gave to no role."""
    key = chain.strangers.public(_TRAINER)
    _resign_layout(chain, lambda layout: layout["keys"].update({key.keyid: {"keyid": key.keyid, **key.to_dict()}}))


def _step(layout: dict[str, Any], name: str) -> dict[str, Any]:
    step: dict[str, Any] = next(step for step in layout["steps"] if step["name"] == name)
    return step


@LAYOUTS.refused("layout-payload-type")
def layout_of_another_type(chain: ThrowawayChain) -> None:
    """The layout's envelope says that it holds something else."""
    outer = envelopes.parse_object(chain.store.layout.read_bytes())
    _publish(chain, layout=canonical_json({**outer, "payloadType": "application/json"}))


@LAYOUTS.refused("layout-malformed")
def layout_key_twice(chain: ThrowawayChain) -> None:
    """The layout's envelope has two payload types, of which readers take either."""
    chain.store.layout.write_bytes(b'{"payloadType":"text/plain",' + chain.store.layout.read_bytes()[1:])


@LAYOUTS.refused("layout-malformed")
def layout_signed_with_a_key_twice(chain: ThrowawayChain) -> None:
    """Two owners sign a layout that has two expiry dates, of which readers take either."""
    payload = canonical_json(envelopes.read_unverified(chain.store.layout.read_bytes()))
    twice = b'{"expires":"2099-01-01T00:00:00Z",' + payload[1:]
    signers = [chain.ring.signer(owner) for owner in _TWO]
    _publish(chain, layout=envelopes.sign(twice, envelopes.PAYLOAD_TYPE, signers))


@LAYOUTS.refused("layout-malformed")
def layout_of_a_terabyte(chain: ThrowawayChain) -> None:
    """A file that takes no room on disk and more than there is in memory takes the place of the layout."""
    os.truncate(chain.store.layout, _ONE_TERABYTE)


@LAYOUTS.refused("layout-malformed")
def layout_that_is_not_text(chain: ThrowawayChain) -> None:
    """The layout is overwritten with bytes that are not UTF-8."""
    chain.store.layout.write_bytes(b'{"payload":"\xff\xfe"}')


@LAYOUTS.refused("layout-malformed")
def layout_followed_by_another(chain: ThrowawayChain) -> None:
    """A second layout follows the first in one file."""
    chain.store.layout.write_bytes(chain.store.layout.read_bytes() * 2)


@TRUSTS.refused("trust-missing")
def trust_removed(chain: ThrowawayChain) -> None:
    """The trust document is deleted."""
    chain.store.trust.unlink()


@TRUSTS.refused("trust-signature")
def trust_by_one_owner(chain: ThrowawayChain) -> None:
    """One owner signs a trust document without the others."""
    _resign_trust(chain, lambda _: None, "owner-1")


@TRUSTS.refused("trust-signature")
def trust_by_strangers(chain: ThrowawayChain) -> None:
    """Three who own nothing found a chain of their own in the place of this one."""
    shutil.rmtree(chain.store.directory)
    authority.found(chain.store, chain.strangers, chain.specs)


@TRUSTS.refused("trust-signature")
def revocation_erased(chain: ThrowawayChain) -> None:
    """A revocation is edited out of the trust document."""
    _revoke(chain, SOURCE, "vendor-c")
    data = chain.store.trust.read_bytes()
    _publish(chain, document=reworded(data, lambda document: document["predicate"].update(revoked=[])))


@TRUSTS.refused("layout-superseded")
def earlier_trust_put_back(chain: ThrowawayChain) -> None:
    """The trust document of before a revocation is put back."""
    earlier = chain.store.trust.read_bytes()
    _revoke(chain, SOURCE, "vendor-c")
    chain.store.trust.write_bytes(earlier)


@TRUSTS.refused("trust-rewound")
def earlier_trust_logged_again(chain: ThrowawayChain) -> None:
    """The keeper of the log names layout and trust document of before a revocation as the latest."""
    earlier = chain.store.layout.read_bytes(), chain.store.trust.read_bytes()
    _revoke(chain, SOURCE, "vendor-c")
    chain.verify()
    _publish(chain, layout=earlier[0], document=earlier[1])


@TRUSTS.refused("layout-superseded")
def layout_and_trust_of_two_days(chain: ThrowawayChain) -> None:
    """The keeper of the log names an earlier layout and the present trust document as the latest."""
    earlier = chain.store.layout.read_bytes()
    chain.renew(now=dt.datetime.now(dt.UTC) + dt.timedelta(seconds=5))
    _publish(chain, layout=earlier)


@TRUSTS.refused("trust-malformed")
def trust_about_nothing(chain: ThrowawayChain) -> None:
    """Two owners sign a trust document that is no Statement about a layout."""
    _resign_trust(chain, lambda document: document.update(_type="https://in-toto.io/Statement/v0.1"))


@TRUSTS.refused("trust-payload-type")
def trust_of_another_type(chain: ThrowawayChain) -> None:
    """The trust document's envelope says that it holds something else."""
    outer = envelopes.parse_object(chain.store.trust.read_bytes())
    _publish(chain, document=canonical_json({**outer, "payloadType": "application/json"}))


@TRUSTS.refused("trust-malformed")
def layout_as_trust(chain: ThrowawayChain) -> None:
    """The layout, which the owners signed too, takes the place of the trust document."""
    shutil.copyfile(chain.store.layout, chain.store.trust)


@TRUSTS.refused("trust-malformed")
def trust_without_a_role(chain: ThrowawayChain) -> None:
    """Two owners sign a trust document that forgets the second gate role."""
    _resign_trust(chain, lambda document: document["predicate"]["roles"].pop(_SAFETY))


@TRUSTS.refused("trust-malformed")
def trust_with_a_key_under_another_id(chain: ThrowawayChain) -> None:
    """Two owners sign a trust document in which a key has the id of another."""
    _resign_trust(chain, lambda document: document["predicate"]["roles"][_SAFETY][0].update(keyid="ab" * 32))


@TRUSTS.refused("trust-shared-key")
def one_key_for_both_gate_runs(chain: ThrowawayChain) -> None:
    """Two owners give one key to both roles that run the gate."""
    _give(chain, _SAFETY, chain.ring.public(_RED_TEAM))


@TRUSTS.refused("trust-shared-key")
def owner_as_trainer(chain: ThrowawayChain) -> None:
    """Two owners give an owner's key to the trainer."""
    _give(chain, _TRAINER, chain.ring.public("owner-1"))


def _give(chain: ThrowawayChain, role: str, key: SSlibKey) -> None:
    named = {"keyid": key.keyid, "public": public_pem(key).decode()}
    _resign_trust(chain, lambda document: document["predicate"]["roles"][role][0].update(named))


@TRUSTS.refused("key-retired")
def signed_with_a_retired_key(chain: ThrowawayChain) -> None:
    """The trainer gets a new key, and signs with the old one."""
    earlier = _keep_keys(chain)
    authority.rotate(chain.store, chain.ring, chain.specs, _TRAINER)
    chain.record("train", chain.attest("train", earlier))


@TRUSTS.refused("key-revoked")
def signed_with_a_revoked_key(chain: ThrowawayChain) -> None:
    """The trainer's key is revoked, and somebody signs with it."""
    authority.revoke_key(chain.store, chain.ring, chain.specs, _TRAINER, "the laptop was stolen")
    chain.run("train")


@TRUSTS.refused("key-revoked")
def signed_after_the_theft(chain: ThrowawayChain) -> None:
    """The trainer's key is revoked from an entry of the log on that lies before its last signature."""
    chain.run("train")
    stolen = chain.store.log.size() - 1
    authority.revoke_key(chain.store, chain.ring, chain.specs, _TRAINER, "the laptop was stolen", stolen)


def _keep_keys(chain: ThrowawayChain) -> KeyRing:
    shutil.copytree(chain.workspace.keys, chain.root / "kept-keys")
    return KeyRing(chain.root / "kept-keys")


def _revoke(chain: ThrowawayChain, kind: str, name: str) -> None:
    authority.revoke(chain.store, chain.ring, chain.specs, _revocation(kind, name))


def _revocation(kind: str, name: str) -> Revocation:
    return Revocation(kind, name, "a drill", "2026-01-01T00:00:00Z")


_REVOKED = {
    "source": "",
    "release": "ingest/dataset.sha256",
    "detector": "train/detector.safetensors",
    "file": "export/detector.onnx",
}


def _revoke_one(kind: str) -> Any:
    def tamper(chain: ThrowawayChain) -> None:
        file = _REVOKED[kind]
        _revoke(chain, kind, sha256_file(chain.artifacts / file) if file else "vendor-c")

    return tamper


for _kind in KINDS:
    TRUSTS.add(
        f"revoked {_kind} used",
        f"The owners revoke a {_kind}, and nothing is made anew.",
        "revoked",
        _revoke_one(_kind),
    )


@TRUSTS.refused("revoked")
def revocation_by_another_way(chain: ThrowawayChain) -> Expectations:
    """The evidence is that of before a revocation, which reaches the verifier by another way."""
    newer = chain.root / "newer"
    newer.mkdir()
    said = authority.said(chain.store, chain.ring).with_revocation(_revocation(SOURCE, "vendor-c"))
    (newer / "trust.dsse.json").write_bytes(trust.sign(said, {}, chain.ring))
    return Expectations(newer_trust=newer)


@TRUSTS.refused("trust-signature")
def trust_of_strangers_by_another_way(chain: ThrowawayChain) -> Expectations:
    """A later trust document that strangers signed reaches the verifier by another way."""
    newer = chain.root / "newer"
    newer.mkdir()
    said = trust.renumbered(authority.said(chain.store, chain.ring))
    (newer / "trust.dsse.json").write_bytes(trust.sign(said, {}, chain.strangers))
    return Expectations(newer_trust=newer)


@TRUSTS.refused("trust-malformed")
def pipe_by_another_way(chain: ThrowawayChain) -> Expectations:
    """A named pipe lies among the trust documents that reach the verifier by another way."""
    newer = chain.root / "newer"
    newer.mkdir()
    os.mkfifo(newer / "trust.dsse.json")
    return Expectations(newer_trust=newer)
