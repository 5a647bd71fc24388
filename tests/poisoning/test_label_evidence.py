import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_simulation import draw_street, poison
from scipy.stats import false_discovery_control

from secpipeline.errors import InputError
from secpipeline.poisoning.audit import audit_labels, audit_parts
from secpipeline.poisoning.confidence import calibrated_confidence
from secpipeline.poisoning.error_model import ErrorModel, count_evidence
from secpipeline.poisoning.findings import FINDING_COLUMNS, find
from secpipeline.poisoning.fusion import fuse
from secpipeline.poisoning.label_scores import TEST_COLUMNS, score_labels
from secpipeline.poisoning.pairs import judge, match_one_to_one
from secpipeline.poisoning.parts import MemoryParts, ParquetParts, Part


def evidence_of(street, boxes):
    return score_labels(judge(street.images, boxes, street.predictions))


def audited(street, boxes):
    return audit_labels(street.images, boxes, street.predictions, seed=1).findings


def precision(found, truth, kind):
    """Of the k strongest findings of a kind, the share that is planted; k is the number planted."""
    planted = truth[truth["kind"] == kind]
    strongest = found[found["kind"] == kind].head(len(planted))
    key = "image_id" if kind == "missing" else "box_id"
    return strongest[key].isin(planted[key]).mean()


# Measured .91/.87/.92 and .81/.73/.84 over six seeds; chance is the share of boxes planted, about .015.
@pytest.mark.parametrize(
    ("judge_name", "missing", "ghost", "location"),
    [("strong", 0.8, 0.75, 0.8), ("middling", 0.65, 0.5, 0.7)],
)
def test_planted_errors_rank_first(judge_name, missing, ghost, location):
    scores = []
    for seed in range(3):
        street = draw_street(seed, judge_name)
        boxes, truth = poison(street, seed + 100, "vendor-c", 0.12, 0.12, 0.12)
        found = audited(street, boxes)
        scores.append([precision(found, truth, kind) for kind in ("missing", "ghost", "location")])

    assert (np.mean(scores, axis=0) > [missing, ghost, location]).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_score_of_80_percent_keeps_its_promise_about_honest_labels(seed):
    street = draw_street(seed, "middling")
    boxes, truth = poison(street, seed + 100, "vendor-c", 0.12, 0.12, 0.12)

    strong = audited(street, boxes).query("score >= 0.8")
    honest = ~strong["image_id"].isin(truth["image_id"])

    assert len(strong) > 30
    assert honest.mean() < 0.3


@pytest.mark.parametrize("seed", range(3))
def test_honest_labels_are_hardly_held(seed):
    street = draw_street(seed + 50, "middling", unevenness=0.0)

    held = audited(street, street.boxes).query("score >= 0.8")["image_id"].nunique()

    assert held / len(street.images) < 0.05


def test_each_kind_is_seen_in_the_picture_it_was_planted_in():
    street = draw_street(1, "strong", sources=3, scenes=8)
    target = street.boxes[(street.boxes["height"] > 60) & street.boxes["image_id"].str.startswith("vendor-b/")]
    gone, moved = target.iloc[0], target.iloc[-1]
    boxes = street.boxes.drop(index=gone.name)
    boxes.loc[moved.name, ["x1", "x2"]] += 0.5 * (moved["x2"] - moved["x1"])
    ghost = gone.copy()
    ghost["box_id"], ghost["image_id"] = "vendor-a/000/00#99", "vendor-a/000/00"

    tests = evidence_of(street, pd.concat([boxes, ghost.to_frame().T.astype(boxes.dtypes)], ignore_index=True))

    missing = tests[(tests["kind"] == "missing") & (tests["image_id"] == gone["image_id"])]
    nearest = missing[(missing["px1"] - gone["x1"]).abs() < 15]
    assert nearest["evidence"].max() > 0.6
    labels = tests[tests["box_id"] != ""].pivot(index="box_id", columns="kind", values="evidence")
    assert labels.loc[moved["box_id"], "location"] > 0.4
    assert labels.loc[ghost["box_id"], "ghost"] > 0.6


