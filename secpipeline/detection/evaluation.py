"""One detector, or two beside each other, in numbers that a study can store: everything with its interval.

>>> import pandas as pd
>>> images = pd.DataFrame({"image_id": ["a", "b"]})
>>> boxes = pd.DataFrame({"image_id": ["a", "b"], "x1": [0.0, 0.0], "y1": [0.0, 0.0], "x2": [24.0, 24.0],
...                       "y2": [60.0, 60.0], "ignore": [False, False], "visibility": [1.0, 1.0]})
>>> predictions = boxes[["image_id", "x1", "y1", "x2", "y2"]].assign(score=0.9)
>>> found = evaluate(boxes, predictions, images, threshold=0.5, resamples=200)
>>> found["miss_rate"]["value"], found["mr2"]["heavy"]["value"], found["mr2"]["heavy"]["why"][:16]
(0.0, None, 'nobody among the')
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import pandas as pd

from secpipeline.detection.assignment import Floats
from secpipeline.detection.bootstrap import Difference, Interval, difference, draw, interval
from secpipeline.detection.breakdown import sampled_precisions
from secpipeline.detection.matching import (
    ALL,
    BARE,
    EVERYBODY,
    HEAVY,
    PARTIAL,
    REASONABLE,
    SMALL,
    Subset,
    match,
    match_coco,
)
from secpipeline.detection.metrics import (
    Counts,
    resampled_false_positives_per_image,
    resampled_log_average_miss_rate,
    resampled_miss_rate,
)
from secpipeline.errors import CannotDecide, InputError

# CityPersons' six.
PUBLISHED = (REASONABLE, SMALL, HEAVY, ALL, BARE, PARTIAL)


def evaluate(
    boxes: pd.DataFrame,
    predictions: pd.DataFrame,
    images: pd.DataFrame,
    threshold: float,
    *,
    subset: Subset = REASONABLE,
    subsets: Sequence[Subset] = PUBLISHED,
    resamples: int = 1000,
    seed: int = 0,
    clusters: str | None = None,
) -> dict[str, Any]:
    """Measure one detector.

    Parameters
    ----------
    boxes
        The people: image_id, x1, y1, x2, y2 (pixels), ignore, visibility.
    predictions
        image_id, x1, y1, x2, y2, score.
    images
        The N images that are evaluated, those without people or detections included: image_id, and the column
        ``clusters``. Rows of other images in the other tables are left out.
    threshold
        The deployed score threshold, chosen on other images than these.
    subset
        Whom the miss rate and the false positives at the threshold are about.
    subsets
        Whom the log-average miss rates are about.
    resamples, seed
        Of the bootstrap.
    clusters
        The column of ``images`` whose values are drawn whole, such as ``scene``; images are drawn if there is none.

    Returns
    -------
    dict
        Plain values that JSON can hold: ``images``, ``people``, ``detections``, ``threshold``, ``resamples``, ``seed``,
        ``drawn``; and ``mr2`` by subset, ``ap50``, ``ap75``, ``ap50_95`` (COCO's, everybody), ``miss_rate`` and
        ``fppi``, each ``{"subset", "bounds", "people", "value", "low", "high", "why"}``. Where something cannot be
        measured the numbers are null and ``why`` says why; else ``why`` is null.

    Raises
    ------
    InputError
        If a table is unusable or ``resamples`` too few.
    CannotDecide
        If there are no images, or too few clusters to draw from.
    """
    counts = _draw(images, resamples, seed, clusters)
    measures = _measures(boxes, predictions, images, threshold, subset, subsets, counts)
    return {
        **_facts(boxes, images, resamples, seed, clusters),
        "detections": _rows(predictions, images),
        "threshold": threshold,
        **_report(measures, [partial(interval, one.sampled) for one in measures], Interval),
    }


def compare(
    boxes: pd.DataFrame,
    first: pd.DataFrame,
    second: pd.DataFrame,
    images: pd.DataFrame,
    thresholds: tuple[float, float],
    *,
    subset: Subset = REASONABLE,
    subsets: Sequence[Subset] = PUBLISHED,
    resamples: int = 1000,
    seed: int = 0,
    clusters: str | None = None,
) -> dict[str, Any]:
    """Measure by how much a second detector, or condition, differs from a first on the same images.

    Parameters
    ----------
    boxes, images, subset, subsets, resamples, seed, clusters
        As for :func:`evaluate`.
    first, second
        Predictions.
    thresholds
        The score threshold of each.

    Returns
    -------
    dict
        As of :func:`evaluate`, with ``detections`` and ``thresholds`` of both, and every measure the difference
        ``second - first`` with ``sign_share`` (:class:`secpipeline.detection.bootstrap.Difference`) beside it.

    Raises
    ------
    InputError, CannotDecide
        As :func:`evaluate`.
    """
    counts = _draw(images, resamples, seed, clusters)
    before, after = (
        _measures(boxes, table, images, threshold, subset, subsets, counts)
        for table, threshold in zip((first, second), thresholds, strict=True)
    )
    differences = [partial(difference, one.sampled, other.sampled) for one, other in zip(before, after, strict=True)]
    return {
        **_facts(boxes, images, resamples, seed, clusters),
        "detections": [_rows(first, images), _rows(second, images)],
        "thresholds": list(thresholds),
        **_report(after, differences, Difference),
    }


@dataclass(frozen=True)
class _Measure:
    """One measure on all images and on every resample (1 + R,); ``path`` is its place in the report."""

    path: tuple[str, ...]
    subset: Subset
    people: int
    sampled: Floats


def _measures(
    boxes: pd.DataFrame,
    predictions: pd.DataFrame,
    images: pd.DataFrame,
    threshold: float,
    subset: Subset,
    subsets: Sequence[Subset],
    counts: Counts,
) -> list[_Measure]:
    """Every measure of one detector, always in the same order."""
    if not math.isfinite(threshold):
        raise InputError(f"threshold: {threshold} is not a score; give a number in [0, 1]")
    ids = images["image_id"].tolist()
    measures = []
    for one in subsets:
        found = match(boxes, predictions, ids, one)
        sampled = resampled_log_average_miss_rate(found, counts)
        measures.append(_Measure(("mr2", one.name), one, int(found.people.sum()), sampled))
    coco = match_coco(boxes, predictions, ids)
    for name, sampled in sampled_precisions(coco, counts).items():
        measures.append(_Measure((name,), EVERYBODY, int(coco[0].people.sum()), sampled))
    found = match(boxes, predictions, ids, subset)
    for name, statistic in (("miss_rate", resampled_miss_rate), ("fppi", resampled_false_positives_per_image)):
        measures.append(_Measure((name,), subset, int(found.people.sum()), statistic(found, counts, threshold)))
    return measures


def _report(
    measures: Sequence[_Measure], decisions: Sequence[Callable[[], Interval]], kind: type[Interval]
) -> dict[str, Any]:
    """The measures by their paths; what cannot be decided has a reason instead of numbers."""
    report: dict[str, Any] = {}
    for measure, decide in zip(measures, decisions, strict=True):
        numbers: dict[str, Any] = {field.name: None for field in fields(kind)}
        why = None
        try:
            numbers = decide().to_json()
        except CannotDecide as error:
            why = str(error) if measure.people else f"nobody among the images is {measure.subset}"
        *parents, name = measure.path
        place = report
        for parent in parents:
            place = place.setdefault(parent, {})
        about = {"subset": measure.subset.name, "bounds": measure.subset.bounds, "people": measure.people}
        place[name] = {**about, **numbers, "why": why}
    return report


def _facts(
    boxes: pd.DataFrame, images: pd.DataFrame, resamples: int, seed: int, clusters: str | None
) -> dict[str, Any]:
    people = boxes.loc[boxes["image_id"].isin(images["image_id"]) & ~boxes["ignore"].astype(bool)]
    return {
        "images": len(images),
        "people": len(people),
        "resamples": resamples,
        "seed": seed,
        "drawn": clusters or "image_id",
    }


def _rows(predictions: pd.DataFrame, images: pd.DataFrame) -> int:
    return int(predictions["image_id"].isin(images["image_id"]).sum())


def _draw(images: pd.DataFrame, resamples: int, seed: int, clusters: str | None) -> Counts:
    if missing := [column for column in ("image_id", clusters) if column and column not in images.columns]:
        raise InputError(f"images: the column {missing[0]} is missing")
    named = None if clusters is None else images[clusters].tolist()
    return draw(len(images), resamples, seed, named)
