"""What each anchor should say, decided once a batch so that every step of an attack reuses it.

Images have different numbers of people; they are filled up to equally many, so that the targets of a batch are a few
operations on whole tensors, on the detector's device and without waiting for it.

>>> anchors = torch.tensor([[0.0, 0, 10, 20], [40, 0, 50, 20]])
>>> people = Truth(np.array([[0, 0, 10, 20]], np.float32), np.zeros((0, 4), np.float32))
>>> encode([people], anchors, lambda boxes: torch.tensor([[0, -1]])).positive.tolist()
[[True, False]]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from secpipeline.datasets.loading import Truth
from secpipeline.detection.targets import TensorTargets

BACKGROUND, NEITHER = -1, -2
# A box may be this many times larger than its anchor, as a logarithm; torchvision cuts it off there too.
_LARGEST = math.log(1000 / 16)
# An anchor lies in an ignored region if this share of its area does.
_IGNORED_SHARE = 0.5
# So many numbers a tensor that compares boxes with anchors may hold; more boxes are compared one part after another.
_AT_ONCE = 2**23


@dataclass(frozen=True)
class Boxes(TensorTargets):
    """Boxes of B images, filled up to the M of the fullest image, at least 1.

    Attributes
    ----------
    boxes
        (B, M, 4) float32; zeros where there is none, which share no area with anything.
    present
        (B, M) bool, where there is one.
    """

    boxes: Tensor
    present: Tensor


# Matches boxes to anchors: (B, A) of places among an image's boxes, -1 for background, -2 for neither.
Matching = Callable[[Boxes], Tensor]


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
    """Targets of images that share their anchors (A, 4), on the anchors' device."""
    people, ignore = filled_up(truth, anchors.device)
    return targets_of(people, ignore, anchors, match(people))


def targets_of(people: Boxes, ignore: Boxes, anchors: Tensor, matched: Tensor) -> AnchorTargets:
    """As :func:`encode`, of people who are matched already, (B, A), and of ignored regions on their device."""
    positive = matched >= 0
    counted = positive | ((matched == BACKGROUND) & ~in_ignored(anchors, ignore.boxes))
    return AnchorTargets(positive, counted, matched_boxes(people, matched, anchors), anchors)


def matched_boxes(people: Boxes, matched: Tensor, boxes: Tensor) -> Tensor:
    """The matched person of each of ``boxes`` (..., A, 4), or the box itself where none is matched; (B, A, 4)."""
    chosen = people.boxes.gather(1, matched.clamp(min=0)[..., None].expand(-1, -1, 4))
    return torch.where((matched >= 0)[..., None], chosen, boxes)


def filled_up(truth: Sequence[Truth], device: torch.device) -> tuple[Boxes, Boxes]:
    """People and ignored regions of images, moved to a device at once."""
    people = _filled_up([one.boxes for one in truth], device)
    return people, _filled_up([one.ignore for one in truth], device)


def _filled_up(rows: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.float32]]], device: torch.device) -> Boxes:
    most = max((len(row) for row in rows), default=0) or 1
    table = np.zeros((len(rows), most, 5), np.float32)  # the last column says that there is a box
    for filled, row in zip(table, rows, strict=True):
        filled[: len(row), :4], filled[: len(row), 4] = np.reshape(row, (-1, 4)), 1
    held = torch.from_numpy(table)
    if device.type == "cuda":
        held = held.pin_memory()  # from other memory the copy would wait for the device
    moved = held.to(device, non_blocking=True)
    return Boxes(moved[..., :4], moved[..., 4] > 0)


def match_by_overlap(people: Boxes, anchors: Tensor, rule: Any, *, claims: bool = False) -> Tensor:
    """The person who overlaps each anchor (..., A, 4) most, as a matcher of torchvision finds it for one image.

    Parameters
    ----------
    people
        Of B images.
    anchors
        (A, 4), or each image's own (B, A, 4).
    rule
        A ``torchvision.models.detection._utils.Matcher``: its thresholds, and whether each person also gets the anchors
        that suit best.
    claims
        Each person takes the first anchor that suits best, as in SSD; of several people who do, the last.

    Returns
    -------
    Tensor
        (B, A) of places among an image's people, -1 for background, -2 for neither.
    """
    shape = (len(people.boxes), anchors.shape[-2])
    best = torch.full(shape, -1.0, device=anchors.device)
    index = torch.zeros(shape, dtype=torch.int64, device=anchors.device)
    suited = torch.zeros(shape, dtype=torch.bool, device=anchors.device)
    claimed = torch.full(shape, -1, device=anchors.device)
    for part in _parts(people.boxes.shape[1], best.numel()):
        overlap = _overlaps(people, part, anchors)
        best, index = _better(overlap, part.start, best, index)
        if rule.allow_low_quality_matches:
            present = people.present[:, part, None]
            suited |= ((overlap == overlap.amax(2, keepdim=True)) & present).any(1)
        if claims:
            takers = torch.where(people.present[:, part], torch.arange(part.start, part.stop, device=best.device), -1)
            claimed = claimed.scatter_reduce(1, overlap.max(2).indices, takers, "amax")
    found = torch.where(best < rule.high_threshold, NEITHER, index)
    found = torch.where(best < rule.low_threshold, BACKGROUND, found)
    return torch.where(claimed >= 0, claimed, torch.where(suited, index, found))


