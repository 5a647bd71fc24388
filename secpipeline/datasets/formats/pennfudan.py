"""The Penn-Fudan database: PASCAL text annotations, or masks that hold the number of a pedestrian in each pixel.

Wang, Shi, Song, Shen, ACCV 2007. By its readme the top left pixel is (1, 1) and a box names its last row and column, so
x1 and y1 lose one and x2 and y2 stay. The source is ``fudan`` or ``penn``, by the name of the image.

>>> read("PennFudanPed").boxes.loc[0, ["x1", "y1", "x2", "y2"]].tolist()               # doctest: +SKIP
[159.0, 181.0, 302.0, 431.0]
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from tqdm import tqdm

from secpipeline.datasets.annotations import Annotations, Box, Picture, assemble
from secpipeline.datasets.decoding import decode_mask
from secpipeline.datasets.formats.given import Format, Given
from secpipeline.datasets.rows import MAX_SIDE, Row, parse_whole
from secpipeline.errors import InputError

_IMAGES, _TEXTS, _MASKS, _MASK_SUFFIX = "PNGImages", "Annotation", "PedMasks", "_mask.png"
_MAX_MASK_BYTES = 32 << 20
_SIZE = re.compile(r"(\d+) x (\d+) x (\d+)\s*\Z", re.ASCII)
_PAIR = r"\(\s*([^\s,()]+)\s*,\s*([^\s,()]+)\s*\)"
_BOX = re.compile(rf"{_PAIR}\s*-\s*{_PAIR}\s*\Z", re.ASCII)
_COUNT = re.compile(r"(\d+)\s*\{([^{}]*)\}\s*\Z", re.ASCII)
_TOP_LEFT = re.compile(r"#\s*Top left pixel co-ordinates\s*:\s*\(([^()]*)\)\s*\Z")
_PEOPLE = ("PASpersonWalking", "PASperson", "PASpersonStanding")


def _recognises_texts(given: Given) -> bool:
    return given.is_directory and (given.path / _TEXTS).is_dir() and (given.path / _IMAGES).is_dir()


def _read_texts(given: Given) -> Annotations:
    paths = [path for path in given.find(".txt") if path.parent == given.base / _TEXTS]
    if not paths:
        raise InputError(f"{given.path}: holds no {_TEXTS}/*.txt; give the directory that holds {_TEXTS} and {_IMAGES}")
    pictures, boxes = [], []
    for path in tqdm(paths, "annotations", disable=None, leave=False):
        picture, found = _text(path, given.lines(path))
        pictures.append(picture)
        boxes += found
    return assemble(given.images or given.base, pictures, boxes, clip=given.clip, files=given.files)


def _text(path: Path, rows: list[Row]) -> tuple[Picture, list[Box]]:
    """The image and the boxes of one annotation file."""
    fields: dict[str, tuple[Row, str]] = {}
    boxes: list[Box] = []
    for row in rows:
        line = row.get("line").strip()
        if line.startswith("#"):
            _check_top_left(row, line)
            continue
        left, colon, value = line.partition(":")
        if not colon:
            row.refuse("is neither a comment nor KEY : VALUE")
        key, _, quoted = left.partition('"')
        key = " ".join(key.split())
        if key in fields:
            row.refuse(f"{key[:60]!r} was already used by {fields[key][0].where.rpartition(': ')[2]}")
        fields[key] = (row, value.strip())
        if key.startswith("Bounding box for object"):
            boxes.append(_text_box(row, path.stem, quoted.partition('"')[0], value.strip()))
    picture = _text_picture(path, fields)
    _check_count(path, fields, len(boxes))
    return picture, boxes


def _check_top_left(row: Row, line: str) -> None:
    found = _TOP_LEFT.match(line)
    if found is not None and found[1].replace(" ", "") != "1,1":
        row.refuse(f"the top left pixel is ({found[1][:20]}), but Penn-Fudan counts from (1, 1)")


def _field(path: Path, fields: dict[str, tuple[Row, str]], key: str) -> tuple[Row, str]:
    if key not in fields:
        raise InputError(f"{path}: has no line {key!r}")
    return fields[key]


def _text_picture(path: Path, fields: dict[str, tuple[Row, str]]) -> Picture:
    row, value = _field(path, fields, "Image filename")
    parts = value.strip().strip('"').split("/")
    if parts[-2:] != [_IMAGES, f"{path.stem}.png"]:
        row.refuse(f"must end in {_IMAGES}/{path.stem}.png, not {value[:80]!r}")
    size_row, size_text = _field(path, fields, "Image size (X x Y x C)")
    size = _SIZE.match(size_text)
    if size is None:
        size_row.refuse(f"must be such as 559 x 536 x 3, not {size_text[:60]!r}")
    width, height = (parse_whole(size_row, "size", size[number], 1, MAX_SIDE) for number in (1, 2))
    return Picture(row, path.stem, f"{_IMAGES}/{path.stem}.png", (width, height), _source(path.stem))


def _check_count(path: Path, fields: dict[str, tuple[Row, str]], found: int) -> None:
    row, value = _field(path, fields, "Objects with ground truth")
    count = _COUNT.match(value)
    if count is None or count[1] != str(found) or len(count[2].split()) != found:
        row.refuse(f"says {value[:60]!r}, but the file has {found} bounding boxes")


def _text_box(row: Row, image_id: str, label: str, value: str) -> Box:
    if label not in _PEOPLE:
        row.refuse(f"label {label[:60]!r} is not one of {', '.join(_PEOPLE)}")
    found = _BOX.match(value)
    if found is None:
        row.refuse(f"must be such as (160, 182) - (302, 431), not {value[:80]!r}")
    first_x, first_y, last_x, last_y = (
        parse_whole(row, name, found[number], -MAX_SIDE, 2 * MAX_SIDE)
        for number, name in enumerate(("Xmin", "Ymin", "Xmax", "Ymax"), 1)
    )
    return Box(row, image_id, (first_x - 1, first_y - 1, last_x, last_y))


def _source(stem: str) -> str:
    return "penn" if stem.startswith("Penn") else "fudan"


def _recognises_masks(given: Given) -> bool:
    directory = given.path
    return given.is_directory and not (directory / _TEXTS).is_dir() and (directory / _MASKS).is_dir()


def _read_masks(given: Given) -> Annotations:
    paths = [path for path in given.find(_MASK_SUFFIX) if path.parent == given.base / _MASKS]
    if not paths:
        raise InputError(f"{given.path}: holds no {_MASKS}/*{_MASK_SUFFIX}; give the directory that holds {_MASKS}")
    pictures, boxes = [], []
    for path in tqdm(paths, "masks", disable=None, leave=False):
        image_id = path.name.removesuffix(_MASK_SUFFIX)
        mask = decode_mask(given.read(path, _MAX_MASK_BYTES), str(path))
        row = Row(str(path), {})
        size = (mask.shape[1], mask.shape[0])
        pictures.append(Picture(row, image_id, f"{_IMAGES}/{image_id}.png", size, _source(image_id)))
        for number in np.unique(mask[mask > 0]).tolist():
            rows, columns = np.any(mask == number, axis=1).nonzero()[0], np.any(mask == number, axis=0).nonzero()[0]
            corners = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
            boxes.append(Box(Row(f"{path}: pedestrian {number}", {}), image_id, corners))
    return assemble(given.images or given.base, pictures, boxes, clip=given.clip, files=given.files)


TEXTS = Format(
    "pennfudan",
    f"Penn-Fudan: the path of PennFudanPed, with {_TEXTS} and {_IMAGES}",
    _recognises_texts,
    _read_texts,
)
MASKS = Format(
    "pennfudan-masks",
    f"Penn-Fudan by its masks: the path of PennFudanPed, with {_MASKS} and {_IMAGES}",
    _recognises_masks,
    _read_masks,
)