def test_tests_have_the_documented_form():
    street = draw_street(0, sources=2, scenes=3)

    tests = evidence_of(street, street.boxes)

    assert list(tests.columns) == list(TEST_COLUMNS)
    assert tests["evidence"].between(0, 1).all()
    assert (tests.loc[tests["kind"] == "missing", "box_id"] == "").all()
    assert tests.loc[tests["kind"] != "missing", ["x1", "y1", "x2", "y2"]].notna().all().all()
    assert tests.loc[tests["kind"] == "missing", ["px1", "py1", "px2", "py2"]].notna().all().all()


def test_evidence_does_not_depend_on_how_high_a_judge_scores():
    street = draw_street(2, "middling")
    boxes, _ = poison(street, 3, "vendor-c", 0.12, 0.12, 0.12)
    odds = street.predictions["score"] / (1 - street.predictions["score"]).clip(lower=1e-9)
    modest = street.predictions.assign(score=0.3 * np.sqrt(odds) / (1 + 0.3 * np.sqrt(odds)))

    one = calibrated_confidence(*matched(judge(street.images, boxes, street.predictions)))
    other = calibrated_confidence(*matched(judge(street.images, boxes, modest)))

    assert np.abs(one - other).mean() < 0.02


def matched(judged):
    return judged, match_one_to_one(judged)


def test_confidence_is_the_share_of_predictions_that_labels_answer():
    street = draw_street(4, "middling")
    judged = judge(street.images, street.boxes, street.predictions)
    pairs = match_one_to_one(judged)

    confidence = calibrated_confidence(judged, pairs)

    answered = np.zeros(len(confidence))
    answered[judged.prediction[pairs][judged.iou[pairs] >= 0.5]] = 1
    assert confidence.mean() == pytest.approx(answered.mean(), abs=0.01)
    high = confidence > 0.8
    assert answered[high].mean() == pytest.approx(confidence[high].mean(), abs=0.07)
    order = np.argsort(judged.predictions["score"])
    assert (np.diff(confidence[order]) >= 0).all()


def test_nothing_to_judge_gives_no_findings():
    street = draw_street(0, sources=2, scenes=2)

    found = audit_labels(street.images, street.boxes.head(0), street.predictions.head(0)).findings

    assert found.empty
    assert list(found.columns) == list(FINDING_COLUMNS)


def test_labels_without_any_predictions_are_no_findings():
    street = draw_street(0, sources=3, scenes=2)

    found = audit_labels(street.images, street.boxes, street.predictions.head(0)).findings

    assert found.empty


def test_a_single_source_has_no_peers_so_nothing_honest_is_held_and_ghosts_cannot_be_told():
    street = draw_street(0, "middling", sources=1)

    found = audited(street, street.boxes)

    assert len(found) > 0
    assert (found["score"] < 0.8).all()
    assert not (found["kind"] == "ghost").any()


