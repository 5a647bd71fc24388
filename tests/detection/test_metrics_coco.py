import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secpipeline.detection import metrics
from secpipeline.detection.breakdown import AREAS, HEIGHTS, VISIBILITIES
from secpipeline.detection.matching import COCO_IOUS, EVERYBODY, IGNORED, TRUE_POSITIVE, match_coco
from secpipeline.errors import CannotDecide, InputError

faster_coco_eval = pytest.importorskip("faster_coco_eval")

NUMBERS = ["x1", "y1", "x2", "y2"]
OUT_OF_RANGE = 1e9


def tables(images):
    """``images``: per image a list of (box, ignore, visibility) and a list of (box, score)."""
    truth = [(f"i{n:04d}", *box, ignore, seen) for n, (boxes, _) in enumerate(images) for box, ignore, seen in boxes]
    found = [(f"i{n:04d}", *box, score) for n, (_, boxes) in enumerate(images) for box, score in boxes]
    return (
        pd.DataFrame(truth, columns=["image_id", *NUMBERS, "ignore", "visibility"]).astype(
            dict.fromkeys([*NUMBERS, "visibility"], float) | {"ignore": bool}
        ),
        pd.DataFrame(found, columns=["image_id", *NUMBERS, "score"]).astype(dict.fromkeys([*NUMBERS, "score"], float)),
        [f"i{n:04d}" for n in range(len(images))],
    )


def fits(box, subset):
    height, area = box[3] - box[1], (box[2] - box[0]) * (box[3] - box[1])
    return subset.min_height <= height <= subset.max_height and subset.min_area <= area <= subset.max_area


def sizes(images, subset):
    """The areas that COCO's code is told of people and of detections: 1 in the subset, too much outside it."""
    people = [
        1.0 if fits(box, subset) and subset.min_visibility <= seen <= subset.max_visibility else OUT_OF_RANGE
        for boxes, _ in images
        for box, _, seen in boxes
    ]
    return people, [1.0 if fits(box, subset) else OUT_OF_RANGE for _, boxes in images for box, _ in boxes]


def reference(images, subset=EVERYBODY, true_areas=False):
    """AP of faster-coco-eval at each threshold (10,), -1 where there is nobody."""
    truth, found, _ = tables(images)
    people, detections = sizes(images, subset)
    annotations = []
    for row, size in zip(truth.itertuples(), people, strict=True):
        place = [row.x1, row.y1, row.x2 - row.x1, row.y2 - row.y1]
        annotation = {"id": len(annotations) + 1, "image_id": int(row.image_id[1:]) + 1, "category_id": 1}
        area = place[2] * place[3] if true_areas else size
        annotations.append({**annotation, "bbox": place, "area": area, "iscrowd": int(row.ignore)})
    results = [
        {
            "image_id": int(row.image_id[1:]) + 1,
            "category_id": 1,
            "bbox": [row.x1, row.y1, row.x2 - row.x1, row.y2 - row.y1],
            "score": row.score,
        }
        for row in found.itertuples()
    ]
    names = [{"id": number, "width": 400, "height": 400} for number in range(1, len(images) + 1)]
    coco = faster_coco_eval.COCO(
        {"images": names, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]},
        print_function=lambda *_: None,
    )
    loaded = coco.loadRes(results)
    if not true_areas:
        for number, size in enumerate(detections, start=1):
            loaded.anns[number]["area"] = size
    evaluation = faster_coco_eval.COCOeval_faster(coco, loaded, "bbox", print_function=lambda *_: None)
    evaluation.params.maxDets = [1000]
    evaluation.params.areaRngLbl = ["asked"]
    evaluation.params.areaRng = [[subset.min_area, min(subset.max_area, 1e5**2)] if true_areas else [0, 10]]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"].reshape(len(COCO_IOUS), -1).mean(axis=1)


def ours(images, subset=EVERYBODY):
    return np.array([metrics.average_precision(found) for found in match_coco(*tables(images), subset)])


@st.composite
def boxes(draw):
    # Few places and sizes, so that boxes overlap by every share, and equal overlaps and borders occur.
    x, y = draw(st.integers(0, 5)) * 4, draw(st.integers(0, 5)) * 4
    width, height = draw(st.sampled_from([16, 20, 32, 96])), draw(st.sampled_from([30, 32, 40, 80, 96]))
    return (x, y, x + width, y + height)


people = st.tuples(boxes(), st.booleans(), st.sampled_from([0.1, 0.2, 0.65, 0.9, 1.0]))
detections = st.tuples(boxes(), st.sampled_from([0.1, 0.3, 0.31, 0.5, 0.7, 0.9]))
data_sets = st.lists(
    st.tuples(st.lists(people, max_size=5), st.lists(detections, max_size=7)), min_size=1, max_size=5
).filter(lambda images: any(found for _, found in images))


