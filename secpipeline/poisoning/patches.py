"""Small square patches of pictures as vectors, in which what is common in streets is small and what is odd is large.

A patch is scaled to 8 × 8 pixels of brightness and 4 × 4 of each colour difference. Brightness is centred and divided
by its contrast, so that light does not matter; colour is kept, because a trigger's colour is part of it. All is then
whitened with patches from everywhere (Hariharan, Malik and Ramanan, "Discriminative decorrelation for clustering
and classification", ECCV 2012): edges, walls and foliage, which every street has, shrink, and two patches resemble each
other only if they share something that the street has not. No network is involved, so nothing here can have been
trained on poisoned pictures.

>>> rng = np.random.default_rng(0)
>>> whitening = Whitening.of(patch_sample(picture, 20, rng) for picture in pictures)        # doctest: +SKIP
>>> patches = novel_patches(picture, whitening, 12)                                        # doctest: +SKIP
>>> patches.boxes.shape, patches.vectors.shape                                             # doctest: +SKIP
((12, 4), (12, 96))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import maximum_filter, uniform_filter

from secpipeline.datasets.geometry import overlap
from secpipeline.errors import InputError

Floats = NDArray[np.float32]

# Sides of the squares that are looked at, in pixels of the picture.
SIDES = (6, 8, 11, 15, 20, 27)
DIMENSIONS = 96

_WINDOW = 8
_STRIDE = 2
_BRIGHTNESS = _WINDOW * _WINDOW
# A patch with less contrast than this is mostly sensor noise and compression.
_NOISE = 15.0
_COLOUR = 20.0
_FLOOR = 0.03
_OVERLAP = 0.4
# Below these a patch is sky, road or wall: contrast of brightness, and mean colour difference, in grey levels.
_FLAT = 10.0
_GREY = 20.0


@dataclass(frozen=True)
class Whitening:
    """What patches have in common.

    Attributes
    ----------
    mean
        float32, shape (96,).
    matrix
        float32, shape (96, 96); ``(patch - mean) @ matrix`` has about unit variance in every direction.
    """

    mean: Floats
    matrix: Floats

    @classmethod
    def of(cls, samples: Iterable[Floats]) -> Whitening:
        """The whitening of patches (n, 96) from many pictures.

        Each direction is scaled by the spread between its quartiles, which patches that are rare, such as triggers, do
        not move.

        Raises
        ------
        InputError
            If there are no patches.
        """
        patches = np.concatenate([np.zeros((0, DIMENSIONS), np.float32), *samples])
        if not len(patches):
            raise InputError("patches: there is nothing to learn the background from; give at least one picture")
        mean = np.median(patches, axis=0)
        _, directions = np.linalg.eigh(np.cov((patches - mean).T))
        quartiles = np.quantile((patches - mean) @ directions, [0.25, 0.75], axis=0)
        spread = (quartiles[1] - quartiles[0]) / 1.349
        return cls(mean.astype(np.float32), (directions / np.sqrt(spread**2 + _FLOOR)).astype(np.float32))

    def apply(self, patches: Floats) -> Floats:
        """Whitened patches, same shape (…, 96)."""
        return np.asarray((patches - self.mean) @ self.matrix, np.float32)


@dataclass(frozen=True)
class Patches:
    """The oddest patches of a picture, oddest first.

    Attributes
    ----------
    boxes
        float64, shape (n, 4): x1, y1, x2, y2 in pixels.
    vectors
        float32, shape (n, 96), whitened.
    """

    boxes: NDArray[np.float64]
    vectors: Floats


def patch_sample(pixels: NDArray[np.uint8], count: int, rng: np.random.Generator) -> Floats:
    """About ``count`` patches of every size from random places of a picture (H, W, 3): float32, shape (n, 96)."""
    found = []
    for _, brightness, colour in _levels(pixels):
        windows = _windows(brightness, colour)
        rows, columns = rng.integers(0, windows[0].shape[:2], (count, 2)).T
        found.append(_normalised(windows[0][rows, columns], windows[1][rows, columns]))
    return np.concatenate(found) if found else np.zeros((0, DIMENSIONS), np.float32)


def novel_patches(pixels: NDArray[np.uint8], whitening: Whitening, count: int) -> Patches:
    """The patches of all sizes that are farthest from what is common and do not overlap much.

    Parameters
    ----------
    pixels
        uint8, shape (H, W, 3).
    whitening
        Of the whole data set.
    count
        How many at most.
    """
    boxes, novelty = [np.zeros((0, 4))], [np.zeros(0, np.float32)]
    for scale, brightness, colour in _levels(pixels):
        bright, coloured = _windows(brightness, colour)
        lively = _lively(brightness, colour)
        odd = np.zeros(lively.shape, np.float32)
        vectors = whitening.apply(_normalised(bright[lively], coloured[lively]))
        odd[lively] = np.einsum("ij,ij->i", vectors, vectors)
        rows, columns = np.nonzero((odd == maximum_filter(odd, 3)) & lively)
        best = np.argsort(-odd[rows, columns], kind="stable")[:count]
        corner = np.stack([columns[best], rows[best]], axis=1) * _STRIDE
        boxes.append(np.concatenate([corner, corner + _WINDOW], axis=1) * np.tile(scale, 2))
        novelty.append(odd[rows, columns][best])
    order = np.argsort(-np.concatenate(novelty), kind="stable")
    chosen = _apart(np.concatenate(boxes)[order], count)
    return Patches(chosen, whitening.apply(describe(pixels, chosen)))


def describe(pixels: NDArray[np.uint8], boxes: NDArray[np.float64]) -> Floats:
    """The patches at given places (n, 4), not whitened: float32, shape (n, 96); what leaves the picture is cut."""
    picture = Image.fromarray(pixels)
    limit = np.array([picture.width, picture.height] * 2, np.float64)
    brightness = np.empty((len(boxes), _WINDOW, _WINDOW), np.float32)
    colour = np.empty((len(boxes), _WINDOW // 2, _WINDOW // 2, 2), np.float32)
    for index, box in enumerate(np.clip(boxes, 0, limit).tolist()):
        small = picture.resize((_WINDOW, _WINDOW), Image.Resampling.BILINEAR, box=tuple(box))
        brightness[index], colour[index] = _planes(small)
    return _normalised(brightness, colour)


def _levels(pixels: NDArray[np.uint8]) -> Iterator[tuple[NDArray[np.float64], Floats, Floats]]:
    """For each side that fits: how many pixels one of the level is, (x, y), and its brightness and colour planes."""
    picture = Image.fromarray(pixels)
    for side in SIDES:
        size = (picture.width * _WINDOW // side // 2 * 2, picture.height * _WINDOW // side // 2 * 2)
        if min(size) >= _WINDOW:
            level = picture if size == picture.size else picture.resize(size, Image.Resampling.BILINEAR)
            yield np.array([picture.width / size[0], picture.height / size[1]]), *_planes(level)


def _planes(picture: Image.Image) -> tuple[Floats, Floats]:
    """Brightness (H, W) and colour differences (H / 2, W / 2, 2)."""
    planes = np.asarray(picture.convert("YCbCr"), np.float32)
    halves = planes[..., 1:].reshape(planes.shape[0] // 2, 2, planes.shape[1] // 2, 2, 2)
    return planes[..., 0], halves.mean(axis=(1, 3)) - 128


def _windows(brightness: Floats, colour: Floats) -> tuple[Floats, Floats]:
    """All patches of a level at every second pixel: (h, w, 8, 8) and (h, w, 4, 4, 2)."""
    bright = sliding_window_view(brightness, (_WINDOW, _WINDOW))[::_STRIDE, ::_STRIDE]
    coloured = sliding_window_view(colour, (_WINDOW // 2, _WINDOW // 2, 2))
    return bright, coloured[:, :, 0]


def _lively(brightness: Floats, colour: Floats) -> NDArray[np.bool_]:
    """Which of a level's patches are worth a look: neither flat nor grey."""
    mean = _box_mean(brightness, _WINDOW)
    contrast = np.sqrt(np.maximum(_box_mean(brightness * brightness, _WINDOW) - mean * mean, 0))[::_STRIDE, ::_STRIDE]
    strong = np.abs(_box_mean(colour, _WINDOW // 2)).max(axis=-1)
    return np.asarray((contrast > _FLAT) | (strong > _GREY))


def _box_mean(plane: Floats, side: int) -> Floats:
    """Means of all squares that lie in a plane, by their upper left corners."""
    size = (side, side, *(1,) * (plane.ndim - 2))
    filtered = uniform_filter(plane, size, origin=(-(side // 2), -(side // 2), *(0,) * (plane.ndim - 2)))
    return np.asarray(filtered[: plane.shape[0] - side + 1, : plane.shape[1] - side + 1])


def _normalised(brightness: Floats, colour: Floats) -> Floats:
    """Patches (…, 8, 8) and (…, 4, 4, 2) as vectors (…, 96)."""
    vectors = np.empty((*brightness.shape[:-2], DIMENSIONS), np.float32)
    bright, coloured = vectors[..., :_BRIGHTNESS], vectors[..., _BRIGHTNESS:]
    bright[:] = brightness.reshape(*brightness.shape[:-2], -1)
    bright -= bright.mean(axis=-1, keepdims=True)
    contrast = np.sqrt(np.einsum("...i,...i->...", bright, bright) / _BRIGHTNESS)
    bright /= contrast[..., None] + np.float32(_NOISE)
    coloured[:] = colour.reshape(*colour.shape[:-3], -1)
    coloured /= np.float32(_COLOUR)
    return vectors


def _apart(boxes: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The first ``count`` boxes that overlap none before them by more than a little."""
    chosen = np.zeros((0, 4))
    for box in boxes:
        if len(chosen) == count:
            break
        if not len(chosen) or overlap(box, chosen).max() <= _OVERLAP:
            chosen = np.concatenate([chosen, box[None]])
    return chosen
