"""The Caltech Pedestrian Benchmark: video bounding boxes (``.vbb``, MATLAB) or the JSON that people convert them to.

Dollár, Wojek, Schiele, Perona, PAMI 2012. By ``vbb.m`` and ``bbGt.m`` of the benchmark's code an object has ``pos``,
the predicted extent (left, top, width, height), ``posv``, the visible one, and ``occl``. Visibility is 1 where ``occl``
is 0, 0 where ``posv`` equals ``pos``, else the share of areas; where ``occl`` is 1 and ``posv`` is all zeros nobody
drew the visible part and the visibility is unknown. ``person`` counts, the other labels are regions to ignore.
Coordinates are taken as they are, as the benchmark's own evaluation does.

Frames count from 0, as in ``I00029.jpg``. Only frames whose image is there are read: the benchmark uses every 30th.

>>> read("caltech/annotations", images=Path("caltech/images")).images["image_id"][0]   # doctest: +SKIP
'set00_V000_I00029'
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from secpipeline.datasets.annotations import Annotations, Box, Picture, assemble
from secpipeline.datasets.formats import matlab
from secpipeline.datasets.formats.given import Format, Given, list_files
from secpipeline.datasets.rows import Row
from secpipeline.errors import InputError

_LABELS = {"person": False, "people": True, "person?": True, "person-fa": True}  # whether to ignore
_SET, _VIDEO = re.compile(r"set\d\d\Z"), re.compile(r"V\d\d\d\Z")
_IMAGE = re.compile(r"(?:.*/)?(set\d\d)[_/](V\d\d\d)[_/]I?(\d{1,6})\.(?:jpg|jpeg|png)\Z", re.IGNORECASE)
_MAX_FRAMES = 1_000_000


@dataclass(frozen=True)
class _Object:
    row: Row
    label: str
    full: tuple[float, ...]
    visible: tuple[float, ...]
    occluded: bool


@dataclass(frozen=True)
class _Video:
    """The objects of each frame; ``frames`` is the number of frames."""

    row: Row
    frames: int
    objects: Mapping[int, list[_Object]]


def _recognises(given: Given) -> bool:
    if given.is_directory:
        return bool(given.find(".vbb"))
    if given.is_json:
        return bool(given.document.values) and all(_SET.match(name) for name in given.document.values)
    return given.path.suffix.lower() == ".vbb"


def _read(given: Given) -> Annotations:
    videos = dict(_json_videos(given.document) if given.is_json else _vbb_videos(given))
    root = given.images or given.base
    pictures, boxes = [], []
    for path in tqdm(list_files(root), "frames", disable=None, leave=False):
        file_name = path.relative_to(root).as_posix()
        found = _IMAGE.match(file_name)
        if found is None:
            continue
        video = videos.get((found[1], found[2]))
        if video is None:
            raise InputError(
                f"{root / file_name}: there is no annotation of {found[1]} {found[2]}; leave the image out"
            )
        frame = int(found[3])
        if frame >= video.frames:
            video.row.refuse(f"has {video.frames} frames, but there is an image {file_name}")
        image_id, source = f"{found[1]}_{found[2]}_I{frame:05d}", found[1]
        size = given.size_of(root, file_name, image_id, source)
        if size is not None:
            pictures.append(Picture(video.row, image_id, file_name, size, source, f"{found[1]}_{found[2]}"))
        boxes += [_box(item, image_id) for item in video.objects.get(frame, [])]
    if not pictures and not given.rejected:
        raise InputError(f"{root}: holds no image such as set00_V000_I00029.jpg; extract the frames or set data.images")
    rejected = list(given.rejected.values())
    return assemble(root, pictures, boxes, clip=given.clip, files=given.files, rejected=rejected)


def _box(item: _Object, image_id: str) -> Box:
    row = item.row
    if item.label not in _LABELS:
        row.refuse(f"label {item.label[:60]!r} is not one of {', '.join(_LABELS)}")
    x, y, width, height = item.full
    if width <= 0 or height <= 0:
        row.refuse(f"pos {list(item.full)} has no area")
    if item.visible[2] < 0 or item.visible[3] < 0:
        row.refuse(f"posv {list(item.visible)} has a negative size")
    return Box(row, image_id, (x, y, x + width, y + height), _LABELS[item.label], _visibility(item))


def _visibility(item: _Object) -> float:
    if not item.occluded:
        return 1.0
    if not any(item.visible):
        return math.nan
    if item.visible == item.full:
        return 0.0
    return min(1.0, item.visible[2] * item.visible[3] / (item.full[2] * item.full[3]))


def _vbb_videos(given: Given) -> Iterator[tuple[tuple[str, str], _Video]]:
    paths = given.find(".vbb") if given.is_directory else [given.path]
    for path in tqdm(paths, "annotations", disable=None, leave=False):
        names = (path.parent.absolute().name, path.stem)
        if not _SET.match(names[0]) or not _VIDEO.match(names[1]):
            raise InputError(f"{path}: must lie in a directory such as set00 and have a name such as V000.vbb")
        variables = given.variables if path == given.path else matlab.load(given.read(path), str(path))
        yield names, _vbb_video(variables, str(path))


def _vbb_video(variables: Mapping[str, Any], where: str) -> _Video:
    if "A" not in variables:
        raise InputError(f"{where}: holds no variable A; it is no vbb file")
    tops = matlab.structs(variables["A"], f"{where}: A")
    if len(tops) != 1:
        raise InputError(f"{where}: A must be one struct")
    top = tops[0]
    frames = matlab.whole(top, "nFrame", 0, _MAX_FRAMES)
    lists = matlab.cells(top.get("objLists"), f"{where}: A.objLists")
    if len(lists) != frames:
        top.refuse(f"nFrame is {frames}, but objLists has {len(lists)} frames")
    # An object that was deleted has no label, and no frame refers to it.
    place = f"{where}: A.objLbl"
    labels = [matlab.text(Row(place, {"label": cell}), "label") for cell in matlab.cells(top.get("objLbl"), place)]
    objects = {
        frame: [_vbb_object(row, labels) for row in matlab.structs(cell, f"{where}: A.objLists{{{frame + 1}}}")]
        for frame, cell in enumerate(lists)
    }
    return _Video(top, frames, objects)


def _vbb_object(row: Row, labels: list[str]) -> _Object:
    number = matlab.whole(row, "id", 1, max(1, len(labels)))
    if not labels:
        row.refuse("id points to a label, but there is none")
    return _Object(
        row,
        labels[number - 1],
        matlab.numbers(row, "pos", 4),
        matlab.numbers(row, "posv", 4),
        bool(matlab.whole(row, "occl", 0, 1)),
    )


def _json_videos(document: Row) -> Iterator[tuple[tuple[str, str], _Video]]:
    for set_name in document.values:
        videos = _inner(document, set_name)
        for name in videos.values:
            row = _inner(videos, name)
            if not _SET.match(set_name) or not _VIDEO.match(name):
                row.refuse("must be called such as set00, V000")
            yield (set_name, name), _json_video(row)


def _inner(row: Row, key: str) -> Row:
    value = row.get(key)
    if not isinstance(value, dict):
        row.refuse(f"{key[:60]!r} must be an object")
    return Row(f"{row.where}: {key[:60]}", value)


def _json_video(row: Row) -> _Video:
    count = row.whole("nFrame", 0, _MAX_FRAMES)
    frames = _inner(row, "frames")
    objects = {}
    for key in frames.values:
        if not re.fullmatch(r"\d{1,7}", key, re.ASCII) or str(int(key)) != key or int(key) >= count:
            frames.refuse(f"{key[:60]!r} is no frame of 0 to {count - 1}")
        objects[int(key)] = [_json_object(item) for item in frames.rows(key)]
    return _Video(row, count, objects)


def _json_object(row: Row) -> _Object:
    # Converters write a number instead of four zeros where MATLAB had a scalar.
    visible = (0.0,) * 4 if row.values.get("posv") == 0 else row.numbers("posv", 4)
    return _Object(row, row.text("lbl"), row.numbers("pos", 4), visible, row.flag("occl"))


FORMAT = Format(
    "caltech",
    "Caltech Pedestrians: the path of a .vbb file, of a directory of setNN/VNNN.vbb, or of the converted JSON; "
    "data.images holds the extracted frames",
    _recognises,
    _read,
)
