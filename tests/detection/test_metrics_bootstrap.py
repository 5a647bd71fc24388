import time
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secpipeline.detection import metrics
from secpipeline.detection.bootstrap import bootstrap, compare, difference, draw, interval
from secpipeline.detection.metrics import Matches
from secpipeline.errors import CannotDecide, InputError


def simulated(images=200, found=0.7, false=3.0, seed=0):
    """Every image holds two people, each found with the same chance, and false positives among them."""
    rng = np.random.default_rng(seed)
    hits, wrong = rng.binomial(2, found, images), rng.poisson(false, images)
    index = np.concatenate([np.repeat(np.arange(images), hits), np.repeat(np.arange(images), wrong)])
    state = np.concatenate([np.ones(hits.sum(), int), np.zeros(wrong.sum(), int)])
    score = rng.uniform(size=len(state)) * 0.5 + 0.3 * state
    order = np.argsort(-score, kind="stable")
    return Matches(index[order], score[order], state[order], np.full(images, 2))


def missed(found):
    return partial(metrics.resampled_miss_rate, found, threshold=0.0)


def test_the_first_row_is_the_images_themselves_and_every_resample_is_as_large():
    counts = draw(50, 300, seed=1)
    assert counts.shape == (301, 50)
    assert (counts[0] == 1).all()
    assert (counts.sum(axis=1) == 50).all()
    assert counts[1:].mean() == pytest.approx(1)
    assert np.array_equal(counts, draw(50, 300, seed=1))
    assert not np.array_equal(counts, draw(50, 300, seed=2))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=8, max_size=40).filter(lambda scenes: len(set(scenes)) >= 5))
def test_scenes_are_drawn_whole(scenes):
    counts = draw(len(scenes), 100, seed=0, clusters=scenes)
    for scene in set(scenes):
        members = counts[:, [place for place, name in enumerate(scenes) if name == scene]]
        assert (members == members[:, :1]).all()
    firsts = [scenes.index(scene) for scene in sorted(set(scenes))]
    assert (counts[:, firsts].sum(axis=1) == len(firsts)).all()


def test_a_scene_an_image_is_the_bootstrap_over_images():
    names = [f"scene {number}" for number in range(30)]
    assert np.array_equal(draw(30, 200, 4, clusters=names), draw(30, 200, 4))


def test_the_interval_of_a_share_agrees_with_the_binomial_one():
    measured = bootstrap(missed(simulated()), draw(200, 4000, seed=1))
    spread = 1.96 * np.sqrt(measured.value * (1 - measured.value) / 400)
    assert measured.high - measured.low == pytest.approx(2 * spread, rel=0.15)


def coverage(clusters, trials=200):
    """How often an interval holds the truth when the images of one scene succeed and fail together."""
    scenes, held = np.repeat([f"s{number}" for number in range(40)], 5).tolist(), 0
    for trial in range(trials):
        rng = np.random.default_rng([7, trial])
        hits = rng.binomial(2, np.repeat(rng.beta(1.5, 1.5, 40), 5))
        index = np.repeat(np.arange(200), hits)
        found = Matches(index, np.full(len(index), 0.9), np.ones(len(index), int), np.full(200, 2))
        measured = bootstrap(missed(found), draw(200, 200, trial, scenes if clusters else None))
        held += measured.low <= 0.5 <= measured.high
    return held / trials


def test_intervals_over_scenes_cover_the_truth_where_those_over_images_are_too_narrow():
    assert 0.92 < coverage(clusters=True) < 0.98
    assert coverage(clusters=False) < 0.82


def test_a_paired_difference_is_narrower_than_two_intervals_and_knows_its_sign():
    clean = simulated()
    keep = np.random.default_rng(1).uniform(size=len(clean.score)) > 0.1
    attacked = Matches(clean.image_index[keep], clean.score[keep], clean.state[keep], clean.people)
    counts = draw(200, 1000, seed=0)
    worse = compare(missed(clean), missed(attacked), counts)
    apart = [bootstrap(missed(found), counts) for found in (clean, attacked)]
    assert worse.low > 0
    assert worse.value == pytest.approx(apart[1].value - apart[0].value)
    assert worse.high - worse.low < 0.8 * sum(one.high - one.low for one in apart)
    assert worse.sign_share == pytest.approx(1 / 1001)
    better = compare(missed(attacked), missed(clean), counts)
    assert (better.value, better.low, better.high) == pytest.approx((-worse.value, -worse.high, -worse.low))
    assert better.to_json().keys() == {"value", "low", "high", "sign_share"}


def test_no_difference_has_a_sign_share_of_one():
    same = compare(missed(simulated()), missed(simulated()), draw(200, 200, seed=0))
    assert (same.value, same.low, same.high, same.sign_share) == (0, 0, 0, 1)


def test_the_sign_share_of_equal_detectors_is_spread_evenly():
    shares = []
    for seed in range(200):
        counts = draw(100, 200, seed=seed)
        first, second = (simulated(100, seed=2 * seed + side) for side in (0, 1))
        shares.append(compare(missed(first), missed(second), counts).sign_share)
    assert 0.01 <= np.mean(np.array(shares) < 0.05) <= 0.1
    assert np.mean(np.array(shares) < 0.5) == pytest.approx(0.5, abs=0.12)


def test_the_sign_share_counts_both_sides_of_zero():
    sampled = np.concatenate([[1.0], np.full(190, 1.0), np.full(10, -1.0)])
    assert difference(np.zeros(201), sampled).sign_share == pytest.approx(21 / 201)


def test_undefined_resamples_are_left_out_and_too_few_decide_nothing():
    assert interval(np.concatenate([[0.5], np.full(150, 0.5), np.full(60, np.nan)])).low == 0.5
    with pytest.raises(CannotDecide, match="only 50 resamples"):
        interval(np.concatenate([[0.5], np.full(50, 0.5), np.full(60, np.nan)]))
    with pytest.raises(CannotDecide, match="undefined on these images"):
        interval(np.concatenate([[np.nan], np.full(150, 0.5)]))


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (InputError, "resamples: 99", (10, 99, 0)),
        (CannotDecide, "no images", (0, 200, 0)),
        (InputError, "2 for 3 images", (3, 200, 0, ["a", "b"])),
        (InputError, "image 1 belongs to none", (3, 200, 0, ["a", None, "b"])),
        (CannotDecide, "2 scenes are too few", (3, 200, 0, ["a", "b", "a"])),
    ],
)
def test_what_cannot_be_drawn_from_is_refused(error, message, arguments):
    with pytest.raises(error, match=message):
        draw(*arguments)


def test_a_thousand_resamples_of_five_thousand_images_take_seconds():
    found = simulated(5000, false=8.0)
    counts = draw(5000, 1000, seed=0)
    started = time.process_time()
    for statistic in (metrics.resampled_log_average_miss_rate, metrics.resampled_average_precision):
        measured = bootstrap(partial(statistic, found), counts)
        assert measured.low < measured.value < measured.high
    assert time.process_time() - started < 10
