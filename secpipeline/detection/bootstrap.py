"""How sure a metric is, and whether two detectors differ: the bootstrap over images or over scenes.

Images are drawn with replacement (Efron, "Bootstrap methods: another look at the jackknife", 1979), the people of one
image together, because their errors go together. Images of one scene resemble each other too: drawing whole scenes
(the cluster bootstrap; Davison and Hinkley, "Bootstrap methods and their application", 1997, section 3.8) says how
sure the metric is of *other* scenes. What was drawn is an array of counts, so that everything measured on the same
counts is paired.

>>> import numpy as np
>>> from functools import partial
>>> from secpipeline.detection.metrics import Matches, resampled_average_precision
>>> index, score = np.arange(9), np.full(9, 0.9)
>>> all_found = Matches(index, score, np.ones(9, int), np.ones(9, int))
>>> a_third_missed = Matches(index[:6], score[:6], np.ones(6, int), np.ones(9, int))
>>> first, second = (partial(resampled_average_precision, found) for found in (all_found, a_third_missed))
>>> counts = draw(9, resamples=1000, seed=0)
>>> bootstrap(first, counts)
Interval(value=1.0, low=1.0, high=1.0)
>>> compare(first, second, counts).value < 0
True
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from secpipeline.detection.assignment import Floats, Ints
from secpipeline.detection.metrics import Counts
from secpipeline.errors import CannotDecide, InputError

# From (R, N) counts to (R,) values, NaN where a resample leaves the metric undefined.
Statistic = Callable[[Counts], Floats]

_FEWEST_RESAMPLES = 100
_FEWEST_CLUSTERS = 5


@dataclass(frozen=True)
class Interval:
    """A measured value with the ends of its central 95 % percentile interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """``{"value", "low", "high"}``."""
        return asdict(self)


@dataclass(frozen=True)
class Difference(Interval):
    """A difference with its interval and the share of resamples that speak against its sign.

    Attributes
    ----------
    sign_share
        Twice the share of resamples on the rarer side of zero, those at zero counted to it, at most 1; never below
        1 / (resamples + 1). It is read like a two-sided p-value, but comes from no null hypothesis.
    """

    sign_share: float


def draw(images: int, resamples: int, seed: int, clusters: Sequence[str] | None = None) -> Counts:
    """How often each image occurs: once in the first row, then in each resample.

    Parameters
    ----------
    images
        N.
    resamples
        At least 100.
    seed
        The same seed draws the same images.
    clusters
        The scene of each image (N,): whole scenes are then drawn, and the number of images varies. With fewer than
        about 30 scenes the intervals are too narrow, as those of every cluster bootstrap (Cameron, Gelbach and Miller,
        "Bootstrap-based improvements for inference with clustered errors", 2008).

    Returns
    -------
    ndarray
        (1 + resamples, N).

    Raises
    ------
    InputError
        If there are too few resamples, or the clusters are not one an image.
    CannotDecide
        If there are no images, or fewer than 5 clusters.
    """
    if resamples < _FEWEST_RESAMPLES:
        raise InputError(f"resamples: {resamples} are too few for a 95 % interval; give at least {_FEWEST_RESAMPLES}")
    if images == 0:
        raise CannotDecide("no images to draw from: nothing can be measured")
    codes, units = np.arange(images), images
    if clusters is not None:
        codes, units = _codes(images, clusters)
    drawn = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=resamples)
    return np.concatenate([np.ones((1, images), np.int32), drawn.astype(np.int32)[:, codes]])


def bootstrap(statistic: Statistic, counts: Counts) -> Interval:
    """Value and 95 % interval of a statistic on what :func:`draw` drew.

    Raises
    ------
    CannotDecide
        As :func:`interval`.
    """
    return interval(statistic(counts))


def compare(first: Statistic, second: Statistic, counts: Counts) -> Difference:
    """The paired difference ``second - first`` of two detectors or conditions on the same images.

    Raises
    ------
    CannotDecide
        As :func:`interval`.
    """
    return difference(first(counts), second(counts))


def difference(first: Floats, second: Floats) -> Difference:
    """:func:`compare` of values that were computed already, on the same counts (1 + R,).

    Raises
    ------
    CannotDecide
        As :func:`interval`.
    """
    sampled = second - first
    whole = interval(sampled)
    drawn = sampled[1:][~np.isnan(sampled[1:])]
    rarer = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    share = min(1.0, (2 * rarer + 1) / (len(drawn) + 1))
    return Difference(whole.value, whole.low, whole.high, float(share))


def interval(sampled: Floats) -> Interval:
    """From values on :func:`draw`'s counts (1 + R,) to value and percentile interval; undefined resamples are left out.

    Raises
    ------
    CannotDecide
        If the statistic is undefined on the images as they are, or on all but fewer than 100 resamples.
    """
    drawn = sampled[1:][~np.isnan(sampled[1:])]
    if np.isnan(sampled[0]):
        raise CannotDecide("the metric is undefined on these images: they hold nobody or nothing to measure")
    if len(drawn) < _FEWEST_RESAMPLES:
        raise CannotDecide(f"only {len(drawn)} resamples hold people: too few images with people for an interval")
    low, high = np.percentile(drawn, (2.5, 97.5))
    value = float(sampled[0])
    # On tiny samples percentiles can miss the value itself; an interval that excludes it would read as a mistake.
    return Interval(value, float(min(low, value)), float(max(high, value)))


def _codes(images: int, clusters: Sequence[str]) -> tuple[Ints, int]:
    """The number of each image's cluster, and how many there are."""
    codes, names = pd.factorize(np.array(clusters, dtype=object))
    if len(codes) != images:
        raise InputError(f"clusters: {len(codes)} for {images} images; give one an image")
    if (codes < 0).any():
        raise InputError(f"clusters: image {int(np.flatnonzero(codes < 0)[0])} belongs to none; name its scene")
    if len(names) < _FEWEST_CLUSTERS:
        raise CannotDecide(
            f"{len(names)} scenes are too few to tell how scenes differ; "
            f"add scenes until there are {_FEWEST_CLUSTERS}, better 30, or draw images"
        )
    return codes.astype(np.int64), len(names)
