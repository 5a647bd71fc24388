"""Who disappears and what appears when the same scenes are looked at twice.

A metric on each of two conditions hides exchanges: a detector that loses ten people and finds ten others has the same
miss rate. Here the people and detections themselves are compared, at the threshold that is deployed, as for clean and
attacked images of the same scenes.

>>> import pandas as pd
>>> truth = pd.DataFrame({"image_id": ["a"], "x1": [0.0], "y1": [0.0], "x2": [24.0], "y2": [60.0],
...                       "ignore": [False], "visibility": [1.0]})
>>> clean = pd.DataFrame({"image_id": ["a"], "x1": [0.0], "y1": [0.0], "x2": [24.0], "y2": [60.0], "score": [0.9]})
>>> attacked = clean.assign(x1=100.0, x2=124.0)
>>> seen = exchanges(truth, clean, attacked, ["a"], threshold=0.5)
>>> disappearance_rate(seen), hallucination_rate(seen)
(1.0, 1.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from secpipeline.datasets.geometry import overlap
from secpipeline.detection.assignment import Bools, Floats, Ints
from secpipeline.detection.matching import FALSE_POSITIVE, REASONABLE, TRUE_POSITIVE, Pairs, Subset, match
from secpipeline.detection.metrics import Counts
from secpipeline.errors import CannotDecide, InputError

_BOX = ["x1", "y1", "x2", "y2"]


@dataclass(frozen=True)
class Exchanges:
    """What changed on each of N images between two sets of detections.

    Attributes
    ----------
    found
        (N,) people found before.
    disappeared
        (N,) of those, people not found any more.
    recovered
        (N,) people found now, not before.
    hallucinated
        (N,) detections on nobody where there was no detection before.
    """

    found: Ints
    disappeared: Ints
    recovered: Ints
    hallucinated: Ints


def exchanges(
    truth: pd.DataFrame,
    before: pd.DataFrame,
    after: pd.DataFrame,
    image_ids: Sequence[str],
    threshold: float,
    subset: Subset = REASONABLE,
    iou: float = 0.5,
) -> Exchanges:
    """Compare two prediction tables of the same images, detections below ``threshold`` left out.

    A person is found if :func:`secpipeline.detection.matching.match` gives it a detection. A detection is on nobody if
    it is a false positive and no mere second or badly placed one: it reaches ``iou`` with no box of the truth. It is
    new if it reaches ``iou`` with no detection before.

    Parameters
    ----------
    truth, image_ids, subset, iou
        As for :func:`secpipeline.detection.matching.match`.
    before, after
        image_id, x1, y1, x2, y2, score.
    threshold
        Lowest score of a detection, in [0, 1].

    Raises
    ------
    InputError
        If the threshold is not a number, or as :func:`secpipeline.detection.matching.match`.
    """
    if not np.isfinite(threshold):
        raise InputError(f"threshold: {threshold} is not a score; give a number in [0, 1]")
    sides = [(table, match(truth, table, image_ids, subset, iou)) for table in (before, after)]
    found_before, found_after = (_found(pairs, threshold, len(truth)) for _, pairs in sides)
    image = pd.Index(image_ids).get_indexer(pd.Index(truth["image_id"]))

    def per_image(people: Bools) -> Ints:
        return np.bincount(image[people], minlength=len(image_ids)).astype(np.int64)

    _, pairs = sides[1]
    wrong = pairs.detection[(pairs.state == FALSE_POSITIVE) & (pairs.score >= threshold)]
    suspects = after.iloc[np.sort(wrong)]
    known = pd.concat([truth[["image_id", *_BOX]], before.loc[before["score"] >= threshold, ["image_id", *_BOX]]])
    new = suspects.loc[~_near(suspects, known, iou), "image_id"]
    where = pd.Index(image_ids).get_indexer(pd.Index(new))
    return Exchanges(
        per_image(found_before),
        per_image(found_before & ~found_after),
        per_image(found_after & ~found_before),
        np.bincount(where, minlength=len(image_ids)).astype(np.int64),
    )


def disappearance_rate(seen: Exchanges) -> float:
    """Share of the people found before who are not found any more, in [0, 1].

    Raises
    ------
    CannotDecide
        If nobody was found before.
    """
    return _on_every_image(resampled_disappearance_rate(seen, _once(seen)), "nobody was found before")


def hallucination_rate(seen: Exchanges) -> float:
    """New detections on nobody per image, 0 or more.

    Raises
    ------
    CannotDecide
        If there are no images.
    """
    return _on_every_image(resampled_hallucination_rate(seen, _once(seen)), "there are no images")


def resampled_disappearance_rate(seen: Exchanges, counts: Counts) -> Floats:
    """:func:`disappearance_rate` of each of R resamples (R, N); NaN where nobody was found before."""
    found = counts @ seen.found
    return np.where(found > 0, (counts @ seen.disappeared) / np.maximum(found, 1), np.nan)


def resampled_hallucination_rate(seen: Exchanges, counts: Counts) -> Floats:
    """:func:`hallucination_rate` of each of R resamples (R, N); NaN where a resample is empty."""
    images = counts.sum(axis=1)
    return np.where(images > 0, (counts @ seen.hallucinated) / np.maximum(images, 1), np.nan)


def _found(pairs: Pairs, threshold: float, rows: int) -> Bools:
    """Which rows of the truth have a detection of at least the threshold (rows,)."""
    found = np.zeros(rows, bool)
    found[pairs.person[(pairs.state == TRUE_POSITIVE) & (pairs.score >= threshold)]] = True
    return found


def _near(boxes: pd.DataFrame, others: pd.DataFrame, iou: float) -> Bools:
    """Which of some boxes overlap any of the others on their image by ``iou`` or more (len(boxes),)."""
    near = np.zeros(len(boxes), bool)
    numbered = boxes[["image_id"]].assign(row=np.arange(len(boxes)))
    pairs = numbered.merge(others[["image_id"]].assign(other=np.arange(len(others))), on="image_id")
    corners, other_corners = (table[_BOX].to_numpy(np.float64) for table in (boxes, others))
    share = overlap(corners[pairs["row"]], other_corners[pairs["other"]])
    near[pairs["row"].to_numpy()[share >= iou]] = True
    return near


def _once(seen: Exchanges) -> Counts:
    return np.ones((1, len(seen.found)), np.int32)


def _on_every_image(values: Floats, otherwise: str) -> float:
    if np.isnan(values[0]):
        raise CannotDecide(f"{otherwise}: the rate is undefined")
    return float(values[0])
