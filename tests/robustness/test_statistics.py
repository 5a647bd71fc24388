import time
from functools import partial

import numpy as np
import pytest

from secpipeline.detection import metrics
from secpipeline.detection.bootstrap import Interval, interval
from secpipeline.detection.metrics import Matches
from secpipeline.errors import CannotDecide, InputError
from secpipeline.robustness.statistics import mean_interval, replicates

MISS = partial(metrics.resampled_miss_rate, threshold=0.0)


def simulated(images=200, found=0.7, false=3.0, seed=0):
    """Every image holds two people, each found with the same chance, and false positives among them."""
    rng = np.random.default_rng(seed)
    hits, wrong = rng.binomial(2, found, images), rng.poisson(false, images)
    index = np.concatenate([np.repeat(np.arange(images), hits), np.repeat(np.arange(images), wrong)])
    state = np.concatenate([np.ones(hits.sum(), int), np.zeros(wrong.sum(), int)])
    score = rng.uniform(size=len(state)) * 0.5 + 0.3 * state
    order = np.argsort(-score, kind="stable")
    return Matches(index[order], score[order], state[order], np.full(images, 2))


def bootstrap(matches, statistic, resamples, seed):
    return interval(replicates(matches, statistic, resamples, seed))


def test_a_thousand_resamples_of_four_statistics_take_at_most_two_seconds():
    found = simulated(false=10.0)
    started = time.process_time()
    for statistic in (
        metrics.resampled_average_precision,
        metrics.resampled_log_average_miss_rate,
        MISS,
        partial(metrics.resampled_false_positives_per_image, threshold=0.3),
    ):
        measured = bootstrap(found, statistic, resamples=1000, seed=0)
        assert measured.low < measured.value < measured.high
    assert time.process_time() - started < 2


def test_the_interval_of_a_share_agrees_with_the_binomial_one():
    measured = bootstrap(simulated(), MISS, resamples=4000, seed=1)
    spread = 1.96 * np.sqrt(measured.value * (1 - measured.value) / 400)
    assert measured.high - measured.low == pytest.approx(2 * spread, rel=0.15)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    covered = 0
    for seed in range(200):
        measured = bootstrap(simulated(100, seed=seed), MISS, resamples=300, seed=seed)
        covered += measured.low <= 0.3 <= measured.high
    assert 180 <= covered <= 198


def test_people_of_one_image_stay_together():
    index = np.repeat(np.arange(50), 4)
    apart = Matches(index, np.full(200, 0.9), np.tile([1, 1, 0, 0], 50), np.full(50, 4))
    together = Matches(index, np.full(200, 0.9), np.repeat([1, 0], 100), np.full(50, 4))
    narrow, wide = (bootstrap(found, MISS, 500, seed=0) for found in (apart, together))
    assert narrow.value == wide.value == 0.5
    assert narrow.high - narrow.low < 1e-9 < wide.high - wide.low


def test_seeds_decide_and_chunks_do_not(monkeypatch):
    found = simulated()
    first = replicates(found, metrics.resampled_average_precision, 200, seed=3)
    monkeypatch.setattr("secpipeline.robustness.statistics._CHUNK_NUMBERS", 5000)
    assert np.array_equal(first, replicates(found, metrics.resampled_average_precision, 200, seed=3))
    assert not np.array_equal(first, replicates(found, metrics.resampled_average_precision, 200, seed=4))


def test_the_mean_over_conditions_is_paired():
    sampled = [replicates(simulated(seed=seed), MISS, 300, seed=0) for seed in range(3)]
    measured = mean_interval(sampled)
    assert measured.value == pytest.approx(np.mean([one[0] for one in sampled]))
    assert measured.low < measured.value < measured.high
    with pytest.raises(CannotDecide, match="no conditions"):
        mean_interval([])


def test_too_little_to_resample_is_refused_or_undecided():
    with pytest.raises(InputError, match="resamples: 20"):
        bootstrap(simulated(), MISS, resamples=20, seed=0)
    empty = np.zeros(0)
    nobody = Matches(empty.astype(int), empty, empty.astype(int), np.zeros(3, int))
    with pytest.raises(CannotDecide, match="no people among the 3 images"):
        bootstrap(nobody, MISS, resamples=200, seed=0)
    with pytest.raises(CannotDecide, match="only 50 resamples"):
        interval(np.concatenate([[0.5], np.full(50, 0.5), np.full(60, np.nan)]))


def test_resamples_without_people_are_left_out():
    one_person = Matches(np.array([0]), np.array([0.9]), np.array([1]), np.array([1, 0, 0]))
    assert bootstrap(one_person, metrics.resampled_average_precision, 400, seed=0) == Interval(1.0, 1.0, 1.0)
