"""CityPersons, as it came (MATLAB) and as Cityscapes gives it out (JSON).

CityPersons (Zhang, Benenson, Schiele, CVPR 2017) draws full bodies and what can be seen of them on Cityscapes images.
By its README a row of ``bbs`` is class, x1, y1, w, h, instance, and x1, y1, w, h of the visible part. Only pedestrians
count; the benchmark ignores riders, sitting and other people, groups, and regions of fake people. The visible box comes
from a segmentation mask and may be the wider one, so visibility is cut at 1.

>>> read("gtBboxCityPersons/val", images=Path("cityscapes")).images["file_name"][0]    # doctest: +SKIP
'leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png'
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from secpipeline.datasets.annotations import Annotations, Box, Picture, assemble
from secpipeline.datasets.formats import matlab
from secpipeline.datasets.formats.given import Format, Given
from secpipeline.datasets.rows import Row
from secpipeline.errors import InputError

_PEDESTRIAN, _MOST_CLASS = 1, 5
_LABELS = ("ignore", "pedestrian", "rider", "sitting person", "person (other)", "person group")
_VARIABLE = re.compile(r"anno_(train|val)_aligned\Z")
_NAME = re.compile(r"(?P<city>[A-Za-z-]+)_(?P<sequence>\d{6})_(?P<frame>\d{6})_leftImg8bit\.(png|jpg)\Z")
_JSON = "_gtBboxCityPersons.json"
_JSON_ROOT = "gtBboxCityPersons"
_LAYOUTS = ("leftImg8bit/{split}/{city}/", "{split}/{city}/", "{city}/", "")


def _recognises_mat(given: Given) -> bool:
    if given.path.suffix.lower() != ".mat":
        return False
    return any(_VARIABLE.match(name) for name in given.variables)


def _read_mat(given: Given) -> Annotations:
    found = [name for name in given.variables if _VARIABLE.match(name)]
    if len(found) != 1:
        raise InputError(f"{given.path}: must hold one of anno_train_aligned and anno_val_aligned, not {found}")
    split = found[0].split("_")[1]
    rows = []
    for number, cell in enumerate(matlab.cells(given.variables[found[0]], f"{given.path}: {found[0]}")):
        where = f"{given.path}: {found[0]}{{{number + 1}}}"
        rows += _single(matlab.structs(cell, where), where)
    root = given.images or given.base
    names = [_name(row, matlab.text(row, "im_name"), matlab.text(row, "cityname")) for row in rows]
    layout = _layout(root, split, names)
    pictures, boxes = [], []
    for row, name in zip(rows, tqdm(names, "sizes", disable=None, leave=False), strict=True):
        file_name = layout.format(split=split, city=name["city"]) + name.string
        image_id = _image_id(name)
        size = given.size_of(root, file_name, image_id, name["city"])
        if size is not None:
            pictures.append(Picture(row, image_id, file_name, size, name["city"], _scene(name)))
        boxes += _mat_boxes(row, image_id)
    rejected = list(given.rejected.values())
    return assemble(root, pictures, boxes, clip=given.clip, files=given.files, rejected=rejected)


def _single(rows: list[Row], where: str) -> list[Row]:
    if len(rows) != 1:
        raise InputError(f"{where}: must be one struct, not {len(rows)}")
    return rows


def _name(row: Row, im_name: str, city: str) -> re.Match[str]:
    name = _NAME.match(im_name)
    if name is None:
        row.refuse(f"im_name {im_name[:80]!r} is not CITY_SEQUENCE_FRAME_leftImg8bit.png")
    # Cityscapes writes one city in two ways inside the MATLAB files: in lower case as a folder, else as in the name.
    if name["city"].lower() != city.lower():
        row.refuse(f"cityname {city[:80]!r} is not the city of {im_name!r}")
    return name


def _image_id(name: re.Match[str]) -> str:
    return f"{name['city']}_{name['sequence']}_{name['frame']}"


def _scene(name: re.Match[str]) -> str:
    return f"{name['city']}_{name['sequence']}"


def _layout(root: Path, split: str, names: Sequence[re.Match[str]]) -> str:
    """Where the images lie below the root: the first known layout in which one of them is there."""
    for layout in _LAYOUTS:
        if any((root / layout.format(split=split, city=name["city"]) / name.string).is_file() for name in names):
            return layout
    raise InputError(
        f"{root}: holds none of the {len(names)} images, such as leftImg8bit/{split}/CITY/NAME.png; "
        "set data.images to the directory that holds leftImg8bit"
    )


def _mat_boxes(row: Row, image_id: str) -> list[Box]:
    bbs = row.get("bbs")
    if not isinstance(bbs, np.ndarray) or bbs.ndim != 2:
        row.refuse("bbs must be a matrix of numbers")
    if bbs.size == 0:
        return []
    if bbs.shape[1] != 10:
        row.refuse(f"bbs must have 10 columns, not {bbs.shape[1]}")
    boxes = []
    for number, line in enumerate(bbs, 1):
        place = Row(f"{row.where}.bbs({number})", {"row": line})
        values = matlab.numbers(place, "row", 10)
        label = values[0]
        if not label.is_integer() or not 0 <= label <= _MOST_CLASS:
            place.refuse(f"class {label:g} is not one of 0 to {_MOST_CLASS}")
        boxes.append(_box(place, image_id, values[1:5], values[6:10], label != _PEDESTRIAN))
    return boxes


def _box(row: Row, image_id: str, full: Sequence[float], visible: Sequence[float], ignore: bool) -> Box:
    x, y, width, height = full
    if width <= 0 or height <= 0:
        row.refuse(f"box {list(full)} (x, y, width, height) has no area")
    if visible[2] < 0 or visible[3] < 0:
        row.refuse(f"visible box {list(visible)} (x, y, width, height) has a negative size")
    share = min(1.0, visible[2] * visible[3] / (width * height))
    return Box(row, image_id, (x, y, x + width, y + height), ignore, share)


def _recognises_json(given: Given) -> bool:
    if given.is_directory:
        return bool(given.find(_JSON))
    return given.path.name.endswith(_JSON)


def _read_json(given: Given) -> Annotations:
    paths = given.find(_JSON) if given.is_directory else [given.path]
    if not paths:
        raise InputError(f"{given.path}: holds no file that ends in {_JSON}")
    top = _top(given.base)
    pictures, boxes = [], []
    for path in tqdm(paths, "annotations", disable=None, leave=False):
        row = given.json(path)
        name = _NAME.match(path.name.replace(_JSON, "_leftImg8bit.png"))
        if name is None:
            row.refuse(f"its name must be CITY_SEQUENCE_FRAME{_JSON}")
        file_name = str(PurePosixPath("leftImg8bit", path.parent.absolute().relative_to(top).as_posix(), name.string))
        size = (row.size("imgWidth"), row.size("imgHeight"))
        pictures.append(Picture(row, _image_id(name), file_name, size, name["city"], _scene(name)))
        boxes += [_json_box(entry, _image_id(name)) for entry in row.rows("objects")]
    root = given.images or (top.parent if top.name == _JSON_ROOT else top)
    return assemble(root, pictures, boxes, clip=given.clip, files=given.files)


def _top(base: Path) -> Path:
    """The directory whose twin is ``leftImg8bit``: the base, one above it, or one in it."""
    base = base.absolute()  # a relative path does not name the directories above it
    for directory in (base, *base.parents):
        if directory.name == _JSON_ROOT:
            return directory
    inner = base / _JSON_ROOT
    return inner if inner.is_dir() else base


def _json_box(row: Row, image_id: str) -> Box:
    label = row.text("label")
    if label not in _LABELS:
        row.refuse(f"label {label!r} is not one of {', '.join(_LABELS)}")
    full = row.numbers("bbox", 4)
    visible = row.numbers("bboxVis", 4)
    return _box(row, image_id, full, visible, label != _LABELS[_PEDESTRIAN])


MAT = Format(
    "citypersons-mat",
    "CityPersons MATLAB: the path of anno_train.mat or anno_val.mat; data.images holds leftImg8bit",
    _recognises_mat,
    _read_mat,
)
JSON = Format(
    "citypersons",
    "CityPersons JSON of Cityscapes: the path of gtBboxCityPersons or of a split or city in it, beside leftImg8bit",
    _recognises_json,
    _read_json,
)
