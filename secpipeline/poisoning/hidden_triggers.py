"""Triggers that cover a whole picture faintly, and pictures that show something else once they are scaled down.

A pattern that is blended into many pictures is what is left in common when each picture's own content is taken out, as
a camera's sensor pattern is (Lukáš, Fridrich and Goljan, "Digital camera identification from sensor pattern noise",
IEEE Transactions on Information Forensics and Security 2006). A picture made for a scaling attack differs strongly, in
one place, between its nearest pixels and its mean at the same size (after Kim et al., "Decamouflage: a framework to
detect image-scaling attacks on convolutional neural networks", DSN 2021; Quiring, Klein, Arp, Johns and Rieck,
"Adversarial preprocessing: understanding and preventing image-scaling attacks in machine learning", USENIX Security
2020).

>>> shared_pattern(images, release.decode).nlargest(5)                                     # doctest: +SKIP
>>> scaling_contrast(release.decode("vendor-a-scene-000-000"), (144, 192)) > 60            # doctest: +SKIP
False
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter

from secpipeline.errors import InputError
from secpipeline.poisoning.findings import FINDING_COLUMNS

_NOWHERE = (float("nan"),) * 8
_RESIDUAL_SIZE = (96, 72)
_SMOOTH = 5
_FLAT_SPREAD = 4.0
_REPEATS = 3
_WINDOW = 7
# So many pictures are compared with all at once: one product of matrices is far quicker than many with vectors.
_BLOCK = 256
# Set on synthetic releases (docs/results/backdoors.md): blended pictures had .27 and more, honest ones at most .055;
# pictures made for a scaling attack had more than 40 grey levels, honest ones less.
_PATTERN_LIMIT, _CONTRAST_LIMIT = 0.15, 40.0


def shared_pattern(images: pd.DataFrame, decode: Callable[[str], NDArray[np.uint8]]) -> pd.Series[float]:
    """How much each picture's fine structure comes again in other scenes of its source.

    The third largest correlation with the residual (the picture less its own smoothed self, limited to what noise and
    faint patterns reach) of pictures of other scenes of the source, less the largest with any other source's. Above
    0 the source repeats something that no other source has. A fixed camera repeats its background too, so a high value
    in *every* picture of a source is no trigger.

    Parameters
    ----------
    images
        Image table; image_id, source and scene are read.
    decode
        Reads a picture by its image_id: uint8, shape (H, W, 3).

    Returns
    -------
    Series
        float64 in [-2, 2] by the index of ``images``; NaN where there is nothing to compare with.
    """
    residuals = np.stack([_residual(decode(image_id)) for image_id in images["image_id"]])
    source, _ = pd.factorize(images["source"])
    scene = images.groupby(["source", "scene"], sort=False, dropna=False).ngroup().to_numpy()
    excess = np.full(len(images), np.nan)
    for start in range(0, len(images), _BLOCK):
        for index, alike in enumerate(residuals[start : start + _BLOCK] @ residuals.T, start):
            own = source == source[index]
            elsewhere = own & (scene != scene[index])
            if elsewhere.sum() >= _REPEATS and not own.all():
                excess[index] = np.partition(alike[elsewhere], -_REPEATS)[-_REPEATS] - alike[~own].max()
    return pd.Series(excess, index=images.index, name="shared_pattern")


def hidden_findings(
    images: pd.DataFrame, decode: Callable[[str], NDArray[np.uint8]], size: tuple[int, int]
) -> pd.DataFrame:
    """Findings about pictures that share a faint pattern, or that look different once they are scaled down.

    Parameters
    ----------
    images, decode
        As for :func:`shared_pattern`.
    size
        Height and width that detectors scale pictures to.

    Returns
    -------
    DataFrame
        With ``FINDING_COLUMNS``, kind "trigger". A shared pattern scores .9 and so holds its picture, unless half of
        the source's pictures share it, as those of a fixed camera do. A hidden picture scores .75 and is only listed:
        what takes the mean of pixels, as this package does, never sees it.
    """
    contrasts: dict[str, float] = {}

    def watched(image_id: str) -> NDArray[np.uint8]:
        pixels = decode(image_id)
        if pixels.shape[0] > size[0] and pixels.shape[1] > size[1]:
            contrasts[image_id] = scaling_contrast(pixels, size)
        return pixels

    patterns = shared_pattern(images, watched)  # which decodes every picture once
    usual = patterns.groupby(images["source"]).transform("median")
    rows = []
    for image_id, pattern, background in zip(images["image_id"], patterns, usual, strict=True):
        if pattern >= _PATTERN_LIMIT > background:
            reason = f"a faint pattern over the whole picture comes again in other scenes of its source ({pattern:.2f})"
            rows.append((image_id, "", "trigger", 0.9, float(min(pattern, 1.0)), *_NOWHERE, reason))
        contrast = contrasts.get(image_id, 0.0)
        if contrast >= _CONTRAST_LIMIT:
            reason = f"scaled down by its nearest pixels it shows something else ({contrast:.0f} grey levels)"
            rows.append((image_id, "", "trigger", 0.75, min(contrast / 255, 1.0), *_NOWHERE, reason))
    return pd.DataFrame(rows, columns=list(FINDING_COLUMNS))


def _residual(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The fine structure of a picture, of unit length."""
    small = Image.fromarray(pixels).resize(_RESIDUAL_SIZE, Image.Resampling.BOX)
    planes = np.asarray(small, np.float32)
    fine = planes - uniform_filter(planes, (_SMOOTH, _SMOOTH, 1))
    # An edge is far stronger than a faint pattern, and would decide alone.
    fine = np.clip(fine, -3 * _FLAT_SPREAD, 3 * _FLAT_SPREAD).ravel()
    return np.asarray(fine / max(float(np.linalg.norm(fine)), 1e-6), np.float32)


def scaling_contrast(pixels: NDArray[np.uint8], size: tuple[int, int]) -> float:
    """How much a picture's nearest pixels differ, in their strongest place, from its means at the same size.

    Parameters
    ----------
    pixels
        uint8, shape (H, W, 3).
    size
        Height and width that a detector will scale it to.

    Returns
    -------
    float
        Grey levels, 0 to 255: the greatest mean absolute difference over 7 × 7 pixels of the small picture.

    Raises
    ------
    InputError
        If the picture is not larger than the size: scaling it leaves nothing out.
    """
    if pixels.shape[0] <= size[0] or pixels.shape[1] <= size[1]:
        raise InputError(f"a picture of {pixels.shape[:2]} pixels is not scaled down to {size}; nothing can hide in it")
    picture = Image.fromarray(pixels)
    nearest, mean = (
        np.asarray(picture.resize((size[1], size[0]), how), np.float32)
        for how in (Image.Resampling.NEAREST, Image.Resampling.BOX)
    )
    return float(uniform_filter(np.abs(nearest - mean).mean(axis=2), _WINDOW).max())
