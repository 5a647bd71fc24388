"""Tiny writers of every annotation format that is read, written from the formats' documentation.

A delivery is a list of :class:`Shot`, each with integer boxes; every writer lays it out as its data set would and
returns what to read and the tables that must come out.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.io
from PIL import Image

from secpipeline.datasets.annotations import ANNOTATION_IMAGE_COLUMNS
from secpipeline.datasets.tables import BOX_COLUMNS, LABEL, empty_boxes


@dataclass(frozen=True)
class Seen:
    """A box (x, y, width, height), the size of its visible part, and whether it is to be ignored."""

    x: int
    y: int
    width: int
    height: int
    visible: tuple[int, int]
    ignore: bool = False

    @property
    def full(self):
        return [self.x, self.y, self.width, self.height]

    @property
    def part(self):
        return [self.x, self.y, *self.visible]

    @property
    def share(self):
        return self.visible[0] * self.visible[1] / (self.width * self.height)


@dataclass(frozen=True)
class Shot:
    size: tuple[int, int]
    boxes: list[Seen] = field(default_factory=list)


@dataclass(frozen=True)
class Delivered:
    """What to give to the reader, the file that tests may spoil, and the tables that are expected."""

    path: Path
    file: Path
    images: pd.DataFrame
    boxes: pd.DataFrame
    format: str
    options: dict[str, Any] = field(default_factory=dict)


SHOTS = [
    Shot((60, 40), [Seen(2, 3, 8, 20, (8, 20)), Seen(30, 5, 10, 30, (5, 16)), Seen(0, 0, 60, 40, (60, 40), True)]),
    Shot((50, 30)),
    Shot((60, 40), [Seen(10, 10, 10, 20, (10, 10))]),
]


def save(path, data):
    """Write bytes, a text, or anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(data, bytes):
        data = (data if isinstance(data, str) else json.dumps(data)).encode()
    path.write_bytes(data)
    return path


def blank(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def image_table(rows):
    table = pd.DataFrame(rows, columns=list(ANNOTATION_IMAGE_COLUMNS))
    return table.astype({"width": "int32", "height": "int32"})


def box_table(shots, ids, visibility, ignore=lambda box: box.ignore):
    rows = [
        (f"{name}#{number}", name, box.x, box.y, box.x + box.width, box.y + box.height, LABEL, ignore(box),
         visibility(box), box.height)
        for name, shot in zip(ids, shots, strict=True) for number, box in enumerate(shot.boxes)
    ]  # fmt: skip
    floats = dict.fromkeys(["x1", "y1", "x2", "y2", "visibility", "height"], "float64")
    return pd.DataFrame(rows, columns=list(BOX_COLUMNS)).astype(floats) if rows else empty_boxes()


def write_coco_file(root, shots):
    images = [
        {"id": number, "file_name": f"{number}.png", "width": shot.size[0], "height": shot.size[1]}
        for number, shot in enumerate(shots)
    ]
    boxes = [
        {"id": 100 * number + index, "image_id": number, "category_id": 1, "bbox": box.full}
        | {"ignore": box.ignore, "visibility": box.share}
        for number, shot in enumerate(shots) for index, box in enumerate(shot.boxes)
    ]  # fmt: skip
    path = save(
        root / "instances.json",
        {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "person"}]},
    )
    ids = [str(number) for number in range(len(shots))]
    rows = [(name, f"{name}.png", *shot.size, "default", name, "") for name, shot in zip(ids, shots, strict=True)]
    return Delivered(path, path, image_table(rows), box_table(shots, ids, lambda box: box.share), "coco")


def city_names(shots):
    return [f"aachen_{number:06d}_000019" for number in range(len(shots))]


def city_rows(shots):
    return [
        (name, f"leftImg8bit/val/aachen/{name}_leftImg8bit.png", *shot.size, "aachen", name[:13], "")
        for name, shot in zip(city_names(shots), shots, strict=True)
    ]


def write_citypersons_json(root, shots):
    file = root
    for name, shot in zip(city_names(shots), shots, strict=True):
        objects = [
            {
                "label": "rider" if box.ignore else "pedestrian",
                "bbox": box.full,
                "bboxVis": box.part,
                "instanceId": 24000,
            }
            for box in shot.boxes
        ]
        path = root / f"gtBboxCityPersons/val/aachen/{name}_gtBboxCityPersons.json"
        save(path, {"imgWidth": shot.size[0], "imgHeight": shot.size[1], "objects": objects})
        file = path if file is root else file
    boxes = box_table(shots, city_names(shots), lambda box: box.share)
    return Delivered(root / "gtBboxCityPersons", file, image_table(city_rows(shots)), boxes, "citypersons")


