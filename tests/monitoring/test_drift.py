import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secpipeline.detection.tables import PREDICTION_COLUMNS
from secpipeline.errors import CannotDecide
from secpipeline.monitoring.drift import (
    INPUT_STATISTICS,
    MINIMUM_IMAGES,
    OUTPUT_STATISTICS,
    compare,
    drift,
    input_statistics,
    output_statistics,
)

THRESHOLD = 0.5


def street(count, seed, light=1.0):
    """Grey streets with coloured blocks, each with its own brightness."""
    rng = np.random.default_rng(seed)
    grey = rng.normal(110, 15, (count, 1, 1, 1)) + rng.normal(0, 20, (count, 1, 24, 32))
    colour = rng.normal(0, 12, (count, 3, 3, 4)).repeat(8, axis=2).repeat(8, axis=3)
    return np.clip((grey + colour) * light, 0, 255).astype(np.uint8)


def found(count, seed, people=3.0, score=0.75):
    """Predictions of ``count`` images, and their names."""
    rng = np.random.default_rng(seed)
    names = [f"i{index}" for index in range(count)]
    numbers = np.full(count, people) if isinstance(people, int) else rng.poisson(people, count)
    rows = [
        (name, 0, 0, 1, 1, rng.normal(score, 0.05))
        for name, n in zip(names, numbers, strict=True)
        for _ in range(int(n))
    ]
    return pd.DataFrame(rows, columns=list(PREDICTION_COLUMNS)), names


def window(count, seed, light=1.0, **behaviour):
    """All statistics of ``count`` images."""
    predictions, names = found(count, seed, **behaviour)
    return pd.concat(
        [input_statistics(street(count, seed, light)), output_statistics(predictions, names, THRESHOLD)], axis=1
    )


def incidents(reference, other):
    return {row["statistic"] for row in compare(reference, other) if row["incident"]}


def test_two_draws_of_the_same_street_rarely_raise_an_incident():
    alarms = [incidents(window(150, 2 * seed), window(60, 2 * seed + 1)) for seed in range(25)]
    assert sum(map(bool, alarms)) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_darker_images_are_drift_of_the_input_and_not_of_the_output(seed):
    drifted = incidents(window(150, seed), window(60, 1000 + seed, light=0.6))
    assert "brightness" in drifted
    assert not drifted & set(OUTPUT_STATISTICS)


@pytest.mark.parametrize("people", [0.0, 12.0])
@pytest.mark.parametrize("seed", range(3))
def test_detections_that_vanish_or_multiply_are_drift_of_the_output_and_not_of_the_input(seed, people):
    drifted = incidents(window(150, seed), window(60, 1000 + seed, people=people))
    assert "detections" in drifted
    assert not drifted & set(INPUT_STATISTICS)


def test_detections_that_vanish_are_noticed_where_every_image_had_equally_many():
    assert "detections" in incidents(window(150, 0, people=2), window(60, 1, people=0))
    assert "detections" in incidents(window(150, 0, people=2), window(60, 1, people=4))
    assert "detections" not in incidents(window(150, 0, people=2), window(60, 1, people=2))


def mostly(usual, rare, share, count, seed):
    return np.where(np.random.default_rng(seed).random(count) < share, rare, usual).astype(float)


@pytest.mark.parametrize("rare", [0.0, 4.0])
@pytest.mark.parametrize("changed", [0.0, 1.0, 3.0, 5.0])
def test_a_value_that_nearly_every_image_had_cannot_be_replaced_unnoticed(rare, changed):
    reference = mostly(2, rare, 0.05, 200, 0)
    assert drift(reference, np.full(60, changed)).psi > 0.25
    assert drift(reference, mostly(2, rare, 0.05, 60, 1)).psi < 0.25


def test_less_certain_detections_are_drift():
    assert "mean_score" in incidents(window(150, 0), window(60, 1, score=0.6))


def test_a_difference_of_no_size_is_no_incident_however_large_the_window():
    rng = np.random.default_rng(0)
    reference, other = rng.normal(0, 1, 20_000), rng.normal(0.1, 1, 20_000)
    one = drift(reference, other)
    assert one.ks_p < 1e-6
    assert one.psi < 0.05
    assert not incidents(pd.DataFrame({"brightness": reference}), pd.DataFrame({"brightness": other}))


def test_a_large_shift_that_chance_explains_is_no_incident():
    rows = compare(pd.DataFrame({"brightness": np.arange(20.0)}), pd.DataFrame({"brightness": np.arange(20.0) + 4}))
    assert rows[0]["psi"] > 0.25
    assert rows[0]["ks_p"] > 0.01
    assert not rows[0]["incident"]


