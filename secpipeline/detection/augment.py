"""Augmentation of a batch: mirrored, nearer or farther, shifted, and seen under another light.

>>> apply = Augmentation(np.random.default_rng(0), zoom=1.1).apply
>>> images, truth = apply(np.zeros((1, 3, 32, 32), np.uint8), [Truth(np.zeros((0, 4)), np.zeros((0, 4)))])
>>> images.shape, float(images.min()) >= 0
((1, 3, 32, 32), True)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from secpipeline.datasets.geometry import area
from secpipeline.datasets.loading import Truth

_GAIN = 0.25
_CONTRAST = 0.25
_TINT = 0.06
_NOISE = 0.03
# A person who is mostly outside the zoomed frame is no example of a person, and no mistake either.
_MINIMUM_INSIDE = 0.4
_MINIMUM_HEIGHT = 12.0


@dataclass(frozen=True)
class Changes:
    """What is to be changed about a batch of B images of (3, H, W); the same whoever applies it.

    Attributes
    ----------
    affine
        (B, 2, 3) float32, the map from the new frame to the old one in the [-1, 1] coordinates of ``grid_sample``.
    gain, contrast, noise
        (B, 1, 1, 1) float32: factors of brightness and contrast, and the strength of the noise.
    tint
        (B, 3, 1, 1) float32, a factor a colour.
    pattern
        (3, H, W) float32 noise that all images share, or None for one that is drawn where it is applied.
    """

    affine: NDArray[np.float32]
    gain: NDArray[np.float32]
    tint: NDArray[np.float32]
    contrast: NDArray[np.float32]
    noise: NDArray[np.float32]
    pattern: NDArray[np.float32] | None

    def __getitem__(self, rows: slice) -> Changes:
        """The changes of some images."""
        affine, gain, tint, contrast, noise = (
            part[rows] for part in (self.affine, self.gain, self.tint, self.contrast, self.noise)
        )
        return Changes(affine, gain, tint, contrast, noise, self.pattern)


def draw(order: np.random.Generator, count: int, zoom: float, frame: tuple[int, int] | None = None) -> Changes:
    """Draw changes for ``count`` images, nearer or farther by at most the factor ``zoom``.

    With ``frame``, its (height, width), the noise is drawn too.
    """
    mirrored = np.where(order.random(count) < 0.5, -1.0, 1.0)
    factor = np.exp(order.uniform(-math.log(zoom), math.log(zoom), count))
    room = 1 - 1 / factor
    affine = np.zeros((count, 2, 3), np.float32)
    affine[:, 0, 0], affine[:, 1, 1] = mirrored / factor, 1 / factor
    affine[:, :, 2] = order.uniform(-1, 1, (count, 2)) * np.abs(room)[:, None]

    def uniform(low: float, high: float, colours: int = 1) -> NDArray[np.float32]:
        return order.uniform(low, high, (count, colours, 1, 1)).astype(np.float32)

    gain = uniform(1 - _GAIN, 1 + _GAIN)
    tint = uniform(1 - _TINT, 1 + _TINT, 3)
    contrast = uniform(1 - _CONTRAST, 1 + _CONTRAST)
    noise = uniform(0, _NOISE)
    pattern = None if frame is None else order.standard_normal((3, *frame), np.float32)
    return Changes(affine, gain, tint, contrast, noise, pattern)


class Augmentation:
    """Random changes drawn from ``order``; ``zoom`` is the largest factor by which things come nearer or go farther."""

    def __init__(self, order: np.random.Generator, zoom: float) -> None:
        self.order, self.zoom = order, zoom

    def apply(self, images: NDArray[np.uint8], truth: Sequence[Truth]) -> tuple[NDArray[np.float32], list[Truth]]:
        """Change images (B, 3, H, W) and their truth together; pixels come back as float32 in [0, 1]."""
        changes = draw(self.order, len(images), self.zoom, (images.shape[2], images.shape[3]))
        return change(images, changes), change_truth(truth, changes, images.shape[2], images.shape[3])


def change(images: NDArray[np.uint8], changes: Changes) -> NDArray[np.float32]:
    """Images (B, 3, H, W) with their changes applied on the processor, as float32 in [0, 1]."""
    moved = _move(torch.from_numpy(images.astype(np.float32) / np.float32(255)), torch.from_numpy(changes.affine))
    pixels = moved.numpy()
    colour = changes.gain * changes.tint
    mean = pixels.mean((1, 2, 3), keepdims=True)
    pixels *= changes.contrast * colour
    pixels += mean * (1 - changes.contrast) * colour
    assert changes.pattern is not None
    pixels += changes.pattern * changes.noise
    return np.clip(pixels, 0, 1, out=pixels)


def change_on_device(images: Tensor, changes: Changes, generator: torch.Generator) -> Tensor:
    """As :func:`change`, in batched operations on the device of ``images``, (B, 3, H, W) uint8.

    The noise comes from ``generator``, of the same device, so the pixels are not those of :func:`change`.
    """
    device = images.device

    def there(values: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values).to(device, non_blocking=True)

    pixels = _move(images.float().div_(255), there(changes.affine))
    colour, contrast = there(changes.gain * changes.tint), there(changes.contrast)
    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels.mul_(contrast * colour).add_(mean * (1 - contrast) * colour)
    pattern = torch.randn(pixels.shape[1:], generator=generator, device=device)
    return pixels.addcmul_(pattern, there(changes.noise)).clamp_(0, 1)


def change_truth(truth: Sequence[Truth], changes: Changes, height: int, width: int) -> list[Truth]:
    """The truth of the same images of (height, width) pixels."""
    people = [
        Truth(*(_follow(boxes, affine, height, width) for boxes in (one.boxes, one.ignore)))
        for one, affine in zip(truth, changes.affine, strict=True)
    ]
    return [_keep_visible(one, height, width) for one in people]


def _move(pixels: Tensor, affine: Tensor) -> Tensor:
    """Mirror, zoom and shift; a zoomed-out frame is filled up with its edge, which shows nobody twice."""
    grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


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
    tall = boxes[:, 3] - boxes[:, 1] >= _MINIMUM_HEIGHT
    shown = (area(boxes) >= _MINIMUM_INSIDE * area(truth.boxes)) & tall
    ignore = np.concatenate([ignore, boxes[~shown]])
    return Truth(boxes[shown], ignore[area(ignore) > 0])
