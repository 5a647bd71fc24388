"""torchvision's one-stage detectors: RetinaNet, FCOS and SSDLite.

Each looks once at a fixed grid of anchors, so a batch's targets are made once, the losses are a few operations on
whole tensors without waiting for the accelerator, and the network exports to ONNX.

>>> detector = SsdLite({})
>>> boxes, scores = detector.dense(torch.rand(2, 3, 96, 128))
>>> boxes.shape, scores.shape
(torch.Size([2, 402, 4]), torch.Size([2, 402]))
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection import (
    fcos_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
    ssdlite320_mobilenet_v3_large,
)
from torchvision.models.detection._utils import SSDMatcher

from secpipeline.datasets.loading import Truth
from secpipeline.detection import box_targets
from secpipeline.detection.box_targets import AnchorTargets, Matching
from secpipeline.detection.interface import Encoded
from secpipeline.detection.torchvision_models import PERSON, TorchvisionDetector, grid_anchors

_PYRAMID = (8, 16, 32, 64, 128)


class _OneStage(TorchvisionDetector):
    placing: ClassVar[tuple[str, ...]] = ("bbox_regression",)

    def encode(self, truth: Sequence[Truth], height: int, width: int) -> AnchorTargets:
        """What each anchor should say in images of (height, width) pixels."""
        anchors = self.kept_anchors(self.model.anchor_generator, height, width)
        return box_targets.encode(truth, anchors, self._matching(anchors, height, width))

    def logits(self, images: Tensor) -> Tensor:
        """Person logits (B, A), one an anchor."""
        return self._scored(self._head(images))

    def dense(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """One box and score an anchor."""
        height, width = images.shape[-2:]
        outputs = self._head(images)
        anchors = self._anchors(height, width, images.device)
        boxes = self._decode(outputs["bbox_regression"], anchors)
        return box_targets.clip(boxes, height, width), torch.sigmoid(self._scored(outputs))

    def _head(self, images: Tensor) -> dict[str, Tensor]:
        outputs = self.model.head(self.features(images))
        return {name: output.float() for name, output in outputs.items()}

    def _anchors(self, height: int, width: int, device: torch.device) -> Tensor:
        return grid_anchors(self.model.anchor_generator, self._strides, height, width, device)

    def _matching(self, anchors: Tensor, height: int, width: int) -> Matching:  # noqa: ARG002 - FCOS needs the size
        """By overlap, as torchvision's matcher of this network does it."""
        rule = self.model.proposal_matcher
        return lambda people: box_targets.match_by_overlap(people, anchors, rule, claims=isinstance(rule, SSDMatcher))

    @abstractmethod
    def _scored(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Person logits (B, A)."""

    @abstractmethod
    def _decode(self, regression: Tensor, anchors: Tensor) -> Tensor:
        """Boxes (B, A, 4)."""


class RetinaNet(_OneStage):
    """RetinaNet (Lin et al., ICCV 2017) on a ResNet-50 feature pyramid; ``config`` as for every torchvision network."""

    name = "retinanet_resnet50_fpn_v2"
    _classes = 1
    _strides = _PYRAMID

    def _network(self, settings: Mapping[str, Any]) -> Any:  # noqa: ARG002 - it has no settings of its own
        return retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=1)

    def losses(self, images: Tensor, encoded: Encoded) -> dict[str, Tensor]:
        """Focal loss of the scores and generalised IoU of the boxes, (B,) each."""
        assert isinstance(encoded, AnchorTargets)
        outputs = self._head(images)
        boxes = self._decode(outputs["bbox_regression"], encoded.anchors)
        return {
            "classification": box_targets.focal_loss(self._scored(outputs), encoded),
            "bbox_regression": box_targets.giou_loss(boxes, encoded),
        }

    def _scored(self, outputs: Mapping[str, Tensor]) -> Tensor:
        return outputs["cls_logits"][..., 0]

    def _decode(self, regression: Tensor, anchors: Tensor) -> Tensor:
        return box_targets.decode_deltas(regression, anchors, (1, 1, 1, 1))


class SsdLite(_OneStage):
    """SSD (Liu et al., ECCV 2016) on MobileNetV3 (Howard et al., ICCV 2019); ``config`` as for the others.

    torchvision gives an image without people no loss; here it learns from its hardest anchors, as many as for one
    person, so that it teaches something in training and has a gradient under attack.
    """

    name = "ssdlite320_mobilenet_v3_large"
    _classes = 2
    _strides = (16, 32, 64, 128, 256, 512)

    def _network(self, settings: Mapping[str, Any]) -> Any:  # noqa: ARG002 - it has no settings of its own
        return ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)

    def losses(self, images: Tensor, encoded: Encoded) -> dict[str, Tensor]:
        """Cross-entropy of the positive and the hardest other anchors, and smooth L1 of the boxes, (B,) each."""
        assert isinstance(encoded, AnchorTargets)
        outputs = self._head(images)
        wanted = box_targets.encode_deltas(encoded.boxes, encoded.anchors, self._weights())
        box = box_targets.smooth_l1(outputs["bbox_regression"], wanted, encoded.positive, 1.0)
        people = encoded.people()
        logits = self._scored(outputs)
        entropy = F.binary_cross_entropy_with_logits(logits, encoded.positive.to(logits.dtype), reduction="none")
        hardest = _hardest(entropy.detach(), encoded, self.model.neg_to_pos_ratio * people)
        classification = (entropy * (encoded.positive | hardest)).sum(1)
        return {"classification": classification / people, "bbox_regression": box / people}

    def _weights(self) -> tuple[float, ...]:
        weights: tuple[float, ...] = self.model.box_coder.weights
        return weights

    def _scored(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Person against background: with two classes the softmax is the sigmoid of their difference."""
        classes = outputs["cls_logits"]
        return classes[..., PERSON] - classes[..., 0]

    def _decode(self, regression: Tensor, anchors: Tensor) -> Tensor:
        return box_targets.decode_deltas(regression, anchors, self._weights())


def _hardest(loss: Tensor, targets: AnchorTargets, number: Tensor) -> Tensor:
    """The ``number`` (B,) counted anchors without a person whose loss (B, A) is largest; (B, A) bool."""
    negative = targets.counted & ~targets.positive
    rank = loss.masked_fill(~negative, -1.0).argsort(1, descending=True).argsort(1)
    return negative & (rank < number[:, None])


class Fcos(_OneStage):
    """FCOS (Tian et al., ICCV 2019) on a ResNet-50 feature pyramid; ``config`` as for every torchvision network.

    Its score is the geometric mean of class probability and centredness.
    """

    name = "fcos_resnet50_fpn"
    _classes = 1
    _strides = _PYRAMID

    def _network(self, settings: Mapping[str, Any]) -> Any:  # noqa: ARG002 - it has no settings of its own
        return fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=1)

    def losses(self, images: Tensor, encoded: Encoded) -> dict[str, Tensor]:
        """Focal loss of the class, generalised IoU of the boxes and cross-entropy of the centredness, (B,) each."""
        assert isinstance(encoded, AnchorTargets)
        outputs = self._head(images)
        centredness = outputs["bbox_ctrness"][..., 0]
        boxes = self._decode(outputs["bbox_regression"], encoded.anchors)
        entropy = F.binary_cross_entropy_with_logits(centredness, _centredness(encoded), reduction="none")
        return {
            "classification": box_targets.focal_loss(outputs["cls_logits"][..., 0], encoded),
            "bbox_regression": box_targets.giou_loss(boxes, encoded),
            "bbox_ctrness": (entropy * encoded.positive).sum(1) / encoded.people(),
        }

    def _matching(self, anchors: Tensor, height: int, width: int) -> Matching:
        levels = [-(-height // s) * -(-width // s) for s in self._strides]
        radius = self.model.center_sampling_radius
        return lambda people: box_targets.match_by_preference(
            people, anchors, lambda boxes: _smallness(boxes, anchors, levels, radius)
        )

    def _scored(self, outputs: Mapping[str, Tensor]) -> Tensor:
        log_score = (F.logsigmoid(outputs["cls_logits"]) + F.logsigmoid(outputs["bbox_ctrness"]))[..., 0] / 2
        return log_score - torch.log(-torch.expm1(log_score.clamp(max=-1e-6)))

    def _decode(self, regression: Tensor, anchors: Tensor) -> Tensor:
        """Distances to the four sides, in units of the anchor's size."""
        centre = (anchors[:, :2] + anchors[:, 2:]) / 2
        reach = regression * (anchors[:, 2:] - anchors[:, :2]).repeat(1, 2)
        return torch.cat([centre - reach[..., :2], centre + reach[..., 2:]], dim=-1)


def _smallness(boxes: Tensor, anchors: Tensor, levels: Sequence[int], radius: float) -> Tensor:
    """How much an anchor (A, 4) prefers boxes (B, m, 4): the smallest most; (B, m, A).

    Minus infinity where it does not lie near the box's centre or the box's size does not suit the anchor's level.
    """
    centre, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2] - anchors[:, 0]
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    nearest, furthest, off = _reach(boxes, middle, centre)
    least, most = size * 4, size * 8
    least[: levels[0]], most[-levels[-1] :] = 0, math.inf
    fits = (off < radius * size) & (nearest > 0) & (furthest > least) & (furthest < most)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    return torch.where(fits, -area[..., None], -math.inf)


def _reach(boxes: Tensor, middle: Tensor, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From centres (A, 2) to the nearest and the furthest side of boxes (B, m, 4) and to their middle; (B, m, A)."""
    x, y = centre[:, 0], centre[:, 1]
    left, top, right, bottom = boxes[..., None].unbind(-2)
    before, after = (x - left, y - top), (right - x, bottom - y)
    nearest = torch.minimum(torch.minimum(*before), torch.minimum(*after))
    furthest = torch.maximum(torch.maximum(*before), torch.maximum(*after))
    return nearest, furthest, torch.maximum((x - middle[..., :1]).abs(), (y - middle[..., 1:]).abs())


def _centredness(targets: AnchorTargets) -> Tensor:
    """How far in the middle of its box each positive anchor is (equation 3 of the paper); (B, A)."""
    centre = (targets.anchors[:, :2] + targets.anchors[:, 2:]) / 2
    before, after = centre - targets.boxes[..., :2], targets.boxes[..., 2:] - centre
    return (torch.minimum(before, after) / torch.maximum(before, after)).prod(-1).sqrt()
