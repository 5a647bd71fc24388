import numpy as np
import pytest

from secpipeline.datasets.geometry import area, covered, intersection, overlap, overlaps
from secpipeline.detection.postprocess import non_maximum_suppression

RNG = np.random.default_rng(0)
CORNERS = RNG.integers(0, 30, (40, 2))
BOXES = np.concatenate([CORNERS, CORNERS + RNG.integers(1, 20, (40, 2))], axis=1).astype(float)


def cells(box):
    x1, y1, x2, y2 = box.astype(int)
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


def test_shares_are_those_of_counted_cells():
    first, second = BOXES[:20], BOXES[20:]
    counted = [(cells(a), cells(b)) for a, b in zip(first, second, strict=True)]
    assert area(first).tolist() == [len(a) for a, _ in counted]
    assert intersection(first, second).tolist() == [len(a & b) for a, b in counted]
    assert overlap(first, second).tolist() == [len(a & b) / len(a | b) for a, b in counted]
    assert covered(first, second).tolist() == [len(a & b) / len(a) for a, b in counted]
    assert any(a & b for a, b in counted)


def test_every_pair_is_compared_and_leading_axes_broadcast():
    first, second = BOXES[:6], BOXES[6:16]
    table = overlaps(first, second)
    assert table.shape == (6, 10)
    for index, box in enumerate(first):
        np.testing.assert_array_equal(table[index], overlap(box, second))
    stacked = overlaps(BOXES[:12].reshape(3, 4, 4), BOXES[12:27].reshape(3, 5, 4))
    assert stacked.shape == (3, 4, 5)
    np.testing.assert_array_equal(stacked[2], overlaps(BOXES[8:12], BOXES[22:27]))


@pytest.mark.parametrize("nothing", [(5.0, 5, 5, 5), (8.0, 8, 5, 5), (5.0, 8, 9, 5)])
def test_a_box_without_an_area_shares_nothing(nothing):
    box, whole = np.array(nothing), np.array([0.0, 0, 10, 10])
    assert area(box) == intersection(box, whole) == overlap(box, whole) == overlap(box, box) == 0
    assert covered(box, whole) == covered(whole, box) == 0


def test_a_box_without_an_area_suppresses_no_other():
    boxes = np.array([[8.0, 0, 5, 50], [0, 0, 2, 2]])
    assert non_maximum_suppression(boxes, np.array([0.9, 0.8]), 0.5).tolist() == [0, 1]
