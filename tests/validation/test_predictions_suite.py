from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secpipeline.errors import InputError
from secpipeline.validation.predictions import predictions_frame, validate_predictions
from secpipeline.validation.results import test_result

EXPECTATIONS = Path(__file__).parents[2] / "expectations"
IMAGES = pd.DataFrame({"image_id": [f"i{n}" for n in range(20)], "width": 200, "height": 100})


def predictions(seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 50, (60, 2))
    table = pd.DataFrame(np.hstack([corner, corner + rng.uniform(5, 45, (60, 2))]), columns=["x1", "y1", "x2", "y2"])
    table.insert(0, "image_id", [f"i{n % 20}" for n in range(60)])
    return table.assign(score=rng.uniform(0, 1, 60))


def outcome(table, images=IMAGES):
    return test_result(validate_predictions(table, images, EXPECTATIONS))


def test_predictions_of_a_detector_pass():
    assert outcome(predictions())["result"] == "PASSED"


DAMAGE = {
    "a score that is none": ("score", np.nan, "not_be_null(score)"),
    "a score above one": ("score", 1.5, "be_between(score)"),
    "a score below zero": ("score", -0.1, "be_between(score)"),
    "an infinite score": ("score", np.inf, "be_between(score)"),
    "an image of another release": ("image_id", "stranger", "not_be_null(image_width)"),
    "no image": ("image_id", None, "not_be_null(image_id)"),
    "a corner that is no number": ("x1", np.nan, "not_be_null(inside)"),
    "an endless box": ("x2", np.inf, "not_be_null(inside)"),
    "a box without an area": ("x2", -1.0, "not_be_null(inside)"),
    "a box in other pixels": ("x1", -5000.0, "be_between(inside)"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_prediction_fails_by_the_check_that_is_about_it(case):
    column, value, expected = DAMAGE[case]
    table = predictions()
    table.loc[7, column] = value

    found = outcome(table)

    assert found["result"] == "FAILED"
    assert any(name.endswith(expected) for name in found["failedTests"]), found["failedTests"]


def test_a_box_that_leaves_its_image_a_little_is_a_warning():
    table = predictions()
    table.loc[7, ["x1", "x2"]] = [-10.0, 30.0]

    assert outcome(table)["result"] == "WARNED"


def test_a_detector_that_always_says_the_same_fails():
    same_boxes = predictions().assign(x1=1.0, y1=1.0, x2=9.0, y2=9.0)
    same_scores = predictions().assign(score=0.5)

    assert outcome(same_boxes)["failedTests"] == [
        "prediction_totals: expect_column_values_to_be_between(distinct_boxes)"
    ]
    assert outcome(same_scores)["failedTests"] == [
        "prediction_totals: expect_column_values_to_be_between(distinct_scores)"
    ]


def test_a_detector_that_says_nothing_fails():
    assert outcome(predictions().head(0))["result"] == "FAILED"


def test_a_detector_that_looked_at_a_few_images_is_a_warning():
    table = predictions()

    assert outcome(table[table["image_id"].isin(["i1", "i2"])])["result"] == "WARNED"


def test_a_missing_column_is_named():
    with pytest.raises(InputError, match="predictions table has no column score"):
        validate_predictions(predictions().drop(columns="score"), IMAGES, EXPECTATIONS)


corner = st.floats(-300, 300)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(corner, corner, st.floats(0.01, 300), st.floats(0.01, 300))
def test_the_share_inside_is_what_counting_pixels_finds(x, y, width, height):
    row = {"image_id": "i0", "x1": x, "y1": y, "x2": x + width, "y2": y + height, "score": 0.5}
    table = pd.DataFrame([row])
    inside = predictions_frame(table, IMAGES)["inside"].iloc[0]

    xs, ys = (low + (np.arange(200) + 0.5) / 200 * side for low, side in ((x, width), (y, height)))
    counted = ((xs >= 0) & (xs < 200)).mean() * ((ys >= 0) & (ys < 100)).mean()
    assert inside == pytest.approx(counted, abs=0.012)
