"""One condition in numbers: what is measured of a set of predictions, with how sure it is.

>>> list(MEASURES)
['ap50', 'mr2', 'miss_rate', 'fppi']
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from secpipeline.detection import metrics
from secpipeline.detection.assignment import Floats, Ints
from secpipeline.detection.bootstrap import Interval, interval
from secpipeline.detection.matching import Matches, Subset, match
from secpipeline.errors import CannotDecide
from secpipeline.robustness.statistics import mean_interval, replicates

# Names in reports and in words.
MEASURES = {"ap50": "AP50", "mr2": "MR-2", "miss_rate": "miss rate", "fppi": "FPPI"}


@dataclass(frozen=True)
class Measured:
    """The measures of one condition.

    Attributes
    ----------
    intervals
        By key of :data:`MEASURES`; none where the images hold no people, so that there is nothing to measure.
    precision
        Replicates of AP50, for means and differences over conditions.
    """

    intervals: dict[str, Interval | None]
    precision: Floats | None

    def to_json(self) -> dict[str, Any]:
        """``{"ap50": {"value", "low", "high"}, …}``, null where undefined."""
        return {name: found.to_json() if found else None for name, found in self.intervals.items()}

    def value(self, name: str) -> float | None:
        """The value of one measure alone."""
        found = self.intervals[name]
        return found.value if found else None


@dataclass(frozen=True)
class Yardstick:
    """Everything a measurement needs besides the predictions.

    Attributes
    ----------
    boxes
        The people, in the detector's frame.
    image_ids
        The images, in order.
    subset
        Whom the metrics are about.
    threshold
        The deployed score threshold.
    resamples, seed
        Of the bootstrap; the same seed makes conditions paired.
    """

    boxes: pd.DataFrame
    image_ids: tuple[str, ...]
    subset: Subset
    threshold: float
    resamples: int
    seed: int

    def matches(self, predictions: pd.DataFrame, image_ids: Sequence[str] | None = None) -> Matches:
        """Match predictions on all images, or on some of them."""
        return match(self.boxes, predictions, self.image_ids if image_ids is None else image_ids, self.subset)

    def people(self) -> Ints:
        """How many people are to be found in each image (N,)."""
        return self.matches(self.boxes.iloc[:0].assign(score=0.0)).people

    def measure(self, predictions: pd.DataFrame) -> Measured:
        """Every measure of one condition."""
        matches = self.matches(predictions)
        statistics = {
            "ap50": metrics.resampled_average_precision,
            "mr2": metrics.resampled_log_average_miss_rate,
            "miss_rate": partial(metrics.resampled_miss_rate, threshold=self.threshold),
            "fppi": partial(metrics.resampled_false_positives_per_image, threshold=self.threshold),
        }
        sampled = {name: self._replicates(matches, statistic) for name, statistic in statistics.items()}
        intervals = {name: _interval(found) for name, found in sampled.items()}
        return Measured(intervals, sampled["ap50"])

    def average_precision(self, predictions: pd.DataFrame, image_ids: Sequence[str]) -> float | None:
        """AP50 on some of the images, or none if they hold no people."""
        matches = self.matches(predictions, image_ids)
        return metrics.average_precision(matches) if matches.people.sum() > 0 else None

    def _replicates(self, matches: Matches, statistic: Any) -> Floats | None:
        # Too few people is a finding of its own: the report says null and the gate says inconclusive.
        try:
            return replicates(matches, statistic, self.resamples, self.seed)
        except CannotDecide:
            return None


def mean_precision(measured: Sequence[Measured]) -> Interval | None:
    """AP50 in the mean over conditions, paired; none if any is undefined."""
    sampled = [one.precision for one in measured]
    if not sampled or any(one is None for one in sampled):
        return None
    try:
        return mean_interval([one for one in sampled if one is not None])
    except CannotDecide:
        return None


def _interval(sampled: Floats | None) -> Interval | None:
    if sampled is None:
        return None
    try:
        return interval(sampled)
    except CannotDecide:
        return None
