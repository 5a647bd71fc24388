"""Five corruptions that streets and cameras make by themselves, at three severities.

After Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and
perturbations", ICLR 2019; strengths are chosen for pictures of a few hundred pixels. An image's corruption
depends on the seed and on its position alone, not on the images beside it.

>>> import numpy as np
>>> street = np.full((1, 3, 48, 64), 200, np.uint8)
>>> bool(corrupt(street, "low_light", severity=3, seed=0).max() < 80)
True
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secpipeline.detection.ranges import check_choice

Images = NDArray[np.uint8]
Picture = NDArray[np.uint8]

SEVERITIES = (1, 2, 3)

_NOISE_DEVIATION = (0.04, 0.08, 0.12)  # of the range from black to white
_BLUR_LENGTH = (0.02, 0.04, 0.06)  # of the image's width
_FOG_DENSITY = (0.3, 0.5, 0.65)  # share of white in the mean
_LIGHT = (0.6, 0.4, 0.25)  # share of the light that is left
_JPEG_QUALITY = (25, 15, 10)


def corrupt(images: Images, name: str, severity: int, seed: int) -> Images:
    """Corrupt every image.

    Parameters
    ----------
    images
        (N, 3, H, W) uint8.
    name
        A key of :data:`CORRUPTIONS`.
    severity
        1 (mild) to 3 (strong).
    seed
        Of the noise, the direction of motion and the fog's shape.

    Returns
    -------
    ndarray
        (N, 3, H, W) uint8.

    Raises
    ------
    InputError
        If there is no such corruption or severity.
    """
    check_choice("corruption", name, CORRUPTIONS)
    check_choice(f"corruption {name}: severity", severity, SEVERITIES)
    change = CORRUPTIONS[name]
    changed = np.empty_like(images)

    def change_one(index: int) -> None:
        changed[index] = change(images[index], severity - 1, np.random.default_rng((seed, index)))

    # numpy's generators and Pillow let go of the interpreter lock, so threads do run side by side.
    with ThreadPoolExecutor() as pool:
        list(pool.map(change_one, range(len(images))))
    return changed


def _gaussian_noise(picture: Picture, level: int, rng: np.random.Generator) -> Picture:
    """A sensor at high gain."""
    noise = rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(_NOISE_DEVIATION[level] * 255)
    return _to_8_bit(picture + noise)


def _motion_blur(picture: Picture, level: int, rng: np.random.Generator) -> Picture:
    """The mean of the picture at each pixel of a straight path, mostly sideways as from a turning car."""
    height, width = picture.shape[1:]
    reach = max(1, round(_BLUR_LENGTH[level] * width / 2))
    angle = rng.uniform(-np.pi / 6, np.pi / 6)
    offsets = np.arange(-reach, reach + 1)
    columns, rows = np.rint(offsets * np.cos(angle)).astype(int), np.rint(offsets * np.sin(angle)).astype(int)
    padded = np.pad(picture, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    total = np.zeros(picture.shape, np.uint32)
    for row, column in zip(reach + rows, reach + columns, strict=True):
        total += padded[:, row : row + height, column : column + width]
    return _to_8_bit(total / len(offsets))


def _fog(picture: Picture, level: int, rng: np.random.Generator) -> Picture:
    """White, in banks of several sizes, over the picture."""
    height, width = picture.shape[1:]
    banks = np.zeros((height, width), np.float32)
    for octave in range(4):
        coarse = rng.random((2 + 2**octave, 2 + 2**octave), dtype=np.float32)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        banks += np.asarray(smooth, np.float32) / 2**octave
    low, high = float(banks.min()), float(banks.max())
    # Between half and one and a half times the mean density.
    share = _FOG_DENSITY[level] * (0.5 + (banks - low) / max(high - low, 1e-6))
    share = np.clip(share, 0, 0.95)
    return _to_8_bit(picture * (1 - share) + 235 * share)


def _low_light(picture: Picture, level: int, rng: np.random.Generator) -> Picture:
    """Less light, and the shot noise of the fewer photons (a full well is taken as 2,000 of them)."""
    photons = picture.astype(np.float32) * np.float32(_LIGHT[level] * 2000 / 255)
    noisy = photons + np.sqrt(photons) * rng.standard_normal(picture.shape, dtype=np.float32)
    return _to_8_bit(noisy * np.float32(255 / 2000))


def _jpeg(picture: Picture, level: int, rng: np.random.Generator) -> Picture:  # noqa: ARG001 - one signature for all
    """A link that is too thin."""
    buffer = io.BytesIO()
    Image.fromarray(picture.transpose(1, 2, 0)).save(buffer, "JPEG", quality=_JPEG_QUALITY[level])
    return np.asarray(Image.open(buffer), np.uint8).transpose(2, 0, 1)


def _to_8_bit(values: NDArray[np.floating]) -> Picture:
    pixels: Picture = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return pixels


CORRUPTIONS: Mapping[str, Callable[[Picture, int, np.random.Generator], Picture]] = {
    "gaussian_noise": _gaussian_noise,
    "motion_blur": _motion_blur,
    "fog": _fog,
    "low_light": _low_light,
    "jpeg": _jpeg,
}