evidence_lists = st.lists(st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(evidence_lists, evidence_lists)
def test_scores_are_benjamini_hochberg_adjusted_conformal_p_values(own, peers):
    """Where nothing is shared by all sources: ghosts."""
    rows = [("a", e) for e in own] + [("b", e) for e in peers]
    tests = pd.DataFrame(rows, columns=["source", "evidence"]).assign(kind="ghost", detail="", scene="0", stratum=0)
    tests = tests.assign(box_id=[str(n) for n in range(len(tests))], image_id="i", strength=tests["evidence"])
    tests = tests.assign(**dict.fromkeys(TEST_COLUMNS[6:14], 0.0))
    planted = pd.DataFrame({"strength": np.repeat(np.arange(20) / 20 + 0.025, np.arange(1, 21) ** 3)})
    canaries = planted.assign(kind="ghost", source="a", stratum=0, evidence=planted["strength"])
    model = ErrorModel.fit(count_evidence(tests), count_evidence(canaries))

    score = find(tests.assign(evidence=tests["evidence"] + 1e-9), model, min_evidence=0.0).set_index("box_id")["score"]

    # The statistic rises with evidence but may tie, so the p-values are those of the statistic.
    statistic = model.statistic(tests.assign(evidence=1.0))
    mine, others = statistic[: len(own)], statistic[len(own) :]
    p = [(1 + (others >= value).sum()) / (1 + len(others)) for value in mine]
    expected = 1 - false_discovery_control(p, method="bh")
    assert [score[str(n)] for n in range(len(own))] == pytest.approx(list(expected), abs=1e-12)


def two_judges(street):
    """The second judge sees everything a little elsewhere and overlooks every fifth box."""
    rng = np.random.default_rng(0)
    other = street.predictions.sample(frac=0.8, random_state=1).sort_index()
    corners = ["x1", "y1", "x2", "y2"]
    moved = other.assign(**{c: other[c] + rng.normal(0, 1, len(other)) for c in corners})
    moved = moved[(moved["x2"] > moved["x1"] + 1) & (moved["y2"] > moved["y1"] + 1)]
    both = pd.concat([street.predictions.assign(judge="0"), moved.assign(judge="1")])
    order = both["image_id"].map({name: n for n, name in enumerate(street.images["image_id"])})
    return both.iloc[np.argsort(order.to_numpy(), kind="stable")].reset_index(drop=True)


def cut(street, boxes, predictions, sizes):
    """Parts of so many images each, the rest in the last one."""
    bounds = [0, *np.cumsum(sizes).tolist(), len(street.images)]
    parts = []
    for start, stop in itertools.pairwise(bounds):
        images = street.images.iloc[start:stop]
        own = [table[table["image_id"].isin(images["image_id"])] for table in (boxes, predictions)]
        parts.append(Part(images, *own))
    return MemoryParts(parts)


def test_scores_are_the_same_to_the_last_bit_however_the_release_is_cut():
    street = draw_street(1, "strong", sources=4, scenes=5)
    boxes, _ = poison(street, 3, "vendor-c", 0.1, 0.1, 0.1)
    predictions = two_judges(street)

    whole = audit_labels(street.images, boxes, predictions, seed=2)

    for sizes in ([1, 30, 64], [100]):
        parts = audit_parts(cut(street, boxes, predictions, sizes), seed=2)
        pd.testing.assert_frame_equal(parts.findings, whole.findings, check_exact=True)
        assert parts.seen == whole.seen
        assert parts.attribution.to_json() == whole.attribution.to_json()


@pytest.fixture
def parquet(tmp_path):
    street = draw_street(1, "strong", sources=3, scenes=4)
    predictions = two_judges(street)
    order = street.boxes["image_id"].map({name: n for n, name in enumerate(street.images["image_id"])})
    tables = {"images": street.images, "boxes": street.boxes.iloc[np.argsort(order, kind="stable")]}
    for name, table in (tables | {"predictions": predictions}).items():
        table.to_parquet(tmp_path / f"{name}.parquet", index=False, row_group_size=37)
    return street, predictions, [tmp_path / f"{name}.parquet" for name in ("images", "boxes", "predictions")]


def test_parquet_is_read_part_by_part_with_the_same_scores(parquet):
    street, predictions, files = parquet

    streamed = audit_parts(ParquetParts(*files, size=11), seed=2).findings

    whole = audit_labels(street.images, street.boxes, predictions, seed=2).findings
    pd.testing.assert_frame_equal(streamed, whole, check_exact=True, check_dtype=False)


def test_rows_out_of_order_and_broken_files_are_refused(parquet):
    _, predictions, files = parquet
    predictions.iloc[::-1].to_parquet(files[2], index=False)
    with pytest.raises(InputError, match=r"predictions\.parquet: .* not in the order of its images"):
        audit_parts(ParquetParts(*files, size=11))
    predictions.drop(columns="score").to_parquet(files[2], index=False)
    with pytest.raises(InputError, match=r"predictions\.parquet: has no column score"):
        audit_parts(ParquetParts(*files))
    files[2].write_bytes(b"PAR1")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        audit_parts(ParquetParts(*files))


def test_judges_are_fused_one_to_one():
    images = pd.DataFrame({"image_id": ["i", "j"]})
    rows = [("i", 0, 0, 10, 20, 0.9, "a"), ("i", 1, 0, 11, 20, 0.3, "b"), ("j", 0, 0, 10, 20, 0.8, "b")]
    seen = pd.DataFrame(rows, columns=["image_id", "x1", "y1", "x2", "y2", "score", "judge"])

    fused = fuse(images, seen, ["a", "b"])

    assert fused[["image_id", "score"]].values.tolist() == [["i", pytest.approx(0.6)], ["j", pytest.approx(0.4)]]
    assert fused["x1"].tolist() == pytest.approx([0.25, 0])
    assert fused["score:a"].tolist() == [0.9, 0]
    with pytest.raises(InputError, match="judge b is none of a"):
        fuse(images, seen, ["a"])
    with pytest.raises(InputError, match="j is no image of this release"):
        fuse(images.head(1), seen, ["a", "b"])
