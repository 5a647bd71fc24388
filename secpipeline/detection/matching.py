"""Which detection found which person: the matching under every pedestrian metric.

:func:`match` follows the published Caltech and CityPersons evaluation code: people outside a subset's bounds and boxes
marked ``ignore`` are ignored rather than missed, a detection on an ignored box counts neither for nor against the
detector, and detections far outside the subset's heights are left out. :func:`match_coco` follows COCO's, whose rules
for people outside the bounds differ.

>>> import pandas as pd
>>> truth = pd.DataFrame({"image_id": ["a"], "x1": [10.0], "y1": [10.0], "x2": [34.0], "y2": [70.0],
...                       "ignore": [False], "visibility": [1.0]})
>>> predictions = pd.DataFrame({"image_id": ["a"], "x1": [11.0], "y1": [10.0], "x2": [35.0], "y2": [70.0],
...                             "score": [0.9]})
>>> match(truth, predictions, ["a", "b"], REASONABLE).state.tolist()
[1]
>>> print(SMALL)
small (height 50-75 px, visibility 0.65 and more)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from secpipeline.detection.assignment import Bools, Floats, Ints, assign, lay_out
from secpipeline.errors import InputError

TRUE_POSITIVE, FALSE_POSITIVE, IGNORED = 1, 0, -1

# COCO's ten thresholds of intersection over union.
COCO_IOUS = tuple(float(iou) for iou in np.linspace(0.5, 0.95, 10))

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
    min_area, max_area
        Square pixels of the box; only :func:`match_coco` knows areas.
    """

    name: str
    min_height: float = 0.0
    max_height: float = float("inf")
    min_visibility: float = 0.0
    max_visibility: float = 1.0
    min_area: float = 0.0
    max_area: float = float("inf")

    @property
    def bounds(self) -> str:
        """The bounds in words, to stand wherever the name does: one name has several meanings in the literature.

        >>> HEAVY.bounds
        'height 50 px and more, visibility 0.2-0.65'
        """
        parts = (
            _range("height", self.min_height, self.max_height, float("inf"), " px"),
            _range("visibility", self.min_visibility, self.max_visibility, 1.0, ""),
            _range("area", self.min_area, self.max_area, float("inf"), " px²"),
        )
        return ", ".join(part for part in parts if part) or "any height and visibility"

    def __str__(self) -> str:
        return f"{self.name} ({self.bounds})"


def _range(what: str, low: float, high: float, most: float, unit: str) -> str:
    """One pair of bounds in words; nothing where they exclude nobody."""
    if high >= most:
        return f"{what} {low:g}{unit} and more" if low > 0 else ""
    return f"{what} {low:g}-{high:g}{unit}" if low > 0 else f"{what} up to {high:g}{unit}"


EVERYBODY = Subset("everybody")
REASONABLE = Subset("reasonable", min_height=50, min_visibility=0.65)
SMALL = Subset("small", min_height=50, max_height=75, min_visibility=0.65)
# CityPersons' "heavy occlusion" (HO); a second "heavy" in the literature goes down to nothing visible.
HEAVY = Subset("heavy", min_height=50, min_visibility=0.2, max_visibility=0.65)
HEAVY_FROM_ZERO = Subset("heavy_from_zero", min_height=50, max_visibility=0.65)
ALL = Subset("all", min_height=20, min_visibility=0.2)
# Not one of CityPersons': Reasonable's visibility at any height from 20 pixels, for pictures smaller than theirs.
VISIBLE = Subset("visible", min_height=20, min_visibility=0.65)
BARE = Subset("bare", min_height=50, min_visibility=0.9)
PARTIAL = Subset("partial", min_height=50, min_visibility=0.65, max_visibility=0.9)
SUBSETS = {
    subset.name: subset
    for subset in (EVERYBODY, REASONABLE, SMALL, HEAVY, HEAVY_FROM_ZERO, ALL, VISIBLE, BARE, PARTIAL)
}


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


@dataclass(frozen=True)
class Pairs(Matches):
    """Matches that know the rows they came from.

    Attributes
    ----------
    detection
        (D,) row in the table of predictions.
    person
        (D,) row in the table of people of the box that was matched, counted or ignored; -1 if none was.
    """

    detection: Ints
    person: Ints


def match(
    truth: pd.DataFrame,
    predictions: pd.DataFrame,
    image_ids: Sequence[str],
    subset: Subset = REASONABLE,
    iou: float = 0.5,
) -> Pairs:
    """Assign detections to people as the Caltech and CityPersons code does: best score first, each person once.

    Dollár et al., "Pedestrian detection: an evaluation of the state of the art", PAMI 2012; Zhang et al.,
    "CityPersons", CVPR 2017. Everybody outside the subset is ignored, which any number of detections may hit;
    detections lower than ``min_height / 1.25``, or as high as ``max_height * 1.25`` and more, are left out.

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
        Smallest intersection over union of a match (for ignored boxes: intersection over detection area), in (0, 1].

    Raises
    ------
    InputError
        If a column is missing, an image is listed twice, a number is NaN or infinite, ``iou`` is out of range, or
        the subset is bounded by area.
    """
    if subset.min_area > 0 or subset.max_area < np.inf:
        raise InputError(f"{subset}: the miss rate's code knows no areas; bound the height, or use match_coco")
    people = _People.of(truth, image_ids, subset)
    found = _Found.of(predictions, image_ids)
    height = found.boxes[:, 3] - found.boxes[:, 1]
    kept = (height >= subset.min_height / _HEIGHT_SLACK) & (height < subset.max_height * _HEIGHT_SLACK)
    everybody_else = ~people.counted
    return _pairs(people, everybody_else, found.only(kept), np.zeros(int(kept.sum()), bool), (iou,))[0]


