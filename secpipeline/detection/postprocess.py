"""From dense outputs to detections, with numpy alone: what serving needs to run without torch.

>>> boxes = np.array([[0, 0, 10, 20], [1, 0, 11, 20], [40, 0, 50, 20]], float)
>>> non_maximum_suppression(boxes, np.array([0.9, 0.8, 0.7]), 0.5).tolist()
[0, 2]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secpipeline.datasets.geometry import area, intersection

Floats = NDArray[np.floating[Any]]

MAX_DETECTIONS = 100
SCORE_THRESHOLD = 0.05


@dataclass(frozen=True)
class Found:
    """What was found in one image, best first: boxes (n, 4) in frame pixels and scores (n,) in [0, 1]."""

    boxes: Floats
    scores: Floats


def non_maximum_suppression(boxes: Floats, scores: Floats, iou: float) -> NDArray[np.int64]:
    """Indices of the boxes that no better box overlaps by more than ``iou``, best first."""
    order = np.argsort(-scores, kind="stable")
    corners = boxes[order]
    areas = area(corners)
    alive = np.ones(len(order), bool)
    kept = []
    for index in range(len(order)):
        if not alive[index]:
            continue
        kept.append(order[index])
        shared = intersection(corners[index], corners[index:])
        union = areas[index] + areas[index:] - shared
        alive[index:] &= shared <= iou * union
    return np.asarray(kept, np.int64)


def postprocess(boxes: Floats, scores: Floats, score_threshold: float, nms_iou: float) -> Found:
    """Drop what is unsure or overlapped in the dense outputs (K, 4) and (K,) of one image."""
    sure = scores >= score_threshold
    kept = non_maximum_suppression(boxes[sure], scores[sure], nms_iou)[:MAX_DETECTIONS]
    return Found(boxes[sure][kept], scores[sure][kept])
