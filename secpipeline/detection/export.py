"""Export to ONNX, and how far the artifact's predictions are from the detector's.

>>> to_onnx(detector, Path("detector.onnx"), size=(144, 192))             # doctest: +SKIP
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from secpipeline.detection.interface import Detector
from secpipeline.errors import InputError
from secpipeline.store import write_atomic

_OPSET = 18
# Detections of one person are at most this share of its width apart.
_SAME_SHIFT = 0.5
_FAR = 1e6


class _Candidates(nn.Module):
    """The best candidates of each image, before overlapping ones are dropped."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [0, 1] to boxes (B, k, 4) and scores (B, k)."""
        return self.detector.candidates(images)


def to_onnx(detector: Detector, path: Path, size: tuple[int, int]) -> None:
    """Write a checked ONNX file: ``images`` (N, 3, H, W) in, ``boxes`` (N, k, 4) and ``scores`` (N, k) out, any N.

    Raises
    ------
    InputError
        If this detector cannot be exported.
    """
    if detector.not_exportable:
        raise InputError(
            f"{detector.name}: its network cannot be exported to ONNX ({detector.not_exportable}); deploy a detector "
            "that can, such as csp_tiny"
        )
    example = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    batch = torch.export.Dim("batch", min=1, max=1024)
    detector.eval()
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        target = Path(directory) / "model.onnx"
        try:
            torch.onnx.export(
                _Candidates(detector),
                (example,),
                target,
                input_names=["images"],
                output_names=["boxes", "scores"],
                opset_version=_OPSET,
                dynamic_shapes={"images": {0: batch}},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            reason = type(error.__cause__ or error).__name__
            raise InputError(
                f"{detector.name}: its network cannot be exported to ONNX ({reason}); deploy a detector that can, "
                "such as csp_tiny"
            ) from error
        model = onnx.load(target)
    _strip_origin(model)
    onnx.checker.check_model(model)
    write_atomic(path, model.SerializeToString(deterministic=True))


def _strip_origin(model: onnx.ModelProto) -> None:
    """Remove notes about the exporting machine's source files: equal weights give equal bytes on every machine."""
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]


def agreement(trained: pd.DataFrame, exported: pd.DataFrame, score_floor: float = 0.1) -> dict[str, float]:
    """How far two predictions tables are apart, after matching detections of the same image one to one.

    Parameters
    ----------
    trained, exported
        Predictions tables.
    score_floor
        Detections that neither side scores this high are left out.

    Returns
    -------
    dict
        ``max_box_difference`` (pixels, over all corners), ``max_score_difference``, ``unmatched`` and ``compared``.
    """
    box, score, unmatched, compared = 0.0, 0.0, 0, 0
    left, right = dict(list(trained.groupby("image_id"))), dict(list(exported.groupby("image_id")))
    for image_id in left.keys() | right.keys():
        a = left.get(image_id, trained.iloc[:0])[["x1", "y1", "x2", "y2", "score"]].to_numpy(float)
        b = right.get(image_id, exported.iloc[:0])[["x1", "y1", "x2", "y2", "score"]].to_numpy(float)
        distance = np.abs(a[:, None, :4] - b[None, :, :4]).max(axis=2, initial=0.0)
        same = distance <= _SAME_SHIFT * np.maximum(a[:, 2] - a[:, 0], 1.0)[:, None]
        # Every pair that cannot be one detection costs the same, so that none of them breaks up a pair that can.
        rows, columns = linear_sum_assignment(np.where(same, distance, _FAR))
        pairs = same[rows, columns] & (np.maximum(a[rows, 4], b[columns, 4]) >= score_floor)
        rows, columns = rows[pairs], columns[pairs]
        compared += len(rows)
        sure = int((a[:, 4] >= score_floor).sum() + (b[:, 4] >= score_floor).sum())
        unmatched += sure - int((a[rows, 4] >= score_floor).sum() + (b[columns, 4] >= score_floor).sum())
        if len(rows):
            box = max(box, float(distance[rows, columns].max()))
            score = max(score, float(np.abs(a[rows, 4] - b[columns, 4]).max()))
    return {
        "max_box_difference": box,
        "max_score_difference": score,
        "unmatched": unmatched,
        "compared": compared,
    }