def test_the_level_is_shared_among_the_statistics():
    rng = np.random.default_rng(3)
    reference, other = rng.normal(0, 1, 40), rng.normal(0.9, 1, 40)
    p = drift(reference, other).ks_p
    tables = [pd.DataFrame({f"s{n}": values for n in range(5)}) for values in (reference, other)]
    assert len([row for row in compare(*tables, level=p * 5.01) if row["incident"]]) == 5
    assert not [row for row in compare(*tables, level=p * 4.99) if row["incident"]]


def test_a_row_says_how_much_each_statistic_moved():
    rows = compare(window(60, 0), window(60, 1, light=0.5))
    assert [row["statistic"] for row in rows] == [*INPUT_STATISTICS, *OUTPUT_STATISTICS]
    brightness = rows[0]
    assert brightness["window"] == pytest.approx(brightness["reference"] / 2, rel=0.05)
    assert set(brightness) == {"statistic", "ks_p", "psi", "reference", "window", "incident"}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((19, 200), "reference has 19 images"), ((200, 19), "window has 19"), ((200, 0), "window has 0")],
)
def test_too_few_images_are_no_answer_and_the_message_says_how_many_are_needed(sizes, message):
    tables = [pd.DataFrame({"brightness": np.linspace(0, 1, size)}) for size in sizes]
    with pytest.raises(CannotDecide, match=f"{message}.*needs {MINIMUM_IMAGES}"):
        compare(*tables)


def test_just_enough_images_are_an_answer():
    values = np.linspace(0, 1, MINIMUM_IMAGES)
    assert drift(values, values).ks_p == 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_values_that_are_not_finite_are_no_answer(side, value):
    samples = [np.linspace(0, 1, 30), np.linspace(0, 1, 30)]
    samples[side][7] = value
    with pytest.raises(CannotDecide, match=f"the {('reference', 'window')[side]} holds values that are not finite"):
        drift(*samples)


samples = st.lists(st.integers(0, 6) | st.floats(-100, 100), min_size=20, max_size=60).map(lambda v: np.array(v, float))


@settings(max_examples=100, deadline=None)
@given(samples, samples)
def test_a_probability_is_one_and_an_index_is_never_negative(reference, other):
    one = drift(reference, other)
    assert 0 <= one.ks_p <= 1
    assert 0 <= one.psi < math.inf
    assert (one.reference, one.window) == (np.median(reference), np.median(other))
    assert drift(reference, reference).psi == pytest.approx(0, abs=1e-12)


def flat(red, green, blue):
    return np.broadcast_to(np.array([red, green, blue], np.uint8)[:, None, None], (3, 16, 16))


def test_statistics_of_pictures_are_what_their_names_say():
    checker = np.broadcast_to((np.indices((16, 16)).sum(0) % 2 * 255).astype(np.uint8), (3, 16, 16))
    table = input_statistics(np.stack([flat(0, 0, 0), flat(255, 255, 255), flat(255, 0, 0), checker]))
    assert list(table.columns) == list(INPUT_STATISTICS)
    np.testing.assert_allclose(table["brightness"], [0, 1, 1 / 3, 0.5], atol=1e-6)
    np.testing.assert_allclose(table["contrast"], [0, 0, 0, 0.5], atol=1e-6)
    np.testing.assert_allclose(table["sharpness"], [0, 0, 0, 2], atol=1e-6)
    np.testing.assert_allclose(table["saturation"], [0, 0, 1, 0], atol=1e-6)


def test_outputs_are_counted_at_the_threshold_an_image_at_a_time_in_their_order():
    rows = [("b", 0.5), ("b", 0.7), ("b", 0.49), ("a", 0.2), ("elsewhere", 0.9), ("c", 0.8)]
    predictions = pd.DataFrame([(name, 0, 0, 1, 1, score) for name, score in rows], columns=list(PREDICTION_COLUMNS))
    table = output_statistics(predictions, ["c", "a", "b", "none"], THRESHOLD)
    assert table["detections"].tolist() == [1, 0, 2, 0]
    assert table["mean_score"].tolist() == pytest.approx([0.8, 0, 0.6, 0])


def test_a_window_without_any_detection_has_a_row_an_image():
    table = output_statistics(pd.DataFrame(columns=list(PREDICTION_COLUMNS)), ["a", "b"], THRESHOLD)
    assert table.to_numpy().tolist() == [[0, 0], [0, 0]]
