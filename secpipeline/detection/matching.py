"""Which detection found which person: the matching under every pedestrian metric.

Follows the published CityPersons and Caltech evaluation code: people outside a subset's bounds and boxes
marked ``ignore`` are ignored rather than missed, a detection on an ignored box counts neither for nor against
the detector, and detections far outside the subset's heights are left out.

>>> import pandas as pd
>>> truth = pd.DataFrame({"image_id": ["a"], "x1": [10.0], "y1": [10.0], "x2": [34.0], "y2": [70.0],
...                       "ignore": [False], "visibility": [1.0]})
>>> predictions = pd.DataFrame({"image_id": ["a"], "x1": [11.0], "y1": [10.0], "x2": [35.0], "y2": [70.0],
...                             "score": [0.9]})
>>> match(truth, predictions, ["a", "b"], REASONABLE).state.tolist()
[1]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from secpipeline.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

TRUE_POSITIVE, FALSE_POSITIVE, IGNORED = 1, 0, -1

# Detections this factor outside the subset's heights still count, so that a person at the border is not
# missed for a pixel; the value is that of the Caltech evaluation code.
_HEIGHT_SLACK = 1.25
_BOX = ["x1", "y1", "x2", "y2"]


@dataclass(frozen=True)
class Subset:
    """The people that a metric is about; all bounds are closed.

    Attributes
    ----------
    name
        As the literature calls it.
    min_height, max_height
        Pixels.
    min_visibility, max_visibility
        Visible share of the body, 0 to 1; a person of unknown visibility counts as fully visible.
    """

    name: str
    min_height: float = 0.0
    max_height: float = float("inf")
    min_visibility: float = 0.0
    max_visibility: float = 1.0


EVERYBODY = Subset("everybody")
REASONABLE = Subset("reasonable", min_height=50, min_visibility=0.65)
SMALL = Subset("small", min_height=50, max_height=75, min_visibility=0.65)
HEAVY = Subset("heavy", min_height=50, min_visibility=0.2, max_visibility=0.65)
ALL = Subset("all", min_height=20, min_visibility=0.2)
# Not one of CityPersons': Reasonable's visibility at any height from 20 pixels, for pictures smaller than theirs.
VISIBLE = Subset("visible", min_height=20, min_visibility=0.65)
BARE = Subset("bare", min_height=50, min_visibility=0.9)
PARTIAL = Subset("partial", min_height=50, min_visibility=0.65, max_visibility=0.9)
SUBSETS = {subset.name: subset for subset in (EVERYBODY, REASONABLE, SMALL, HEAVY, ALL, VISIBLE, BARE, PARTIAL)}


@dataclass(frozen=True)
class Matches:
    """Detections with what became of them, best score first; N images, D detections.

    Attributes
    ----------
    image_index
        (D,) position of each detection's image.
    score
        (D,) in [0, 1], never rising.
    state
        (D,) :data:`TRUE_POSITIVE`, :data:`FALSE_POSITIVE` or :data:`IGNORED`.
    people
        (N,) people to be found in each image.
    """

    image_index: Ints
    score: Floats
    state: Ints
    people: Ints


def match(
    truth: pd.DataFrame,
    predictions: pd.DataFrame,
    image_ids: Sequence[str],
    subset: Subset = REASONABLE,
    iou: float = 0.5,
) -> Matches:
    """Assign detections to people greedily, best score first, each person once.

    Parameters
    ----------
    truth
        Boxes with image_id, x1, y1, x2, y2 (pixels), ignore and visibility; rows of other images are left
        out.
    predictions
        image_id, x1, y1, x2, y2, score; rows of other images are left out.
    image_ids
        The N images that are evaluated, those without people or detections included.
    subset
        Whom to look for; everybody else is ignored.
    iou
        Smallest intersection over union of a match (for ignored boxes: intersection over detection area).

    Raises
    ------
    InputError
        If a column is missing, an image is listed twice, or a number is NaN or infinite.
    """
    _check(truth, predictions, image_ids)
    index = pd.Index(image_ids)
    boxes, owner, ignored = _truth_arrays(truth, index, subset)
    found, image, score = _prediction_arrays(predictions, index, subset)
    order = np.lexsort((np.arange(len(score)), image, -score))
    found, image, score = found[order], image[order], score[order]
    grid, grid_ignored = _by_image(boxes, owner, ignored, len(index))
    state = _assign(found, image, grid, grid_ignored, min(iou, 1 - 1e-10))
    people = np.bincount(owner[~ignored], minlength=len(index)).astype(np.int64)
    return Matches(image, score, state, people)


def _check(truth: pd.DataFrame, predictions: pd.DataFrame, image_ids: Sequence[str]) -> None:
    tables = (
        ("truth", truth, ["image_id", *_BOX, "ignore", "visibility"], _BOX),
        ("predictions", predictions, ["image_id", *_BOX, "score"], [*_BOX, "score"]),
    )
    for name, table, columns, numeric in tables:
        missing = [column for column in columns if column not in table.columns]
        if missing:
            raise InputError(f"{name}: the column {missing[0]} is missing")
        bad = ~np.isfinite(table[numeric].to_numpy(np.float64)).all(axis=1)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise InputError(f"{name}: row {row} of image {table['image_id'].iloc[row]} is not finite")
    if len(set(image_ids)) != len(image_ids):
        raise InputError("image_ids: an image is listed twice")


def _truth_arrays(truth: pd.DataFrame, index: pd.Index, subset: Subset) -> tuple[Floats, Ints, Bools]:
    owner = index.get_indexer(pd.Index(truth["image_id"]))
    known = owner >= 0
    boxes = truth[_BOX].to_numpy(np.float64)[known]
    visibility = np.nan_to_num(truth["visibility"].to_numpy(np.float64)[known], nan=1.0)
    height = boxes[:, 3] - boxes[:, 1]
    ignored = truth["ignore"].to_numpy(bool)[known]
    ignored = ignored | (height < subset.min_height) | (height > subset.max_height)
    ignored = ignored | (visibility < subset.min_visibility) | (visibility > subset.max_visibility)
    return boxes, owner[known].astype(np.int64), ignored


def _prediction_arrays(predictions: pd.DataFrame, index: pd.Index, subset: Subset) -> tuple[Floats, Ints, Floats]:
    image = index.get_indexer(pd.Index(predictions["image_id"]))
    boxes = predictions[_BOX].to_numpy(np.float64)
    height = boxes[:, 3] - boxes[:, 1]
    kept = (image >= 0) & (height >= subset.min_height / _HEIGHT_SLACK)
    kept &= height < subset.max_height * _HEIGHT_SLACK
    return boxes[kept], image[kept].astype(np.int64), predictions["score"].to_numpy(np.float64)[kept]


def _by_image(boxes: Floats, owner: Ints, ignored: Bools, images: int) -> tuple[Floats, Bools]:
    """Lay boxes out as (N, G, 4), G the most boxes of any image; unused places overlap nothing."""
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=images)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    most = int(counts.max(initial=0))
    grid = np.zeros((images, most, 4))
    grid_ignored = np.zeros((images, most), bool)
    grid[owner[order], place] = boxes[order]
    grid_ignored[owner[order], place] = ignored[order]
    return grid, grid_ignored


def _assign(found: Floats, image: Ints, grid: Floats, ignored: Bools, iou: float) -> Ints:
    """Match the k-th best detection of all images at once, for k = 1, 2, …: images are independent."""
    state = np.zeros(len(found), np.int64)
    if grid.shape[1] == 0:
        return state
    free = ~ignored
    order = np.argsort(image, kind="stable")
    counts = np.bincount(image, minlength=len(grid))
    starts = np.cumsum(counts) - counts
    for rank in range(int(counts.max(initial=0))):
        where = np.flatnonzero(counts > rank)
        chosen = order[starts[where] + rank]
        over_union, over_detection = _overlaps(found[chosen], grid[where])
        candidate = np.where(free[where], over_union, -1.0)
        # The last of equals wins, as in the reference code's loop.
        best = candidate.shape[1] - 1 - np.argmax(candidate[:, ::-1], axis=1)
        hit = candidate[np.arange(len(where)), best] >= iou
        on_ignored = (ignored[where] & (over_detection >= iou)).any(axis=1)
        state[chosen] = np.where(hit, TRUE_POSITIVE, np.where(on_ignored, IGNORED, FALSE_POSITIVE))
        free[where[hit], best[hit]] = False
    return state


def _overlaps(boxes: Floats, grid: Floats) -> tuple[Floats, Floats]:
    """Intersection over union and over the area of (n, 4) boxes with (n, G, 4) others."""
    low = np.maximum(boxes[:, None, :2], grid[:, :, :2])
    high = np.minimum(boxes[:, None, 2:], grid[:, :, 2:])
    intersection = np.clip(high - low, 0, None).prod(axis=2)
    area = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)[:, None]
    union = area + (grid[:, :, 2:] - grid[:, :, :2]).prod(axis=2) - intersection
    tiny = np.finfo(np.float64).tiny
    return intersection / np.maximum(union, tiny), intersection / np.maximum(area, tiny)
