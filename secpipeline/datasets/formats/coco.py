"""COCO annotation files (https://cocodataset.org/#format-data), read strictly, and the one format that is written.

Beyond COCO an image may carry ``source``, ``scene`` and ``time_of_day``, an annotation ``visibility`` and ``ignore``.

>>> annotations = read_coco(Path("delivery/instances.json"))                        # doctest: +SKIP
>>> annotations.boxes[["image_id", "x1", "y1", "x2", "y2"]]                         # doctest: +SKIP
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from secpipeline.datasets.annotations import DECIMALS, DEFAULT_SOURCE, Annotations, Box, Picture, assemble
from secpipeline.datasets.formats.given import Format, Given
from secpipeline.datasets.rows import Row, refuse_repeats
from secpipeline.datasets.tables import CORNERS, LABEL
from secpipeline.errors import InputError
from secpipeline.store import write_atomic

_PEOPLE = ("person", "pedestrian")


def read_coco(path: Path, *, clip: bool = False) -> Annotations:
    """Read a COCO ``instances.json`` whose images lie beside or below it.

    Parameters
    ----------
    path
        The JSON file.
    clip
        Cut boxes that reach outside their image instead of refusing them.

    Raises
    ------
    InputError
        Naming the file, the row and what to mend.
    """
    return _read(Given(path, clip=clip))


def _recognises(given: Given) -> bool:
    return given.is_json and {"images", "annotations"} <= given.document.values.keys()


def _read(given: Given) -> Annotations:
    document = given.document
    people = _people(document)
    pictures = [_picture(row) for row in document.rows("images")]
    if not pictures:
        document.refuse("lists no images; a data set needs at least one")
    rows = document.rows("annotations")
    refuse_repeats(rows, [row.identifier("id") for row in rows], "id")
    boxes = [_box(row, people) for row in rows]
    return assemble(given.images or given.base, pictures, boxes, clip=given.clip, files=given.files)


def _people(document: Row) -> dict[str, bool]:
    """Whether each category id means a person."""
    names: dict[str, bool] = {}
    for row in document.rows("categories"):
        category = row.identifier("id")
        if category in names:
            row.refuse(f"category id {category} appears twice")
        names[category] = row.text("name").lower() in _PEOPLE
    return names


def _picture(row: Row) -> Picture:
    image_id = row.identifier("id")
    return Picture(
        row,
        image_id,
        row.text("file_name"),
        (row.size("width"), row.size("height")),
        row.text("source", DEFAULT_SOURCE),
        row.text("scene", image_id),
        row.text("time_of_day", ""),
    )


def _box(row: Row, people: Mapping[str, bool]) -> Box:
    image_id, category = row.identifier("image_id"), row.identifier("category_id")
    if category not in people:
        row.refuse(f"category {category} is not in the file, which knows {', '.join(people) or 'none'}")
    if not people[category]:
        row.refuse(f"category {category} is no pedestrian; rename it to one of {', '.join(_PEOPLE)} or leave it out")
    x, y, width, height = row.numbers("bbox", 4)
    if width <= 0 or height <= 0:
        row.refuse(f"bbox {[x, y, width, height]} has no area")
    ignore = row.flag("ignore") or row.flag("iscrowd")
    return Box(row, image_id, (x, y, x + width, y + height), ignore, row.share("visibility"))


FORMAT = Format("coco", "COCO JSON: the path of instances.json, images relative to it", _recognises, _read)


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
    """COCO tools expect whole numbers where there are any; one of more than 18 digits is a text for all of them."""
    if image_id.isascii() and image_id.isdigit() and len(image_id) <= 18 and str(int(image_id)) == image_id:
        return int(image_id)
    return image_id


def _extent(low: float, high: float) -> float:
    """The extent that, added to ``low`` and rounded, gives ``high`` again."""
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"a box from {low!r} to {high!r} has no area; mend it")
    extent = round(high - low, DECIMALS)
    if low != round(low, DECIMALS) or round(low + extent, DECIMALS) != high:
        raise InputError(f"{low!r} to {high!r} is finer than a millionth of a pixel; round the box")
    return extent
