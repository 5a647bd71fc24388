"""COCO annotation files, read strictly.

A training set is a place to hide things, so a file that could be read in two ways is refused with the row that is at
fault. Beyond COCO an image may carry ``source``, ``scene`` and ``time_of_day``, an annotation ``visibility`` and
``ignore``.

>>> annotations = read_coco(Path("delivery/instances.json"))                        # doctest: +SKIP
>>> annotations.boxes[["image_id", "x1", "y1", "x2", "y2"]]                         # doctest: +SKIP
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from secpipeline.datasets import fields
from secpipeline.datasets.fields import Row
from secpipeline.datasets.tables import BOX_COLUMNS, CORNERS, LABEL, empty_boxes
from secpipeline.digests import check_name
from secpipeline.errors import InputError
from secpipeline.store import write_atomic

ANNOTATION_IMAGE_COLUMNS: tuple[str, ...] = (
    "image_id", "file_name", "width", "height", "source", "scene", "time_of_day",
)  # fmt: skip
TIMES_OF_DAY: tuple[str, ...] = ("", "day", "dusk", "night")
_PEOPLE = ("person", "pedestrian")
# x + width is a rounded sum, so only coordinates of limited precision can be read back as they were written.
_DECIMALS = 6


@dataclass(frozen=True)
class Annotations:
    """A delivery: what its annotation file says, and where its images lie.

    Attributes
    ----------
    images
        image_id, file_name, width, height, source, scene, time_of_day.
    boxes
        Box table, see :mod:`secpipeline.datasets.tables`.
    root
        The directory that ``file_name`` is relative to.
    """

    images: pd.DataFrame
    boxes: pd.DataFrame
    root: Path


def read_coco(path: Path, *, clip: bool = False) -> Annotations:
    """Read a COCO ``instances.json`` whose images lie beside or below it.

    Parameters
    ----------
    path
        The JSON file.
    clip
        Cut boxes that reach outside their image instead of refusing them.

    Notes
    -----
    Coordinates are kept to a millionth of a pixel.

    Raises
    ------
    InputError
        Naming the file, the row and what to mend.
    """
    document = _load(path)
    people = _people(path, document)
    images = _images(path, fields.rows(path, document, "images"))
    boxes = _boxes(fields.rows(path, document, "annotations"), images, people, clip)
    return Annotations(images, boxes, path.parent)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_bytes(), object_pairs_hook=fields.unique_keys)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of a COCO JSON file") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: holds a {type(document).__name__}, not the object of a COCO file")
    return document


def _people(path: Path, document: Mapping[str, Any]) -> dict[Any, bool]:
    """Whether each category id means a person."""
    names: dict[Any, bool] = {}
    for row in fields.rows(path, document, "categories"):
        category = row.identifier("id")
        if category in names:
            row.refuse(f"category id {category} appears twice")
        names[category] = row.text("name").lower() in _PEOPLE
    return names


def _images(path: Path, rows: list[Row]) -> pd.DataFrame:
    if not rows:
        raise InputError(f"{path}: lists no images; a data set needs at least one")
    records = [_image(row) for row in rows]
    for column in ("image_id", "file_name"):
        fields.refuse_repeats(rows, [record[column] for record in records], column)
    for row, record in zip(rows, records, strict=True):
        _refuse_links(row, path.parent, record["file_name"])
    return pd.DataFrame(records, columns=list(ANNOTATION_IMAGE_COLUMNS)).astype({"width": "int32", "height": "int32"})


def _image(row: Row) -> dict[str, Any]:
    image_id = row.identifier("id")
    try:
        name = check_name(row.text("file_name"))
    except InputError as error:
        row.refuse(str(error))
    time_of_day = row.text("time_of_day", "")
    if time_of_day not in TIMES_OF_DAY:
        row.refuse(f"time_of_day is {time_of_day!r}, not one of {', '.join(TIMES_OF_DAY[1:])}")
    return {
        "image_id": image_id,
        "file_name": name,
        "width": row.size("width"),
        "height": row.size("height"),
        "source": row.text("source", "default"),
        "scene": row.text("scene", image_id),
        "time_of_day": time_of_day,
    }


def _refuse_links(row: Row, root: Path, name: str) -> None:
    try:
        path = plain_file(root, name)
    except OSError as error:  # such as a name that is too long for the file system
        row.refuse(f"{name} cannot be read ({error.strerror})")
    if path is None:
        row.refuse(f"{name} is or lies behind a symbolic link; deliver the file itself")


def plain_file(root: Path, name: str) -> Path | None:
    """The path of ``name`` below ``root``, or None if a part of it is a symbolic link."""
    path = root
    for part in name.split("/"):
        path = path / part
        if path.is_symlink():
            return None
    return path


def _boxes(rows: list[Row], images: pd.DataFrame, people: Mapping[Any, bool], clip: bool) -> pd.DataFrame:
    fields.refuse_repeats(rows, [row.identifier("id") for row in rows], "id")
    sizes = dict(
        zip(
            images["image_id"],
            zip(images["width"].tolist(), images["height"].tolist(), strict=True),
            strict=True,
        )
    )
    counts: dict[str, int] = {}
    records = []
    for row in rows:
        image_id = row.identifier("image_id")
        if image_id not in sizes:
            row.refuse(f"points to image {image_id}, which is not in the file")
        _refuse_other_categories(row, people)
        number = counts[image_id] = counts.get(image_id, -1) + 1
        corners = _corners(row, sizes[image_id], clip)
        ignore = row.flag("ignore") or row.flag("iscrowd")
        height = corners[3] - corners[1]
        records.append((f"{image_id}#{number}", image_id, *corners, LABEL, ignore, row.share("visibility"), height))
    if not records:
        return empty_boxes()
    return pd.DataFrame(records, columns=list(BOX_COLUMNS))


def _refuse_other_categories(row: Row, people: Mapping[Any, bool]) -> None:
    category = row.identifier("category_id")
    if category not in people:
        row.refuse(f"category {category} is not in the file, which knows {', '.join(people) or 'none'}")
    if not people[category]:
        row.refuse(f"category {category} is no pedestrian; rename it to one of {', '.join(_PEOPLE)} or leave it out")


def _corners(row: Row, size: tuple[int, int], clip: bool) -> tuple[float, float, float, float]:
    x, y, width, height = row.numbers("bbox", 4)
    if width <= 0 or height <= 0:
        row.refuse(f"bbox {[x, y, width, height]} has no area")
    box = np.array([round(value, _DECIMALS) for value in (x, y, x + width, y + height)])
    inside = np.clip(box, 0.0, [size[0], size[1], size[0], size[1]])
    if not clip and (box != inside).any():
        row.refuse(f"bbox {[x, y, width, height]} leaves the {size[0]}×{size[1]} image; mend it or set clip_boxes")
    x1, y1, x2, y2 = inside.tolist()
    if x2 <= x1 or y2 <= y1:
        row.refuse(f"bbox {[x, y, width, height]} has no area inside the {size[0]}×{size[1]} image")
    return x1, y1, x2, y2


def write_coco(annotations: Annotations, path: Path) -> None:
    """Write a COCO file that :func:`read_coco` reads back exactly; ``annotations.root`` is not recorded.

    Raises
    ------
    InputError
        If the tables hold something that COCO cannot say.
    """
    images = [_image_json(row) for row in annotations.images.to_dict("records")]
    boxes = [_box_json(number, row) for number, row in enumerate(annotations.boxes.to_dict("records"), 1)]
    document = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": LABEL}]}
    # One row a line: people look into these files and compare them.
    parts = [
        f'"{key}": [\n' + ",\n".join(json.dumps(row, allow_nan=False) for row in rows) + "\n]"
        for key, rows in document.items()
    ]
    write_atomic(path, ("{\n" + ",\n".join(parts) + "\n}\n").encode())


def _image_json(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    return {
        "id": _json_id(row["image_id"]),
        "file_name": row["file_name"],
        "width": int(row["width"]),
        "height": int(row["height"]),
        "source": row["source"],
        "scene": row["scene"],
        "time_of_day": row["time_of_day"],
    }


def _box_json(number: int, row: Mapping[Hashable, Any]) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(row[corner]) for corner in CORNERS)
    width, height = _extent(x1, x2), _extent(y1, y2)
    record = {
        "id": number,
        "image_id": _json_id(row["image_id"]),
        "category_id": 1,
        "bbox": [x1, y1, width, height],
        "area": width * height,
        "iscrowd": 0,
        "ignore": bool(row["ignore"]),
    }
    if not math.isnan(row["visibility"]):
        if not 0 <= row["visibility"] <= 1:
            raise InputError(f"image {row['image_id']}: visibility {row['visibility']} is not from 0 to 1; mend it")
        record["visibility"] = float(row["visibility"])
    return record


def _json_id(image_id: str) -> int | str:
    """COCO tools expect whole numbers where there are any."""
    return int(image_id) if image_id.isascii() and image_id.isdigit() and str(int(image_id)) == image_id else image_id


def _extent(low: float, high: float) -> float:
    """The extent that, added to ``low`` and rounded, gives ``high`` again."""
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"a box from {low!r} to {high!r} has no area; mend it")
    extent = round(high - low, _DECIMALS)
    if low != round(low, _DECIMALS) or round(low + extent, _DECIMALS) != high:
        raise InputError(f"{low!r} to {high!r} is finer than a millionth of a pixel; round the box")
    return extent
