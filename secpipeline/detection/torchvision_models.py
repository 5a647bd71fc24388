"""torchvision's detectors behind the same interface.

torchvision gives losses in training mode only and for the batch as a whole, samples at random inside its loss, and
updates batch statistics; here normalisation and dropout always evaluate, every call samples alike, and each image
has its own loss.

>>> detector = FasterRcnnMobileNet({})                                    # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.models.detection.image_list import ImageList

from secpipeline.datasets.loading import Truth
from secpipeline.detection.interface import Detector, Encoded

_PERSON = 1
_NOBODY = -30.0
_SAMPLING_SEED = 0


@dataclass(frozen=True)
class BoxTargets:
    """Boxes (n, 4) of each image, as torchvision takes them."""

    boxes: tuple[Tensor, ...]

    def to(self, device: torch.device) -> Self:
        """The same targets on another device."""
        return type(self)(tuple(boxes.to(device) for boxes in self.boxes))

    def __getitem__(self, index: Tensor) -> Self:
        """The targets of some images."""
        return type(self)(tuple(self.boxes[i] for i in index.tolist()))

    def of(self, image: int) -> list[dict[str, Tensor]]:
        """The target of one image in torchvision's form."""
        boxes = self.boxes[image]
        return [{"boxes": boxes, "labels": torch.full((len(boxes),), _PERSON, device=boxes.device)}]


class FasterRcnnMobileNet(Detector):
    """Faster R-CNN (Ren et al., NeurIPS 2015) on a MobileNetV3 feature pyramid, for frames of about 320 pixels.

    Parameters
    ----------
    config
        ``proposals``: how many regions the second stage looks at (default 100).
    """

    name = "fasterrcnn_mobilenet_v3_large_320_fpn"

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = {"proposals": int(config.get("proposals", 100))}
        self.model = fasterrcnn_mobilenet_v3_large_320_fpn(
            weights=None,
            weights_backbone=None,
            num_classes=2,
            rpn_post_nms_top_n_test=self.config["proposals"],
            rpn_pre_nms_top_n_test=2 * self.config["proposals"],
            rpn_score_thresh=0.0,
        )
        # Without published statistics a frozen normalisation would scale gradients to nothing: learn group statistics.
        _replace_batch_norm(self.model)

    def train(self, mode: bool = True) -> Self:
        """Training mode, with dropout left off."""
        super().train(mode)
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        return self

    def encode(self, truth: Sequence[Truth], height: int, width: int) -> BoxTargets:  # noqa: ARG002 - the interface's
        """Boxes as tensors; ignored regions are not used by this detector's loss."""
        return BoxTargets(tuple(torch.from_numpy(people.boxes).float().reshape(-1, 4) for people in truth))

    def losses(self, images: Tensor, encoded: Encoded) -> dict[str, Tensor]:
        """Torchvision's four terms, (B,) each."""
        assert isinstance(encoded, BoxTargets)
        was_training = self.training
        self.train()
        try:
            rows = [self._image_losses(images[i : i + 1], encoded.of(i)) for i in range(len(images))]
        finally:
            self.train(was_training)
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _image_losses(self, image: Tensor, target: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        features, listed = self._features(image)
        with torch.random.fork_rng(devices=[image.device] if image.is_cuda else []):
            torch.manual_seed(_SAMPLING_SEED)  # torchvision samples with the global generator
            proposals, first = self.model.rpn(listed, features, target)
            _, second = self.model.roi_heads(features, proposals, listed.image_sizes, target)
        return {**first, **second}

    def _features(self, images: Tensor) -> tuple[dict[str, Tensor], ImageList]:
        """Features of normalised images at their own size: torchvision's resizing would move the attack's bound."""
        transform = self.model.transform
        mean = images.new_tensor(transform.image_mean).view(1, 3, 1, 1)
        std = images.new_tensor(transform.image_std).view(1, 3, 1, 1)
        size = (int(images.shape[-2]), int(images.shape[-1]))
        return self.model.backbone((images - mean) / std), ImageList(images, [size] * len(images))

    def _second_stage(self, images: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        was_training = self.training
        self.eval()
        try:
            features, listed = self._features(images)
            proposals, _ = self.model.rpn(listed, features, None)
            heads = self.model.roi_heads
            pooled = heads.box_head(heads.box_roi_pool(features, proposals, listed.image_sizes))
            classes, regression = heads.box_predictor(pooled)
        finally:
            self.train(was_training)
        return proposals, classes, regression

    def logits(self, images: Tensor) -> Tensor:
        """Person minus background of every proposal; images with fewer proposals are filled up with nobody."""
        proposals, classes, _ = self._second_stage(images)
        person = classes[:, _PERSON] - classes[:, 0]
        return _padded(torch.split(person, [len(p) for p in proposals]), self.config["proposals"], _NOBODY)

    def dense(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Every proposal, refined, with its person score."""
        proposals, classes, regression = self._second_stage(images)
        decoded = self.model.roi_heads.box_coder.decode(regression, proposals)[:, _PERSON]
        height, width = images.shape[-2:]
        limit = decoded.new_tensor([width, height, width, height])
        decoded = torch.minimum(decoded.clamp(min=0), limit)
        counts = [len(p) for p in proposals]
        count = self.config["proposals"]
        scores = F.softmax(classes, dim=-1)[:, _PERSON]
        return _padded(torch.split(decoded, counts), count, 0.0), _padded(torch.split(scores, counts), count, 0.0)


def _padded(rows: Sequence[Tensor], count: int, value: float) -> Tensor:
    filled = []
    for row in rows:
        missing = row.new_full((max(0, count - len(row)), *row.shape[1:]), value)
        filled.append(torch.cat([row[:count], missing]))
    return torch.stack(filled)


def _replace_batch_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            groups = next(g for g in (8, 4, 2, 1) if child.num_features % g == 0)
            setattr(module, name, nn.GroupNorm(groups, child.num_features))
        else:
            _replace_batch_norm(child)
