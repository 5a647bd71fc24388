"""Judges whose predictions fail a check: the audit concludes nothing from them, says which check, and is refused."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from attestation_schemas import schema

from secpipeline import judging
from secpipeline.digests import sha256_bytes
from secpipeline.provenance import statements
from secpipeline.robustness.gate import decide
from secpipeline.robustness.policy import load_policy
from secpipeline.stages import audit_labels, curate
from secpipeline.stages.context import StageContext
from secpipeline.stages.table import LABEL_AUDIT, stage_named

ROOT = Path(__file__).parents[2]
CORNERS = ["x1", "y1", "x2", "y2"]
SETTINGS = {"recipe": "judge", "folds": 2, "judges": 2, "seed": 23}
SAME = {"x1": 4.0, "y1": 4.0, "x2": 20.0, "y2": 44.0}


def looking(image_ids, seed):
    """What a judge that looked might say: four boxes an image, in a frame of 128 by 96 pixels."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 40, (4 * len(image_ids), 2))
    boxes = np.hstack([corner, corner + rng.uniform(10, 40, corner.shape)])
    table = pd.DataFrame(boxes, columns=CORNERS).assign(score=rng.uniform(0.1, 0.6, len(boxes)))
    table.insert(0, "image_id", np.repeat(image_ids, 4))
    return table


def everywhere_the_same(table):
    return table.assign(**SAME)


def equally_sure(table):
    return table.assign(score=0.5)


def unknown_image(table):
    return table.assign(image_id=table["image_id"].where(table.index != 3, "stranger"))


def silent(table):
    return table.iloc[:0]


def beside_the_image(table):
    return table.assign(x1=table["x1"] + 500, x2=table["x2"] + 500)


def without_a_score(table):
    return table.assign(score=table["score"].where(table.index != 3))


@pytest.fixture
def audit(finished_chain, tmp_path, monkeypatch):
    """Runs the stage with judges of which the last of four is spoiled, without training any."""

    def run(spoil):
        said = []

        def predict(_detector, _images, image_ids, **_):
            said.append(looking(image_ids, seed=len(said)))
            return spoil(said[-1]) if len(said) == 4 else said[-1]

        monkeypatch.setattr(judging, "train", lambda *_, **__: None)
        monkeypatch.setattr(judging, "predict", predict)
        project, out = finished_chain / "project", tmp_path / "out"
        out.mkdir()
        files = dict.fromkeys(stage_named("audit_labels").files, "")
        inputs = {"ingest": project / "build/artifacts/ingest"}
        context = StageContext(project, inputs, out, {"audit": SETTINGS}, tmp_path / "resume", files=files)
        return audit_labels.run(context), out

    return run


def read(out, name="report.json"):
    return json.loads((out / name).read_bytes())


def test_judges_that_looked_are_listened_to(audit):
    result, out = audit(lambda table: table)
    assert result.refusal == ()
    assert read(out)["predictions"] == {"result": "PASSED", "failed": [], "warned": []}
    assert not read(out)["attribution"].startswith("nothing was concluded")
    assert read(out, "sources.json")["rows"]
    assert (result.details["judges"], result.details["out_of_fold_predictions"]) == (4, 2 * 4 * 48)


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (everywhere_the_same, "prediction_totals: expect_column_values_to_be_between(distinct_boxes)"),
        (equally_sure, "prediction_totals: expect_column_values_to_be_between(distinct_scores)"),
        (unknown_image, "predictions: expect_column_values_to_not_be_null(image_width): 1 rows, such as image_id="),
        (silent, "predictions: the table has no rows"),
        (beside_the_image, "predictions: expect_column_values_to_be_between(inside)"),
        (without_a_score, "predictions: expect_column_values_to_not_be_null(score)"),
    ],
)
def test_one_judge_of_four_that_did_not_look_refuses_the_audit_by_name(audit, spoil, check):
    result, out = audit(spoil)
    assert result.refusal
    assert any(reason.startswith(f"label audit: judge 1 of fold 1: {check}") for reason in result.refusal)
    report = read(out)
    assert report["predictions"]["result"] == "FAILED"
    assert [f"label audit: {failure}" for failure in report["predictions"]["failed"]] == list(result.refusal)
    assert report["attribution"].startswith("nothing was concluded from judges")
    assert (report["findings"], report["named_sources"], read(out, "sources.json")["rows"]) == (0, [], [])
    assert pd.read_parquet(out / "findings.parquet").empty
    assert result.pictures == ()


def test_a_refused_audit_can_be_attested_and_lets_nothing_through_the_gate(audit):
    result, out = audit(everywhere_the_same)
    told = schema("label-audit-v0.1").schema
    predicate_schema = {**told, "$ref": "#/$defs/result"}
    for key in ("type", "properties", "required", "additionalProperties"):
        predicate_schema.pop(key, None)
    type(schema("label-audit-v0.1"))(predicate_schema).validate(statements.text_numbers(result.details))
    assert stage_named("audit_labels").predicate == LABEL_AUDIT
    verdict = decide(load_policy(ROOT / "policies/default.yaml"), {"label_audit": read(out)})
    (reason,) = [reason for reason in verdict.reasons if reason.code == "judges"]
    assert reason.outcome == "inconclusive"
    assert "distinct_boxes" in reason.text


def test_a_refused_audit_refuses_the_curated_release_and_fails_its_check(audit, finished_chain, tmp_path):
    from assets.checks import _judge_reasons

    _, out = audit(everywhere_the_same)
    artifacts, curated = finished_chain / "project/build/artifacts", tmp_path / "curated"
    curated.mkdir()

    def curate_after(audit_out):
        inputs = {"ingest": artifacts / "ingest", "validate": artifacts / "validate", "audit_labels": audit_out}
        params = {"quarantine": {"image_score": 0.8}}
        return curate.run(StageContext(finished_chain / "project", inputs, curated, params, tmp_path / "resume"))

    assert curate_after(artifacts / "audit_labels").refusal == ()
    (why,) = curate_after(out).refusal
    assert why.startswith("label audit: judge 1 of fold 1:")
    report = json.loads((out / "report.json").read_text())
    assert _judge_reasons(report) == [f"failed: {why.removeprefix('label audit: ')}"]
    assert _judge_reasons({"predictions": {"result": "FAILED", "failed": []}}) == ["predictions were not checked"]
    for result in ("PASSED", "WARNED"):
        assert _judge_reasons({"predictions": {"result": result, "failed": []}}) == []


def test_what_the_judges_said_is_kept_in_pixels_of_their_images_for_whoever_looks_into_it(audit):
    _, out = audit(unknown_image)
    kept = pd.read_parquet(out / "predictions.parquet")
    known = kept[kept["image_id"] != "stranger"]
    assert np.isfinite(known[CORNERS]).all(axis=None)
    assert kept.loc[kept["image_id"] == "stranger", CORNERS].isna().all(axis=None)


def test_the_audit_depends_on_the_suites_of_predictions(finished_chain):
    files = stage_named("audit_labels").project_files(finished_chain / "project")
    for name in ("expectations/predictions.json", "expectations/prediction_totals.json"):
        assert files[name] == sha256_bytes((finished_chain / "project" / name).read_bytes())
