"""Faster R-CNN (Ren et al., NeurIPS 2015) as torchvision builds it.

The first stage proposes regions, the second looks at each. torchvision samples the regions that its loss looks at
anew in every call; here the sample depends on the image's regions alone, so the same images have the same losses. The
first stage's targets are made once a batch. torchvision also goes through a batch image by image and asks the device
each time how many regions there are; here images are filled up to equally many, and those that are none weigh nothing.

>>> detector = FasterRcnnMobileNet({"proposals": 20})
>>> boxes, scores = detector.dense(torch.rand(2, 3, 96, 128))
>>> boxes.shape, scores.shape
(torch.Size([2, 20, 4]), torch.Size([2, 20]))
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn, fasterrcnn_resnet50_fpn_v2
from torchvision.models.detection.rpn import concat_box_prediction_layers

from secpipeline.datasets.loading import Truth
from secpipeline.detection import box_targets, configuration, suppression
from secpipeline.detection.box_targets import BACKGROUND, NEITHER, AnchorTargets, Boxes
from secpipeline.detection.interface import Encoded
from secpipeline.detection.targets import TensorTargets
from secpipeline.detection.torchvision_models import PERSON, TorchvisionDetector

_NOBODY = -30.0
_SAMPLING_SEED = 0
# More places than there are regions of an image or anchors of any usual frame.
_PLACES = 2**21
_BETA = 1 / 9


@dataclass(frozen=True)
class RegionTargets(TensorTargets):
    """The sampled targets of the first stage, and the people and ignored regions of each image."""

    anchors: AnchorTargets
    people: Boxes
    ignore: Boxes


@dataclass(frozen=True)
class _Regions:
    """K sampled regions an image: boxes and matched people (B, K, 4), which show one and which count (B, K)."""

    boxes: Tensor
    matched: Tensor
    positive: Tensor
    counted: Tensor


class _FasterRcnn(TorchvisionDetector):
    _classes = 2
    _builder: ClassVar[Callable[..., nn.Module]]
    placing: ClassVar[tuple[str, ...]] = ("loss_rpn_box_reg", "loss_box_reg")
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
        anchors = self.kept_anchors(rpn.anchor_generator, height, width)
        people, ignore = box_targets.filled_up(truth, anchors.device)
        matched = box_targets.match_by_overlap(people, anchors, rpn.proposal_matcher)
        full = box_targets.targets_of(people, ignore, anchors, matched)
        positive, counted = _sample(full.positive, full.counted, rpn.fg_bg_sampler)
        return RegionTargets(AnchorTargets(positive, counted, full.boxes, anchors), people, ignore)

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
        entropy = F.cross_entropy(classes.flatten(0, 1), regions.positive.long().flatten(), reduction="none")
        wanted = box_targets.encode_deltas(regions.matched, regions.boxes, self.model.roi_heads.box_coder.weights)
        count = regions.counted.sum(1).clamp(min=1)
        return {
            "loss_classifier": (entropy.view_as(regions.counted) * regions.counted).sum(1) / count,
            "loss_box_reg": box_targets.smooth_l1(regression, wanted, regions.positive, _BETA) / count,
        }

    def _propose(
        self, images: Tensor, features: list[Tensor], anchors: Tensor, training: bool
    ) -> tuple[Tensor, Tensor, Boxes]:
        """Objectness (B, A), deltas (B, A, 4) and the proposed regions."""
        scores, shifts = self.model.rpn.head(features)
        levels = [int(score.shape[1:].numel()) for score in scores]
        flat_scores, flat_shifts = concat_box_prediction_layers(scores, shifts)
        objectness = flat_scores.float().view(len(images), -1)
        deltas = flat_shifts.float().view(len(images), -1, 4)
        boxes = box_targets.decode_deltas(deltas.detach(), anchors, (1, 1, 1, 1))
        height, width = images.shape[-2:]
        boxes = box_targets.clip(boxes, height, width)
        return objectness, deltas, self._best(objectness.detach(), boxes, levels, training)

    def _best(self, objectness: Tensor, boxes: Tensor, levels: list[int], training: bool) -> Boxes:
        """The best regions of each image, best first, as torchvision's ``filter_proposals`` finds them."""
        after = self.config["training_proposals" if training else "proposals"]
        before = after if training else 2 * after
        found = [
            self._best_of_level(scores, placed, before)
            for scores, placed in zip(torch.split(objectness, levels, 1), torch.split(boxes, levels, 1), strict=True)
        ]
        scores, placed = (torch.cat(column, 1) for column in zip(*found, strict=True))
        best, place = scores.topk(min(after, scores.shape[1]), dim=1)
        present = best > -torch.inf
        chosen = _at(placed, place).masked_fill(~present[..., None], 0)
        missing = after - best.shape[1]
        return Boxes(F.pad(chosen, (0, 0, 0, missing)), F.pad(present, (0, missing)))

    def _best_of_level(self, objectness: Tensor, boxes: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Scores (B, k), minus infinity where a box is dropped, and boxes (B, k, 4) of one level, best first."""
        rpn = self.model.rpn
        scores, place = objectness.topk(min(number, objectness.shape[1]), dim=1)
        placed = _at(boxes, place)
        large = (placed[..., 2:] - placed[..., :2] >= rpn.min_size).all(-1)
        kept = suppression.greedy(placed, large & (scores.sigmoid() >= rpn.score_thresh), rpn.nms_thresh)
        return scores.masked_fill(~kept, -torch.inf), placed

    def _choose(self, proposals: Boxes, encoded: RegionTargets) -> _Regions:
        """The regions that the second stage learns from, true boxes among them as in the paper."""
        heads, people = self.model.roi_heads, encoded.people
        present = torch.cat([proposals.present, people.present], 1)
        boxes = _with_area(torch.cat([proposals.boxes, people.boxes], 1), present)
        matched = box_targets.match_by_overlap(people, boxes, heads.proposal_matcher)
        ignored = (matched == BACKGROUND) & box_targets.in_ignored(boxes, encoded.ignore.boxes)
        matched = torch.where(ignored | ~present, NEITHER, matched)
        positive, counted = _sample(matched >= 0, matched != NEITHER, heads.fg_bg_sampler)
        # Always equally many, the sampled ones first, so that nobody has to ask how many there are.
        first = counted.byte().argsort(dim=1, descending=True, stable=True)
        place = first[:, : heads.fg_bg_sampler.batch_size_per_image]
        chosen = _at(boxes, place)
        owners = box_targets.matched_boxes(people, matched.gather(1, place), chosen)
        return _Regions(chosen, owners, positive.gather(1, place), counted.gather(1, place))

    def _look(self, images: Tensor, features: list[Tensor], regions: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (B, K, 2) and a person's box deltas (B, K, 4) of regions (B, K, 4)."""
        heads = self.model.roi_heads
        size = (int(images.shape[-2]), int(images.shape[-1]))
        # The backbone names its maps by number, and a last one that pooling leaves out.
        named = {str(level): map_ for level, map_ in enumerate(features[:-1])}
        pooled = heads.box_head(heads.box_roi_pool(named, list(regions), [size] * len(images)))
        classes, regression = heads.box_predictor(pooled)
        shape = regions.shape[:2]
        return classes.float().view(*shape, 2), regression.float().view(*shape, 2, 4)[:, :, PERSON]

    def _detected(self, images: Tensor) -> tuple[Boxes, Tensor, Tensor]:
        features = self.features(images)
        height, width = images.shape[-2:]
        anchors = self.kept_anchors(self.model.rpn.anchor_generator, height, width)
        _, _, proposals = self._propose(images, features, anchors, training=False)
        return proposals, *self._look(images, features, proposals.boxes)

    def logits(self, images: Tensor) -> Tensor:
        """Person minus background of every proposal; images with fewer proposals are filled up with nobody."""
        proposals, classes, _ = self._detected(images)
        return (classes[..., PERSON] - classes[..., 0]).masked_fill(~proposals.present, _NOBODY)

    def dense(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Every proposal, refined, with its person score."""
        proposals, classes, regression = self._detected(images)
        height, width = images.shape[-2:]
        boxes = box_targets.decode_deltas(regression, proposals.boxes, self.model.roi_heads.box_coder.weights)
        # Where there is no proposal it has no size, so that its box stays zeros.
        scores = F.softmax(classes, dim=-1)[..., PERSON].masked_fill(~proposals.present, 0)
        return box_targets.clip(boxes, height, width), scores


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


def _sample(positive: Tensor, counted: Tensor, sampler: Any) -> tuple[Tensor, Tensor]:
    """Of places (B, A) so many as the sampler of torchvision takes: those of them that are positive, and all."""
    order, back = _order(positive.shape[1], positive.device)
    number = sampler.batch_size_per_image
    person = _first(positive[:, order], int(number * sampler.positive_fraction))
    other = _first((counted & ~positive)[:, order], number - person.sum(1, keepdim=True))
    return person[:, back], (person | other)[:, back]


def _first(mask: Tensor, number: int | Tensor) -> Tensor:
    """The ``number``, one or (B, 1), masked places (B, A) that come first."""
    return mask & (mask.cumsum(1, dtype=torch.int32) <= number)


@torch.compiler.disable  # type: ignore[untyped-decorator] # compiled code would not remember the result
@functools.cache
def _order(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """In which order places are sampled, and each place's rank in it, (A,) each.

    Which of two places comes first depends on these places alone, not on how many there are, so that an image's sample
    does not depend on the others of its batch.
    """
    generator = torch.Generator().manual_seed(_SAMPLING_SEED)
    order = torch.rand(max(count, _PLACES), generator=generator)[:count].argsort(stable=True)
    # Sorted before they are copied, so that they are ready on every stream.
    return order.to(device), order.argsort().to(device)


def _at(boxes: Tensor, place: Tensor) -> Tensor:
    """The boxes (B, k, 4) of (B, n, 4) at places (B, k)."""
    return boxes.gather(1, place[..., None].expand(-1, -1, 4))


def _with_area(boxes: Tensor, present: Tensor) -> Tensor:
    """The boxes (B, n, 4), of one pixel where none is, because sizes relative to nothing would be infinite."""
    return boxes + F.pad((~present)[..., None].expand(-1, -1, 2).to(boxes.dtype), (2, 0))
