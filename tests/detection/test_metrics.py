import math
import time
from functools import partial

import numpy as np
import pandas as pd
import pytest
import slow_metrics as slow
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from secpipeline.detection import metrics
from secpipeline.detection.metrics import (
    ALL,
    EVERYBODY,
    FALSE_POSITIVE,
    HEAVY,
    IGNORED,
    REASONABLE,
    SMALL,
    SUBSETS,
    TRUE_POSITIVE,
    Matches,
    Subset,
    match,
)
from secpipeline.errors import CannotDecide, InputError

TRUTH = ["image_id", "x1", "y1", "x2", "y2", "ignore", "visibility"]
FOUND = ["image_id", "x1", "y1", "x2", "y2", "score"]


def tables(images):
    """``images``: per image a list of (box, ignore, visibility) and a list of (box, score)."""
    truth = [(f"i{n}", *box, ignore, seen) for n, (boxes, _) in enumerate(images) for box, ignore, seen in boxes]
    found = [(f"i{n}", *box, score) for n, (_, boxes) in enumerate(images) for box, score in boxes]
    names = [f"i{n}" for n in range(len(images))]
    numbers = {"x1": float, "y1": float, "x2": float, "y2": float}
    return (
        pd.DataFrame(truth, columns=TRUTH).astype({**numbers, "ignore": bool, "visibility": float}),
        pd.DataFrame(found, columns=FOUND).astype({**numbers, "score": float}),
        names,
    )


def matched(images, subset=EVERYBODY):
    truth, found, names = tables(images)
    return match(truth, found, names, subset)


@st.composite
def boxes(draw):
    # Few places and sizes, so that boxes do overlap and equal overlaps and borders occur.
    x, y = draw(st.integers(0, 6)) * 8, draw(st.integers(0, 4)) * 8
    width, height = draw(st.sampled_from([12, 20, 24])), draw(st.sampled_from([19, 20, 40, 50, 62, 75, 94]))
    return (x, y, x + width, y + height)


people = st.tuples(boxes(), st.booleans(), st.sampled_from([0.1, 0.2, 0.64, 0.65, 0.9, 1.0, math.nan]))


@st.composite
def data_sets(draw, ties=True):
    """Images of people and detections; where scores are equal, the order of the rows decides."""
    images = draw(
        st.lists(st.tuples(st.lists(people, max_size=5), st.lists(boxes(), max_size=7)), min_size=1, max_size=6)
    )
    count = sum(len(found) for _, found in images)
    scores = [(rank + 1) / (count + 1) for rank in range(count)]
    if ties:
        scores = [math.ceil(score * 4) / 4 for score in scores]
    scores = iter(draw(st.permutations(scores)))
    return [(truth, [(box, next(scores)) for box in found]) for truth, found in images]


@settings(max_examples=120, deadline=None)
@given(data_sets(), st.sampled_from(sorted(SUBSETS)), st.sampled_from([0.0, 0.3, 0.7]))
def test_metrics_equal_the_literal_definition(images, name, threshold):
    subset = SUBSETS[name]
    found = matched(images, subset)
    expected = [slow.match_image(truth, boxes, subset, 0.5) for truth, boxes in images]
    assert found.people.tolist() == [count for _, count in expected]
    for index, (detections, _) in enumerate(expected):
        mine = found.image_index == index
        assert list(zip(found.score[mine], found.state[mine], strict=True)) == detections
    assert (
        metrics.false_positives_per_image(found, threshold)
        == pytest.approx(slow.false_positives_per_image(expected, threshold))
        or not found.people.sum()
    )
    assume(found.people.sum() > 0)
    assert metrics.average_precision(found) == pytest.approx(slow.average_precision(expected))
    assert metrics.log_average_miss_rate(found) == pytest.approx(slow.log_average_miss_rate(expected))
    assert metrics.miss_rate(found, threshold) == pytest.approx(slow.miss_rate(expected, threshold))


