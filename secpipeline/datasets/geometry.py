"""Boxes: how much they overlap, and how they turn with a picture that has an EXIF orientation.

The eight orientations are those of the tag 0x0112 (EXIF 2.32, 4.6.4): 1 is upright, 2 to 4 flip or turn by half, and 5
to 8 exchange rows and columns as well.

>>> turn_corners(np.array([[2.0, 3.0, 8.0, 9.0]]), 6, size=(32, 24))
array([[15.,  2., 21.,  8.]])
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.floating[Any])

UPRIGHT = 1
# What a share is divided by where a box has no area.
_TINY = np.finfo(np.float64).tiny
# Of the stored picture: exchange rows and columns first, then mirror left and right, then up and down.
_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def turn_corners(corners: NDArray[np.float64], orientation: int, size: tuple[int, int]) -> NDArray[np.float64]:
    """Boxes that were drawn on the stored picture, on the turned one.

    Parameters
    ----------
    corners
        x1, y1, x2, y2 in pixels of the stored picture, shape (n, 4).
    orientation
        From 1 to 8.
    size
        Width and height of the stored picture.
    """
    exchanged, mirrored, flipped = _TURNS[orientation]
    x1, y1, x2, y2 = corners.T
    width, height = size
    if exchanged:
        x1, y1, x2, y2, width, height = y1, x1, y2, x2, height, width
    if mirrored:
        x1, x2 = width - x2, width - x1
    if flipped:
        y1, y2 = height - y2, height - y1
    return np.stack([x1, y1, x2, y2], axis=1)


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Width and height of the turned picture."""
    return (size[1], size[0]) if _TURNS[orientation][0] else size


def area(boxes: NDArray[Number]) -> NDArray[Number]:
    """Areas of boxes x1, y1, x2, y2, shape (…, 4) to (…,); 0 where one ends before it begins."""
    return _area(boxes[..., 2:] - boxes[..., :2])


def intersection(a: NDArray[Number], b: NDArray[Number]) -> NDArray[Number]:
    """The areas that boxes (…, 4) share with others; the leading axes broadcast."""
    return _area(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]))


def overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of boxes (…, 4) with others, from 0 to 1; the leading axes broadcast.

    >>> overlap(np.array([[0.0, 0, 10, 10], [0, 0, 0, 0]]), np.array([0.0, 0, 10, 40]))
    array([0.25, 0.  ])
    """
    common = intersection(a, b)
    shares: NDArray[np.float64] = common / np.maximum(area(a) + area(b) - common, _TINY)
    return shares


def covered(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of each of boxes ``a`` (…, 4) that lies in ``b``, from 0 to 1; the leading axes broadcast.

    >>> covered(np.array([0.0, 0, 10, 10]), np.array([[0.0, 0, 10, 40], [0, 0, 5, 5]]))
    array([1.  , 0.25])
    """
    shares: NDArray[np.float64] = intersection(a, b) / np.maximum(area(a), _TINY)
    return shares


def overlaps(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """:func:`overlap` of every box of ``a`` with every one of ``b``.

    Parameters
    ----------
    a, b
        Shapes (…, n, 4) and (…, m, 4) with the same leading axes.

    Returns
    -------
    ndarray
        Shape (…, n, m), from 0 to 1.
    """
    return overlap(a[..., :, None, :], b[..., None, :, :])


def _area(sides: NDArray[Number]) -> NDArray[Number]:
    sides = np.clip(sides, 0, None)
    return sides[..., 0] * sides[..., 1]
