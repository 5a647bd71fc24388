"""Tampering with what stages say and who signs it: Statements, links, envelopes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.drills.tampering import Group
from secpipeline.drills.throwaway import Edit, ThrowawayChain, reworded, sign
from secpipeline.provenance import envelopes
from secpipeline.provenance.evidence import SignedEvidence
from secpipeline.stages.table import PROVENANCE

SIGNING = Group("statements and links", ThrowawayChain.verify)
_NOTHING = "0" * 64
_TRAINED = "train/detector.safetensors"


def _relog(chain: ThrowawayChain, name: str, *, statement: bytes = b"", link: bytes = b"") -> None:
    """Log other bytes for a stage's Statement or first link; an attacker who has the log's key, or none."""
    before = chain.current(name)
    links = (link or before.links[0], *before.links[1:])
    chain.record(name, SignedEvidence(statement or before.statement, links))


def _redirect(chain: ThrowawayChain, name: str, statement: bytes, *links: bytes) -> None:
    """Make envelopes current without the log's key."""
    for data in (statement, *links):
        path = chain.store.directory / "history" / sha256_bytes(data)[:2] / sha256_bytes(data)[2:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    pointer = SignedEvidence(statement, links).digests()
    (chain.store.directory / "current" / f"{name}.json").write_bytes(canonical_json(pointer))


@SIGNING.refused("signature")
def verdictreworded(chain: ThrowawayChain) -> None:
    """The gate's Statement is edited under the old signature."""
    forged = reworded(chain.current("gate").statement, lambda s: s["predicate"].update(result="FAILED"))
    _relog(chain, "gate", statement=forged)


@SIGNING.refused("signature")
def verdict_by_the_trainer(chain: ThrowawayChain) -> None:
    """The trainer signs a verdict of its own in the place of the red team."""
    chain.resign("gate", statement=lambda s: s["predicate"].update(passedTests=["everything"]), role="trainer")


@SIGNING.refused("signature")
def forged_signer(chain: ThrowawayChain) -> None:
    """Somebody who was never given a role signs the training."""
    chain.resign("train", ring=chain.strangers)


@SIGNING.refused("input-unverified")
def built_on_a_forged_training(chain: ThrowawayChain) -> None:
    """Somebody who was never given a role signs the training, and every later stage is signed by its role."""
    chain.resign("train", ring=chain.strangers)
    chain.run("export", "attack", "gate", "release", "deploy", "monitor")


@SIGNING.refused("signature")
def policy_digest_edited(chain: ThrowawayChain) -> None:
    """The gate's link is edited to name another policy."""
    link = chain.current("gate").links[0]
    edited = reworded(link, lambda d: d["materials"].update({"policies/default.yaml": {"sha256": _NOTHING}}))
    _relog(chain, "gate", link=edited)


@SIGNING.refused("signature")
def parameter_digest_edited(chain: ThrowawayChain) -> None:
    """The training's link is edited to name other parameters."""
    link = chain.current("train").links[0]
    edited = reworded(link, lambda d: d["materials"].update({"params/train.json": {"sha256": _NOTHING}}))
    _relog(chain, "train", link=edited)


@SIGNING.refused("not-passed")
def failed_model_deployed(chain: ThrowawayChain) -> None:
    """The gate fails a model, and the releaser signs and deploys it all the same."""
    chain.resign("gate", statement=lambda s: s["predicate"].update(result="FAILED", failedTests=["miss rate"]))
    chain.run("release", "deploy", "monitor")


@SIGNING.refused("not-passed")
def model_deployed_without_a_summary(chain: ThrowawayChain) -> None:
    """The release sums up that the model failed, and it is deployed all the same."""
    chain.resign("release", statement=lambda s: s["predicate"].update(verificationResult="FAILED"))


@SIGNING.refused("not-judged")
def other_model_deployed(chain: ThrowawayChain) -> None:
    """The releaser signs and deploys another model than the one that the gate passed."""
    (chain.artifacts / "deploy/detector.onnx").write_bytes(b"another graph")
    chain.run("deploy", "monitor")


@SIGNING.refused("threshold")
def gate_run_once(chain: ThrowawayChain) -> None:
    """The gate's second run, by another role, is left out."""
    found = chain.current("gate")
    chain.record("gate", SignedEvidence(found.statement, found.links[:1]))


@SIGNING.refused("signature")
def gate_run_twice_by_one_role(chain: ThrowawayChain) -> None:
    """The red team signs the second run of the gate as well."""
    chain.resign("gate", witness="red-team")


@SIGNING.refused("signature")
def gate_link_given_twice(chain: ThrowawayChain) -> None:
    """The first run's link stands in for the second's."""
    found = chain.current("gate")
    chain.record("gate", SignedEvidence(found.statement, (found.links[0], found.links[0])))


@SIGNING.refused("runs-disagree")
def gate_runs_read_different_reports(chain: ThrowawayChain) -> None:
    """The gate's second run read another robustness report than the first."""
    other = {"attack/report.json": {"sha256": _NOTHING}}
    chain.resign("gate", second_link=lambda d: d["materials"].update(other))


@SIGNING.refused("link-products")
def gate_runs_reach_different_verdicts(chain: ThrowawayChain) -> None:
    """The gate's second run wrote another verdict than the first."""
    other = {"gate/verdict.json": {"sha256": _NOTHING}}
    chain.resign("gate", second_link=lambda d: d["products"].update(other))


@SIGNING.refused("link-name")
def link_of_another_step(chain: ThrowawayChain) -> None:
    """The trainer's link for the export is replayed as that of the training."""
    _relog(chain, "train", link=chain.current("export").links[0])


@SIGNING.refused("subject")
def statement_of_another_step(chain: ThrowawayChain) -> None:
    """The trainer's Statement about the export is replayed as that of the training."""
    _relog(chain, "train", statement=chain.current("export").statement)


@SIGNING.refused("link-products")
def statement_of_another_run(chain: ThrowawayChain) -> None:
    """Statement and link of one stage come from two runs, and are logged together."""
    earlier = chain.current("train").statement
    chain.run("train")
    _relog(chain, "train", statement=earlier)


@SIGNING.refused("not-logged")
def statement_of_another_run_unlogged(chain: ThrowawayChain) -> None:
    """Statement and link of one stage come from two runs, each of which was logged."""
    earlier = chain.current("train").statement
    chain.run("train")
    _redirect(chain, "train", earlier, *chain.current("train").links)


@SIGNING.refused("not-logged")
def stage_of_another_chain(chain: ThrowawayChain) -> None:
    """A stage's files and evidence come from another chain whose roles have the same keys."""
    (chain.artifacts / "monitor/report.json").write_bytes(canonical_json({"state": "calm"}))
    foreign = chain.attest("monitor")
    _redirect(chain, "monitor", foreign.statement, *foreign.links)


@SIGNING.refused("superseded")
def earlier_run_put_back(chain: ThrowawayChain) -> None:
    """Files and current evidence of every stage are put back to those of an earlier run; the log stays."""
    pointers, kept = chain.store.directory / "current", chain.root / "kept"
    shutil.copytree(chain.artifacts, kept / "artifacts")
    shutil.copytree(pointers, kept / "current")
    (chain.artifacts / "train/training.json").write_bytes(canonical_json({"epochs": 2}))
    chain.run("train", "export", "attack", "gate", "release", "deploy", "monitor")
    for place, copy in ((chain.artifacts, kept / "artifacts"), (pointers, kept / "current")):
        shutil.rmtree(place)
        copy.rename(place)


@SIGNING.refused("stale")
def retrained_without_a_gate(chain: ThrowawayChain) -> None:
    """The trainer signs other weights after the gate looked at the first."""
    (chain.artifacts / _TRAINED).write_bytes(b"better weights")
    chain.run("train")


@SIGNING.refused("stale")
def input_left_out(chain: ThrowawayChain) -> None:
    """The training does not say that it read the box table."""
    chain.resign("train", link=lambda d: d["materials"].pop("curate/boxes.parquet"))


@SIGNING.refused("stale")
def input_invented(chain: ThrowawayChain) -> None:
    """The training says that it read a file of curation that curation never made."""
    chain.resign("train", link=lambda d: d["materials"].update({"curate/extra.parquet": {"sha256": _NOTHING}}))


@SIGNING.refused("stale")
def two_policies(chain: ThrowawayChain) -> None:
    """The gate holds the reports against a loosened policy, and the release names the strict one."""
    loosened = {"policies/default.yaml": {"sha256": _NOTHING}}
    chain.resign("gate", link=lambda d: d["materials"].update(loosened))
    chain.run("release", "deploy", "monitor")


@SIGNING.refused("undeclared-material")
def extra_material(chain: ThrowawayChain) -> None:
    """The training read a file that the layout does not let it read."""
    chain.resign("train", link=lambda d: d["materials"].update({"secret/labels.json": {"sha256": _NOTHING}}))


@SIGNING.refused("missing-material")
def policy_left_out(chain: ThrowawayChain) -> None:
    """The gate does not say which policy it held the reports against."""
    chain.resign("gate", link=lambda d: d["materials"].pop("policies/default.yaml"))


@SIGNING.refused("missing-material")
def code_left_out(chain: ThrowawayChain) -> None:
    """The monitor does not say which code it ran."""
    chain.resign("monitor", link=lambda d: d["materials"].pop("code/monitor"))


@SIGNING.refused("link-products")
def product_left_out(chain: ThrowawayChain) -> None:
    """The link names a product less than the Statement."""
    chain.resign("train", link=lambda d: d["products"].pop(_TRAINED))


@SIGNING.refused("link-products")
def product_invented(chain: ThrowawayChain) -> None:
    """The link names a product that the Statement is not about."""
    chain.resign("train", link=lambda d: d["products"].update({"train/extra": {"sha256": _NOTHING}}))


@SIGNING.refused("link-command")
def another_command(chain: ThrowawayChain) -> None:
    """The training ran another command."""
    chain.resign("train", link=lambda d: d.update(command=["python", "mine.py"]))


def _returned(value: Any) -> Edit:
    return lambda link: link["byproducts"].update({"return-value": value})


for _value, _word in ((1, "1"), (0.0, "0.0"), (False, "false"), ("0", 'the text "0"'), (None, "null")):
    SIGNING.add(
        f"return value {_word}",
        f"The link says that the training returned {_word}, and not 0.",
        "link-return-value",
        lambda chain, value=_value: chain.resign("train", link=_returned(value)),  # type: ignore[misc]
    )


@SIGNING.refused("link-type")
def not_a_link(chain: ThrowawayChain) -> None:
    """The link says that it is a layout."""
    chain.resign("train", link=lambda d: d.update(_type="layout"))


@SIGNING.refused("link-type")
def extra_field_in_a_link(chain: ThrowawayChain) -> None:
    """The link has a field that in-toto does not know."""
    chain.resign("train", link=lambda d: d.update(waiver="all is well"))


@SIGNING.refused("statement-type")
def extra_field_in_a_statement(chain: ThrowawayChain) -> None:
    """The Statement has a field that in-toto does not know."""
    chain.resign("train", statement=lambda s: s.update(waiver="all is well"))


@SIGNING.refused("statement-type")
def statement_of_another_version(chain: ThrowawayChain) -> None:
    """The Statement says that it is one of version 0.1."""
    chain.resign("train", statement=lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"))


@SIGNING.refused("predicate-type")
def predicate_type_changed(chain: ThrowawayChain) -> None:
    """The gate's Statement says how something was built instead of what was decided."""
    chain.resign("gate", statement=lambda s: s.update(predicateType=PROVENANCE))


_DIGESTS: Mapping[str, Mapping[str, str]] = {
    "MD5 alone": {"md5": "0" * 32},
    "no digest": {},
    "two digests": {"md5": "0" * 32, "sha256": _NOTHING},
    "half a digest": {"sha256": "0" * 32},
    "a digest in capitals": {"sha256": "A" * 64},
}
for _word, _map in _DIGESTS.items():
    SIGNING.add(
        f"subject with {_word}",
        f"The Statement names a file by {_word}.",
        "digest",
        lambda chain, digest=_map: chain.resign("train", statement=lambda s: s["subject"][0].update(digest=digest)),  # type: ignore[misc]
    )
    SIGNING.add(
        f"material with {_word}",
        f"The link names what was read by {_word}.",
        "digest",
        lambda chain, digest=_map: chain.resign("train", link=lambda d: d["materials"].update({"code/train": digest})),  # type: ignore[misc]
    )


@SIGNING.refused("subject")
def statement_about_nothing(chain: ThrowawayChain) -> None:
    """The Statement names no files."""
    chain.resign("train", statement=lambda s: s.update(subject=[]))


@SIGNING.refused("subject")
def subject_with_content(chain: ThrowawayChain) -> None:
    """The Statement names a file by its digest, and carries other content for it."""
    chain.resign("train", statement=lambda s: s["subject"][0].update(content="b3RoZXI="))


@SIGNING.refused("subject")
def subject_named_twice(chain: ThrowawayChain) -> None:
    """The Statement names one file twice."""
    chain.resign("train", statement=lambda s: s["subject"].append(s["subject"][0]))


@SIGNING.refused("subject")
def subject_of_another_stage(chain: ThrowawayChain) -> None:
    """The trainer's Statement is about what is deployed."""
    chain.resign("train", statement=lambda s: s["subject"][0].update(name="deploy/detector.onnx"))


_NAMES = {
    "a path upwards": "../gate/verdict.json",
    "a newline": "a\nb",
    "a backslash": "..\\gate\\verdict.json",
    "a NUL": "a\x00b",
    "an escape sequence": "\x1b[2J",
    "no normal form": "e\u0301",
}
for _word, _part in _NAMES.items():
    SIGNING.add(
        f"subject with {_word}",
        f"The Statement names a file that has {_word} in its name.",
        "subject",
        lambda chain, part=_part: chain.resign(  # type: ignore[misc]
            "train", statement=lambda s: s["subject"][0].update(name=f"train/{part}")
        ),
    )
    SIGNING.add(
        f"material with {_word}",
        f"The link names a recipe that has {_word} in its name, which the layout's pattern would let through.",
        "undeclared-material",
        lambda chain, part=_part: chain.resign(  # type: ignore[misc]
            "train", link=lambda d: d["materials"].update({f"recipes/{part}.yaml": {"sha256": _NOTHING}})
        ),
    )


@SIGNING.refused("signature")
def no_signatures(chain: ThrowawayChain) -> None:
    """The envelope of a Statement lists no signatures."""
    outer = envelopes.parse_object(chain.current("train").statement)
    _relog(chain, "train", statement=canonical_json({**outer, "signatures": []}))


@SIGNING.refused("malformed")
def extra_field_in_an_envelope(chain: ThrowawayChain) -> None:
    """The envelope of a Statement has a fourth field."""
    outer = envelopes.parse_object(chain.current("train").statement)
    _relog(chain, "train", statement=canonical_json({**outer, "waiver": "all is well"}))


@SIGNING.refused("malformed")
def one_key_id_twice(chain: ThrowawayChain) -> None:
    """The envelope of a Statement lists a good signature and a bad one under one key id."""
    outer = envelopes.parse_object(chain.current("train").statement)
    (signature,) = outer["signatures"]
    _relog(chain, "train", statement=canonical_json({**outer, "signatures": [signature, {**signature, "sig": "AAAA"}]}))


@SIGNING.refused("payload-type")
def wrong_payload_type(chain: ThrowawayChain) -> None:
    """The envelope of a Statement says that it holds something else."""
    outer = envelopes.parse_object(chain.current("train").statement)
    _relog(chain, "train", statement=canonical_json({**outer, "payloadType": "text/plain"}))


@SIGNING.refused("malformed")
def envelope_truncated(chain: ThrowawayChain) -> None:
    """The envelope of a Statement ends in the middle."""
    _relog(chain, "train", statement=chain.current("train").statement[:-40])


@SIGNING.refused("malformed")
def payload_that_is_no_object(chain: ThrowawayChain) -> None:
    """The trainer signs a list where a Statement belongs."""
    signed = envelopes.sign(b"[]\n", envelopes.PAYLOAD_TYPE, [chain.ring.signer("trainer")])
    _relog(chain, "train", statement=signed)


@SIGNING.refused("malformed")
def subject_that_is_no_list(chain: ThrowawayChain) -> None:
    """The trainer signs a Statement whose subject is a number."""
    content = {**envelopes.read_unverified(chain.current("train").statement), "subject": 5}
    _relog(chain, "train", statement=sign(content, chain.ring, "trainer"))