@settings(max_examples=60, deadline=None)
@given(data_sets(ties=False), st.data())
def test_a_resample_equals_the_same_images_written_out(images, data):
    draws = data.draw(st.lists(st.integers(0, len(images) - 1), min_size=len(images), max_size=len(images)))
    counts = np.bincount(draws, minlength=len(images)).astype(np.int32)[None]
    found = matched(images)
    literal = [slow.match_image(*images[index], EVERYBODY, 0.5) for index in draws]
    if sum(count for _, count in literal) == 0:
        assert np.isnan(metrics.resampled_average_precision(found, counts)).all()
        assert np.isnan(metrics.resampled_log_average_miss_rate(found, counts)).all()
        assert np.isnan(metrics.resampled_miss_rate(found, counts, 0.3)).all()
        return
    pairs = (
        (metrics.resampled_average_precision, slow.average_precision),
        (metrics.resampled_log_average_miss_rate, slow.log_average_miss_rate),
        (partial(metrics.resampled_miss_rate, threshold=0.3), partial(slow.miss_rate, threshold=0.3)),
        (
            partial(metrics.resampled_false_positives_per_image, threshold=0.3),
            partial(slow.false_positives_per_image, threshold=0.3),
        ),
    )
    for fast, reference in pairs:
        assert fast(found, counts)[0] == pytest.approx(reference(literal))


def simulated(count, people_per_image=2.5, false_per_image=4.0, seed=0):
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        truth, found = [], []
        for _ in range(rng.poisson(people_per_image)):
            height = rng.uniform(25, 120)
            x, y = rng.uniform(0, 200), rng.uniform(0, 60)
            box = np.array([x, y, x + 0.41 * height, y + height])
            truth.append((box, bool(rng.random() < 0.1), 1.0))
            if rng.random() < 0.8:
                found.append((box + rng.normal(0, 0.06 * height, 4), rng.uniform(0.05, 1)))
        for _ in range(rng.poisson(false_per_image)):
            x, y, height = rng.uniform(0, 200), rng.uniform(0, 60), rng.uniform(25, 120)
            found.append((np.array([x, y, x + 0.41 * height, y + height]), rng.beta(1, 4)))
        images.append((truth, found))
    return images


BOX = (0, 0, 24, 60)
FAR = (100, 0, 124, 60)


def state(truth, found, subset=REASONABLE):
    return matched([(truth, found)], subset).state.tolist()


def test_each_person_is_found_once():
    assert state([(BOX, False, 1.0)], [(BOX, 0.9), (BOX, 0.8)]) == [TRUE_POSITIVE, FALSE_POSITIVE]


def test_the_last_of_two_people_who_are_hit_equally_well_is_taken():
    left, right, between, further_left = ((x, 0, x + 24, 60) for x in (0, 8, 4, -6))
    found = [(between, 0.9), (further_left, 0.8)]
    assert state([(left, False, 1.0), (right, False, 1.0)], found) == [TRUE_POSITIVE, TRUE_POSITIVE]
    assert state([(right, False, 1.0), (left, False, 1.0)], found) == [TRUE_POSITIVE, FALSE_POSITIVE]


def test_a_detection_on_an_ignored_box_counts_for_nothing_and_any_number_may_lie_there():
    crowd = ((0, 0, 200, 200), True, 1.0)
    assert state([crowd], [(BOX, 0.9), (FAR, 0.8)]) == [IGNORED, IGNORED]


def test_a_real_person_is_preferred_to_an_ignored_box():
    assert state([((0, 0, 200, 200), True, 1.0), (BOX, False, 1.0)], [(BOX, 0.9)]) == [TRUE_POSITIVE]


@pytest.mark.parametrize(
    ("subset", "height", "visibility", "counted"),
    [
        (REASONABLE, 50, 0.65, True),
        (REASONABLE, 49.99, 1.0, False),
        (REASONABLE, 50, 0.6499, False),
        (SMALL, 75, 1.0, True),
        (SMALL, 75.01, 1.0, False),
        (HEAVY, 60, 0.2, True),
        (HEAVY, 60, 0.65, True),
        (HEAVY, 60, 0.66, False),
        (ALL, 20, 0.2, True),
        (ALL, 19.9, 1.0, False),
        (REASONABLE, 60, math.nan, True),
        (HEAVY, 60, math.nan, False),
    ],
)
def test_bounds_of_a_subset_are_closed_and_people_outside_are_ignored_not_missed(subset, height, visibility, counted):
    box = (0, 0, 30, height)
    found = matched([([(box, False, visibility)], [(box, 0.9)])], subset)
    assert found.people.tolist() == [int(counted)]
    assert found.state.tolist() == [TRUE_POSITIVE if counted else IGNORED]


