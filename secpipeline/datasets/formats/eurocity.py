"""EuroCity Persons: one JSON file an image.

Braun, Krebs, Flohr, Gavrila, PAMI 2019. An object has an identity, corners ``x0, y0, x1, y1``, tags, and children (the
bicycle of a rider). By the benchmark's evaluation pedestrians count unless they sit or lie or are behind glass; riders
and groups far away are regions to ignore; vehicles are no people and left out. Depictions and reflections are ignored
too. The tags ``occluded>10``, ``>40`` and ``>80`` say how much is hidden; the visibility is the middle of that range,
which keeps the benchmark's own limit of 40 % hidden on the same side of 0.65 as CityPersons.

>>> read("ECP/day/labels/val").images.loc[0, ["file_name", "time_of_day"]].tolist()     # doctest: +SKIP
['img/val/amsterdam/amsterdam_00000.png', 'day']
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from secpipeline.datasets.annotations import Annotations, Box, Picture, assemble
from secpipeline.datasets.formats.given import Format, Given
from secpipeline.datasets.rows import Row, shown
from secpipeline.errors import InputError

_PEDESTRIAN = "pedestrian"
_IGNORED = ("rider", "co-rider", "person-group-far-away", "rider+vehicle-group-far-away")
_VEHICLES = ("bicycle", "buggy", "motorbike", "scooter", "tricycle", "wheelchair")
_IGNORED_TAGS = {"sitting-lying", "behind-glass", "depiction", "reflection"}
_VISIBILITY = {"occluded>10": 0.75, "occluded>40": 0.4, "occluded>80": 0.1}
_KEYS = {"imagewidth", "imageheight", "children"}
_LABELS = "labels"
_MAX_DEPTH = 8


def _recognises(given: Given) -> bool:
    if given.is_directory:
        paths = given.find(".json")
        return bool(paths) and given.json(paths[0]).values.keys() >= _KEYS
    return given.is_json and given.document.values.keys() >= _KEYS


def _read(given: Given) -> Annotations:
    paths = given.find(".json") if given.is_directory else [given.path]
    if not paths:
        raise InputError(f"{given.path}: holds no JSON file; give the directory of labels")
    root = given.images or _root(given.base)
    pictures, boxes = [], []
    for path in tqdm(paths, "annotations", disable=None, leave=False):
        row = given.json(path)
        place = path.absolute().relative_to(_root(given.base)).parts
        file_name = str(PurePosixPath(*_with_images(place)).with_suffix(".png"))
        image_id = file_name.removesuffix(".png").replace("/", "-")
        size = (row.size("imagewidth"), row.size("imageheight"))
        pictures.append(Picture(row, image_id, file_name, size, path.parent.absolute().name, "", _time(path)))
        boxes += [box for child in row.rows("children") for box in _boxes(child, image_id)]
    return assemble(root, pictures, boxes, clip=given.clip, files=given.files)


def _root(base: Path) -> Path:
    """The directory that holds ``labels`` and ``img``, if the base lies inside labels; else the base."""
    base = base.absolute()  # a relative path does not name the directories above it
    for directory in (base, *base.parents):
        if directory.name == _LABELS:
            return directory.parent
    return base


def _with_images(place: tuple[str, ...]) -> tuple[str, ...]:
    """A label's place with the last ``labels`` replaced by ``img``."""
    if _LABELS not in place:
        return place
    index = len(place) - 1 - place[::-1].index(_LABELS)
    return (*place[:index], "img", *place[index + 1 :])


def _time(path: Path) -> str:
    """Day or night, by the directory that holds ``labels``."""
    parts = path.absolute().parts
    before = parts[-parts[::-1].index(_LABELS) - 2] if _LABELS in parts[1:] else ""
    return before if before in ("day", "night") else ""


def _boxes(row: Row, image_id: str, depth: int = 0) -> Iterator[Box]:
    """The people of an object and of its children."""
    if depth > _MAX_DEPTH:
        row.refuse("children are nested too deeply")
    # Some objects of the published files have no identity: nobody may be punished for finding or missing them.
    identity = "" if row.get("identity") is None else row.text("identity")
    tags = _tags(row)
    if identity == _PEDESTRIAN or identity in _IGNORED or not identity:
        corners = (row.number("x0"), row.number("y0"), row.number("x1"), row.number("y1"))
        hidden = [_VISIBILITY[tag] for tag in tags if tag in _VISIBILITY]
        ignore = identity != _PEDESTRIAN or bool(_IGNORED_TAGS.intersection(tags))
        yield Box(row, image_id, corners, ignore, min(hidden, default=1.0))
    elif identity.removesuffix("-group") not in _VEHICLES:
        row.refuse(f"identity {identity!r} is unknown; known are {', '.join((_PEDESTRIAN, *_IGNORED, *_VEHICLES))}")
    if row.values.get("children"):
        for child in row.rows("children"):
            yield from _boxes(child, image_id, depth + 1)


def _tags(row: Row) -> list[str]:
    tags = row.values.get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        row.refuse(f"tags must be a list of texts, not {shown(tags)}")
    if unknown := [tag for tag in tags if tag.startswith("occluded") and tag not in _VISIBILITY]:
        row.refuse(f"tag {shown(unknown[0])!r} is not one of {', '.join(_VISIBILITY)}")
    return tags


FORMAT = Format(
    "eurocity",
    "EuroCity Persons: the path of a directory of JSON labels (ECP/day/labels/train), beside img",
    _recognises,
    _read,
)
