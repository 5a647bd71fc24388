"""CutMix and mosaic for boxes: pictures put together from parts of several.

CutMix pastes a rectangle of another image (Yun et al., "CutMix: regularization strategy to train strong classifiers
with localizable features", ICCV 2019); its soft labels make no sense for boxes, so people go with their pixels.
Mosaic joins four images around a point (Bochkovskiy et al., "YOLOv4", 2020), here cut out at their own scale, because
people of a small frame bear no halving. People are occluded and cut in ways that the data alone does not show.

>>> mix = CutMix(probability=0.5)
>>> images, truth = mix(images, truth, np.random.default_rng(0), torch.Generator())         # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secpipeline.datasets.geometry import area
from secpipeline.datasets.loading import Truth
from secpipeline.detection.ranges import check_range

# Somebody of whom less is left is neither an example of a person nor a mistake, but an ignored region.
_MINIMUM_SHOWN = 0.5
_SIDES = (0.25, 0.6)
_MIDDLE = (0.3, 0.7)

Box = tuple[int, int, int, int]
Boxes = NDArray[np.float32]


@dataclass(frozen=True)
class CutMix:
    """Paste a rectangle of another image of the batch over some images.

    Attributes
    ----------
    probability
        Share of the images that get one.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        check_range("cutmix.probability", self.probability, 0, 1)

    def __call__(
        self, images: Tensor, truth: Sequence[Truth], order: np.random.Generator, _: torch.Generator
    ) -> tuple[Tensor, list[Truth]]:
        """Mix a batch (B, 3, H, W) with its truth; nothing is changed in place."""
        height, width = images.shape[2:]
        mixed, people = images.clone(), list(truth)
        for index, other in enumerate(order.permutation(len(images))):
            if other == index or order.random() >= self.probability:
                continue
            tall, wide = (round(float(order.uniform(*_SIDES)) * side) for side in (height, width))
            top, left = int(order.integers(height - tall + 1)), int(order.integers(width - wide + 1))
            hole = (left, top, left + wide, top + tall)
            mixed[index, :, top : top + tall, left : left + wide] = images[
                int(other), :, top : top + tall, left : left + wide
            ]
            people[index] = _join([_covered(truth[index], hole), _cut(truth[int(other)], hole)])
        return mixed, people


@dataclass(frozen=True)
class Mosaic:
    """Some images become four quarters of images of the batch, around a random point.

    Attributes
    ----------
    probability
        Share of the images.
    """

    probability: float = 0.3

    def __post_init__(self) -> None:
        check_range("mosaic.probability", self.probability, 0, 1)

    def __call__(
        self, images: Tensor, truth: Sequence[Truth], order: np.random.Generator, _: torch.Generator
    ) -> tuple[Tensor, list[Truth]]:
        """Mix a batch (B, 3, H, W) with its truth; nothing is changed in place."""
        mixed, people = images.clone(), list(truth)
        for index in np.flatnonzero(order.random(len(images)) < self.probability):
            people[index] = self._quarters(images, truth, int(index), order, mixed[index])
        return mixed, people

    @staticmethod
    def _quarters(
        images: Tensor, truth: Sequence[Truth], index: int, order: np.random.Generator, canvas: Tensor
    ) -> Truth:
        """Fill ``canvas`` (3, H, W) with quarters of image ``index`` and three others."""
        height, width = images.shape[2:]
        x, y = round(float(order.uniform(*_MIDDLE)) * width), round(float(order.uniform(*_MIDDLE)) * height)
        places: list[Box] = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
        parts = []
        for place, other in zip(places, [index, *order.integers(len(images), size=3).tolist()], strict=True):
            left, top, right, bottom = place
            from_x = int(order.integers(width - (right - left) + 1))
            from_y = int(order.integers(height - (bottom - top) + 1))
            source = (from_x, from_y, from_x + right - left, from_y + bottom - top)
            canvas[:, top:bottom, left:right] = images[other, :, source[1] : source[3], source[0] : source[2]]
            parts.append(_cut(truth[other], source, (left - from_x, top - from_y)))
        return _join(parts)


def _cut(truth: Truth, window: Box, shift: tuple[int, int] = (0, 0)) -> Truth:
    """What a window shows of an image, moved by ``shift``; boxes are cut at its edges."""
    inside = [_clip(boxes, window) for boxes in (truth.boxes, truth.ignore)]
    shown = area(inside[0]) / np.maximum(area(truth.boxes), 1e-6)
    moved = [boxes + np.array([*shift, *shift], np.float32) for boxes in inside]
    return _sort(moved[0], shown, moved[1])


def _covered(truth: Truth, hole: Box) -> Truth:
    """What is left of an image behind a hole; boxes stay whole, as those of people behind cars do."""
    hidden = area(_clip(truth.boxes, hole)) / np.maximum(area(truth.boxes), 1e-6)
    return _sort(truth.boxes, 1 - hidden, truth.ignore)


def _sort(boxes: Boxes, shown: NDArray[np.floating], ignore: Boxes) -> Truth:
    kept = shown >= _MINIMUM_SHOWN
    left_over = np.concatenate([ignore, boxes[~kept & (shown > 0)]])
    return Truth(boxes[kept], left_over[area(left_over) > 0])


def _join(parts: Sequence[Truth]) -> Truth:
    return Truth(np.concatenate([part.boxes for part in parts]), np.concatenate([part.ignore for part in parts]))


def _clip(boxes: Boxes, window: Box) -> Boxes:
    low, high = np.array(window[:2] * 2, np.float32), np.array(window[2:] * 2, np.float32)
    clipped: Boxes = np.clip(boxes, low, high)
    return clipped
