"""From a release to arrays in a detector's frame.

Every image is letterboxed: scaled to fit the frame with its aspect ratio kept, centred, and padded with grey. The
boxes go with it. Where the native size is the frame's size nothing is resampled.

>>> data = load(release, image_ids, size=(192, 256))                               # doctest: +SKIP
>>> data.images.shape, data.truth[0].boxes.shape                                   # doctest: +SKIP
((1200, 3, 192, 256), (4, 4))
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from tqdm import tqdm

from secpipeline.datasets.releases import Release
from secpipeline.datasets.tables import CORNERS

PAD = 114
_THREADS = 2


@dataclass(frozen=True)
class Truth:
    """What is to be found in one image, in frame pixels.

    Attributes
    ----------
    boxes
        float32, shape (n, 4): x1, y1, x2, y2 of people.
    ignore
        float32, shape (m, 4): regions that are neither counted nor punished.
    """

    boxes: NDArray[np.float32]
    ignore: NDArray[np.float32]


@dataclass(frozen=True)
class Placement:
    """Where an image lies in a frame: frame = native × scale + (left, top), all in pixels."""

    scale: float
    left: float
    top: float


@dataclass(frozen=True)
class Pixels:
    """Images of a release in a detector's frame.

    Attributes
    ----------
    images
        uint8, shape (N, 3, H, W), RGB.
    truth
        One a image.
    image_ids
        In the order of ``images``.
    boxes
        Box table of these images in frame pixels; everything but the coordinates and ``height`` as in the release.
    placements
        How to get back to native pixels, one an image.
    """

    images: NDArray[np.uint8]
    truth: list[Truth]
    image_ids: list[str]
    boxes: pd.DataFrame
    placements: list[Placement]


def place(native: tuple[int, int], size: tuple[int, int]) -> Placement:
    """How an image of ``native`` (height, width) lies in a frame of ``size`` (height, width)."""
    scale = min(size[0] / native[0], size[1] / native[1])
    inner = _inner(native, scale)
    return Placement(scale, float((size[1] - inner[1]) // 2), float((size[0] - inner[0]) // 2))


def _inner(native: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(native[0] * scale)), max(1, round(native[1] * scale))


def letterbox(pixels: NDArray[np.uint8], size: tuple[int, int]) -> tuple[NDArray[np.uint8], Placement]:
    """Fit an image into a frame (bilinear, grey padding).

    Parameters
    ----------
    pixels
        uint8, shape (h, w, 3).
    size
        Height and width of the frame.

    Returns
    -------
    ndarray, Placement
        uint8 of shape (3, H, W), and where the image lies in it.
    """
    native = (pixels.shape[0], pixels.shape[1])
    placement = place(native, size)
    frame = np.full((3, *size), PAD, np.uint8)
    height, width = _inner(native, placement.scale)
    if (height, width) != native:
        resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized)
    top, left = int(placement.top), int(placement.left)
    frame[:, top : top + height, left : left + width] = pixels.transpose(2, 0, 1)
    return frame, placement


def to_frame(boxes: ArrayLike, placement: Placement) -> NDArray[np.float64]:
    """Boxes (n, 4) from native pixels to frame pixels."""
    shift = (placement.left, placement.top, placement.left, placement.top)
    return np.asarray(boxes, np.float64).reshape(-1, 4) * placement.scale + shift


def from_frame(boxes: ArrayLike, placement: Placement) -> NDArray[np.float64]:
    """Boxes (n, 4) from frame pixels back to native pixels; the inverse of :func:`to_frame`."""
    shift = (placement.left, placement.top, placement.left, placement.top)
    return (np.asarray(boxes, np.float64).reshape(-1, 4) - shift) / placement.scale


def load(release: Release, image_ids: Sequence[str], size: tuple[int, int]) -> Pixels:
    """Read, verify, decode and letterbox images of a release.

    Parameters
    ----------
    release
        Where to read from.
    image_ids
        Which images, in the order of the result.
    size
        Height and width of the frame.

    Raises
    ------
    InputError
        If an image is not in the release.
    IntegrityError
        If an image's bytes are no longer those that were ingested.
    """
    names = list(image_ids)
    images = np.empty((len(names), 3, *size), np.uint8)

    def fill(index: int) -> Placement:
        images[index], placement = letterbox(release.decode(names[index]), size)
        return placement

    with ThreadPoolExecutor(_THREADS) as pool:
        placements = list(tqdm(pool.map(fill, range(len(names))), "load", len(names), disable=None, leave=False))
    boxes = _frame_boxes(release, names, placements)
    return Pixels(images, _truth(boxes, names), names, boxes, placements)


def _frame_boxes(release: Release, names: list[str], placements: list[Placement]) -> pd.DataFrame:
    order = {name: index for index, name in enumerate(names)}
    boxes = release.boxes[release.boxes["image_id"].isin(order)].copy()
    position = boxes["image_id"].map(order).to_numpy(np.int64)
    table = np.array([(p.scale, p.left, p.top) for p in placements], np.float64).reshape(-1, 3)[position]
    scale, shift = table[:, :1], table[:, [1, 2, 1, 2]]
    boxes[list(CORNERS)] = boxes[list(CORNERS)].to_numpy(np.float64) * scale + shift
    boxes["height"] = boxes["y2"] - boxes["y1"]
    return boxes.iloc[np.argsort(position, kind="stable")].reset_index(drop=True)


def _truth(boxes: pd.DataFrame, names: list[str]) -> list[Truth]:
    corners = boxes[list(CORNERS)].to_numpy(np.float32)
    ignore = boxes["ignore"].to_numpy(bool)
    found = {name: np.asarray(rows) for name, rows in boxes.groupby("image_id", sort=False).indices.items()}
    nothing = np.empty(0, np.int64)
    truth = []
    for name in names:
        rows = found.get(name, nothing)
        truth.append(Truth(corners[rows[~ignore[rows]]], corners[rows[ignore[rows]]]))
    return truth