def match_coco(
    truth: pd.DataFrame,
    predictions: pd.DataFrame,
    image_ids: Sequence[str],
    subset: Subset = EVERYBODY,
    ious: Sequence[float] = COCO_IOUS,
) -> tuple[Pairs, ...]:
    """Assign detections to people as COCO's code does, at each of T thresholds.

    Lin et al., "Microsoft COCO: common objects in context", ECCV 2014. Boxes marked ``ignore`` are crowds: any number
    of detections may lie in one, by intersection over the detection's area. People outside the subset are ignored
    too, but hit once each, by intersection over union; and a detection outside the subset's heights and areas that
    hits nobody is ignored. A detection has no visibility, so that one on nobody is false in every range of visibility.
    COCO's limit of 100 detections an image is not applied.

    Parameters
    ----------
    truth, predictions, image_ids, subset
        As for :func:`match`.
    ious
        Smallest intersections over union of a match, in (0, 1].

    Returns
    -------
    tuple of Pairs
        One a threshold.

    Raises
    ------
    InputError
        As :func:`match`, areas excepted.
    """
    people = _People.of(truth, image_ids, subset)
    found = _Found.of(predictions, image_ids)
    return _pairs(people, people.ignore, found, ~_sized(found.boxes, subset), ious)


@dataclass(frozen=True)
class _People:
    """The boxes of the evaluated images: corners (G, 4), image, row in the table, and who is to be found (G,)."""

    boxes: Floats
    image: Ints
    row: Ints
    ignore: Bools
    counted: Bools
    images: int

    @classmethod
    def of(cls, truth: pd.DataFrame, image_ids: Sequence[str], subset: Subset) -> _People:
        _check("truth", truth, ["image_id", *_BOX, "ignore", "visibility"], _BOX)
        image = _positions(truth, image_ids)
        row = np.flatnonzero(image >= 0)
        boxes = truth[_BOX].to_numpy(np.float64)[row]
        visibility = np.nan_to_num(truth["visibility"].to_numpy(np.float64)[row], nan=1.0)
        ignore = truth["ignore"].to_numpy(bool)[row]
        visible = (visibility >= subset.min_visibility) & (visibility <= subset.max_visibility)
        return cls(boxes, image[row], row, ignore, ~ignore & visible & _sized(boxes, subset), len(image_ids))


@dataclass(frozen=True)
class _Found:
    """The detections on the evaluated images, best score first: corners (D, 4), image, row in the table, score (D,)."""

    boxes: Floats
    image: Ints
    row: Ints
    score: Floats

    @classmethod
    def of(cls, predictions: pd.DataFrame, image_ids: Sequence[str]) -> _Found:
        _check("predictions", predictions, ["image_id", *_BOX, "score"], [*_BOX, "score"])
        image = _positions(predictions, image_ids)
        score = predictions["score"].to_numpy(np.float64)
        order = np.lexsort((np.arange(len(score)), image, -score))
        row = order[image[order] >= 0]
        return cls(predictions[_BOX].to_numpy(np.float64)[row], image[row], row, score[row])

    def only(self, kept: Bools) -> _Found:
        return _Found(self.boxes[kept], self.image[kept], self.row[kept], self.score[kept])


def _pairs(people: _People, crowd: Bools, found: _Found, unfit: Bools, ious: Sequence[float]) -> tuple[Pairs, ...]:
    """Pairs at each threshold; ``unfit`` detections (D,) are ignored where they hit nobody."""
    if bad := [iou for iou in ious if not 2.0**-50 < iou <= 1]:
        raise InputError(f"iou: {bad[0]} is not a share of overlap; give a number above 0, at most 1")
    grid = lay_out(people.boxes, people.image, people.counted, crowd, people.images)
    to_find = np.bincount(people.image[people.counted], minlength=people.images).astype(np.int64)
    # One more entry, for -1 to point at: who hit nobody hit no row, and nobody who counts.
    counted, row = np.append(people.counted, False), np.append(people.row, -1)
    pairs = []
    for taken in assign(found.boxes, found.image, grid, ious):
        hit = np.where(counted[taken], TRUE_POSITIVE, IGNORED)
        state = np.where(taken >= 0, hit, np.where(unfit, IGNORED, FALSE_POSITIVE))
        pairs.append(Pairs(found.image, found.score, state, to_find, found.row, row[taken]))
    return tuple(pairs)


def _sized(boxes: Floats, subset: Subset) -> Bools:
    """Which boxes keep to the subset's heights and areas (n,)."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    fits = (height >= subset.min_height) & (height <= subset.max_height)
    area = width * height
    sized: Bools = fits & (area >= subset.min_area) & (area <= subset.max_area)
    return sized


def _positions(table: pd.DataFrame, image_ids: Sequence[str]) -> Ints:
    """Each row's place among the evaluated images, -1 for others."""
    index = pd.Index(image_ids)
    if not index.is_unique:
        raise InputError(f"image_ids: image {index[index.duplicated()][0]} is listed twice")
    return index.get_indexer(pd.Index(table["image_id"])).astype(np.int64)


def _check(name: str, table: pd.DataFrame, columns: list[str], numeric: list[str]) -> None:
    if missing := [column for column in columns if column not in table.columns]:
        raise InputError(f"{name}: the column {missing[0]} is missing")
    bad = ~np.isfinite(table[numeric].to_numpy(np.float64)).all(axis=1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(f"{name}: row {row} of image {table['image_id'].iloc[row]} is not finite")
