"""What each anchor should say, decided once a batch so that every step of an attack reuses it.

>>> anchors = torch.tensor([[0.0, 0, 10, 20], [40, 0, 50, 20]])
>>> people = Truth(np.array([[0, 0, 10, 20]], np.float32), np.zeros((0, 4), np.float32))
>>> encode([people], anchors, lambda boxes: torch.tensor([0, -1])).positive.tolist()
[[True, False]]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from secpipeline.datasets.loading import Truth
from secpipeline.detection.targets import TensorTargets

# Matches boxes (n, 4), n > 0, to anchors: (A,) of box indices, -1 for background, -2 for neither.
Matching = Callable[[Tensor], Tensor]

BACKGROUND, NEITHER = -1, -2
# A box may be this many times larger than its anchor, as a logarithm; torchvision cuts it off there too.
_LARGEST = math.log(1000 / 16)
# An anchor lies in an ignored region if this share of its area does.
_IGNORED_SHARE = 0.5


@dataclass(frozen=True)
class AnchorTargets(TensorTargets):
    """Targets of B images with A anchors each.

    Attributes
    ----------
    positive
        (B, A) bool, anchors that should find a person.
    counted
        (B, A) bool, anchors whose score is learned: not those between person and background or in ignored regions.
    boxes
        (B, A, 4), the person's box in frame pixels at positive anchors, the anchor itself elsewhere.
    anchors
        (A, 4), in frame pixels; the same in every image.
    """

    positive: Tensor
    counted: Tensor
    boxes: Tensor
    anchors: Tensor

    def __getitem__(self, index: Tensor) -> Self:
        """The targets of some images, which share the anchors."""
        return type(self)(self.positive[index], self.counted[index], self.boxes[index], self.anchors)

    def people(self) -> Tensor:
        """How many anchors of each image are positive, at least 1; (B,)."""
        return self.positive.sum(1).clamp(min=1)


def encode(truth: Sequence[Truth], anchors: Tensor, match: Matching) -> AnchorTargets:
    """Targets of images that share their anchors (A, 4)."""
    rows = [_encode_image(people, anchors, match) for people in truth]
    if not rows:
        empty = torch.zeros(0, len(anchors), dtype=torch.bool)
        return AnchorTargets(empty, empty, torch.zeros(0, len(anchors), 4), anchors)
    positive, counted, boxes = (torch.stack(column) for column in zip(*rows, strict=True))
    return AnchorTargets(positive, counted, boxes, anchors)


def _encode_image(people: Truth, anchors: Tensor, match: Matching) -> tuple[Tensor, Tensor, Tensor]:
    boxes = as_tensor(people.boxes)
    matched = match(boxes) if len(boxes) else torch.full((len(anchors),), BACKGROUND)
    positive = matched >= 0
    counted = positive | ((matched == BACKGROUND) & ~in_ignored(anchors, as_tensor(people.ignore)))
    chosen = boxes[matched.clamp(min=0)] if len(boxes) else anchors
    return positive, counted, torch.where(positive[:, None], chosen, anchors)


def as_tensor(boxes: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Tensor:
    """Boxes as float32 (n, 4)."""
    return torch.from_numpy(np.array(boxes, np.float32)).reshape(-1, 4)


def in_ignored(boxes: Tensor, regions: Tensor) -> Tensor:
    """Which of ``boxes`` (n, 4) lie in one of ``regions`` (m, 4) for the most part; (n,) bool."""
    return (intersections(boxes, regions) >= _IGNORED_SHARE * areas(boxes).clamp(min=1e-6)[:, None]).any(1)


def intersections(boxes: Tensor, others: Tensor) -> Tensor:
    """The areas (…, n, m) that each of ``boxes`` (…, n, 4) shares with each of ``others`` (…, m, 4)."""
    corner = torch.maximum(boxes[..., :, None, :2], others[..., None, :, :2])
    end = torch.minimum(boxes[..., :, None, 2:], others[..., None, :, 2:])
    return (end - corner).clamp(min=0).prod(-1)


def areas(boxes: Tensor) -> Tensor:
    """Areas of boxes, (…, 4) to (…,); 0 where one ends before it begins."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def focal_loss(logits: Tensor, targets: AnchorTargets) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017; α = 0.25, γ = 2) over counted anchors, by people; (B,)."""
    wanted = targets.positive.to(logits.dtype)
    probability = torch.sigmoid(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    wrong = torch.where(targets.positive, 1 - probability, probability)
    weight = torch.where(targets.positive, 0.25, 0.75)
    return (weight * entropy * wrong**2 * targets.counted).sum(1) / targets.people()


def giou_loss(boxes: Tensor, targets: AnchorTargets) -> Tensor:
    """Generalised IoU loss (Rezatofighi et al., CVPR 2019) of boxes (B, A, 4) at positive anchors, by people; (B,)."""
    # Elsewhere the anchor meets itself, so that no place is empty and no gradient undefined.
    compared = torch.where(targets.positive[..., None], boxes, targets.boxes)
    loss: Tensor = generalized_box_iou_loss(compared, targets.boxes)
    return (loss * targets.positive).sum(1) / targets.people()


def smooth_l1(deltas: Tensor, wanted: Tensor, positive: Tensor, beta: float) -> Tensor:
    """Smooth L1 of regressions (B, A, 4), summed over positive anchors; (B,)."""
    loss = F.smooth_l1_loss(deltas, wanted, reduction="none", beta=beta)
    return (loss.sum(-1) * positive).sum(1)


def encode_deltas(boxes: Tensor, anchors: Tensor, weights: Sequence[float]) -> Tensor:
    """Boxes (..., 4) relative to anchors (..., 4), as R-CNN regresses them (Girshick et al., CVPR 2014)."""
    size, box_size = anchors[..., 2:] - anchors[..., :2], boxes[..., 2:] - boxes[..., :2]
    shift = (boxes[..., :2] + box_size / 2 - anchors[..., :2] - size / 2) / size
    return torch.cat([shift, torch.log(box_size / size)], dim=-1) * boxes.new_tensor(list(weights))


def decode_deltas(deltas: Tensor, anchors: Tensor, weights: Sequence[float]) -> Tensor:
    """The inverse of :func:`encode_deltas`; growth is cut off at 62.5-fold."""
    scaled = deltas / deltas.new_tensor(list(weights))
    size = anchors[..., 2:] - anchors[..., :2]
    centre = scaled[..., :2] * size + anchors[..., :2] + size / 2
    half = scaled[..., 2:].clamp(max=_LARGEST).exp() * size / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes (..., 4) cut at the frame."""
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)
