import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secpipeline.detection import calibration
from secpipeline.detection.bootstrap import bootstrap, draw
from secpipeline.detection.calibration import (
    brier_score,
    calibration_error,
    calibration_error_by_chance,
    reliability,
)
from secpipeline.detection.matching import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE, Matches
from secpipeline.errors import CannotDecide, InputError


def made(score, state, images=1, image=None):
    score, state = np.asarray(score, float), np.asarray(state)
    order = np.argsort(-score, kind="stable")
    image = np.zeros(len(score), int) if image is None else np.asarray(image)
    return Matches(image[order], score[order], state[order], np.ones(images, int))


def simulated(bias, images=400, seed=0):
    """Eight detections an image, on a person as often as the score to the power ``bias`` says."""
    rng = np.random.default_rng(seed)
    score = rng.uniform(size=8 * images)
    state = (rng.uniform(size=8 * images) < score**bias).astype(int)
    return made(score, state, images, np.repeat(np.arange(images), 8))


def slow_error(matches, bins):
    """Bin by bin, detection by detection."""
    counted = [(s, t) for s, t in zip(matches.score, matches.state, strict=True) if t != IGNORED]
    total = 0.0
    for number in range(bins):
        inside = [(s, t) for s, t in counted if min(int(s * bins), bins - 1) == number]
        if inside:
            gap = sum(s for s, _ in inside) / len(inside) - sum(t for _, t in inside) / len(inside)
            total += abs(gap) * len(inside) / len(counted)
    return total


outcomes = st.lists(
    st.tuples(
        st.floats(0, 1) | st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.6, 1.0]),
        st.sampled_from([TRUE_POSITIVE, FALSE_POSITIVE, IGNORED]),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=30,
).filter(lambda rows: any(state != IGNORED for _, state, _ in rows))


@settings(max_examples=100, deadline=None)
@given(outcomes, st.integers(1, 15))
def test_errors_equal_the_literal_definition(rows, bins):
    matches = made(*zip(*[(score, state) for score, state, _ in rows], strict=True), 4, [row[2] for row in rows])
    assert calibration_error(matches, bins) == pytest.approx(slow_error(matches, bins), abs=1e-12)
    squares = [(score - state) ** 2 for score, state, _ in rows if state != IGNORED]
    assert brier_score(matches) == pytest.approx(np.mean(squares))
    assert calibration_error(matches, 1) <= calibration_error(matches, bins) + 1e-12


@settings(max_examples=40, deadline=None)
@given(outcomes, st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_a_resample_equals_the_same_images_written_out(rows, weights):
    matches = made(*zip(*[(score, state) for score, state, _ in rows], strict=True), 4, [row[2] for row in rows])
    written = [row for row in rows for _ in range(weights[row[2]])]
    counts = np.array([weights], np.int32)
    if all(state == IGNORED for _, state, _ in written):
        assert np.isnan(calibration.resampled_calibration_error(matches, counts)).all()
        assert np.isnan(calibration.resampled_brier_score(matches, counts)).all()
        return
    literal = made([row[0] for row in written], [row[1] for row in written])
    assert calibration.resampled_calibration_error(matches, counts)[0] == pytest.approx(calibration_error(literal))
    assert calibration.resampled_brier_score(matches, counts)[0] == pytest.approx(brier_score(literal))


def test_a_calibrated_detector_shows_what_chance_does_and_an_overconfident_one_more():
    right, wrong = simulated(1), simulated(3)
    chance = calibration_error_by_chance(right, 200, seed=0)
    assert 0 < calibration_error(right) < 2 * chance
    assert calibration_error(wrong) > 5 * calibration_error_by_chance(wrong, 200, seed=0)
    assert calibration_error(wrong) == pytest.approx(1 / 2 - 1 / 4, abs=0.03)
    assert brier_score(wrong) > brier_score(right)
    assert chance == calibration_error_by_chance(right, 200, seed=0)
    assert calibration_error_by_chance(simulated(1, images=20), 200, seed=0) > 3 * chance


def test_the_interval_of_the_error_holds_the_gap_of_an_overconfident_detector():
    measured = bootstrap(
        lambda counts: calibration.resampled_calibration_error(simulated(3), counts), draw(400, 500, seed=0)
    )
    assert measured.low < 0.25 < measured.high < measured.low + 0.06


def test_reliability_holds_the_diagonal_where_scores_are_right_and_not_where_they_are_not():
    counts = draw(400, 500, seed=0)
    right, wrong = reliability(simulated(1), counts), reliability(simulated(3), counts)
    for table in (right, wrong):
        assert table["detections"].sum() == 3200
        assert (table["precision_low"] <= table["precision"]).all()
        assert (table["precision"] <= table["precision_high"]).all()
        assert ((table["low_score"] <= table["score"]) & (table["score"] <= table["high_score"])).all()
    inside = (right["precision_low"] <= right["score"]) & (right["score"] <= right["precision_high"])
    assert inside.sum() >= 8
    assert (wrong["precision_high"] < wrong["score"]).sum() >= 7


def test_an_empty_bin_has_no_numbers():
    table = reliability(made([0.95, 1.0, 0.05], [1, 0, 0]), np.ones((101, 1), np.int32))
    assert table["detections"].tolist() == [1, *[0] * 8, 2]
    assert table.loc[1:8, ["score", "precision", "precision_low", "precision_high"]].isna().all(axis=None)
    assert table.loc[9, "precision"] == 0.5


@pytest.mark.parametrize("score", [-0.1, 1.1])
def test_scores_that_are_no_shares_are_refused(score):
    for measure in (calibration_error, brier_score):
        with pytest.raises(InputError, match=r"shares in \[0, 1\]"):
            measure(made([0.5, score], [1, 0]))


def test_nothing_to_measure_is_undecided_and_no_bins_are_refused():
    ignored = made([0.5], [IGNORED])
    for measure in (calibration_error, brier_score, lambda one: calibration_error_by_chance(one, 10, 0)):
        with pytest.raises(CannotDecide, match="no detections that count"):
            measure(ignored)
    with pytest.raises(InputError, match="bins: 0"):
        calibration_error(made([0.5], [1]), bins=0)
    with pytest.raises(InputError, match="repeats: 0"):
        calibration_error_by_chance(made([0.5], [1]), 0, 0)
