import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_simulation import draw_street

from secpipeline.errors import InputError
from secpipeline.poisoning.pairs import judge, match_one_to_one

IMAGES = pd.DataFrame({"image_id": ["i0", "i1"], "source": ["s", "s"], "scene": ["0", "1"]})
BOX_COLUMNS = ["box_id", "image_id", "x1", "y1", "x2", "y2", "ignore"]
PREDICTION_COLUMNS = ["image_id", "x1", "y1", "x2", "y2", "score"]


def tables(boxes, predictions):
    labels = [(f"{image}#{n}", image, *xyxy, ignore) for n, (image, xyxy, ignore) in enumerate(boxes)]
    found = [(image, *xyxy, score) for image, xyxy, score in predictions]
    return pd.DataFrame(labels, columns=BOX_COLUMNS), pd.DataFrame(found, columns=PREDICTION_COLUMNS)


corner = st.integers(0, 6)
side = st.integers(1, 5)
xyxy = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), corner, corner, side, side)
some_boxes = st.lists(st.tuples(st.sampled_from(["i0", "i1"]), xyxy, st.just(False)), max_size=8)
some_predictions = st.lists(
    st.tuples(st.sampled_from(["i0", "i1"]), xyxy, st.floats(0.05, 1, allow_nan=False)), max_size=8
)


def iou_by_counting_pixels(a, b):
    def cells(box):
        return {(x, y) for x in range(int(box[0]), int(box[2])) for y in range(int(box[1]), int(box[3]))}

    return len(cells(a) & cells(b)) / len(cells(a) | cells(b))


@settings(max_examples=60, deadline=None)
@given(some_boxes, some_predictions)
def test_pairs_and_overlaps_equal_a_literal_count(boxes, predictions):
    judged = judge(IMAGES, *tables(boxes, predictions))

    found = {
        (judged.labels["box_id"][a], int(b)): iou
        for a, b, iou in zip(judged.label, judged.prediction, judged.iou, strict=True)
    }
    expected = {}
    for label in judged.labels.itertuples():
        for number, row in enumerate(judged.predictions.itertuples()):
            if label.image_id == row.image_id:
                corners = (label.x1, label.y1, label.x2, label.y2), (row.x1, row.y1, row.x2, row.y2)
                expected[label.box_id, number] = iou_by_counting_pixels(*corners)
    assert found == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(some_boxes, some_predictions)
def test_matching_equals_a_literal_greedy_one(boxes, predictions):
    judged = judge(IMAGES, *tables(boxes, predictions))
    score = judged.predictions["score"].to_numpy(dtype="float64")[judged.prediction]

    taken, labels, found = set(), set(), set()
    for pair in np.argsort(-(score * judged.iou), kind="stable"):
        a, b = judged.label[pair], judged.prediction[pair]
        if judged.iou[pair] >= 0.1 and a not in labels and b not in found:
            taken.add(int(pair))
            labels.add(a)
            found.add(b)

    assert set(match_one_to_one(judged).tolist()) == taken


def test_a_weak_duplicate_does_not_take_the_label_from_the_confident_box():
    boxes, predictions = tables(
        [("i0", (0, 0, 10, 20), False)], [("i0", (0, 0, 10, 20), 0.1), ("i0", (1, 0, 11, 20), 0.9)]
    )
    judged = judge(IMAGES, boxes, predictions)

    (pair,) = match_one_to_one(judged)

    assert judged.predictions["score"][judged.prediction[pair]] == 0.9


def test_ignored_regions_take_their_predictions_along():
    boxes, predictions = tables(
        [("i0", (0, 0, 50, 50), True)],
        [("i0", (10, 10, 20, 30), 0.9), ("i0", (45, 0, 65, 50), 0.8), ("i1", (10, 10, 20, 30), 0.7)],
    )

    judged = judge(IMAGES, boxes, predictions)

    assert judged.labels.empty
    assert judged.predictions["score"].tolist() == [0.8, 0.7]


def test_shuffled_tables_give_the_same_pairs():
    street = draw_street(0, sources=2, scenes=3, frames=2)
    judged = judge(street.images, street.boxes, street.predictions)
    again = judge(
        street.images,
        street.boxes.sample(frac=1, random_state=0),
        street.predictions.sample(frac=1, random_state=1),
    )

    assert np.sort(again.iou) == pytest.approx(np.sort(judged.iou))


GOOD_BOX, GOOD_PREDICTION = ("i0", (0, 0, 10, 20), False), ("i0", (0, 0, 10, 20), 0.5)
REFUSED = {
    "box of an unknown image": ([("i9", (0, 0, 10, 20), False)], [], "boxes: i9 is no image"),
    "prediction of an unknown image": ([], [("i9", (0, 0, 1, 1), 0.5)], "predictions: i9 is no image"),
    "box without an area": ([("i1", (5, 0, 5, 20), False)], [], "boxes: i1 has a box"),
    "missing coordinate": ([], [("i1", (float("nan"), 0, 5, 20), 0.5)], "predictions: i1 has a box"),
    "score above one": ([], [("i1", (0, 0, 5, 20), 1.5)], r"predictions of i1: a score of 1\.5"),
    "score not a number": ([], [("i1", (0, 0, 5, 20), float("nan"))], "predictions of i1: a score of nan"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tables_that_do_not_fit_are_refused_by_name(case):
    boxes, predictions, message = REFUSED[case]

    with pytest.raises(InputError, match=message):
        judge(IMAGES, *tables([GOOD_BOX, *boxes], [GOOD_PREDICTION, *predictions]))


def test_a_missing_column_or_a_repeated_image_is_refused():
    boxes, predictions = tables([GOOD_BOX], [GOOD_PREDICTION])

    with pytest.raises(InputError, match="predictions table has no column score"):
        judge(IMAGES, boxes, predictions.drop(columns="score"))
    with pytest.raises(InputError, match="holds i0 twice"):
        judge(pd.concat([IMAGES, IMAGES.head(1)]), boxes, predictions)
