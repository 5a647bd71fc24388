"""Deliveries of a few tiny pictures for the tests of data sets."""

import copy
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from secpipeline.errors import InputError

WIDTH, HEIGHT = 32, 24
DOCUMENT = {
    "images": [
        {
            "id": number,
            "file_name": f"vendor-{source}/{scene}/{number:03d}.jpg",
            "width": WIDTH,
            "height": HEIGHT,
            "source": f"vendor-{source}",
            "scene": scene,
            "time_of_day": time_of_day,
        }
        for number, (source, scene, time_of_day) in enumerate(
            [
                ("a", "quay", "day"),
                ("a", "quay", "day"),
                ("a", "mall", "dusk"),
                ("b", "quay", "night"),
                ("b", "quay", ""),
                ("h", "lane", "day"),
            ],
            1,
        )
    ],
    "annotations": [
        {"id": 10, "image_id": 1, "category_id": 1, "bbox": [2, 3, 6, 15.5], "iscrowd": 0, "visibility": 0.75},
        {"id": 11, "image_id": 3, "category_id": 1, "bbox": [20.25, 4, 8, 18], "ignore": True},
        {"id": 12, "image_id": 1, "category_id": 1, "bbox": [0, 0, 32, 24]},
        {"id": 13, "image_id": 6, "category_id": 2, "bbox": [1.5, 2.5, 3, 9], "iscrowd": 1},
    ],
    "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "Pedestrian"}, {"id": 3, "name": "car"}],
}


def document():
    """A valid COCO document that a test may change."""
    return copy.deepcopy(DOCUMENT)


def picture(seed=0, height=HEIGHT, width=WIDTH):
    """Coloured blocks, which JPEG keeps well, in another order for every seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3))
    return blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width].astype(np.uint8)


def encode(pixels, kind="JPEG", **options):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_document(root: Path, content) -> Path:
    """Write ``instances.json``, from a document or from text."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "instances.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write_delivery(root: Path, content=None) -> Path:
    """Write a whole delivery: each image's pixels depend on its id alone."""
    content = document() if content is None else content
    for row in content["images"]:
        path = root / row["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(row["id"], row["height"], row["width"]), quality=90))
    return write_document(root, content)


def outcome(read):
    """What a reader gives and None, or None and the message of its refusal; whatever else it raises is a bug."""
    try:
        return read(), None
    except InputError as refusal:
        return None, str(refusal)
