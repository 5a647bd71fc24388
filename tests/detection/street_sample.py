"""Real pictures and detectors, where they are: they are not part of the project.

The folder named by SECPIPELINE_TEST_DATA, or else ``../shared/data`` beside the project, may hold ``street_sample``.
"""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from secpipeline.datasets.loading import Truth, letterbox, to_frame
from secpipeline.digests import sha256_file

DATA = Path(os.environ.get("SECPIPELINE_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data") / "street_sample"
needed = pytest.mark.skipif(
    not (DATA / "instances.json").is_file(), reason=f"no street_sample in {DATA.parent}; set SECPIPELINE_TEST_DATA"
)
CORNERS = ["x1", "y1", "x2", "y2"]


def weights(name):
    """The config of a brought detector."""
    path = DATA / "weights" / name
    return {"path": str(path), "sha256": sha256_file(path)}


def pictures(size):
    """The people pictures in a frame: images, truth, box table and names."""
    described = json.loads((DATA / "instances.json").read_text())
    images, rows = [], []
    for image in described["images"]:
        pixels = np.asarray(Image.open(DATA / image["file_name"]).convert("RGB"))
        framed, placement = letterbox(pixels, size)
        images.append(framed)
        for box in described["annotations"]:
            if box["image_id"] == image["id"]:
                x, y, w, h = box["bbox"]
                corners = to_frame([[x, y, x + w, y + h]], placement)[0]
                rows.append((image["file_name"], *corners, bool(box["ignore"]), 1.0, corners[3] - corners[1]))
    table = pd.DataFrame(rows, columns=["image_id", *CORNERS, "ignore", "visibility", "height"])
    names = [image["file_name"] for image in described["images"]]
    none = np.zeros((0, 4), np.float32)
    truth = [Truth(table[table["image_id"] == name][CORNERS].to_numpy(np.float32), none) for name in names]
    return np.stack(images), truth, table, names
