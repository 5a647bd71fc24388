"""Greedy assignment of detections to boxes, all images at once.

What the Caltech and the COCO evaluation code share: detections choose in descending order of score, a counted box is
chosen before an ignored one, among those the greatest overlap wins (the last of equals), and every box is taken once,
crowds excepted, which take any number and are compared by intersection over the detection's area.

>>> import numpy as np
>>> laid_out = lay_out(np.array([[0.0, 0, 10, 20]]), np.array([0]), np.array([True]), np.array([False]), images=1)
>>> assign(np.array([[0.0, 0, 10, 20], [0, 0, 10, 20]]), np.array([0, 0]), laid_out, [0.5]).tolist()
[[0, -1]]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secpipeline.datasets.geometry import covered, overlap

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Any counted box is preferred to any ignored one: the overlaps of ignored ones are scaled by a power of two, which
# rounds nothing, to below every threshold in use.
_BELOW_EVERY_THRESHOLD = 2.0**-60


@dataclass(frozen=True)
class Grid:
    """The boxes of N images, padded to the G of the fullest image.

    Attributes
    ----------
    boxes
        (N, G, 4) corners; zeros where there is none.
    row
        (N, G) position of the box in its table, -1 where there is none.
    counted
        (N, G) boxes to be found; the others are ignored.
    crowd
        (N, G) ignored boxes that take any number of detections.
    """

    boxes: Floats
    row: Ints
    counted: Bools
    crowd: Bools


def lay_out(boxes: Floats, image: Ints, counted: Bools, crowd: Bools, images: int) -> Grid:
    """Lay G boxes (G, 4) of images (G,) out by image, in the order given."""
    order = np.argsort(image, kind="stable")
    counts = np.bincount(image, minlength=images)
    place = np.arange(len(image)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (images, int(counts.max(initial=0)))
    grid = Grid(np.zeros((*shape, 4)), np.full(shape, -1), np.zeros(shape, bool), np.zeros(shape, bool))
    where = image[order], place
    grid.boxes[where], grid.row[where] = boxes[order], order
    grid.counted[where], grid.crowd[where] = counted[order], crowd[order]
    return grid


def assign(boxes: Floats, image: Ints, grid: Grid, ious: Sequence[float]) -> Ints:
    """Which box each detection took, at each of T thresholds.

    The k-th best detections of all images choose together, for k = 1, 2, …: images do not influence each other.

    Parameters
    ----------
    boxes, image
        (D, 4) and (D,) detections, best score first.
    grid
        The boxes to choose from.
    ious
        Smallest overlaps of a match, in (2⁻⁵⁰, 1].

    Returns
    -------
    ndarray
        (T, D) row of the box, or -1.
    """
    taken = np.full((len(ious), len(boxes)), -1)
    least = np.minimum(ious, 1 - 1e-10)[:, None, None]
    free = np.repeat((grid.row >= 0)[None], len(ious), axis=0)
    order = np.argsort(image, kind="stable")
    counts = np.bincount(image, minlength=len(grid.row))
    starts = np.cumsum(counts) - counts
    for rank in range(int(counts.max(initial=0)) if grid.row.size else 0):
        where = np.flatnonzero(counts > rank)
        chosen = order[starts[where] + rank]
        share = _overlaps(boxes[chosen], grid.boxes[where], grid.crowd[where])
        preference = share * np.where(grid.counted[where], 1.0, _BELOW_EVERY_THRESHOLD)
        candidate = np.where(free[:, where] & (share >= least), preference, -1.0)
        best = candidate.shape[2] - 1 - np.argmax(candidate[:, :, ::-1], axis=2)
        threshold, index = np.nonzero(np.take_along_axis(candidate, best[:, :, None], axis=2)[:, :, 0] >= 0)
        column = best[threshold, index]
        taken[threshold, chosen[index]] = grid.row[where[index], column]
        free[threshold, where[index], column] = grid.crowd[where[index], column]
    return taken


def _overlaps(boxes: Floats, grid: Floats, crowd: Bools) -> Floats:
    each = boxes[:, None]
    over_union = overlap(each, grid)
    return np.where(crowd, covered(each, grid), over_union) if crowd.any() else over_union
