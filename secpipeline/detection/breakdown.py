"""For whom a detector works: precision and misses by size, visibility, time of day and source, in one table.

>>> import pandas as pd
>>> from secpipeline.detection.bootstrap import draw
>>> images = pd.DataFrame({"image_id": ["a", "b"], "time_of_day": ["day", "night"], "source": ["x", "x"]})
>>> boxes = pd.DataFrame({"image_id": ["a", "b"], "x1": [0.0, 0.0], "y1": [0.0, 0.0], "x2": [24.0, 24.0],
...                       "y2": [60.0, 60.0], "ignore": [False, False], "visibility": [1.0, 1.0]})
>>> predictions = pd.DataFrame({"image_id": ["a"], "x1": [0.0], "y1": [0.0], "x2": [24.0], "y2": [60.0],
...                             "score": [0.9]})
>>> table = breakdown(boxes, predictions, images, 0.5, draw(2, resamples=200, seed=0))
>>> table.loc[table["by"] == "time_of_day", ["group", "people", "ap50", "miss_rate"]].values.tolist()
[['day', 1, 1.0, 0.0], ['night', 1, 0.0, 1.0]]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from secpipeline.detection.assignment import Floats, Ints
from secpipeline.detection.bootstrap import interval
from secpipeline.detection.matching import COCO_IOUS, EVERYBODY, Matches, Subset, match_coco
from secpipeline.detection.metrics import Counts, resampled_average_precision, resampled_miss_rate
from secpipeline.errors import CannotDecide, InputError

# COCO's three sizes, by the area of the box.
AREAS = (
    Subset("small", max_area=32**2),
    Subset("medium", min_area=32**2, max_area=96**2),
    Subset("large", min_area=96**2),
)
# The three scales of Dollár et al., PAMI 2012.
HEIGHTS = (
    Subset("far", max_height=30),
    Subset("medium", min_height=30, max_height=80),
    Subset("near", min_height=80),
)
# CityPersons' three shares (Bare, Partial, Heavy), and what it leaves out, at any height.
VISIBILITIES = (
    Subset("bare", min_visibility=0.9),
    Subset("partial", min_visibility=0.65, max_visibility=0.9),
    Subset("heavy", min_visibility=0.2, max_visibility=0.65),
    Subset("hidden", max_visibility=0.2),
)
MEASURES = ("ap50", "ap75", "ap50_95", "miss_rate")


def breakdown(
    boxes: pd.DataFrame,
    predictions: pd.DataFrame,
    images: pd.DataFrame,
    threshold: float,
    counts: Counts,
    by: Sequence[str] = ("time_of_day", "source"),
) -> pd.DataFrame:
    """AP50, AP75, AP50:95 and miss rate of groups of people and of images, each with its 95 % interval.

    Groups of people follow COCO's rule for its sizes (:func:`secpipeline.detection.matching.match_coco`); all bounds
    are closed, so that a person on a border is in both groups. Groups of images are drawn together with the others,
    so that all rows are paired.

    Detections have no visibility, so all false positives count in every range of it, and AP is the lower the fewer
    people a range has: of two ranges, only the miss rates can be compared.

    Parameters
    ----------
    boxes, predictions
        As for :func:`secpipeline.detection.matching.match_coco`.
    images
        The N images, with image_id and the columns of ``by``.
    threshold
        Lowest score of a detection, for the miss rate.
    counts
        (1 + R, N) of :func:`secpipeline.detection.bootstrap.draw`.
    by
        Columns of ``images``; each of their values is a group.

    Returns
    -------
    DataFrame
        One row a group: by, group, bounds, images, people, each of :data:`MEASURES` with ``_low`` and ``_high``, and
        why. NaN where a group has nobody, and for an interval where too few resamples have anybody; why says so then,
        and is missing else.

    Raises
    ------
    InputError
        If a column is missing, ``counts`` are of other images, or as :func:`secpipeline.detection.matching.match_coco`.
    """
    if missing := [column for column in ("image_id", *by) if column not in images.columns]:
        raise InputError(f"images: the column {missing[0]} is missing")
    if counts.shape[1] != len(images):
        raise InputError(f"counts of {counts.shape[1]} images for {len(images)}: draw them anew")
    ids = images["image_id"].tolist()
    rows = []

    def add(dimension: str, group: str, bounds: str, found: Sequence[Matches], drawn: Counts) -> None:
        rows.append({"by": dimension, "group": group, "bounds": bounds} | _measured(found, drawn, threshold))

    everybody = match_coco(boxes, predictions, ids)
    add("all", EVERYBODY.name, EVERYBODY.bounds, everybody, counts)
    for dimension, subsets in (("area", AREAS), ("height", HEIGHTS), ("visibility", VISIBILITIES)):
        for subset in subsets:
            add(dimension, subset.name, subset.bounds, match_coco(boxes, predictions, ids, subset), counts)
    for column in by:
        for group, here in _groups(images[column]):
            add(column, group, "", [_only(found, here) for found in everybody], counts[:, here])
    return pd.DataFrame(rows)


def sampled_precisions(found: Sequence[Matches], counts: Counts) -> dict[str, Floats]:
    """AP50, AP75 and AP50:95 on each of R resamples (R,), from the matches at :data:`COCO_IOUS`.

    Raises
    ------
    InputError
        If the matches are not at those ten thresholds.
    """
    if len(found) != len(COCO_IOUS):
        raise InputError(f"matches at {len(found)} thresholds: AP50:95 needs those of COCO_IOUS")
    sampled = np.array([resampled_average_precision(one, counts) for one in found])
    return {"ap50": sampled[0], "ap75": sampled[COCO_IOUS.index(0.75)], "ap50_95": sampled.mean(axis=0)}


def _measured(found: Sequence[Matches], counts: Counts, threshold: float) -> dict[str, Any]:
    row: dict[str, Any] = {"images": counts.shape[1], "people": int(found[0].people.sum()), "why": None}
    missed = resampled_miss_rate(found[0], counts, threshold)
    for name, sampled in (sampled_precisions(found, counts) | {"miss_rate": missed}).items():
        row |= {name: sampled[0], f"{name}_low": np.nan, f"{name}_high": np.nan}
        try:
            measured = interval(sampled)
        except CannotDecide as error:
            row["why"] = str(error) if row["people"] else "the group has nobody"
            continue
        row |= {f"{name}_low": measured.low, f"{name}_high": measured.high}
    return row


def _groups(column: pd.Series) -> Iterator[tuple[str, Ints]]:
    """Each value with the positions of its images, in order."""
    values = column.astype(object).where(column.notna(), "").astype(str).replace("", "unknown")
    for value in sorted(values.unique()):
        yield value, np.flatnonzero(values == value)


def _only(found: Matches, here: Ints) -> Matches:
    """The matches of some images."""
    place = np.full(len(found.people), -1)
    place[here] = np.arange(len(here))
    kept = place[found.image_index] >= 0
    return Matches(place[found.image_index[kept]], found.score[kept], found.state[kept], found.people[here])
