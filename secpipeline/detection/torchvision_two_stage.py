"""Faster R-CNN (Ren et al., NeurIPS 2015) as torchvision builds it.

The first stage proposes regions, the second looks at each. torchvision samples the regions that its loss looks at
anew in every call; here the sample depends on the image's regions alone, so the same images have the same losses. The
first stage's targets are made once a batch.

>>> detector = FasterRcnnMobileNet({"proposals": 20})
>>> boxes, scores = detector.dense(torch.rand(2, 3, 96, 128))
>>> boxes.shape, scores.shape
(torch.Size([2, 20, 4]), torch.Size([2, 20]))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn, fasterrcnn_resnet50_fpn_v2
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import box_iou

from secpipeline.datasets.loading import Truth
from secpipeline.detection import box_targets, configuration
from secpipeline.detection.box_targets import BACKGROUND, NEITHER, AnchorTargets
from secpipeline.detection.interface import Encoded
from secpipeline.detection.torchvision_models import PERSON, TorchvisionDetector, grid_anchors

_NOBODY = -30.0
_SAMPLING_SEED = 0
_BETA = 1 / 9


@dataclass(frozen=True)
class RegionTargets:
    """The sampled targets of the first stage, and the boxes (n, 4) and ignored regions (m, 4) of each image."""

    anchors: AnchorTargets
    boxes: tuple[Tensor, ...]
    ignore: tuple[Tensor, ...]

    def to(self, device: torch.device) -> Self:
        """The same targets on another device."""
        boxes, ignore = (tuple(one.to(device) for one in many) for many in (self.boxes, self.ignore))
        return type(self)(self.anchors.to(device), boxes, ignore)

    def __getitem__(self, index: Tensor) -> Self:
        """The targets of some images."""
        chosen = index.tolist()
        boxes, ignore = (tuple(many[i] for i in chosen) for many in (self.boxes, self.ignore))
        return type(self)(self.anchors[index], boxes, ignore)


@dataclass(frozen=True)
class _Regions:
    """Sampled regions of a batch: boxes of each image, image numbers, labels and matched boxes of all in a row."""

    boxes: list[Tensor]
    image: Tensor
    positive: Tensor
    matched: Tensor


class _FasterRcnn(TorchvisionDetector):
    _classes = 2
    _strides: ClassVar[Sequence[int]]
    _builder: ClassVar[Callable[..., nn.Module]]
    not_exportable: ClassVar[str] = "the number of regions that its first stage keeps depends on the image"

    def __init__(self, config: dict[str, Any]) -> None:
        defaults = {"proposals": 100, "training_proposals": 2000}
        for key, value in ({**defaults, **config}).items():
            if key in defaults:
                configuration.whole(self.name, key, value, 1, 10_000)
        super().__init__(config, defaults)

    def _network(self, settings: Mapping[str, Any]) -> Any:
        return type(self)._builder(
            weights=None,
            weights_backbone=None,
            num_classes=2,
            rpn_post_nms_top_n_test=settings["proposals"],
            rpn_pre_nms_top_n_test=2 * settings["proposals"],
            rpn_post_nms_top_n_train=settings["training_proposals"],
            rpn_pre_nms_top_n_train=settings["training_proposals"],
            rpn_score_thresh=0.0,
        )

    def encode(self, truth: Sequence[Truth], height: int, width: int) -> RegionTargets:
        """What the first stage's anchors should say, with the sample that its loss looks at, and the boxes."""
        rpn = self.model.rpn
        anchors = grid_anchors(rpn.anchor_generator, self._strides, height, width, torch.device("cpu"))
        full = box_targets.encode(truth, anchors, lambda boxes: rpn.proposal_matcher(box_iou(boxes, anchors)))
        sampler = rpn.fg_bg_sampler
        positive, negative = _sample(
            full.positive, full.counted, sampler.batch_size_per_image, sampler.positive_fraction
        )
        sampled = AnchorTargets(positive, positive | negative, full.boxes, anchors)
        boxes = tuple(box_targets.as_tensor(people.boxes) for people in truth)
        return RegionTargets(sampled, boxes, tuple(box_targets.as_tensor(people.ignore) for people in truth))

    def losses(self, images: Tensor, encoded: Encoded) -> dict[str, Tensor]:
        """Score and box terms of both stages, (B,) each."""
        assert isinstance(encoded, RegionTargets)
        features = self.features(images)
        objectness, deltas, proposals = self._propose(images, features, encoded.anchors.anchors, training=True)
        targets = encoded.anchors
        sampled = targets.counted.sum(1).clamp(min=1)
        entropy = F.binary_cross_entropy_with_logits(objectness, targets.positive.float(), reduction="none")
        wanted = box_targets.encode_deltas(targets.boxes, targets.anchors, (1, 1, 1, 1))
        return {
            "loss_objectness": (entropy * targets.counted).sum(1) / sampled,
            "loss_rpn_box_reg": box_targets.smooth_l1(deltas, wanted, targets.positive, _BETA) / sampled,
            **self._region_losses(images, features, self._choose(proposals, encoded)),
        }

    def _region_losses(self, images: Tensor, features: list[Tensor], regions: _Regions) -> dict[str, Tensor]:
        classes, regression = self._look(images, features, regions.boxes)
        entropy = F.cross_entropy(classes, regions.positive.long(), reduction="none")
        weights = self.model.roi_heads.box_coder.weights
        wanted = box_targets.encode_deltas(regions.matched, torch.cat(regions.boxes), weights)
        apart = F.smooth_l1_loss(regression, wanted, reduction="none", beta=_BETA).sum(1) * regions.positive
        zero = entropy.new_zeros(len(images))
        count = zero.index_add(0, regions.image, torch.ones_like(entropy)).clamp(min=1)
        return {
            "loss_classifier": zero.index_add(0, regions.image, entropy) / count,
            "loss_box_reg": zero.index_add(0, regions.image, apart) / count,
        }

    def _propose(
        self, images: Tensor, features: list[Tensor], anchors: Tensor, training: bool
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Objectness (B, A), deltas (B, A, 4) and the proposed regions of each image."""
        rpn = self.model.rpn
        scores, shifts = rpn.head(features)
        levels = [int(score.shape[1:].numel()) for score in scores]
        flat_scores, flat_shifts = concat_box_prediction_layers(scores, shifts)
        objectness = flat_scores.float().view(len(images), -1)
        deltas = flat_shifts.float().view(len(images), -1, 4)
        boxes = box_targets.decode_deltas(deltas.detach(), anchors, (1, 1, 1, 1))
        was_training, size = rpn.training, (int(images.shape[-2]), int(images.shape[-1]))
        rpn.training = training  # it proposes more regions in training
        try:
            proposals, _ = rpn.filter_proposals(boxes, objectness, [size] * len(images), levels)
        finally:
            rpn.training = was_training
        return objectness, deltas, proposals

    def _choose(self, proposals: list[Tensor], encoded: RegionTargets) -> _Regions:
        """The regions that the second stage learns from, true boxes among them as in the paper."""
        heads = self.model.roi_heads
        sampler = heads.fg_bg_sampler
        chosen, positives, matched = [], [], []
        for proposed, people, ignore in zip(proposals, encoded.boxes, encoded.ignore, strict=True):
            boxes = torch.cat([proposed, people])
            best = torch.full((len(boxes),), BACKGROUND, device=boxes.device)
            if len(people):
                best = heads.proposal_matcher(box_iou(people, boxes))
            best = torch.where((best == BACKGROUND) & box_targets.in_ignored(boxes, ignore), NEITHER, best)
            person, other = _sample(
                (best >= 0)[None], (best != NEITHER)[None], sampler.batch_size_per_image, sampler.positive_fraction
            )
            kept = (person | other)[0].nonzero().flatten()
            chosen.append(boxes[kept])
            positives.append(person[0][kept])
            matched.append(people[best[kept].clamp(min=0)] if len(people) else boxes[kept])
        image = torch.repeat_interleave(
            torch.arange(len(chosen), device=chosen[0].device),
            torch.tensor([len(boxes) for boxes in chosen], device=chosen[0].device),
        )
        return _Regions(chosen, image, torch.cat(positives), torch.cat(matched))

    def _look(self, images: Tensor, features: list[Tensor], regions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits (R, 2) and a person's box deltas (R, 4) of every region."""
        heads = self.model.roi_heads
        size = (int(images.shape[-2]), int(images.shape[-1]))
        # The backbone names its maps by number, and a last one that pooling leaves out.
        named = {str(level): map_ for level, map_ in enumerate(features[:-1])}
        pooled = heads.box_head(heads.box_roi_pool(named, regions, [size] * len(images)))
        classes, regression = heads.box_predictor(pooled)
        return classes.float(), regression.float().view(-1, 2, 4)[:, PERSON]

    def _detected(self, images: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        features = self.features(images)
        height, width = images.shape[-2:]
        anchors = grid_anchors(self.model.rpn.anchor_generator, self._strides, height, width, images.device)
        _, _, proposals = self._propose(images, features, anchors, training=False)
        return proposals, *self._look(images, features, proposals)

    def logits(self, images: Tensor) -> Tensor:
        """Person minus background of every proposal; images with fewer proposals are filled up with nobody."""
        proposals, classes, _ = self._detected(images)
        person = classes[:, PERSON] - classes[:, 0]
        return _padded(torch.split(person, [len(p) for p in proposals]), self.config["proposals"], _NOBODY)

    def dense(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Every proposal, refined, with its person score."""
        proposals, classes, regression = self._detected(images)
        height, width = images.shape[-2:]
        weights = self.model.roi_heads.box_coder.weights
        boxes = box_targets.decode_deltas(regression, torch.cat(proposals), weights)
        counts, count = [len(p) for p in proposals], self.config["proposals"]
        scores = F.softmax(classes, dim=-1)[:, PERSON]
        placed = box_targets.clip(boxes, height, width)
        return _padded(torch.split(placed, counts), count, 0.0), _padded(torch.split(scores, counts), count, 0.0)


class FasterRcnnMobileNet(_FasterRcnn):
    """On a MobileNetV3 feature pyramid, for frames of about 320 pixels.

    Parameters
    ----------
    config
        ``proposals``: how many regions the second stage looks at (default 100). ``training_proposals``: how many its
        loss draws from (default 2000); fewer make attacks cheaper. The rest as for every torchvision network.
    """

    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    _builder = fasterrcnn_mobilenet_v3_large_320_fpn
    _strides = (32, 32, 64)


class FasterRcnnResNet50(_FasterRcnn):
    """On a ResNet-50 feature pyramid (Li et al., "Benchmarking detection transfer learning", 2021)."""

    name = "fasterrcnn_resnet50_fpn_v2"
    _builder = fasterrcnn_resnet50_fpn_v2
    _strides = (4, 8, 16, 32, 64)


def _sample(positive: Tensor, counted: Tensor, number: int, fraction: float) -> tuple[Tensor, Tensor]:
    """At most ``number`` of the counted places (B, A), of them at most ``fraction`` positive; two (B, A) masks."""
    generator = torch.Generator().manual_seed(_SAMPLING_SEED)
    order = torch.rand(positive.shape[1], generator=generator).to(positive.device)
    negative = counted & ~positive
    most = positive.sum(1, keepdim=True).clamp(max=int(number * fraction))
    return _first(order, positive, most), _first(order, negative, number - most)


def _first(order: Tensor, mask: Tensor, number: Tensor) -> Tensor:
    """The ``number`` (B, 1) masked places that come first; (B, A)."""
    rank = torch.where(mask, order, 2.0).argsort(1).argsort(1)
    return mask & (rank < number)


def _padded(rows: Sequence[Tensor], count: int, value: float) -> Tensor:
    filled = []
    for row in rows:
        missing = row.new_full((max(0, count - len(row)), *row.shape[1:]), value)
        filled.append(torch.cat([row[:count], missing]))
    return torch.stack(filled)
