"""The stage: what it leaves behind, and the accepted release that it is held against."""

import json
from pathlib import Path

import pandas as pd
import pytest
from release_tables import make_tables

from secpipeline.datasets.tables import BOX_SCHEMA, IMAGE_SCHEMA, table_bytes
from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.errors import InputError, IntegrityError
from secpipeline.provenance import statements
from secpipeline.stages import validate
from secpipeline.stages.context import StageContext
from secpipeline.validation.statistics import collect, parse

ROOT = Path(__file__).parents[2]


def tables():
    """Enough scenes to be compared with an accepted release."""
    images, boxes = make_tables()
    copies = [(images, boxes)]
    for number in range(1, 4):
        rename = {name: f"{name}-{number}" for name in images["image_id"]}
        more = images.assign(
            image_id=images["image_id"].map(rename),
            file_name=images["file_name"] + str(number),
            sha256=[sha256_bytes(f"{name}{number}".encode()) for name in images["image_id"]],
            scene=images["scene"] + str(number),
        )
        more["dhash"] = more["sha256"].str[:16]
        owners = boxes["image_id"].map(rename)
        box_ids = owners + "#" + boxes["box_id"].str.rpartition("#")[2]
        copies.append((more, boxes.assign(image_id=owners, box_id=box_ids)))
    return tuple(pd.concat(parts, ignore_index=True) for parts in zip(*copies, strict=True))


def write_release(directory, images, boxes):
    directory.mkdir()
    (directory / "images.parquet").write_bytes(table_bytes(images, IMAGE_SCHEMA))
    (directory / "boxes.parquet").write_bytes(table_bytes(boxes, BOX_SCHEMA))


def run(tmp_path, images, boxes, **params):
    """Run the stage; its outputs lie in ``out``."""
    write_release(tmp_path / "ingest", images, boxes)
    (tmp_path / "out").mkdir()
    context = StageContext(
        root=ROOT,
        inputs={"ingest": tmp_path / "ingest"},
        out=tmp_path / "out",
        params=params,
        resume=tmp_path / "resume",
        files=validate.outside_files(params),
    )
    return validate.run(context)


def test_a_valid_release_passes_and_leaves_report_statistics_and_page(tmp_path):
    images, boxes = make_tables()
    result = run(tmp_path, images, boxes)

    report = json.loads((tmp_path / "out/report.json").read_bytes())
    assert result.refusal == ()
    assert result.summary["result"] == report["result"] == "PASSED"
    assert report["failedTests"] == report["warnedTests"] == []
    assert result.details["configuration"]
    data = (tmp_path / "out/statistics.json").read_bytes()
    assert parse(data, "statistics.json").to_json() == collect(images, [boxes]).to_json()
    assert "median of the sources" in (tmp_path / "out/page.html").read_text()


def test_a_warning_is_attested_and_refuses_nothing(tmp_path):
    images, boxes = make_tables()
    images.loc[1, "sha256"] = images.loc[0, "sha256"]
    result = run(tmp_path, images, boxes)

    assert result.refusal == ()
    assert result.summary["warned"] == 1
    details = result.details
    attested = statements.test_result(
        details["result"], details["configuration"], details["passedTests"], details["warnedTests"],
        details["failedTests"],
    )  # fmt: skip
    assert attested["result"] == "WARNED"
    assert attested["warnedTests"] == ["images: expect_column_values_to_be_unique(sha256)"]
    assert images.loc[0, "image_id"] in result.summary["warnings"][0]


def test_a_failure_refuses_with_the_rows(tmp_path):
    images, boxes = make_tables()
    boxes.loc[3, "x2"] = 9999.0
    result = run(tmp_path, images, boxes)

    assert result.summary["result"] == "FAILED"
    assert any(boxes.loc[3, "box_id"] in reason for reason in result.refusal)


def test_a_held_out_source_in_training_refuses(tmp_path):
    result = run(tmp_path, *make_tables(), **{"splits.holdout_sources": ["vendor-b"]})

    assert any("held-out source" in reason and "vendor-b" in reason for reason in result.refusal)


def accept(tmp_path, images, boxes):
    path = tmp_path / "accepted.json"
    path.write_bytes(canonical_json(collect(images, [boxes]).to_json()))
    return {"validate.baseline": str(path)}


def test_a_release_like_the_accepted_one_passes_and_the_baseline_is_a_material(tmp_path):
    images, boxes = tables()
    params = accept(tmp_path, images, boxes)
    result = run(tmp_path, images, boxes, **params)

    assert result.summary["result"] == "PASSED"
    names = [entry["name"] for entry in result.details["configuration"]]
    assert "expectations/baseline.json" in names
    assert validate.outside_files(params) == {
        "baseline/statistics.json": sha256_bytes((tmp_path / "accepted.json").read_bytes())
    }
    assert "Against the accepted release" in (tmp_path / "out/page.html").read_text()


def test_a_release_that_leapt_from_the_accepted_one_is_refused(tmp_path):
    images, boxes = tables()
    params = accept(tmp_path, images, boxes)
    taller = boxes.assign(y2=boxes["y1"] + 0.1 * boxes["height"], height=0.1 * boxes["height"])
    result = run(tmp_path, images, taller, **params)

    assert any(reason.startswith("validation: baseline:") and "height_median" in reason for reason in result.refusal)


def test_a_baseline_that_changes_while_the_stage_runs_is_refused(tmp_path, monkeypatch):
    images, boxes = tables()
    params = accept(tmp_path, images, boxes)
    bound = validate.outside_files(params)
    monkeypatch.setattr(validate, "outside_files", lambda _: bound)
    (tmp_path / "accepted.json").write_bytes(canonical_json(collect(images, [boxes.head(5)]).to_json()))

    with pytest.raises(IntegrityError, match=r"accepted\.json"):
        run(tmp_path, images, boxes, **params)


@pytest.mark.parametrize("named", ["nowhere.json", "", 7, ["a"], "."])
def test_a_baseline_that_is_no_file_is_one_clear_error(named):
    with pytest.raises(InputError, match=r"validate\.baseline.*null"):
        validate.outside_files({"validate.baseline": named})


def test_a_baseline_that_is_something_else_is_one_clear_error(tmp_path):
    (tmp_path / "accepted.json").write_text('{"version": 1}')

    with pytest.raises(InputError, match=r"accepted\.json: not the statistics\.json of a release"):
        run(tmp_path, *make_tables(), **{"validate.baseline": str(tmp_path / "accepted.json")})
    assert not (tmp_path / "out/report.json").exists()


def test_no_baseline_is_no_material():
    assert validate.outside_files({"validate.baseline": None}) == {}
    assert validate.outside_files({}) == {}
