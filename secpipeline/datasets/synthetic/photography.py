"""From a drawn canvas to a photograph: light, lens, motion, sensor."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from secpipeline.datasets.synthetic.camera import Camera
from secpipeline.datasets.synthetic.textures import Floats

_NOISE = 1088  # more than the largest image
_AMBIENT = {
    "day": np.array([1.0, 1.0, 1.0], np.float32),
    "dusk": np.array([0.74, 0.66, 0.68], np.float32),
    "night": np.array([0.36, 0.37, 0.46], np.float32),
}
_LAMP = np.array([1.05, 0.82, 0.52], np.float32)


@dataclass(frozen=True)
class Lens:
    """What a vendor's camera does to every picture.

    Attributes
    ----------
    gains
        Colour cast: factors for red, green and blue.
    noise
        Standard deviation of the sensor noise at daylight, in grey levels.
    softness
        Standard deviation of the lens blur in pixels, below 1; 0 is none.
    vignette
        Share of light that the corners lose.
    """

    gains: tuple[float, float, float]
    noise: float
    softness: float
    vignette: float


def light_field(camera: Camera, time_of_day: str, lamps: list[tuple[float, float]], headlights: bool) -> Floats | None:
    """How much light of each colour falls on every pixel's surroundings; None means plain daylight.

    Parameters
    ----------
    camera
        At final resolution.
    time_of_day
        ``day``, ``dusk`` or ``night``.
    lamps
        x and z of street lamps in metres.
    headlights
        Whether the camera's own vehicle lights the road ahead.

    Returns
    -------
    ndarray or None
        float32, shape (H, W, 3).
    """
    if time_of_day == "day":
        return None
    columns = np.arange(camera.width, dtype=np.float32)[None] + 0.5
    rows = np.arange(camera.height, dtype=np.float32)[:, None] + 0.5
    pool = np.zeros((camera.height, camera.width), np.float32)
    strength = 0.75 if time_of_day == "night" else 0.35
    for x, z in lamps:
        u, v = camera.point(x, 1.2, z)
        scale = camera.scale(z)
        pool += strength * np.exp(-(((columns - u) / (2.6 * scale)) ** 2 + ((rows - v) / (2.4 * scale)) ** 2))
    if headlights:
        low = np.exp(-(((columns - camera.centre) / (0.42 * camera.width)) ** 2))
        pool += 0.6 * strength * low * np.clip((rows - camera.horizon + 12) / 40, 0, 1)
    return np.asarray(_AMBIENT[time_of_day] + pool[..., None] * _LAMP, np.float32)


@functools.cache
def _noise_bank() -> Floats:
    return np.random.default_rng(11).standard_normal((_NOISE, _NOISE, 3), np.float32)


@functools.lru_cache(maxsize=16)
def _falloff(lens: Lens, height: int, width: int) -> Floats:
    """What share of each colour reaches each pixel through the lens."""
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None] ** 2
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None] ** 2
    return np.asarray(np.array(lens.gains) * (1 - lens.vignette * (rows + columns) / 2), np.float32)


def _blur(pixels: Floats, softness: float) -> Floats:
    """A Gaussian of less than a pixel, which three taps each way hold."""
    side = np.exp(-1 / (2 * softness**2))
    weight = np.float32(side / (1 + 2 * side))
    for axis in (0, 1):
        source = np.moveaxis(pixels, axis, 0)
        spread = source * (1 - 2 * weight)
        spread[1:] += weight * source[:-1]
        spread[:-1] += weight * source[1:]
        spread[0] += weight * source[0]
        spread[-1] += weight * source[-1]
        pixels = np.moveaxis(spread, 0, axis)
    return pixels


def expose(
    colour: Image.Image,
    glow: Image.Image | None,
    light: Floats | None,
    lens: Lens,
    shake: int,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Take the photograph.

    Parameters
    ----------
    colour
        Surface colours at final resolution.
    glow
        What shines by itself, or None by day.
    light
        From :func:`light_field`.
    lens
        The camera's faults.
    shake
        Horizontal motion blur in pixels; 1 is none.
    rng
        Noise and exposure.

    Returns
    -------
    ndarray
        uint8, shape (H, W, 3), RGB.
    """
    pixels = np.array(colour, np.float32)
    if lens.softness > 0:
        pixels = _blur(pixels, lens.softness)
    if light is not None:
        pixels *= light
    if glow is not None:
        halo = glow.reduce(4).filter(ImageFilter.GaussianBlur(2.2)).resize(glow.size, Image.Resampling.BILINEAR)
        pixels += np.asarray(ImageChops.add(glow, halo, scale=1.14), np.float32)
    if shake > 1:
        pixels = np.mean([np.roll(pixels, step - shake // 2, axis=1) for step in range(shake)], axis=0)
    height, width = pixels.shape[:2]
    pixels *= _falloff(lens, height, width)
    pixels *= np.float32(rng.uniform(0.92, 1.08))
    sigma = np.float32(lens.noise * (1.0 if light is None else 1.7))
    top, left = rng.integers(0, (_NOISE - height, _NOISE - width), endpoint=True).tolist()
    pixels += sigma * _noise_bank()[top : top + height, left : left + width]
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)
