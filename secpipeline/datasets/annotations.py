"""What every annotation format is read into.

A reader gives pictures and boxes with the row that each came from; :func:`assemble` checks what holds for every format
and makes the tables. Boxes are in pixels with the origin at the top left, and x2 and y2 are exclusive.

>>> row = Row("labels.txt: line 1", {})
>>> size = (32, 24)
>>> assemble(Path("."), [Picture(row, "1", "a.png", size)], [Box(row, "1", (2, 3, 8, 18))]).boxes["height"].tolist()
[15.0]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from secpipeline.datasets.rows import Row, check_size, check_text, refuse_repeats
from secpipeline.datasets.tables import BOX_COLUMNS, CORNERS, LABEL, empty_boxes
from secpipeline.digests import check_name
from secpipeline.errors import InputError

ANNOTATION_IMAGE_COLUMNS: tuple[str, ...] = (
    "image_id", "file_name", "width", "height", "source", "scene", "time_of_day",
)  # fmt: skip
TIMES_OF_DAY: tuple[str, ...] = ("", "day", "dusk", "night")
DEFAULT_SOURCE = "default"
# x + width is a rounded sum, so only coordinates of limited precision can be read back as they were written.
DECIMALS = 6


@dataclass(frozen=True)
class Rejection:
    """An image that is left out, and why."""

    image_id: str
    file_name: str
    source: str
    reason: str


@dataclass(frozen=True)
class Annotations:
    """A delivery: what its annotation files say, and where its images lie.

    Attributes
    ----------
    images
        image_id, file_name, width, height, source, scene, time_of_day.
    boxes
        Box table, see :mod:`secpipeline.datasets.tables`.
    root
        The directory that ``file_name`` is relative to.
    files
        SHA-256 of the very bytes that were read of each annotation file, by its name.
    rejected
        Images that the reader had to leave out because it could not read their size.
    """

    images: pd.DataFrame
    boxes: pd.DataFrame
    root: Path
    files: Mapping[str, str] = field(default_factory=dict)
    rejected: tuple[Rejection, ...] = ()


@dataclass(frozen=True)
class Picture:
    """An image as one row of a file describes it; without a scene it is a scene of its own."""

    row: Row
    image_id: str
    file_name: str
    size: tuple[int, int]
    source: str = DEFAULT_SOURCE
    scene: str = ""
    time_of_day: str = ""


@dataclass(frozen=True)
class Box:
    """A box as one row of a file describes it: ``corners`` are x1, y1, x2, y2 in pixels."""

    row: Row
    image_id: str
    corners: tuple[float, float, float, float]
    ignore: bool = False
    visibility: float = math.nan


def assemble(
    root: Path,
    pictures: Sequence[Picture],
    boxes: Sequence[Box],
    *,
    clip: bool = False,
    files: Mapping[str, str] | None = None,
    rejected: Sequence[Rejection] = (),
) -> Annotations:
    """Check pictures and boxes and make their tables.

    Parameters
    ----------
    root
        The directory that file names are relative to.
    pictures, boxes
        What a reader found; boxes of an image are numbered in their order, boxes of a rejected image are left out.
    clip
        Cut boxes that reach outside their image instead of refusing them.
    files, rejected
        As in :class:`Annotations`.

    Notes
    -----
    Coordinates are kept to a millionth of a pixel.

    Raises
    ------
    InputError
        If there is no image, two share an id or a file, also where one of them is rejected, a name or size is
        unsafe, a box is of no image, has no area, leaves its image, or is no number; naming the row.
    """
    if not pictures and not rejected:
        raise InputError(f"{root}: lists no images; a data set needs at least one")
    images = [_image(picture) for picture in pictures]
    rows = [picture.row for picture in pictures]
    for column in ("image_id", "file_name"):
        refuse_repeats(rows, [image[column] for image in images], column)
    table = pd.DataFrame(images, columns=list(ANNOTATION_IMAGE_COLUMNS)).astype({"width": "int32", "height": "int32"})
    left_out = {rejection.image_id for rejection in rejected}
    for picture in pictures:
        if picture.image_id in left_out:
            picture.row.refuse(f"image_id {picture.image_id[:60]} is also that of an image that cannot be read")
    kept = [box for box in boxes if box.image_id not in left_out]
    sizes = {picture.image_id: picture.size for picture in pictures}
    return Annotations(table, _box_table(kept, sizes, clip), root, dict(files or {}), tuple(rejected))


def _image(picture: Picture) -> dict[str, str | int]:
    row = picture.row
    try:
        name = check_name(picture.file_name)
    except InputError as error:
        row.refuse(str(error))
    if picture.time_of_day not in TIMES_OF_DAY:
        row.refuse(f"time_of_day is {picture.time_of_day[:60]!r}, not one of {', '.join(TIMES_OF_DAY[1:])}")
    image_id = check_text(row, "image_id", picture.image_id)
    return {
        "image_id": image_id,
        "file_name": check_text(row, "file_name", name, most=1000),
        "width": check_size(row, "width", picture.size[0]),
        "height": check_size(row, "height", picture.size[1]),
        "source": check_text(row, "source", picture.source),
        "scene": check_text(row, "scene", picture.scene or image_id),
        "time_of_day": picture.time_of_day,
    }


def _box_table(boxes: Sequence[Box], sizes: Mapping[str, tuple[int, int]], clip: bool) -> pd.DataFrame:
    if not boxes:
        return empty_boxes()
    counts: dict[str, int] = {}
    names = []
    for box in boxes:
        if box.image_id not in sizes:
            box.row.refuse(f"points to image {box.image_id[:60]}, which is not in the file")
        number = counts[box.image_id] = counts.get(box.image_id, -1) + 1
        names.append(f"{box.image_id}#{number}")
        if not (math.isnan(box.visibility) or 0 <= box.visibility <= 1):
            box.row.refuse(f"visibility must be from 0 to 1, not {box.visibility!r}")
    corners = _inside(boxes, np.array([sizes[box.image_id] for box in boxes], np.float64), clip)
    columns = {
        "box_id": names,
        "image_id": [box.image_id for box in boxes],
        **dict(zip(CORNERS, corners.T, strict=True)),
        "label": LABEL,
        "ignore": [box.ignore for box in boxes],
        "visibility": np.array([box.visibility for box in boxes], np.float64),
        "height": corners[:, 3] - corners[:, 1],
    }
    return pd.DataFrame(columns, columns=list(BOX_COLUMNS)).astype({"ignore": bool})


def _inside(boxes: Sequence[Box], sizes: NDArray[np.float64], clip: bool) -> NDArray[np.float64]:
    """The corners of every box, shape (n, 4), checked against its image's width and height, shape (n, 2)."""
    with np.errstate(over="ignore", invalid="ignore"):
        given = np.array([box.corners for box in boxes], np.float64)
        rounded = np.round(given, DECIMALS)
        inside = np.clip(rounded, 0.0, np.tile(sizes, 2))
    reasons = (
        (np.isnan(given).any(axis=1), "is no number"),
        ((given[:, 2:] <= given[:, :2]).any(axis=1), "has no area"),
        ((rounded != inside).any(axis=1) & (not clip), "leaves the {}×{} image; mend it or set data.clip_boxes"),
        ((inside[:, 2:] <= inside[:, :2]).any(axis=1), "has no area inside the {}×{} image"),
    )
    bad = np.flatnonzero(np.sum([wrong for wrong, _ in reasons], axis=0))
    if len(bad):
        index = int(bad[0])
        reason = next(text for wrong, text in reasons if np.asarray(wrong)[index])
        shown = [float(value) for value in given[index]]
        boxes[index].row.refuse(f"box {shown} {reason.format(*map(int, sizes[index]))}")
    return inside