def assert_equal(images, subset, true_areas=False):
    expected = reference(images, subset, true_areas)
    if (expected == -1).all():
        with pytest.raises(CannotDecide):
            ours(images, subset)
    else:
        assert ours(images, subset) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(data_sets)
def test_precision_at_every_threshold_is_cocos(images):
    assert_equal(images, EVERYBODY)


@settings(max_examples=50, deadline=None)
@given(data_sets, st.sampled_from(AREAS))
def test_precision_by_area_is_cocos(images, subset):
    assert_equal(images, subset, true_areas=True)


@settings(max_examples=50, deadline=None)
@given(data_sets, st.sampled_from([*HEIGHTS, *VISIBILITIES]))
def test_precision_by_height_and_visibility_follows_cocos_rule_for_areas(images, subset):
    assert_equal(images, subset)


def simulated(count, seed):
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        truth, found = [], []
        for _ in range(rng.poisson(3)):
            height, x, y = rng.uniform(15, 250), rng.uniform(0, 200), rng.uniform(0, 60)
            box = np.array([x, y, x + 0.41 * height, y + height])
            truth.append((box, bool(rng.random() < 0.1), rng.uniform()))
            if rng.random() < 0.8:
                found.append((box + rng.normal(0, 0.04 * height, 4), rng.uniform(0.05, 1)))
        for _ in range(rng.poisson(4)):
            height, x, y = rng.uniform(15, 250), rng.uniform(0, 200), rng.uniform(0, 60)
            found.append((np.array([x, y, x + 0.41 * height, y + height]), rng.beta(1, 4)))
        images.append((truth, found))
    return images


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("subset", [EVERYBODY, *AREAS], ids=lambda subset: subset.name)
def test_precision_on_a_large_set_is_cocos(seed, subset):
    images = simulated(60, seed)
    expected = reference(images, subset, true_areas=True)
    assert ours(images, subset) == pytest.approx(expected, abs=1e-9)
    mean = metrics.mean_average_precision(match_coco(*tables(images), subset))
    assert mean == pytest.approx(expected.mean(), abs=1e-9)
    assert expected[0] > expected[5] > expected[9]


BOX = (0, 0, 24, 60)


@pytest.mark.parametrize(("side", "names"), [(32, ["small", "medium"]), (96, ["medium", "large"]), (33, ["medium"])])
def test_a_person_on_the_border_of_two_sizes_is_in_both(side, names):
    images = [([((0, 0, side, side), False, 1.0)], [((0, 0, side, side), 0.9)])]
    inside = [subset.name for subset in AREAS if match_coco(*tables(images), subset)[0].people.sum()]
    assert inside == names
    for subset in AREAS:
        assert_equal(images, subset, true_areas=True)


def test_a_person_outside_the_sizes_is_hit_once_and_a_crowd_any_number_of_times():
    twice = [(BOX, 0.9), (BOX, 0.8)]
    outside = match_coco(*tables([([(BOX, False, 1.0)], twice)]), AREAS[0], [0.5])[0]
    assert outside.state.tolist() == [IGNORED, IGNORED]
    assert outside.person.tolist() == [0, -1]
    crowd = match_coco(*tables([([(BOX, True, 1.0)], twice)]), EVERYBODY, [0.5])[0]
    assert crowd.person.tolist() == [0, 0]
    hidden = match_coco(*tables([([(BOX, False, 0.1)], twice)]), VISIBILITIES[0], [0.5])[0]
    assert hidden.state.tolist() == [IGNORED, 0]


def test_the_last_of_two_people_who_are_hit_equally_well_is_taken():
    left, right, between, further_left = ((x, 0, x + 24, 60) for x in (8, 16, 12, 2))
    found = [(between, 0.9), (further_left, 0.8)]
    for people, expected in (((left, right), 1.0), ((right, left), 51 / 101)):
        images = [([(box, False, 1.0) for box in people], found)]
        assert ours(images)[0] == pytest.approx(expected)
        assert_equal(images, EVERYBODY)


def test_a_stricter_threshold_never_finds_more():
    found = match_coco(*tables(simulated(30, 5)))
    hits = [np.count_nonzero(one.state == TRUE_POSITIVE) for one in found]
    assert hits == sorted(hits, reverse=True)
    assert len(found) == 10


def test_a_threshold_that_is_no_share_is_refused():
    with pytest.raises(InputError, match=r"iou: 1\.5"):
        match_coco(*tables([([(BOX, False, 1.0)], [(BOX, 0.9)])]), ious=[0.5, 1.5])
