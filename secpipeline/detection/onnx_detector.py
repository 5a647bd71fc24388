"""The exported artifact as it runs in production: onnxruntime and numpy, no torch.

>>> OnnxDetector(path.read_bytes(), size=(144, 192), nms_iou=0.5).detect(images)        # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
from numpy.typing import NDArray

from secpipeline.detection.postprocess import SCORE_THRESHOLD, Found, postprocess
from secpipeline.detection.tables import prediction_table
from secpipeline.errors import InputError


class OnnxDetector:
    """A detector from the bytes of an ONNX file.

    Parameters
    ----------
    model
        The file's bytes; they are what runs, no file is opened.
    size
        Height and width of its input in pixels.
    nms_iou
        Boxes that overlap a better one by more are dropped.

    Raises
    ------
    InputError
        If the bytes are no ONNX model with the input ``images`` and the outputs ``boxes`` and ``scores``.
    """

    def __init__(self, model: bytes, size: tuple[int, int], nms_iou: float) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Weights in another file are not what the digest names: no folder holds any.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise InputError(f"not an ONNX model that onnxruntime can load: {error}") from error
        inputs = [node.name for node in self._session.get_inputs()]
        outputs = [node.name for node in self._session.get_outputs()]
        if inputs != ["images"] or outputs != ["boxes", "scores"]:
            raise InputError(f"the model maps {inputs} to {outputs}; expected images to boxes and scores")
        self.size, self.nms_iou = size, nms_iou

    def detect(
        self, images: NDArray[Any], score_threshold: float = SCORE_THRESHOLD, batch_size: int = 32
    ) -> list[Found]:
        """Detections in each of ``images`` (N, 3, H, W): uint8, or float in [0, 1].

        Raises
        ------
        InputError
            If the images do not have the detector's size.
        """
        if images.ndim != 4 or images.shape[1:] != (3, *self.size):
            raise InputError(
                f"images of shape {images.shape}; this detector takes (N, 3, {self.size[0]}, {self.size[1]})"
            )
        found = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            scaled = batch.astype(np.float32) / 255 if batch.dtype == np.uint8 else batch.astype(np.float32)
            boxes, scores = self._session.run(None, {"images": scaled})
            found += [postprocess(b, s, score_threshold, self.nms_iou) for b, s in zip(boxes, scores, strict=True)]
        return found

    def predict(
        self, images: NDArray[Any], image_ids: Sequence[str], score_threshold: float = SCORE_THRESHOLD
    ) -> pd.DataFrame:
        """The same as a predictions table: image_id, x1, y1, x2, y2, score."""
        found = self.detect(images, score_threshold)
        return prediction_table(image_ids, [f.boxes for f in found], [f.scores for f in found])