def write_citypersons_mat(root, shots, compress=True):
    cells = np.empty((1, len(shots)), object)
    for number, (name, shot) in enumerate(zip(city_names(shots), shots, strict=True)):
        blank(root / f"leftImg8bit/val/aachen/{name}_leftImg8bit.png", shot.size)
        bbs = [[2 if box.ignore else 1, *box.full, 24000 + index, *box.part] for index, box in enumerate(shot.boxes)]
        cells[0, number] = {
            "cityname": "aachen",
            "im_name": f"{name}_leftImg8bit.png",
            "bbs": np.array(bbs, np.uint16) if bbs else np.empty((0, 0)),
        }
    path = root / "anno_val.mat"
    scipy.io.savemat(path, {"anno_val_aligned": cells}, do_compression=compress)
    boxes = box_table(shots, city_names(shots), lambda box: box.share)
    return Delivered(path, path, image_table(city_rows(shots)), boxes, "citypersons-mat")


def caltech_visibility(box):
    if box.visible == (box.width, box.height):
        return 1.0
    return box.share if any(box.part) else math.nan


def caltech_tables(root, shots):
    ids = [f"set00_V000_I{30 * number + 29:05d}" for number in range(len(shots))]
    for name, shot in zip(ids, shots, strict=True):
        blank(root / f"images/{name}.png", shot.size)
    rows = [
        (name, f"images/{name}.png", *shot.size, "set00", "set00_V000", "")
        for name, shot in zip(ids, shots, strict=True)
    ]
    return image_table(rows), box_table(shots, ids, caltech_visibility)


def occluded(box):
    return box.visible != (box.width, box.height)


def write_caltech_vbb(root, shots, compress=False):
    frames = 30 * len(shots)
    lists = np.empty((1, frames), object)
    lists[:] = [[np.empty((0, 0))] * frames]
    kinds = [("id", object), ("pos", object), ("occl", object), ("lock", object), ("posv", object)]
    for number, shot in enumerate(shots):
        if shot.boxes:
            entries = [
                (2.0 if box.ignore else 1.0, np.array([box.full], float), float(occluded(box)), 0.0,
                 np.array([box.part if occluded(box) else [0, 0, 0, 0]], float))
                for box in shot.boxes
            ]  # fmt: skip
            lists[0, 30 * number + 29] = np.array([entries], kinds)
    labels = np.empty((1, 3), object)
    labels[:] = [["person", "people", np.empty((0, 0))]]
    top = {"nFrame": float(frames), "objLists": lists, "maxObj": 3.0, "objInit": [1.0, 1.0, 0.0], "objLbl": labels}
    top |= {"objStr": [1.0, 1.0, -1.0], "objEnd": [frames, frames, -1.0], "objHide": [0.0] * 3}
    top |= {"altered": 0.0, "log": 0.0, "logLen": 0.0}
    path = root / "annotations/set00/V000.vbb"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        scipy.io.savemat(file, {"A": top, "vers": 1.4}, do_compression=compress)
    return Delivered(root, path, *caltech_tables(root, shots), "caltech")


def write_caltech_json(root, shots):
    frames = {
        str(30 * number + 29): [
            {"lbl": "people" if box.ignore else "person", "id": index, "pos": box.full, "occl": int(occluded(box))}
            | {"posv": box.part if occluded(box) else 0, "lock": 0, "str": 1, "end": 9, "hide": 0, "init": 1}
            for index, box in enumerate(shot.boxes)
        ]
        for number, shot in enumerate(shots)
    }
    video = {"nFrame": 30 * len(shots), "maxObj": 3, "log": [0], "logLen": 1, "altered": 0, "frames": frames}
    path = save(root / "annotations.json", {"set00": {"V000": video}, "set01": {}})
    return Delivered(path, path, *caltech_tables(root, shots), "caltech")


TAGS = {1.0: [], 0.75: ["occluded>10"], 0.4: ["occluded>40"], 0.1: ["occluded>80", "unsure_orientation"]}


def eurocity_visibility(box):
    return list(TAGS)[(box.visible[0] + box.visible[1]) % 4]


def write_eurocity(root, shots):
    ids = [f"img-val-ulm-ulm_{number:05d}" for number in range(len(shots))]
    for number, shot in enumerate(shots):
        children = [
            {
                "identity": "rider" if box.ignore else "pedestrian",
                "tags": TAGS[eurocity_visibility(box)],
                "children": [],
            }
            | {"x0": box.x, "y0": box.y, "x1": box.x + box.width, "y1": box.y + box.height}
            for box in shot.boxes
        ]
        vehicle = {"identity": "bicycle", "tags": [], "x0": 1, "y0": 1, "x1": 9, "y1": 9, "children": []}
        for child in children:
            child["children"] = [vehicle] if child["identity"] == "rider" else []
        content = {"imagewidth": shot.size[0], "imageheight": shot.size[1], "tags": ["rain"], "children": children}
        save(root / f"night/labels/val/ulm/ulm_{number:05d}.json", content)
    rows = [
        (name, f"img/val/ulm/ulm_{number:05d}.png", *shot.size, "ulm", name, "night")
        for number, (name, shot) in enumerate(zip(ids, shots, strict=True))
    ]
    file = root / "night/labels/val/ulm/ulm_00000.json"
    boxes = box_table(shots, ids, eurocity_visibility)
    return Delivered(root / "night/labels", file, image_table(rows), boxes, "eurocity")


