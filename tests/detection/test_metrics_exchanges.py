import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secpipeline.detection import exchanges as module
from secpipeline.detection.exchanges import disappearance_rate, exchanges, hallucination_rate
from secpipeline.detection.matching import EVERYBODY, REASONABLE, match
from secpipeline.detection.metrics import miss_rate
from secpipeline.errors import CannotDecide, InputError

BOX, FAR, FARTHER = (0, 0, 24, 60), (100, 0, 124, 60), (200, 0, 224, 60)
CORNERS = ["x1", "y1", "x2", "y2"]


def people(*images):
    rows = [(f"i{n}", *box, ignore, 1.0) for n, boxes in enumerate(images) for box, ignore in boxes]
    table = pd.DataFrame(rows, columns=["image_id", *CORNERS, "ignore", "visibility"])
    return table.astype(dict.fromkeys(CORNERS, float) | {"ignore": bool, "visibility": float})


def detections(*images):
    rows = [(f"i{n}", *box, score) for n, boxes in enumerate(images) for box, score in boxes]
    table = pd.DataFrame(rows, columns=["image_id", *CORNERS, "score"])
    return table.astype(dict.fromkeys([*CORNERS, "score"], float))


def seen(truth, before, after, threshold=0.5, subset=REASONABLE):
    """Of one image: found, disappeared, recovered, hallucinated."""
    result = exchanges(people(truth), detections(before), detections(after), ["i0"], threshold, subset)
    return tuple(int(part[0]) for part in (result.found, result.disappeared, result.recovered, result.hallucinated))


PERSON = (BOX, False)


def test_a_person_disappears_when_no_detection_reaches_the_threshold_any_more():
    assert seen([PERSON], [(BOX, 0.9)], [(BOX, 0.4)]) == (1, 1, 0, 0)
    assert seen([PERSON], [(BOX, 0.9)], [(BOX, 0.5)]) == (1, 0, 0, 0)
    assert seen([PERSON], [(BOX, 0.4)], [(BOX, 0.9)]) == (0, 0, 1, 0)


def test_exchanged_people_show_though_the_miss_rate_stays():
    assert seen([PERSON, (FAR, False)], [(BOX, 0.9)], [(FAR, 0.9)]) == (1, 1, 1, 0)


def test_a_hallucination_is_on_nobody_and_was_not_there_before():
    assert seen([PERSON], [], [(FAR, 0.9)]) == (0, 0, 0, 1)
    assert seen([PERSON], [(FAR, 0.9)], [(FAR, 0.9)]) == (0, 0, 0, 0)
    assert seen([PERSON], [(FAR, 0.4)], [(FAR, 0.9)]) == (0, 0, 0, 1)
    assert seen([PERSON], [(FAR, 0.9)], [(FAR, 0.4)]) == (0, 0, 0, 0)
    assert seen([], [(FAR, 0.9)], [(FAR, 0.8), (FARTHER, 0.8)]) == (0, 0, 0, 1)


def test_a_second_detection_of_a_person_and_one_in_a_crowd_are_no_hallucinations():
    assert seen([PERSON], [], [(BOX, 0.9), ((0, 0, 24, 58), 0.8)]) == (0, 0, 1, 0)
    assert seen([((90, 0, 300, 90), True)], [], [(FAR, 0.9)]) == (0, 0, 0, 0)


def test_detections_of_another_image_were_not_there_before():
    before, after = detections([(FAR, 0.9)], []), detections([], [(FAR, 0.9)])
    found = exchanges(people([], []), before, after, ["i0", "i1"], 0.5)
    assert found.hallucinated.tolist() == [0, 1]
    only_second = exchanges(people([], []), before, after, ["i1"], 0.5)
    assert only_second.hallucinated.tolist() == [1]


def test_rates_are_shares_of_the_found_and_numbers_an_image():
    truth = people([PERSON, (FAR, False)], [PERSON], [])
    before = detections([(BOX, 0.9), (FAR, 0.9)], [(BOX, 0.9)], [])
    after = detections([(BOX, 0.9)], [], [(BOX, 0.9), (FAR, 0.8)])
    found = exchanges(truth, before, after, ["i0", "i1", "i2"], 0.5)
    assert disappearance_rate(found) == pytest.approx(2 / 3)
    assert hallucination_rate(found) == pytest.approx(2 / 3)
    counts = np.array([[2, 1, 0], [0, 0, 3]], np.int32)
    assert module.resampled_disappearance_rate(found, counts).tolist() == [
        pytest.approx(3 / 5),
        pytest.approx(math.nan, nan_ok=True),
    ]
    assert module.resampled_hallucination_rate(found, counts).tolist() == [0, 2]


def test_rates_of_nothing_are_undecided():
    found = exchanges(people([PERSON]), detections([]), detections([]), ["i0"], 0.5)
    with pytest.raises(CannotDecide, match="nobody was found before"):
        disappearance_rate(found)
    assert hallucination_rate(found) == 0
    with pytest.raises(CannotDecide, match="no images"):
        hallucination_rate(exchanges(people([]), detections([]), detections([]), [], 0.5))


def test_unusable_input_is_refused():
    with pytest.raises(InputError, match="threshold"):
        exchanges(people([]), detections([]), detections([]), ["i0"], math.nan)
    with pytest.raises(InputError, match="column score"):
        exchanges(people([]), detections([]), detections([]).drop(columns="score"), ["i0"], 0.5)


places = st.tuples(st.integers(0, 8), st.integers(0, 3), st.sampled_from([20, 24]), st.sampled_from([50, 60])).map(
    lambda drawn: (drawn[0] * 8, drawn[1] * 8, drawn[0] * 8 + drawn[2], drawn[1] * 8 + drawn[3])
)
scored = st.lists(st.tuples(places, st.sampled_from([0.2, 0.5, 0.51, 0.9])), max_size=6)
scenes = st.lists(st.tuples(st.lists(st.tuples(places, st.booleans()), max_size=4), scored, scored), max_size=4)


@settings(max_examples=40, deadline=None)
@given(scenes, st.sampled_from([0.0, 0.5, 0.7]))
def test_exchanges_explain_the_change_of_the_miss_rate(images, threshold):
    truth, before, after = (
        people(*[i[0] for i in images]),
        detections(*[i[1] for i in images]),
        detections(*[i[2] for i in images]),
    )
    names = [f"i{n}" for n in range(len(images))]
    found = exchanges(truth, before, after, names, threshold, EVERYBODY)
    assert (found.disappeared <= found.found).all()
    first, second = (match(truth, table, names, EVERYBODY) for table in (before, after))
    total = first.people.sum()
    if total:
        change = miss_rate(second, threshold) - miss_rate(first, threshold)
        assert change == pytest.approx((found.disappeared.sum() - found.recovered.sum()) / total)
    false = np.count_nonzero((second.state == 0) & (second.score >= threshold))
    assert found.hallucinated.sum() <= false
    nothing = exchanges(truth, before, before, names, threshold, EVERYBODY)
    assert not nothing.disappeared.any()
    assert not nothing.recovered.any()
    assert not nothing.hallucinated.any()
