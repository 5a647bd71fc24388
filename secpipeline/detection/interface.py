"""What every detector offers, whatever it is made of.

Pixels in [0, 1] go in at the detector's frame size, boxes in frame pixels come out; normalisation is inside. Training,
attacks, evaluation and export use nothing else.

>>> encoded = detector.encode(truth, height=144, width=192)               # doctest: +SKIP
>>> sum(detector.losses(images, encoded).values()).mean().backward()      # doctest: +SKIP
>>> detector.detect(images)[0].boxes                                      # doctest: +SKIP
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from secpipeline.datasets.loading import Truth
from secpipeline.detection.postprocess import MAX_DETECTIONS, SCORE_THRESHOLD

CANDIDATES = 300


class Encoded(Protocol):
    """The targets of a batch in a detector's own form, made once and used for every step of an attack."""

    def to(self, device: torch.device) -> Self:
        """The same targets on another device."""

    def __getitem__(self, index: Tensor) -> Self:
        """The targets of some images of the batch; ``index`` is int64 of shape (b,)."""


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best first.

    Attributes
    ----------
    boxes
        float32, (n, 4): x1, y1, x2, y2 in frame pixels.
    scores
        float32, (n,), in [0, 1].
    """

    boxes: Tensor
    scores: Tensor


class Detector(nn.Module, ABC):
    """A pedestrian detector.

    Attributes
    ----------
    name
        Its name in the registry.
    config
        JSON-able arguments that build the same network again.
    nms_iou
        Boxes that overlap a better one by more are dropped.
    placing
        Which of its loss terms say where and how large a person is; empty if none can be told apart.
    not_exportable
        Why it cannot be written as ONNX; empty if it can.
    started_from
        Files of weights, path to SHA-256.
    """

    name: ClassVar[str]
    nms_iou: ClassVar[float] = 0.5
    placing: ClassVar[tuple[str, ...]] = ()
    not_exportable: ClassVar[str] = ""
    config: dict[str, Any]
    started_from: Mapping[str, str] = MappingProxyType({})

    @property
    def device(self) -> torch.device:
        """Where its weights are; the processor for a detector that holds none."""
        held = next(itertools.chain(self.parameters(), self.buffers()), None)
        return torch.device("cpu") if held is None else held.device

    def weight_sources(self) -> dict[str, str]:
        """Files of weights that this detector started from, path to SHA-256: inputs of its training, to be attested."""
        return dict(self.started_from)

    @abstractmethod
    def encode(self, truth: Sequence[Truth], height: int, width: int) -> Encoded:
        """Targets for images of (height, width) pixels; best made on the detector's device."""

    @abstractmethod
    def losses(self, images: Tensor, encoded: Encoded) -> dict[str, Tensor]:
        """Loss terms by name, each (B,), differentiable in ``images`` (B, 3, H, W) and in the weights."""

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """Person logits (B, K) of every place that is looked at, differentiable in ``images``."""

    @abstractmethod
    def dense(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, K, 4) in frame pixels and scores (B, K) in [0, 1], before overlapping ones are dropped."""

    def candidates(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The :data:`CANDIDATES` best of :meth:`dense`; this is what an exported artifact computes."""
        boxes, scores = self.dense(images)
        best, index = scores.topk(min(CANDIDATES, scores.shape[1]), dim=1)
        return boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4)), best

    @torch.no_grad()
    def detect(self, images: Tensor, score_threshold: float = SCORE_THRESHOLD) -> list[Detections]:
        """Detections in each of ``images`` (B, 3, H, W), at most :data:`MAX_DETECTIONS` each."""
        found = []
        for boxes, scores in zip(*self.candidates(images), strict=True):
            sure = scores >= score_threshold
            kept = nms(boxes[sure].float(), scores[sure].float(), self.nms_iou)[:MAX_DETECTIONS]
            found.append(Detections(boxes[sure][kept].float(), scores[sure][kept].float()))
        return found
