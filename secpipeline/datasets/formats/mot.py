"""MOTChallenge ground truth, as in MOT16, MOT17 and MOT20: ``seqinfo.ini``, ``gt/gt.txt`` and the frames.

Milan, Leal-Taixé, Reid, Roth, Schindler, arXiv 1603.00831. A line is frame, id, left, top, width, height, whether to
consider it, class, visibility; frames and coordinates count from 1. Pedestrians that are to be considered count. People
on vehicles, static people, distractors and reflections look like people, and a crowd is many: they are regions to
ignore, as is every pedestrian that is not to be considered. Vehicles and occluders are left out. Boxes reach outside
the image wherever people do, so this data needs ``data.clip_boxes``.

MOT17 holds every sequence three times, once for each public detector. Where the ground truths are equal byte by byte
the first by name is read.

>>> read("MOT17/train", clip=True).images.loc[0, ["image_id", "scene"]].tolist()        # doctest: +SKIP
['MOT17-02-DPM-000001', 'MOT17-02-DPM']
"""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from secpipeline.datasets.annotations import Annotations, Box, Picture, assemble
from secpipeline.datasets.formats.given import IMAGE_SUFFIXES, Format, Given
from secpipeline.datasets.rows import MAX_SIDE, Row, parse_number, parse_whole
from secpipeline.errors import InputError

_INFO = "seqinfo.ini"
_MAX_FRAMES = 1_000_000
_MAX_INFO_BYTES = 64 << 10
_COLUMNS = ("frame", "id", "left", "top", "width", "height", "considered", "class", "visibility")
_PEDESTRIAN = 1
_LIKE_PEOPLE = (2, 7, 8, 12, 13)  # person on vehicle, static person, distractor, reflection, crowd
_OTHERS = (3, 4, 5, 6, 9, 10, 11)  # vehicles and occluders
_DETECTOR = re.compile(r"(MOT\d\d-\d\d)-(DPM|FRCNN|SDP)\Z")


def _recognises(given: Given) -> bool:
    return given.is_directory and bool(given.find(_INFO))


def _read(given: Given) -> Annotations:
    infos = [path for path in given.find(_INFO) if path.name == _INFO]
    if not infos:
        raise InputError(f"{given.path}: holds no {_INFO}; give a sequence or a directory of sequences")
    pictures: list[Picture] = []
    boxes: list[Box] = []
    for path in _without_copies(given, [info.parent for info in infos]):
        found = _pictures(given, path)
        pictures += found
        boxes += _boxes(given, path, found)
    return assemble(given.images or given.base, pictures, boxes, clip=given.clip, files=given.files)


def _without_copies(given: Given, sequences: list[Path]) -> list[Path]:
    """One of the sequences that differ in their detector alone."""
    kept: dict[str, Path] = {}
    for path in sequences:
        variant = _DETECTOR.match(path.name)
        key = variant[1] if variant else str(path)
        if key not in kept:
            kept[key] = path
        elif given.read(kept[key] / "gt/gt.txt") != given.read(path / "gt/gt.txt"):
            raise InputError(
                f"{path}: has another ground truth than {kept[key].name}, which shows the same frames; leave one out"
            )
    return list(kept.values())


def _pictures(given: Given, sequence: Path) -> list[Picture]:
    row = _info(given, sequence / _INFO)
    count = parse_whole(row, "seqLength", row.text("seqLength"), 1, _MAX_FRAMES)
    width, height = (parse_whole(row, key, row.text(key), 1, MAX_SIDE) for key in ("imWidth", "imHeight"))
    folder, suffix = row.text("imDir"), row.text("imExt")
    if suffix.lower() not in IMAGE_SUFFIXES:
        row.refuse(f"imExt is {suffix!r}, not one of {', '.join(IMAGE_SUFFIXES)}")
    name = sequence.absolute().name
    place = "" if sequence == given.base else f"{given.name_of(sequence)}/"
    return [
        Picture(row, f"{name}-{frame:06d}", f"{place}{folder}/{frame:06d}{suffix}", (width, height), name, name)
        for frame in range(1, count + 1)
    ]


def _info(given: Given, path: Path) -> Row:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys keep their case, as documented
    try:
        parser.read_string(given.read(path, _MAX_INFO_BYTES).decode("utf-8-sig"))
        return Row(str(path), dict(parser["Sequence"]))
    except (configparser.Error, UnicodeDecodeError, KeyError) as error:
        text = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not an INI file with a section [Sequence] ({text}); deliver it again") from error


def _boxes(given: Given, sequence: Path, pictures: list[Picture]) -> list[Box]:
    path = sequence / "gt/gt.txt"
    boxes = []
    seen: dict[tuple[int, int], str] = {}
    for row in given.lines(path):
        words = row.get("line").split(",")
        if len(words) != len(_COLUMNS):
            row.refuse(f"must have {len(_COLUMNS)} columns ({', '.join(_COLUMNS)}), not {len(words)}")
        values = dict(zip(_COLUMNS, words, strict=True))
        frame = parse_whole(row, "frame", values["frame"], 1, len(pictures))
        key = (frame, parse_whole(row, "id", values["id"], -1, 2**53))
        if key[1] >= 0 and key in seen:
            row.refuse(f"frame {frame} and id {key[1]} were already used by {seen[key]}")
        seen[key] = row.where.rpartition(": ")[2]
        box = _box(row, values, pictures[frame - 1].image_id)
        boxes += [box] if box else []
    return boxes


def _box(row: Row, values: dict[str, str], image_id: str) -> Box | None:
    label = parse_whole(row, "class", values["class"], 1, 1000)
    if label not in (_PEDESTRIAN, *_LIKE_PEOPLE, *_OTHERS):
        row.refuse(f"class {label} is not one of 1 to 13")
    left, top, width, height = (parse_number(row, key, values[key]) for key in ("left", "top", "width", "height"))
    if width <= 0 or height <= 0:
        row.refuse(f"width {width:g} and height {height:g} leave no area")
    considered = parse_whole(row, "considered", values["considered"], 0, 1)
    visibility = parse_number(row, "visibility", values["visibility"])
    if not 0 <= visibility <= 1:
        row.refuse(f"visibility must be from 0 to 1, not {visibility:g}")
    if label in _OTHERS:
        return None
    x, y = left - 1, top - 1
    return Box(row, image_id, (x, y, x + width, y + height), label != _PEDESTRIAN or not considered, visibility)


FORMAT = Format("mot", "MOTChallenge: the path of a sequence, or of a directory of sequences", _recognises, _read)
