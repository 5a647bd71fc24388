"""A review from its page to the curated release: what was decided is applied, attested, and cannot be exchanged."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from secpipeline import runner
from secpipeline.datasets.releases import Release
from secpipeline.errors import AttestationError
from secpipeline.poisoning.findings import FINDING_COLUMNS
from secpipeline.provenance import envelopes
from secpipeline.review.attestation import ROLE, sign
from secpipeline.review.budget import BudgetRule
from secpipeline.review.data import RELEASE, ReviewData
from secpipeline.review.records import ACCEPT_LABEL, ACCEPT_SUGGESTION, REDRAW
from secpipeline.review.session import Session
from secpipeline.stages import audit_labels
from secpipeline.stages.context import StageResult
from secpipeline.stages.table import REVIEW
from secpipeline.workspace import Workspace

REVIEWER = "reviewer one"
CURATED = ("ingest", "validate", "audit_labels", "curate")
RULE = BudgetRule(items=12, duplicate_share=0)
CORNERS = ["x1", "y1", "x2", "y2"]
MISSED = {"px1": 4.0, "py1": 4.0, "px2": 20.0, "py2": 44.0}
pytestmark = pytest.mark.slow


def audit_of(score):
    """A label audit that found one ghost and one person without a label; the review is under test, not the judges."""

    def run(context):
        release = Release(context.inputs["ingest"], context.inputs["ingest"])
        boxes = release.boxes[~release.boxes["ignore"]].sort_values("height")
        ghost = boxes.iloc[-1]
        other = release.images.loc[release.images["image_id"] != ghost["image_id"], "image_id"].iloc[0]
        nothing = dict.fromkeys(FINDING_COLUMNS, np.nan) | {"score": score, "evidence": score}
        label = {corner: ghost[corner] for corner in CORNERS}
        rows = [
            nothing
            | {"image_id": ghost["image_id"], "box_id": ghost["box_id"], "kind": "ghost", "reason": "ghost", **label},
            nothing | {"image_id": other, "box_id": "", "kind": "missing", "reason": "missing"} | MISSED,
        ]
        pd.DataFrame(rows, columns=list(FINDING_COLUMNS)).to_parquet(context.out / "findings.parquet", index=False)
        context.write_json("sources.json", {"named": {}})
        context.write_json("report.json", {"predictions": {"failed": []}})
        return StageResult({"findings": len(rows)}, details={"findings": len(rows)})

    return run


def read(workspace):
    score = yaml.safe_load((workspace.root / "params.yaml").read_text())["quarantine"]["image_score"]
    artifacts = workspace.store.artifacts
    return ReviewData.read(artifacts / "ingest", artifacts / "audit_labels", image_score=score)


def review(workspace, data, role=ROLE):
    """Answer everything: suggestions are taken, one label of a sampled image is moved, the rest is right."""
    journal, envelope = (workspace.home / name for name in REVIEW)
    shutil.rmtree(journal.parent, ignore_errors=True)
    journal.parent.mkdir()
    moved = None
    with Session.open(journal, data, REVIEWER, RULE, seed=1) as session:
        while (item := session.view()["item"]) is not None:
            if item["suggestion"]:
                session.decide(item["id"], ACCEPT_SUGGESTION)
            elif moved is None and item["whole"] and item["labels"]:
                moved = item["labels"][0]
                x1, y1, x2, y2 = moved["box"]
                session.decide(item["id"], REDRAW, [{"box_id": moved["box_id"], "new": [x1, y1, x2 - 0.5, y2 - 0.5]}])
            else:
                session.decide(item["id"], ACCEPT_LABEL)
    envelope.write_bytes(sign(journal.read_bytes(), workspace.ring().signer(role)))
    return moved


def tables(workspace):
    curated = workspace.store.artifacts / "curate"
    return {name: pd.read_parquet(curated / f"{name}.parquet") for name in ("images", "boxes", "decisions", "changes")}


@pytest.fixture(scope="module")
def audited(finished_chain, tmp_path_factory):
    """The directory of a chain whose audit found two errors, for which curation holds two images."""
    directory = tmp_path_factory.mktemp("audited") / "copy"
    shutil.copytree(finished_chain, directory, copy_function=shutil.copy2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECPIPELINE_KEYS", str(directory / "keys"))
        patch.setattr(audit_labels, "run", audit_of(0.99))
        workspace = Workspace.open(directory / "project")
        runner.run(workspace, "audit_labels", {"audit.seed": 1})  # another computation than that of the finished chain
        runner.run(workspace, "curate")
    return directory


@pytest.fixture
def chain(audited, tmp_path, monkeypatch):
    """A private copy of it, as a workspace."""
    shutil.copytree(audited, tmp_path / "copy", copy_function=shutil.copy2)
    monkeypatch.setenv("SECPIPELINE_KEYS", str(tmp_path / "copy/keys"))
    return Workspace.open(tmp_path / "copy/project")


def test_a_signed_review_changes_the_curated_release_and_says_who_did_it(chain):
    before = tables(chain)
    held = set(before["decisions"].loc[before["decisions"]["decision"] == "hold", "image_id"])
    assert len(held) == 2
    assert before["changes"].empty
    assert not held & set(before["images"]["image_id"])
    moved = review(chain, read(chain))

    outcome = runner.run(chain, "curate")

    after = tables(chain)
    assert not outcome.reused
    assert outcome.summary["reviewers"] == [REVIEWER]
    assert outcome.summary["changed boxes"] == len(after["changes"]) == 3
    assert set(after["images"]["image_id"]) == {*before["images"]["image_id"], *held}
    decisions = after["decisions"].set_index("image_id").loc[sorted(held)]
    assert set(decisions["decision"]) == {"accept"}
    assert set(decisions["reason"]) == {f"reviewed by {REVIEWER}"}
    changes = after["changes"].set_index("change")
    assert set(changes.index) == {"removed", "added", "moved"}
    assert set(changes["reviewer"]) == {REVIEWER}
    boxes = after["boxes"].set_index("box_id")
    assert changes.loc["removed", "box_id"] not in boxes.index
    assert tuple(boxes.loc[changes.loc["added", "box_id"], CORNERS]) == tuple(MISSED.values())
    assert tuple(boxes.loc[moved["box_id"], CORNERS]) == tuple(np.array(moved["box"]) - [0, 0, 0.5, 0.5])


def test_the_evidence_rests_on_the_review_and_verifies(chain):
    review(chain, read(chain))
    runner.run(chain, "curate")

    evidence = chain.evidence.current("curate")
    statement = envelopes.read_unverified(evidence.statement)
    dependencies = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    (link,) = [envelopes.read_unverified(link) for link in evidence.links]
    for materials in ({entry["name"] for entry in dependencies if "name" in entry}, set(link["materials"])):
        assert set(REVIEW) <= materials
    runner.verify(chain, CURATED).require()
    assert runner.run(chain, "curate").reused


def test_a_review_taken_away_brings_the_unreviewed_release_back(chain):
    before = runner.run(chain, "curate")
    review(chain, read(chain))
    assert runner.run(chain, "curate").digest != before.digest
    shutil.rmtree(chain.home / "review")

    again = runner.run(chain, "curate")

    assert again.reused
    assert again.digest == before.digest


def refused(workspace):
    """The code by which curation refuses, having changed nothing."""
    evidence, files = workspace.evidence.current("curate"), tables(workspace)
    with pytest.raises(AttestationError) as refusal:
        runner.run(workspace, "curate")
    assert workspace.evidence.current("curate") == evidence
    for name, table in tables(workspace).items():
        pd.testing.assert_frame_equal(table, files[name])
    return refusal.value.code


def test_a_flipped_byte_in_the_decisions_is_refused(chain):
    review(chain, read(chain))
    path = chain.home / REVIEW[0]
    data = path.read_bytes()
    for position in (len(data) // 3, data.index(ACCEPT_LABEL.encode())):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        assert refused(chain) == "changed-file"
    path.write_bytes(data)
    assert runner.run(chain, "curate").summary["reviewers"] == [REVIEWER]


def test_decisions_left_out_or_exchanged_for_others_are_refused(chain):
    review(chain, read(chain))
    path = chain.home / REVIEW[0]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))

    assert refused(chain) == "changed-file"


@pytest.mark.parametrize("role", ["trainer", "validator", "releaser"])
def test_a_review_signed_by_another_role_is_refused(chain, role):
    review(chain, read(chain), role)

    assert refused(chain) == "signature"


def test_a_statement_edited_after_signing_is_refused(chain):
    review(chain, read(chain))
    path = chain.home / REVIEW[1]
    envelope = json.loads(path.read_bytes())
    content = envelopes.read_unverified(path.read_bytes())
    content["predicate"]["reviewers"] = ["somebody else"]
    forged = json.loads(
        envelopes.sign(json.dumps(content).encode(), envelopes.PAYLOAD_TYPE, [chain.ring().signer("trainer")])
    )
    path.write_text(json.dumps({**envelope, "payload": forged["payload"]}))

    assert refused(chain) == "signature"


def test_a_review_of_another_release_is_refused(chain):
    data = read(chain)
    review(chain, dataclasses.replace(data, digests={**data.digests, RELEASE: "ab" * 32}))

    assert refused(chain) == "review-stale"


def test_a_review_is_stale_once_the_audit_found_something_else(chain, monkeypatch):
    review(chain, read(chain))
    runner.run(chain, "curate")
    monkeypatch.setattr(audit_labels, "run", audit_of(0.98))
    runner.run(chain, "audit_labels", {"audit.seed": 2})

    assert refused(chain) == "review-stale"
