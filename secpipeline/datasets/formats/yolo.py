"""YOLO text labels: a line an object, ``class cx cy width height`` as shares of the image, and a file of class names.

As Darknet and its descendants document it, ``labels/…/NAME.txt`` belongs to ``images/…/NAME.jpg`` (or lies beside it);
an image without a label file has no objects. Names stand in ``classes.txt``, ``obj.names`` or ``data.yaml``. Sizes are
read from the headers of the images. Labels are written with six decimals, so a box may leave its image by a millionth
of the side: such a box is cut.

>>> read("dataset").boxes[["image_id", "x1", "y1", "x2", "y2"]]                     # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from tqdm import tqdm

from secpipeline import yaml_files
from secpipeline.datasets.annotations import DEFAULT_SOURCE, Annotations, Box, Picture, assemble
from secpipeline.datasets.formats.given import IMAGE_SUFFIXES, Format, Given, list_files
from secpipeline.datasets.rows import Row, check_text, parse_number, parse_whole
from secpipeline.errors import InputError

_CLASS_FILES = ("classes.txt", "obj.names", "data.yaml")
_PEOPLE = ("person", "pedestrian")
_MAX_CLASSES = 10_000
_MAX_YAML_BYTES = 1 << 20
_ROUNDING = 1e-6
_FIELDS = ("class", "cx", "cy", "width", "height")


def _recognises(given: Given) -> bool:
    return given.is_directory and any((given.path / name).is_file() for name in _CLASS_FILES)


def _read(given: Given) -> Annotations:
    names = _names(given)
    root = given.images or given.base
    labels = {given.name_of(path): path for path in given.find(".txt") if path.name not in _CLASS_FILES}
    pictures, boxes = [], []
    for path in tqdm(list_files(root), "labels", disable=None, leave=False):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        file_name = path.relative_to(root).as_posix()
        image_id = str(PurePosixPath(file_name).with_suffix("")).removeprefix("images/").replace("/", "-")
        label = _label(labels, file_name)
        size = given.size_of(root, file_name, image_id, DEFAULT_SOURCE)
        if size is not None:
            pictures.append(Picture(Row(str(path), {}), image_id, file_name, size))
            boxes += [_box(row, names, image_id, size) for row in (given.lines(label) if label else [])]
    if labels:
        raise InputError(f"{next(iter(labels.values()))}: belongs to no image; deliver the image or remove the file")
    rejected = list(given.rejected.values())
    return assemble(root, pictures, boxes, clip=given.clip, files=given.files, rejected=rejected)


def _label(labels: dict[str, Path], file_name: str) -> Path | None:
    """The label file of an image, taken out of ``labels`` so that what is left belongs to no image."""
    name = str(PurePosixPath(file_name).with_suffix(".txt"))
    mirrored = f"labels/{name.removeprefix('images/')}"
    return labels.pop(mirrored, None) or labels.pop(name, None)


def _names(given: Given) -> list[str]:
    """The name of each class."""
    found = [given.base / name for name in _CLASS_FILES if (given.base / name).is_file()]
    if len(found) != 1:
        listed = ", ".join(path.name for path in found) or "none"
        raise InputError(f"{given.path}: must hold exactly one of {', '.join(_CLASS_FILES)}, not {listed}")
    path = found[0]
    if path.suffix == ".yaml":
        names = _yaml_names(path, given.read(path, _MAX_YAML_BYTES))
    else:
        names = [row.get("line").strip() for row in given.lines(path)]
    if not 1 <= len(names) <= _MAX_CLASSES:
        raise InputError(f"{path}: names {len(names)} classes, not 1 to {_MAX_CLASSES}")
    return [check_text(Row(f"{path}: class {number}", {}), "name", name) for number, name in enumerate(names)]


def _yaml_names(path: Path, data: bytes) -> list[str]:
    try:
        document = yaml_files.parse(data.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 text (byte {error.start}); save it as one") from error
    names = document.get("names") if isinstance(document, dict) else None
    if isinstance(names, dict) and list(names) == list(range(len(names))):
        names = list(names.values())
    if not isinstance(names, list):
        raise InputError(f"{path}: has no list 'names', or one that does not count from 0")
    return names


def _box(row: Row, names: list[str], image_id: str, size: tuple[int, int]) -> Box:
    words = row.get("line").split()
    if len(words) != len(_FIELDS):
        row.refuse(f"must have {len(_FIELDS)} numbers ({' '.join(_FIELDS)}), not {len(words)}")
    label = parse_whole(row, "class", words[0], 0, _MAX_CLASSES)
    if label >= len(names):
        row.refuse(f"class {label} is not one of the {len(names)} that are named")
    if names[label].lower() not in _PEOPLE:
        row.refuse(f"class {label} ({names[label]}) is no pedestrian; leave its boxes out")
    cx, cy, width, height = (parse_number(row, key, word) for key, word in zip(_FIELDS[1:], words[1:], strict=True))
    if not (0 <= cx <= 1 and 0 <= cy <= 1 and 0 < width <= 1 and 0 < height <= 1):
        row.refuse("cx and cy must be from 0 to 1 and width and height above 0 and at most 1: shares of the image")
    x1, x2 = (_snap(share) * size[0] for share in (cx - width / 2, cx + width / 2))
    y1, y2 = (_snap(share) * size[1] for share in (cy - height / 2, cy + height / 2))
    return Box(row, image_id, (x1, y1, x2, y2))


def _snap(share: float) -> float:
    """A share that rounding pushed over the edge, on the edge."""
    return min(max(share, 0.0), 1.0) if -_ROUNDING <= share <= 1 + _ROUNDING else share


FORMAT = Format(
    "yolo",
    "YOLO text: the path of a directory with classes.txt, obj.names or data.yaml, images and labels",
    _recognises,
    _read,
)