def match_by_preference(people: Boxes, anchors: Tensor, preference: Callable[[Tensor], Tensor]) -> Tensor:
    """The person whom each anchor (A, 4) prefers; background where it wants none.

    Parameters
    ----------
    people
        Of B images.
    anchors
        (A, 4).
    preference
        From some people (B, m, 4) to (B, m, A); minus infinity for people whom an anchor does not want.
    """
    shape = (len(people.boxes), len(anchors))
    best = torch.full(shape, -math.inf, device=anchors.device)
    index = torch.full(shape, BACKGROUND, device=anchors.device)
    for part in _parts(people.boxes.shape[1], best.numel()):
        wanted = preference(people.boxes[:, part]).masked_fill(~people.present[:, part, None], -math.inf)
        best, index = _better(wanted, part.start, best, index)
    return index


def _parts(count: int, each: int) -> Iterator[slice]:
    """As many of ``count`` boxes at a time as can be compared at once, each with ``each`` anchors of the batch."""
    step = max(1, _AT_ONCE // max(1, each))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _better(values: Tensor, start: int, best: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The running maximum (B, A) over boxes and where it was, after ``values`` (B, m, A); the first of equals."""
    highest, where = values.max(1)
    better = highest > best
    return torch.where(better, highest, best), torch.where(better, where + start, index)


def _overlaps(people: Boxes, part: slice, anchors: Tensor) -> Tensor:
    """IoU (B, m, A) of some people with anchors (..., A, 4); -1 where nobody is."""
    boxes = people.boxes[:, part]
    shared = intersections(boxes, anchors)
    overlap = shared / (areas(boxes)[..., None] + areas(anchors)[..., None, :] - shared)
    return overlap.masked_fill(~people.present[:, part, None], -1.0)


def as_tensor(boxes: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Tensor:
    """Boxes as float32 (n, 4)."""
    return torch.from_numpy(np.array(boxes, np.float32)).reshape(-1, 4)


def in_ignored(boxes: Tensor, regions: Tensor) -> Tensor:
    """Which of ``boxes`` (…, n, 4) lie in one of ``regions`` (…, m, 4) for the most part; (…, n) bool."""
    enough = _IGNORED_SHARE * areas(boxes).clamp(min=1e-6)[..., None, :]
    batch = regions.shape[:-2].numel()
    inside = torch.zeros((*regions.shape[:-2], boxes.shape[-2]), dtype=torch.bool, device=boxes.device)
    for part in _parts(regions.shape[-2], batch * boxes.shape[-2]):
        inside |= (intersections(regions[..., part, :], boxes) >= enough).any(-2)
    return inside


def intersections(boxes: Tensor, others: Tensor) -> Tensor:
    """The areas (…, n, m) that each of ``boxes`` (…, n, 4) shares with each of ``others`` (…, m, 4)."""
    one, other = boxes[..., :, None, :], others[..., None, :, :]
    width = torch.minimum(one[..., 2], other[..., 2]) - torch.maximum(one[..., 0], other[..., 0])
    height = torch.minimum(one[..., 3], other[..., 3]) - torch.maximum(one[..., 1], other[..., 1])
    return width.clamp(min=0) * height.clamp(min=0)


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
    """Boxes (..., 4) relative to anchors (..., 4), as R-CNN regresses them (Girshick et al., CVPR 2014).

    ``weights`` are four factors; those of the two axes are equal.
    """
    size, box_size = anchors[..., 2:] - anchors[..., :2], boxes[..., 2:] - boxes[..., :2]
    shift = (boxes[..., :2] + box_size / 2 - anchors[..., :2] - size / 2) / size
    # Numbers, not a tensor of them: to make one on a device waits for it.
    return torch.cat([shift * weights[0], torch.log(box_size / size) * weights[2]], dim=-1)


def decode_deltas(deltas: Tensor, anchors: Tensor, weights: Sequence[float]) -> Tensor:
    """The inverse of :func:`encode_deltas`; growth is cut off at 62.5-fold."""
    size = anchors[..., 2:] - anchors[..., :2]
    centre = deltas[..., :2] / weights[0] * size + anchors[..., :2] + size / 2
    half = (deltas[..., 2:] / weights[2]).clamp(max=_LARGEST).exp() * size / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes (..., 4) cut at the frame."""
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)
