"""cleanlab's ObjectLab as a second opinion on every image.

The scores are cleanlab 2.9's (Tkachenko, Thyagarajan, Mueller, "ObjectLab: Automated Diagnosis of Mislabeled Images
in Object Detection Data", 2023), computed on all pairs of a release at once: cleanlab goes through labels and
predictions one by one in Python, computes each overlap four times, and opens a process pool. The numbers are the same
(a test compares them with cleanlab's own).

ObjectLab cannot see ghost boxes: a label that nothing overlaps scores a perfect 1.

>>> tests = score_images(judge(images, boxes, predictions))            # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from secpipeline.datasets.tables import CORNERS
from secpipeline.poisoning.label_scores import TEST_COLUMNS
from secpipeline.poisoning.pairs import Bools, Floats, Ints, Judged, corners

# cleanlab 2.9's constants, restated because they are not public.
_ALPHA = 0.9
_DISTANCE_FACTOR = 0.1
_SURE, _LIKELY = 0.95, 0.5
_TEMPERATURE = 0.1
_ISSUE_FACTOR = 0.8
_AP_FACTOR = 0.25
_TINY = 1e-100
_AP_IOUS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class Collected:
    """What cleanlab's scores need to know of the whole release; of parts in its order, it adds up to that of both.

    Attributes
    ----------
    smallest
        The smallest similarity above 0 of any pair, 1 if there is none.
    score, best, label
        By prediction: its score, its largest overlap with a label, and that label's row, shape (n,).
    labels
        How many labels there are.
    """

    smallest: float
    score: Floats
    best: Floats
    label: Ints
    labels: int

    @classmethod
    def of(cls, judged: Judged) -> Collected:
        """Collect one part."""
        similarity = _similarity(judged)
        count = len(judged.predictions)
        best, label = np.zeros(count), np.zeros(count, dtype=np.int64)
        np.maximum.at(best, judged.prediction, judged.iou)
        hits = np.flatnonzero((judged.iou == best[judged.prediction]) & (judged.iou > 0))[::-1]
        label[judged.prediction[hits]] = judged.label[hits]
        smallest = float(similarity[similarity > 0].min(initial=1.0))
        score = judged.predictions["score"].to_numpy(dtype="float64")
        return cls(smallest, score, best, label, len(judged.labels))

    @classmethod
    def total(cls, parts: Iterable[Collected]) -> Collected:
        """All parts together."""
        all_parts = list(parts)
        first = np.cumsum([0, *(part.labels for part in all_parts)])
        return cls(
            min(part.smallest for part in all_parts),
            np.concatenate([part.score for part in all_parts]),
            np.concatenate([part.best for part in all_parts]),
            np.concatenate([part.label + start for part, start in zip(all_parts, first, strict=False)]),
            int(first[-1]),
        )

    def issue_threshold(self) -> float:
        """Boxes with scores up to this are issues: a share of the average precision over IoU .50 to .95.

        Average precision as cleanlab has it: each prediction bids for its best label only.
        """
        order = np.argsort(-self.score, kind="stable")
        best, label = self.best[order], self.label[order]
        average = np.mean([_average_precision(best, label, float(iou), self.labels) for iou in _AP_IOUS])
        return float(average) * _AP_FACTOR * _ISSUE_FACTOR


def score_images(judged: Judged, collected: Collected | None = None) -> pd.DataFrame:
    """Test every image with ObjectLab.

    There is one class, so labels cannot be swapped: that third score is 1 everywhere and enters only the
    mean.

    Parameters
    ----------
    judged
        Some or all images of a release.
    collected
        Of the whole release; of ``judged`` by default.

    Returns
    -------
    DataFrame
        One row per image with the columns ``TEST_COLUMNS`` of :mod:`secpipeline.poisoning.label_scores`; kind
        is "cleanlab"; evidence is 1 − label quality where cleanlab's issue mask fires and 0 elsewhere.
    """
    quality, overlooked, badly_located = image_quality(judged, collected)
    evidence = np.where(overlooked | badly_located, 1 - quality, 0.0)
    words = np.where(overlooked, "a person overlooked", "") + np.where(overlooked & badly_located, " and ", "")
    words += np.where(badly_located, "a box badly located", "")
    detail = [f"cleanlab finds {w} (label quality {q:.2f})" if w else "" for q, w in zip(quality, words, strict=True)]
    missing = dict.fromkeys((*CORNERS, *(f"p{c}" for c in CORNERS)), np.nan)
    return judged.images.assign(
        kind="cleanlab", box_id="", evidence=evidence, **missing, detail=detail, stratum=0, strength=evidence
    )[list(TEST_COLUMNS)]


def image_quality(judged: Judged, collected: Collected | None = None) -> tuple[Floats, Bools, Bools]:
    """Label quality and issue masks of each image.

    Parameters
    ----------
    judged, collected
        As for :func:`score_images`.

    Returns
    -------
    quality
        float64 in [0, 1], shape (N,), low where labels look wrong; ``get_label_quality_scores`` of cleanlab.
    overlooked, badly_located
        bool, shape (N,); their union is ``find_label_issues`` of cleanlab.
    """
    collected = collected or Collected.of(judged)
    images = len(judged.images)
    overlooked, located = box_scores(judged, collected.smallest)
    sides = (judged.predictions["image"].to_numpy(), overlooked), (judged.labels["image"].to_numpy(), located)
    pooled = [_softmin(image[~np.isnan(score)], score[~np.isnan(score)], images) for image, score in sides]
    quality: Floats = np.exp(np.mean(np.log(_TINY + np.stack([*pooled, np.ones(images)])), axis=0))
    threshold = collected.issue_threshold()
    flagged = [np.bincount(image[score <= threshold], minlength=images) > 0 for image, score in sides]
    return quality, flagged[0], flagged[1]


def box_scores(judged: Judged, smallest: float) -> tuple[Floats, Floats]:
    """The score that cleanlab gives each box, low where it looks wrong.

    Parameters
    ----------
    judged
        Labels and predictions.
    smallest
        See :class:`Collected`.

    Returns
    -------
    overlooked
        float64, one per prediction, NaN where it is unsure or a label overlaps it.
    located
        float64, one per label, 1 where no likely prediction overlaps it.
    """
    score = judged.predictions["score"].to_numpy(dtype="float64")
    similarity = _similarity(judged)
    overlooked = np.full(len(score), -1.0)
    np.maximum.at(overlooked, judged.prediction, similarity)
    overlooked = np.where(overlooked < 0, smallest * (1 - score), overlooked)
    overlooked[judged.prediction[judged.iou > 0]] = np.nan
    overlooked[score < _SURE] = np.nan
    located = np.full(len(judged.labels), -1.0)
    likely = (judged.iou > 0) & (score[judged.prediction] > _LIKELY)
    np.maximum.at(located, judged.label[likely], similarity[likely])
    return overlooked, np.where(located < 0, 1.0, located)


def _similarity(judged: Judged) -> Floats:
    """Overlap and nearness of each pair, in [0, 1]."""
    centre, other = ((box[:, :2] + box[:, 2:]) / 2 for box in (corners(judged.labels), corners(judged.predictions)))
    distance = np.hypot(*(centre[judged.label] - other[judged.prediction]).T)
    similarity: Floats = _ALPHA * judged.iou + (1 - _ALPHA) * np.exp(-_DISTANCE_FACTOR * distance)
    return similarity


def _softmin(image: Ints, score: Floats, images: int) -> Floats:
    """The mean of each image's scores, weighted towards the lowest; 1 where it has none."""
    lowest = np.full(images, np.inf)
    np.minimum.at(lowest, image, score)
    weight = np.exp((lowest[image] - score) / _TEMPERATURE)
    total = np.bincount(image, weight, minlength=images)
    mean = np.bincount(image, weight * score, minlength=images) / np.where(total > 0, total, 1)
    pooled: Floats = np.where(total > 0, mean, 1.0)
    return pooled


def _average_precision(best: Floats, label: Ints, iou: float, labels: int) -> float:
    enough = np.flatnonzero(best >= iou)
    true = np.zeros(len(best))
    true[enough[np.unique(label[enough], return_index=True)[1]]] = 1
    recall = np.concatenate([[0.0], np.cumsum(true) / max(labels, 1), [1.0]])
    precision = np.concatenate([[0.0], np.cumsum(true) / np.arange(1, len(best) + 1), [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope[1:]))
