"""Augmentation of a batch: mirrored, nearer or farther, shifted, and seen under another light.

>>> apply = Augmentation(np.random.default_rng(0), zoom=1.1).apply
>>> images, truth = apply(np.zeros((1, 3, 32, 32), np.uint8), [Truth(np.zeros((0, 4)), np.zeros((0, 4)))])
>>> images.shape, float(images.min()) >= 0
((1, 3, 32, 32), True)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from secpipeline.datasets.loading import Truth

_GAIN = 0.25
_CONTRAST = 0.25
_TINT = 0.06
_NOISE = 0.03
# A person who is mostly outside the zoomed frame is no example of a person, and no mistake either.
_MINIMUM_INSIDE = 0.4
_MINIMUM_HEIGHT = 12.0


class Augmentation:
    """Random changes drawn from ``order``; ``zoom`` is the largest factor by which things come nearer or go farther."""

    def __init__(self, order: np.random.Generator, zoom: float) -> None:
        self.order, self.zoom = order, zoom

    def apply(self, images: NDArray[np.uint8], truth: Sequence[Truth]) -> tuple[NDArray[np.float32], list[Truth]]:
        """Change images (B, 3, H, W) and their truth together; pixels come back as float32 in [0, 1]."""
        moved, people = self._move(images.astype(np.float32) / np.float32(255), truth)
        return self._light(moved), people

    def _move(self, pixels: NDArray[np.float32], truth: Sequence[Truth]) -> tuple[NDArray[np.float32], list[Truth]]:
        """Mirror, zoom and shift; a zoomed-out frame is filled up with its edge, which shows nobody twice."""
        count, _, height, width = pixels.shape
        mirrored = np.where(self.order.random(count) < 0.5, -1.0, 1.0)
        zoom = np.exp(self.order.uniform(-math.log(self.zoom), math.log(self.zoom), count))
        room = 1 - 1 / zoom
        shift = self.order.uniform(-1, 1, (count, 2)) * np.abs(room)[:, None]
        # Rows of the affine map from the new frame to the old one, in the [-1, 1] coordinates of grid_sample.
        affine = np.zeros((count, 2, 3), np.float32)
        affine[:, 0, 0], affine[:, 1, 1] = mirrored / zoom, 1 / zoom
        affine[:, :, 2] = shift
        grid = F.affine_grid(torch.from_numpy(affine), [count, 3, height, width], align_corners=False)
        moved = F.grid_sample(torch.from_numpy(pixels), grid, padding_mode="border", align_corners=False)
        people = [
            Truth(*(_follow(boxes, affine[i], height, width) for boxes in (t.boxes, t.ignore)))
            for i, t in enumerate(truth)
        ]
        return moved.numpy(), [_keep_visible(t, height, width) for t in people]

    def _light(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Another gain, colour, contrast, and a little noise: one pattern a batch, its strength per image."""
        count = len(pixels)
        draw = self.order.uniform
        gain = draw(1 - _GAIN, 1 + _GAIN, (count, 1, 1, 1)).astype(np.float32)
        tint = draw(1 - _TINT, 1 + _TINT, (count, 3, 1, 1)).astype(np.float32)
        contrast = draw(1 - _CONTRAST, 1 + _CONTRAST, (count, 1, 1, 1)).astype(np.float32)
        mean = pixels.mean((1, 2, 3), keepdims=True)
        colour = gain * tint
        pixels *= contrast * colour
        pixels += mean * (1 - contrast) * colour
        strength = draw(0, _NOISE, (count, 1, 1, 1)).astype(np.float32)
        pixels += self.order.standard_normal(pixels.shape[1:], np.float32) * strength
        return np.clip(pixels, 0, 1, out=pixels)


def _follow(boxes: NDArray[np.float32], affine: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Boxes where the affine map, read backwards, takes them; not clipped."""
    extent = np.array([width, height, width, height], np.float32)
    scale = np.array([affine[0, 0], affine[1, 1]] * 2, np.float32)
    shift = np.array([affine[0, 2], affine[1, 2]] * 2, np.float32)
    corners = ((boxes.reshape(-1, 4) / extent * 2 - 1 - shift) / scale + 1) / 2 * extent
    return np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1)


def _keep_visible(truth: Truth, height: int, width: int) -> Truth:
    """Clip to the frame; people who hardly show any more become ignored regions."""
    extent = np.array([width, height, width, height], np.float32)
    boxes, ignore = (np.clip(b, 0, extent).astype(np.float32) for b in (truth.boxes, truth.ignore))
    whole = np.prod(truth.boxes[:, 2:] - truth.boxes[:, :2], axis=1)
    sides = boxes[:, 2:] - boxes[:, :2]
    shown = (np.prod(sides, axis=1) >= _MINIMUM_INSIDE * whole) & (sides[:, 1] >= _MINIMUM_HEIGHT)
    ignore = np.concatenate([ignore, boxes[~shown]])
    return Truth(boxes[shown], ignore[np.prod(ignore[:, 2:] - ignore[:, :2], axis=1) > 0])
