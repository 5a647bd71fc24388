"""Predictions for a set of images.

>>> predict(detector, images, image_ids)                                  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from secpipeline.detection.interface import Detector
from secpipeline.detection.postprocess import SCORE_THRESHOLD
from secpipeline.detection.tables import prediction_table


def predict(
    detector: Detector,
    images: NDArray[np.uint8],
    image_ids: Sequence[str],
    batch_size: int = 32,
    score_threshold: float = SCORE_THRESHOLD,
) -> pd.DataFrame:
    """Detect in every image.

    Parameters
    ----------
    detector
        Left in the mode it was in.
    images
        (N, 3, H, W) uint8 in the detector's frame.
    image_ids
        The N names.
    batch_size, score_threshold
        Images at once; detections below the score are left out.

    Returns
    -------
    DataFrame
        image_id, x1, y1, x2, y2, score.
    """
    was_training = detector.training
    detector.eval()
    boxes: list[NDArray[Any]] = []
    scores: list[NDArray[Any]] = []
    try:
        for start in tqdm(range(0, len(images), batch_size), "predict", disable=None, leave=False):
            batch = torch.from_numpy(images[start : start + batch_size]).to(detector.device).float() / 255
            for found in detector.detect(batch, score_threshold):
                boxes.append(found.boxes.cpu().numpy())
                scores.append(found.scores.cpu().numpy())
    finally:
        detector.train(was_training)
    return prediction_table(image_ids, boxes, scores)
