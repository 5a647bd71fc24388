"""A small valid pair of annotation tables for the validation tests."""

import hashlib

import numpy as np
import pandas as pd


def make_tables(images_per_scene: int = 3, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    splits = {0: "train", 1: "train", 2: "calibration", 3: "test"}
    image_rows, box_rows = [], []
    for source in ("vendor-a", "vendor-b"):
        for scene, split in splits.items():
            for frame in range(images_per_scene):
                name = f"{source}/{scene:03}/{frame:03}"
                digest = hashlib.sha256(name.encode()).hexdigest()
                row = {
                    "image_id": name,
                    "file_name": f"{name}.jpg",
                    "shard": "shards/00000.tar",
                    "offset": 512,
                }
                row |= {"length": 9000, "sha256": digest, "width": 256, "height": 192, "format": "jpeg"}
                row |= {"source": source, "scene": f"{scene:03}", "split": split, "time_of_day": ""}
                image_rows.append(row | {"dhash": digest[:16], "annotations_sha256": digest[::-1]})
                for number in range(int(rng.integers(0, 4))):
                    x, y, height = rng.uniform(0, 200), rng.uniform(0, 100), rng.uniform(20, 90)
                    box = {"box_id": f"{name}#{number}", "image_id": name, "x1": x, "y1": y}
                    box |= {"x2": x + 0.41 * height, "y2": y + height, "label": "pedestrian", "ignore": False}
                    box_rows.append(box | {"visibility": np.nan if number else 1.0, "height": height})
    images = pd.DataFrame(image_rows).astype({"width": "int32", "height": "int32"})
    return images, pd.DataFrame(box_rows)
