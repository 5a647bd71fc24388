"""Labels and predictions side by side: checked tables, pairs that share an image, one-to-one matching.

>>> judged = judge(images, boxes, predictions)          # doctest: +SKIP
>>> judged.iou[match_one_to_one(judged)]                # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from secpipeline.datasets.geometry import covered, overlap
from secpipeline.datasets.tables import CORNERS
from secpipeline.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# A prediction that lies by half in an ignored region says nothing: nobody promised labels there.
_IGNORED_SHARE = 0.5


@dataclass(frozen=True)
class Judged:
    """Labels that count, predictions that count, and every pair of the two in one image.

    Attributes
    ----------
    images
        image_id, source and scene, one row an image.
    labels
        Boxes that are not ignored, plus ``image`` (row of ``images``); sorted by it.
    predictions
        Predictions outside ignored regions, plus ``image``; sorted by it.
    label, prediction
        Rows of ``labels`` and ``predictions``, shape (P,): the pairs.
    iou
        Intersection over union of each pair, shape (P,).
    """

    images: pd.DataFrame
    labels: pd.DataFrame
    predictions: pd.DataFrame
    label: Ints
    prediction: Ints
    iou: Floats


def judge(images: pd.DataFrame, boxes: pd.DataFrame, predictions: pd.DataFrame) -> Judged:
    """Check the three tables and pair labels with predictions.

    Parameters
    ----------
    images
        Image table; image_id, source and scene are read.
    boxes
        Box table; pixels.
    predictions
        Out-of-fold predictions in the same pixels: image_id, x1, y1, x2, y2, score in [0, 1].

    Raises
    ------
    InputError
        If a column is missing, an image_id occurs twice or is unknown, a number is not finite, a box has no
        area, or a score lies outside [0, 1]; the message names the row.
    """
    _require("images", images, ("image_id", "source", "scene"))
    _require("boxes", boxes, ("box_id", "image_id", *CORNERS, "ignore"))
    _require("predictions", predictions, ("image_id", *CORNERS, "score"))
    if images["image_id"].duplicated().any():
        twice = images.loc[images["image_id"].duplicated(), "image_id"].iloc[0]
        raise InputError(f"the image table holds {twice} twice; audit a validated release")
    rows = pd.Series(np.arange(len(images)), index=images["image_id"])
    boxes = _located("boxes", boxes, rows)
    predictions = _located("predictions", predictions, rows)
    scores = predictions["score"].to_numpy(dtype="float64")
    if not ((scores >= 0) & (scores <= 1)).all():
        row = predictions.loc[~((scores >= 0) & (scores <= 1))].iloc[0]
        raise InputError(f"predictions of {row['image_id']}: a score of {row['score']} is outside [0, 1]")
    ignored = boxes["ignore"].to_numpy(dtype=bool)
    predictions = _outside(predictions, boxes[ignored])
    labels = boxes[~ignored].reset_index(drop=True)
    label, prediction = same_image(labels["image"].to_numpy(), predictions["image"].to_numpy(), len(images))
    iou = overlap(corners(labels)[label], corners(predictions)[prediction])
    table = images[["image_id", "source", "scene"]].reset_index(drop=True)
    return Judged(table, labels, predictions, label, prediction, iou)


def _require(name: str, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    if missing := [column for column in columns if column not in frame.columns]:
        raise InputError(f"the {name} table has no column {', '.join(missing)}")


def _located(name: str, frame: pd.DataFrame, rows: pd.Series[Any]) -> pd.DataFrame:
    unknown = ~frame["image_id"].isin(rows.index)
    if unknown.any():
        first = frame.loc[unknown, "image_id"].iloc[0]
        raise InputError(f"{name}: {first} is no image of this release; use predictions and boxes of the same release")
    xyxy = corners(frame)
    bad = ~np.isfinite(xyxy).all(axis=1) | (xyxy[:, 2] <= xyxy[:, 0]) | (xyxy[:, 3] <= xyxy[:, 1])
    if bad.any():
        row = frame.iloc[int(np.flatnonzero(bad)[0])]
        raise InputError(f"{name}: {row['image_id']} has a box {[float(row[c]) for c in CORNERS]} without an area")
    located = frame.assign(image=frame["image_id"].map(rows).to_numpy(dtype="int64"))
    return located.sort_values("image", kind="stable").reset_index(drop=True)


def corners(frame: pd.DataFrame) -> Floats:
    """The box corners of a table, float64, shape (n, 4)."""
    return frame[list(CORNERS)].to_numpy(dtype="float64").reshape(-1, 4)


def same_image(a: Ints, b: Ints, images: int) -> tuple[Ints, Ints]:
    """Rows (i, j) of all pairs with a[i] == b[j]; ``b`` is sorted."""
    start = np.searchsorted(b, np.arange(images))
    count = np.bincount(b, minlength=images)
    repeats = count[a]
    first = np.repeat(np.arange(len(a)), repeats)
    within = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    return first, start[a][first] + within


def _outside(predictions: pd.DataFrame, ignored: pd.DataFrame) -> pd.DataFrame:
    if ignored.empty or predictions.empty:
        return predictions
    images = int(max(predictions["image"].max(), ignored["image"].max())) + 1
    region, row = same_image(ignored["image"].to_numpy(), predictions["image"].to_numpy(), images)
    inside = covered(corners(predictions)[row], corners(ignored)[region]) > _IGNORED_SHARE
    return predictions[~np.isin(np.arange(len(predictions)), row[inside])].reset_index(drop=True)


def match_one_to_one(judged: Judged, min_iou: float = 0.1) -> Ints:
    """Match each label with at most one prediction, best product of score and overlap first.

    The score belongs in the product because a weak duplicate often overlaps a label better than the confident
    box does, and would leave that one unmatched. Repeatedly taking every pair that is the best left for both
    its members gives the same matching as going through all pairs in descending order, without a loop over
    pairs.

    Returns
    -------
    ndarray
        Positions in ``judged.label`` of the matched pairs, int64.
    """
    score = judged.predictions["score"].to_numpy(dtype="float64")[judged.prediction]
    left = np.flatnonzero(judged.iou >= min_iou)
    left = left[np.argsort(-(score * judged.iou)[left], kind="stable")]
    matched = [np.zeros(0, dtype=np.int64)]
    while left.size:
        best_of_label = np.zeros(left.size, dtype=bool)
        best_of_prediction = np.zeros(left.size, dtype=bool)
        best_of_label[np.unique(judged.label[left], return_index=True)[1]] = True
        best_of_prediction[np.unique(judged.prediction[left], return_index=True)[1]] = True
        taken = left[best_of_label & best_of_prediction]
        matched.append(taken)
        free = ~np.isin(judged.label[left], judged.label[taken])
        free &= ~np.isin(judged.prediction[left], judged.prediction[taken])
        left = left[free]
    return np.sort(np.concatenate(matched))