@pytest.mark.parametrize(("height", "kept"), [(40, True), (39.9, False), (93.7, True), (93.75, False)])
def test_detections_far_outside_the_heights_are_left_out(height, kept):
    assert len(state([], [((0, 0, 30, height), 0.9)], SMALL)) == int(kept)


def test_the_miss_rate_is_not_under_reported_on_fewer_than_a_hundred_images():
    # One false positive, more confident than anything, on 20 images: up to 0.05 per image nothing can be found.
    images = [([(BOX, False, 1.0)], [(BOX, 0.5)]) for _ in range(20)]
    images[0][1].append((FAR, 0.99))
    reachable = sum(10 ** (-2 + k / 4) >= 0.05 for k in range(9))
    assert metrics.log_average_miss_rate(matched(images)) == pytest.approx(1e-10 ** (reachable / 9))


@pytest.mark.parametrize("seed", range(3))
def test_citypersons_own_reading_agrees_on_a_hundred_images_and_under_reports_on_fewer(seed):
    images = simulated(120, seed=seed)
    images[0][1].append((np.array([300.0, 0, 324, 60]), 1.0))
    literal = [slow.match_image(*image, REASONABLE, 0.5) for image in images]
    enough, few = matched(images, REASONABLE), matched(images[:60], REASONABLE)
    assert metrics.log_average_miss_rate(enough) == pytest.approx(slow.log_average_miss_rate_of_citypersons(literal))
    assert slow.log_average_miss_rate_of_citypersons(literal[:60]) < metrics.log_average_miss_rate(few) - 0.01
    assert metrics.log_average_miss_rate(few) == pytest.approx(slow.log_average_miss_rate(literal[:60]))


@pytest.mark.parametrize("images", [500, 4024])
def test_rounding_the_nine_points_as_citypersons_does_changes_nothing_on_its_images_and_on_caltechs(images):
    rates = np.arange(images + 1) / images
    for exact, rounded in zip(np.logspace(-2, 0, 9), slow.CITYPERSONS_POINTS, strict=True):
        assert np.array_equal(rates <= exact, rates <= rounded)


def test_images_without_people_count_in_false_positives_per_image():
    found = matched([([(BOX, False, 1.0)], [(BOX, 0.9)]), ([], [(FAR, 0.8), (BOX, 0.2)]), ([], []), ([], [])])
    assert metrics.false_positives_per_image(found, 0.5) == 0.25
    assert metrics.false_positives_per_image(found, 0.1) == 0.5
    assert metrics.miss_rate(found, 0.5) == 0


def test_rows_of_other_images_are_left_out():
    truth, found, _ = tables([([(BOX, False, 1.0)], [(BOX, 0.9)]), ([(FAR, False, 1.0)], [(BOX, 0.8)])])
    only_second = match(truth, found, ["i1"])
    assert only_second.people.tolist() == [1]
    assert only_second.state.tolist() == [FALSE_POSITIVE]


