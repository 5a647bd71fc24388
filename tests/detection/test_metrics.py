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
def data_sets(draw):
    """Images whose detections all have different scores: among equals any order is right."""
    images = draw(
        st.lists(st.tuples(st.lists(people, max_size=5), st.lists(boxes(), max_size=7)), min_size=1, max_size=6)
    )
    count = sum(len(found) for _, found in images)
    scores = iter(draw(st.permutations([(rank + 1) / (count + 1) for rank in range(count)])))
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
@given(data_sets(), st.data())
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


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_equals_cocos(seed):
    faster_coco_eval = pytest.importorskip("faster_coco_eval")
    images = simulated(40, seed=seed)
    annotations, results = [], []
    for number, (truth, found) in enumerate(images, start=1):
        for box, ignore, _ in truth:
            place = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            row = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": int(ignore)}
            annotations.append({**row, "bbox": place, "area": place[2] * place[3]})
        for box, score in found:
            place = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            results.append({"image_id": number, "category_id": 1, "bbox": place, "score": score})
    names = [{"id": number, "width": 400, "height": 400} for number in range(1, len(images) + 1)]
    truth = faster_coco_eval.COCO(
        {"images": names, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    )
    evaluation = faster_coco_eval.COCOeval_faster(truth, truth.loadRes(results), "bbox", print_function=lambda *_: None)
    evaluation.params.maxDets = [1000]
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    assert metrics.average_precision(matched(images)) == pytest.approx(evaluation.eval["precision"].mean(), abs=1e-9)


BOX = (0, 0, 24, 60)
FAR = (100, 0, 124, 60)


def state(truth, found, subset=REASONABLE):
    return matched([(truth, found)], subset).state.tolist()


def test_each_person_is_found_once():
    assert state([(BOX, False, 1.0)], [(BOX, 0.9), (BOX, 0.8)]) == [TRUE_POSITIVE, FALSE_POSITIVE]


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
    try:
        threshold = metrics.operating_threshold(found, limit)
    except CannotDecide:
        assert len(found.score) == 0 or (found.state == FALSE_POSITIVE)[0]
        return

    def rate(at):
        return np.count_nonzero((found.state == FALSE_POSITIVE) & (found.score >= at)) / len(images)

    assert rate(threshold) <= limit
    lower = found.score[found.score < threshold]
    assert len(lower) == 0 or rate(lower.max()) > limit


def test_equal_scores_pass_the_operating_threshold_together():
    found = Matches(np.zeros(4, int), np.array([0.9, 0.5, 0.5, 0.5]), np.array([1, 1, 1, 0]), np.array([3]))
    assert metrics.operating_threshold(found, 0.5) == 0.9
    assert metrics.operating_threshold(found, 1.0) == 0.5
    with pytest.raises(InputError, match="max_fppi"):
        metrics.operating_threshold(found, -1)


def test_matching_a_thousand_images_takes_no_time():
    truth, found, names = tables(simulated(1000))
    started = time.process_time()
    assert match(truth, found, names, Subset("any")).people.sum() > 1000
    assert time.process_time() - started < 2
