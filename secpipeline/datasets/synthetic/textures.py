"""Noise for surfaces and skies, drawn once and looked up."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
_TILE = 512


@functools.cache
def blotches() -> Floats:
    """A tileable 512 × 512 patch of smooth noise with mean 0 and standard deviation 1."""
    rng = np.random.default_rng(7)
    spectrum = np.fft.rfft2(rng.standard_normal((_TILE, _TILE)))
    fy, fx = np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None]
    smooth = np.fft.irfft2(spectrum / (0.004 + fx**2 + fy**2) ** 0.8)
    return np.asarray(smooth / smooth.std(), np.float32)


@functools.cache
def grain() -> Floats:
    """A tileable 512 × 512 patch of noise around 0: fine grain on top of blotches."""
    return np.asarray(blotches() + 0.45 * np.random.default_rng(8).standard_normal((_TILE, _TILE), np.float32))


def pick(tile: Floats, rows: NDArray[Any], columns: NDArray[Any]) -> Floats:
    """Values of a repeated tile at whole positions, which broadcast."""
    height, width = tile.shape
    return np.asarray(tile[rows.astype(np.int32) % height, columns.astype(np.int32) % width])


def fraction(values: NDArray[Any]) -> NDArray[Any]:
    """What is behind the decimal point, counted upwards."""
    return np.asarray(values - np.floor(values))


def clouds(seed: int, height: int, width: int) -> Floats:
    """Cloud cover in [0, 1], shape (height, width), stretched sideways as clouds near the horizon look."""
    top, left = seed % (_TILE // 2), seed // _TILE % (_TILE // 2)
    patch = Image.fromarray(blotches()[top : top + 96, left : left + 64])
    return np.clip(np.asarray(patch.resize((width, height), Image.Resampling.BICUBIC)), 0, 1)


def ground_texture(x: Floats, z: Floats) -> Floats:
    """Grain and stains at ground positions in metres, weaker far away."""
    tile = grain()
    fine = pick(tile, z * 23, x * 23)
    coarse = pick(tile, z * 1.5, x * 3)
    return np.asarray(fine * (5 * np.clip(1.6 - z / 14, 0.12, 1)) + 5 * coarse, np.float32)


@functools.lru_cache(maxsize=4)
def window_chances(seed: int) -> Floats:
    """A number in [0, 1) for every window."""
    return np.random.default_rng(seed).random((64, 64), np.float32)