def test_people_without_a_metric_are_an_undecided_question():
    nobody = matched([([], [(BOX, 0.9)]), ([], [])])
    for metric in (metrics.average_precision, metrics.log_average_miss_rate):
        with pytest.raises(CannotDecide, match="no people among the 2 images"):
            metric(nobody)
    assert metrics.false_positives_per_image(nobody, 0.5) == 0.5
    nothing_found = matched([([(BOX, False, 1.0)], [])])
    assert metrics.average_precision(nothing_found) == 0
    assert metrics.log_average_miss_rate(nothing_found) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, p, n: (t.drop(columns="ignore"), p, n), "truth: the column ignore"),
        (lambda t, p, n: (t, p.drop(columns="score"), n), "predictions: the column score"),
        (lambda t, p, n: (t, p.assign(score=math.nan), n), "predictions: row 0 of image i0"),
        (lambda t, p, n: (t.assign(x2=math.inf), p, n), "truth: row 0 of image i0"),
        (lambda t, p, n: (t, p, ["i0", "i0"]), "listed twice"),
    ],
)
def test_unusable_tables_are_refused_and_named(change, message):
    with pytest.raises(InputError, match=message):
        match(*change(*tables([([(BOX, False, 1.0)], [(BOX, 0.9)])])))


@settings(max_examples=80, deadline=None)
@given(data_sets(), st.floats(0, 4))
def test_the_operating_threshold_is_the_lowest_that_keeps_to_the_limit(images, limit):
    found = matched(images)

    def rate(at):
        return np.count_nonzero((found.state == FALSE_POSITIVE) & (found.score >= at)) / len(images)

    try:
        threshold = metrics.operating_threshold(found, limit)
    except CannotDecide:
        assert len(found.score) == 0 or rate(found.score[0]) > limit
        return
    assert rate(threshold) <= limit
    lower = found.score[found.score < threshold]
    assert len(lower) == 0 or rate(lower.max()) > limit


def test_equal_scores_pass_the_operating_threshold_together():
    found = Matches(np.zeros(4, int), np.array([0.9, 0.5, 0.5, 0.5]), np.array([1, 1, 1, 0]), np.array([3]))
    assert metrics.operating_threshold(found, 0.5) == 0.9
    assert metrics.operating_threshold(found, 1.0) == 0.5
    with pytest.raises(InputError, match="max_fppi"):
        metrics.operating_threshold(found, -1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("reasonable", "height 50 px and more, visibility 0.65 and more"),
        ("small", "height 50-75 px, visibility 0.65 and more"),
        ("heavy", "height 50 px and more, visibility 0.2-0.65"),
        ("heavy_from_zero", "height 50 px and more, visibility up to 0.65"),
        ("all", "height 20 px and more, visibility 0.2 and more"),
        ("bare", "height 50 px and more, visibility 0.9 and more"),
        ("partial", "height 50 px and more, visibility 0.65-0.9"),
        ("everybody", "any height and visibility"),
    ],
)
def test_a_subset_says_its_bounds_wherever_its_name_is_printed(name, words):
    assert str(SUBSETS[name]) == f"{name} ({words})"


@pytest.mark.parametrize("iou", [0.0, -0.5, 1.01, math.nan])
def test_an_overlap_that_is_no_share_is_refused(iou):
    with pytest.raises(InputError, match="iou"):
        match(*tables([([(BOX, False, 1.0)], [(BOX, 0.9)])]), iou=iou)


def test_an_overlap_of_one_is_met_by_the_same_box_alone():
    truth, found, names = tables([([(BOX, False, 1.0)], [(BOX, 0.9), ((0, 0, 24, 59), 0.95)])])
    assert match(truth, found, names, iou=1.0).state.tolist() == [FALSE_POSITIVE, TRUE_POSITIVE]


def test_an_area_is_refused_where_the_definition_knows_none():
    with pytest.raises(InputError, match="knows no areas"):
        matched([([], [])], Subset("large", min_area=96**2))


def test_pairs_name_the_rows_they_came_from():
    truth, found, names = tables(
        [([], [(FAR, 0.2)]), ([(FAR, False, 1.0), (BOX, False, 1.0)], [(BOX, 0.5), (FAR, 0.9)])]
    )
    pairs = match(truth, found, names)
    assert list(zip(pairs.detection.tolist(), pairs.person.tolist(), strict=True)) == [(2, 0), (1, 1), (0, -1)]


def test_matching_a_thousand_images_takes_no_time():
    truth, found, names = tables(simulated(1000))
    started = time.process_time()
    assert match(truth, found, names, Subset("any")).people.sum() > 1000
    assert time.process_time() - started < 2
