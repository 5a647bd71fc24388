"""cleanlab's ObjectLab as a second opinion on every image.

The per-box scores and their pooling are cleanlab's own (Tkachenko, Thyagarajan, Mueller, "ObjectLab:
Automated Diagnosis of Mislabeled Images in Object Detection Data", 2023). Two things around them are ours:
the similarity matrices, because cleanlab computes each overlap four times in a Python loop, and the issue
mask, because ``find_label_issues`` opens a process pool. Both give cleanlab's numbers (a test compares them).

ObjectLab cannot see ghost boxes: a label that nothing overlaps scores a perfect 1.

>>> tests = score_images(judge(images, boxes, predictions))            # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from cleanlab.object_detection.rank import (
    compute_badloc_box_scores,
    compute_overlooked_box_scores,
    pool_box_scores_per_image,
)

from secpipeline.datasets.tables import CORNERS
from secpipeline.poisoning.label_scores import TEST_COLUMNS
from secpipeline.poisoning.pairs import Floats, Judged, corners

# cleanlab 2.9's constants, restated because they are not public.
_ALPHA = 0.9
_DISTANCE_FACTOR = 0.1
_ISSUE_FACTOR = 0.8
_AP_FACTOR = 0.25
_TINY = 1e-100
_AP_IOUS = np.linspace(0.5, 0.95, 10)


def score_images(judged: Judged) -> pd.DataFrame:
    """Test every image with ObjectLab.

    There is one class, so labels cannot be swapped: that third score is 1 everywhere and enters only the
    mean.

    Returns
    -------
    DataFrame
        One row per image with the columns ``TEST_COLUMNS`` of :mod:`secpipeline.poisoning.label_scores`; kind
        is "cleanlab"; evidence is 1 − label quality where cleanlab's issue mask fires and 0 elsewhere.
    """
    quality, overlooked, badly_located = image_quality(judged)
    evidence = np.where(overlooked | badly_located, 1 - quality, 0.0)
    table = judged.images.copy()
    table["kind"], table["box_id"], table["evidence"] = "cleanlab", "", evidence
    words = np.where(overlooked, "a person overlooked", "") + np.where(overlooked & badly_located, " and ", "")
    words += np.where(badly_located, "a box badly located", "")
    table["detail"] = [
        f"cleanlab finds {w} (label quality {q:.2f})" if w else "" for q, w in zip(quality, words, strict=True)
    ]
    for column in (*CORNERS, *(f"p{c}" for c in CORNERS)):
        table[column] = np.nan
    return table[list(TEST_COLUMNS)]


def image_quality(judged: Judged) -> tuple[Floats, np.ndarray[Any, np.dtype[np.bool_]], Any]:
    """Label quality and issue masks of each image.

    Returns
    -------
    quality
        float64 in [0, 1], shape (N,), low where labels look wrong; ``get_label_quality_scores`` of cleanlab.
    overlooked, badly_located
        bool, shape (N,); their union is ``find_label_issues`` of cleanlab.
    """
    inputs = _auxiliary_inputs(judged)
    overlooked = compute_overlooked_box_scores(auxiliary_inputs=inputs)
    located = compute_badloc_box_scores(auxiliary_inputs=inputs)
    pooled = [pool_box_scores_per_image(overlooked), pool_box_scores_per_image(located), np.ones(len(inputs))]
    quality: Floats = np.exp(np.mean(np.log(_TINY + np.stack(pooled)), axis=0))
    threshold = _mean_average_precision(judged) * _AP_FACTOR * _ISSUE_FACTOR
    return quality, _any_below(overlooked, threshold), _any_below(located, threshold)


def _any_below(scores: Sequence[Floats], threshold: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.array([bool((np.nan_to_num(image, nan=1.0) <= threshold).any()) for image in scores], dtype=bool)


def _auxiliary_inputs(judged: Judged) -> list[dict[str, Any]]:
    """What cleanlab derives from labels and predictions, per image, from the pairs already at hand."""
    count = len(judged.images)
    label_boxes, boxes = corners(judged.labels), corners(judged.predictions)
    centre = (label_boxes[:, :2] + label_boxes[:, 2:]) / 2
    distance = np.hypot(*(centre[judged.label] - ((boxes[:, :2] + boxes[:, 2:]) / 2)[judged.prediction]).T)
    similarity = _ALPHA * judged.iou + (1 - _ALPHA) * np.exp(-_DISTANCE_FACTOR * distance)
    smallest = float(similarity[similarity > 0].min(initial=1.0))
    bounds = np.arange(count + 1)
    label_at = np.searchsorted(judged.labels["image"], bounds)
    prediction_at = np.searchsorted(judged.predictions["image"], bounds)
    sizes = np.diff(label_at) * np.diff(prediction_at)
    pair_at = np.concatenate([[0], np.cumsum(sizes)])
    confidence = judged.predictions["score"].to_numpy(dtype="float64")
    inputs = []
    for image in range(count):
        labels, found = slice(*label_at[image : image + 2]), slice(*prediction_at[image : image + 2])
        pairs = slice(*pair_at[image : image + 2])
        shape = (labels.stop - labels.start, found.stop - found.start)
        inputs.append(
            {
                "pred_labels": np.zeros(shape[1], dtype=np.int64),
                "pred_label_probs": confidence[found],
                "pred_bboxes": boxes[found],
                "lab_labels": np.zeros(shape[0], dtype=np.int64),
                "lab_bboxes": label_boxes[labels],
                "similarity_matrix": similarity[pairs].reshape(shape),
                "iou_matrix": judged.iou[pairs].reshape(shape),
                "min_possible_similarity": smallest,
            }
        )
    return inputs


def _mean_average_precision(judged: Judged) -> float:
    """AP averaged over IoU .50 to .95 as cleanlab has it: each prediction bids for its best label only."""
    count = len(judged.predictions)
    best, label = np.zeros(count), np.zeros(count, dtype=np.int64)
    np.maximum.at(best, judged.prediction, judged.iou)
    hits = np.flatnonzero((judged.iou == best[judged.prediction]) & (judged.iou > 0))[::-1]
    label[judged.prediction[hits]] = judged.label[hits]
    order = np.argsort(-judged.predictions["score"].to_numpy(dtype="float64"), kind="stable")
    best, label = best[order], label[order]
    return float(np.mean([_average_precision(best, label, float(iou), len(judged.labels)) for iou in _AP_IOUS]))


def _average_precision(best: Floats, label: Any, iou: float, labels: int) -> float:
    enough = np.flatnonzero(best >= iou)
    true = np.zeros(len(best))
    true[enough[np.unique(label[enough], return_index=True)[1]]] = 1
    recall = np.concatenate([[0.0], np.cumsum(true) / max(labels, 1), [1.0]])
    precision = np.concatenate([[0.0], np.cumsum(true) / np.arange(1, len(best) + 1), [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope[1:]))
