"""A metric under many conditions: replicates of it for :mod:`secpipeline.detection.bootstrap`, in bounded memory.

The same seed draws the same images for every condition, so differences and means across conditions are paired, which
halves their intervals.

>>> import numpy as np
>>> from secpipeline.detection.metrics import Matches, resampled_average_precision
>>> found_all = Matches(np.arange(9), np.full(9, 0.9), np.ones(9, int), np.ones(9, int))
>>> mean_interval([replicates(found_all, resampled_average_precision, resamples=200, seed=0)])
Interval(value=1.0, low=1.0, high=1.0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from secpipeline.detection.assignment import Floats
from secpipeline.detection.bootstrap import Interval, draw, interval
from secpipeline.detection.matching import Matches
from secpipeline.detection.metrics import Counts
from secpipeline.errors import CannotDecide

Statistic = Callable[[Matches, Counts], Floats]

_CHUNK_NUMBERS = 4_000_000


def replicates(matches: Matches, statistic: Statistic, resamples: int, seed: int) -> Floats:
    """The statistic on all images and then on each resample of them.

    Returns
    -------
    ndarray
        (1 + resamples,), NaN where a resample holds no people.

    Raises
    ------
    InputError
        If there are fewer than 100 resamples, too few for the ends of an interval.
    CannotDecide
        If the statistic is undefined on the images as they are.
    """
    images = len(matches.people)
    once = np.ones((1, images), np.int32)
    if images == 0 or np.isnan(statistic(matches, once)).any():
        raise CannotDecide(f"no people among the {images} images: the metric is undefined")
    counts = draw(images, resamples, seed)
    # In chunks, so that memory stays bounded whatever the number of detections.
    rows = max(1, _CHUNK_NUMBERS // max(images, len(matches.score)))
    return np.concatenate([statistic(matches, counts[row : row + rows]) for row in range(0, len(counts), rows)])


def mean_interval(sampled: Sequence[Floats]) -> Interval:
    """Interval of the mean over conditions whose :func:`replicates` were drawn with one seed.

    Raises
    ------
    CannotDecide
        If there are no conditions, or as :func:`interval`.
    """
    if not sampled:
        raise CannotDecide("no conditions to average over")
    return interval(np.mean(sampled, axis=0))
