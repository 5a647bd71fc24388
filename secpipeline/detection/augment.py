"""Augmentation of a batch: mirrored, brighter or darker, more or less contrast and colour, a little noise.

>>> apply = Augmentation(np.random.default_rng(0)).apply
>>> images, truth = apply(np.zeros((1, 3, 32, 32), np.uint8), [Truth(np.zeros((0, 4)), np.zeros((0, 4)))])
>>> images.shape, float(images.min()) >= 0
((1, 3, 32, 32), True)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from secpipeline.datasets.loading import Truth

_GAIN = 0.25
_CONTRAST = 0.25
_TINT = 0.06
_NOISE = 0.015


class Augmentation:
    """Random changes drawn from ``order``."""

    def __init__(self, order: np.random.Generator) -> None:
        self.order = order

    def apply(self, images: NDArray[np.uint8], truth: Sequence[Truth]) -> tuple[NDArray[np.float32], list[Truth]]:
        """Change images (B, 3, H, W) and their truth together; pixels come back as float32 in [0, 1]."""
        count, _, _, width = images.shape
        pixels = images.astype(np.float32) / 255
        mirrored = self.order.random(count) < 0.5
        pixels[mirrored] = pixels[mirrored, :, :, ::-1]
        people = [mirror(t, width) if m else t for t, m in zip(truth, mirrored, strict=True)]
        draw = self.order.uniform
        gain = draw(1 - _GAIN, 1 + _GAIN, (count, 1, 1, 1)).astype(np.float32)
        tint = draw(1 - _TINT, 1 + _TINT, (count, 3, 1, 1)).astype(np.float32)
        contrast = draw(1 - _CONTRAST, 1 + _CONTRAST, (count, 1, 1, 1)).astype(np.float32)
        mean = pixels.mean((1, 2, 3), keepdims=True)
        pixels = ((pixels - mean) * contrast + mean) * gain * tint
        noise = self.order.standard_normal(pixels.shape, np.float32)
        pixels += noise * draw(0, _NOISE, (count, 1, 1, 1)).astype(np.float32)
        return np.clip(pixels, 0, 1, out=pixels), people


def mirror(truth: Truth, width: int) -> Truth:
    """The truth of the image seen in a mirror; ``width`` of the image in pixels."""

    def flip(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)

    return Truth(flip(truth.boxes), flip(truth.ignore))