def write_pennfudan(root, shots):
    ids = [f"PennPed{number:05d}" for number in range(len(shots))]
    for name, shot in zip(ids, shots, strict=True):
        people = '"PASpersonWalking" ' * len(shot.boxes)
        lines = [
            "# Compatible with PASCAL Annotation Version 1.00",
            f'Image filename : "PennFudanPed/PNGImages/{name}.png"',
            f"Image size (X x Y x C) : {shot.size[0]} x {shot.size[1]} x 3",
            'Database : "The Penn-Fudan-Pedestrian Database"',
            f"Objects with ground truth : {len(shot.boxes)} {{ {people}}}",
            "# Top left pixel co-ordinates : (1, 1)",
        ]
        for number, box in enumerate(shot.boxes, 1):
            corners = f"({box.x + 1}, {box.y + 1}) - ({box.x + box.width}, {box.y + box.height})"
            label = f'object {number} "PASpersonWalking"'
            lines += [
                "",
                f'# Details for pedestrian {number} ("PASpersonWalking")',
                f'Original label for {label} : "PennFudanPed"',
                f"Bounding box for {label} (Xmin, Ymin) - (Xmax, Ymax) : {corners}",
                f'Pixel mask for {label} : "PennFudanPed/PedMasks/{name}_mask.png"',
            ]
        save(root / f"Annotation/{name}.txt", "\r\n".join(lines) + "\r\n")
    (root / "PNGImages").mkdir(exist_ok=True)
    rows = [
        (name, f"PNGImages/{name}.png", *shot.size, "penn", name, "") for name, shot in zip(ids, shots, strict=True)
    ]
    boxes = box_table(shots, ids, lambda box: math.nan, lambda box: False)
    return Delivered(root, root / f"Annotation/{ids[0]}.txt", image_table(rows), boxes, "pennfudan")


def write_mot(root, shots):
    size = shots[0].size
    shots = [Shot(size, [box for box in shot.boxes if box.x + box.width <= size[0] and box.y + box.height <= size[1]])
             for shot in shots]  # fmt: skip
    name = "MOT17-05-SDP"
    info = f"[Sequence]\nname={name}\nimDir=img1\nframeRate=14\nseqLength={len(shots)}\n"
    save(root / f"{name}/seqinfo.ini", f"{info}imWidth={size[0]}\nimHeight={size[1]}\nimExt=.jpg\n")
    lines = [
        f"{frame},{number},{box.x + 1},{box.y + 1},{box.width},{box.height},{int(not box.ignore)},1,{box.share!r}\n"
        for frame, shot in enumerate(shots, 1) for number, box in enumerate(shot.boxes, 1)
    ]  # fmt: skip
    file = save(root / f"{name}/gt/gt.txt", "".join(lines) + "1,99,1,1,5,5,0,3,1\n")
    ids = [f"{name}-{frame:06d}" for frame in range(1, len(shots) + 1)]
    rows = [(image_id, f"{name}/img1/{frame:06d}.jpg", *size, name, name, "") for frame, image_id in enumerate(ids, 1)]
    return Delivered(root, file, image_table(rows), box_table(shots, ids, lambda box: box.share), "mot")


def write_yolo(root, shots):
    save(root / "classes.txt", "person\ncar\n")
    ids = [f"{number:03d}" for number in range(len(shots))]
    for name, shot in zip(ids, shots, strict=True):
        width, height = shot.size
        blank(root / f"images/{name}.png", shot.size)
        lines = [
            f"0 {(box.x + box.width / 2) / width:.6f} {(box.y + box.height / 2) / height:.6f} "
            f"{box.width / width:.6f} {box.height / height:.6f}\n"
            for box in shot.boxes
        ]
        if lines:
            save(root / f"labels/{name}.txt", "".join(lines))
    rows = [
        (name, f"images/{name}.png", *shot.size, "default", name, "") for name, shot in zip(ids, shots, strict=True)
    ]
    file = next(iter(sorted(root.glob("labels/*.txt"))), root / "classes.txt")
    boxes = box_table(shots, ids, lambda box: math.nan, lambda box: False)
    return Delivered(root, file, image_table(rows), boxes, "yolo")


def write_citypersons_mat_v6(root, shots):
    return write_citypersons_mat(root, shots, compress=False)


WRITERS: dict[str, Callable[[Path, list[Shot]], Delivered]] = {
    "coco": write_coco_file,
    "citypersons": write_citypersons_json,
    "citypersons-mat": write_citypersons_mat,
    "citypersons-mat v6": write_citypersons_mat_v6,
    "caltech vbb": write_caltech_vbb,
    "caltech json": write_caltech_json,
    "eurocity": write_eurocity,
    "pennfudan": write_pennfudan,
    "mot": write_mot,
    "yolo": write_yolo,
}
