import json

import numpy as np
import pandas as pd
import pytest
from small_review import CORNERS, box_table, finding, finding_table, image_table, tables, write_artifacts

from secpipeline.digests import sha256_file
from secpipeline.errors import InputError, IntegrityError
from secpipeline.review.data import FINDINGS, RELEASE, ReviewData, native_findings

IMAGES = image_table(4)
BOXES = box_table(IMAGES)


def one_ghost(images, boxes):
    return [finding(boxes["image_id"].iloc[0], "ghost", 0.9, box=boxes.iloc[0])]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_artifacts(tmp_path_factory.mktemp("artifacts"), one_ghost, named=["vendor-b"])


@pytest.fixture
def artifacts(written, tmp_path):
    import shutil

    return [shutil.copytree(directory, tmp_path / directory.name) for directory in written]


def read(artifacts):
    return ReviewData.read(*artifacts, image_score=0.8)


def test_release_findings_and_quarantine_are_read_with_their_digests(artifacts):
    data = read(artifacts)
    ingest, audit = artifacts
    assert data.digests == {
        RELEASE: sha256_file(ingest / "dataset.sha256"),
        FINDINGS: sha256_file(audit / "findings.parquet"),
    }
    (ghost,) = data.findings
    assert ghost.kind == "ghost"
    assert ghost.box_id == data.release.boxes["box_id"].iloc[0]
    assert ghost.label == tuple(data.release.boxes.iloc[0][CORNERS])
    assert ghost.prediction is None
    assert data.quarantine.strong == {ghost.image_id: (ghost,)}
    assert set(data.release.images.set_index("image_id").loc[sorted(data.quarantine.by_source), "source"]) == {
        "vendor-b"
    }
    assert (data.quarantine.table["decision"] == "hold").sum() == len(data.quarantine.by_source | {ghost.image_id})


def test_a_table_that_the_manifest_does_not_name_is_refused(artifacts):
    boxes = artifacts[0] / "boxes.parquet"
    table = pd.read_parquet(boxes)
    table.iloc[1:].to_parquet(boxes)
    with pytest.raises(IntegrityError, match=r"boxes\.parquet: expected sha256 [0-9a-f]{64}, found"):
        read(artifacts)


def test_a_manifest_without_the_tables_is_refused(artifacts):
    (artifacts[0] / "dataset.sha256").write_bytes(b"\xff\xfe nonsense\n")
    with pytest.raises(IntegrityError, match=r"images\.parquet"):
        read(artifacts)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("findings.parquet", None, "cannot be read"),
        ("findings.parquet", b"PAR1 no", "not a readable parquet"),
        ("sources.json", None, "cannot be read"),
        ("sources.json", b"{", "not JSON"),
        ("sources.json", b'{"named": ["vendor-b"]}', "does not say"),
        ("sources.json", b'{"named": {"vendor-z": "unknown"}}', "vendor-z"),
    ],
)
def test_unreadable_audits_are_refused_by_file(artifacts, name, content, says):
    path = artifacts[1] / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=says) as refusal:
        read(artifacts)
    assert says == "vendor-z" or name in str(refusal.value)


def test_findings_with_other_columns_are_refused(artifacts):
    path = artifacts[1] / "findings.parquet"
    pd.read_parquet(path).drop(columns="reason").to_parquet(path)
    with pytest.raises(InputError, match="columns"):
        read(artifacts)


def of(**changes):
    table = finding_table([finding("street-0000", "ghost", 0.9, box=BOXES.iloc[0])])
    for column, value in changes.items():
        table[column] = table[column].astype(object) if isinstance(value, str | type(None)) else table[column]
        table.loc[0, column] = value
    return native_findings(table, IMAGES, BOXES)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_id": "street-0009"}, "does not hold"),
        ({"image_id": "street-0001"}, "does not have"),
        ({"box_id": "street-0000#9"}, "does not have"),
        ({"x1": 5.5}, "not in its pixels"),
        ({"x1": np.nan}, "not in its pixels"),
        ({"score": np.nan}, "score"),
        ({"evidence": np.inf}, "evidence"),
        ({"reason": None}, "reason"),
    ],
)
def test_findings_that_are_not_about_the_release_are_refused(changes, says):
    assert len(of()) == 1
    with pytest.raises(InputError, match=says):
        of(**changes)


@pytest.mark.parametrize(
    ("predicted", "cut"),
    [
        ((-3.123, 10.006, 20.0, 400.0), (0.0, 10.01, 20.0, 160.0)),
        ((190.0, 10.0, 230.0, 50.0), (190.0, 10.0, 200.0, 50.0)),
        ((199.0, 10.0, 230.0, 50.0), None),
        ((300.0, 10.0, 330.0, 50.0), None),
    ],
)
def test_predictions_are_cut_to_the_image(predicted, cut):
    data = tables(IMAGES, BOXES, [finding("street-0000", "missing", 0.9, predicted=predicted)])
    (found,) = data.findings
    assert found.prediction == cut


def test_named_sources_are_read_as_names(artifacts):
    (artifacts[1] / "sources.json").write_text(json.dumps({"named": {}}))
    assert read(artifacts).quarantine.by_source == frozenset()
