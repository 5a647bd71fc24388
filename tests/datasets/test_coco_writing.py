import json
import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secpipeline.datasets.annotations import ANNOTATION_IMAGE_COLUMNS, Annotations
from secpipeline.datasets.formats.coco import read_coco, write_coco
from secpipeline.datasets.tables import BOX_COLUMNS, LABEL, empty_boxes
from secpipeline.errors import InputError

MICRO = 1_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("coco")


def image_table(rows):
    images = pd.DataFrame(rows, columns=list(ANNOTATION_IMAGE_COLUMNS))
    return images.astype({"width": "int32", "height": "int32"})


def box_table(rows):
    return pd.DataFrame(rows, columns=list(BOX_COLUMNS)) if rows else empty_boxes()


def extents(size):
    """Two coordinates inside ``size`` pixels, each a whole number of millionths."""
    pairs = st.tuples(st.integers(0, size * MICRO), st.integers(0, size * MICRO)).filter(
        lambda pair: pair[0] != pair[1]
    )
    return pairs.map(lambda pair: (min(pair) / MICRO, max(pair) / MICRO))


printable = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=8)
names = st.text("abcXYZ 0189_-é", min_size=1, max_size=6)
numbers = st.integers(-5, 10**20) | st.integers(-(2**63), 2**63 - 1)
identifiers = numbers.map(str) | st.sampled_from(["007", "0", "-1", "1e3", "²"]) | printable


@st.composite
def deliveries(draw):
    ids = draw(st.lists(identifiers, min_size=1, max_size=4, unique=True))
    images = [
        (
            image_id,
            f"{draw(names)}/{number}.jpg",
            draw(st.integers(1, 65_535)),
            draw(st.integers(1, 2000)),
            draw(printable),
            draw(printable),
            draw(st.sampled_from(["", "day", "dusk", "night"])),
        )
        for number, image_id in enumerate(ids)
    ]
    boxes, counts = [], {}
    for _ in range(draw(st.integers(0, 5))):
        image = draw(st.sampled_from(images))
        (x1, x2), (y1, y2) = draw(extents(image[2])), draw(extents(image[3]))
        number = counts[image[0]] = counts.get(image[0], -1) + 1
        visibility = draw(st.just(math.nan) | st.floats(0, 1))
        boxes.append(
            (f"{image[0]}#{number}", image[0], x1, y1, x2, y2, LABEL, draw(st.booleans()), visibility, y2 - y1)
        )
    return image_table(images), box_table(boxes)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(deliveries())
def test_what_is_written_is_read_back_exactly(folder, tables):
    images, boxes = tables
    path = folder / "instances.json"

    write_coco(Annotations(images, boxes, folder), path)
    again = read_coco(path)

    pd.testing.assert_frame_equal(again.images, images, check_exact=True)
    pd.testing.assert_frame_equal(again.boxes, boxes, check_exact=True)


def test_a_file_is_plain_coco_for_other_tools(tmp_path):
    images = image_table([("7", "a.jpg", 40, 30, "s", "c", "day"), ("x7", "b.jpg", 40, 30, "s", "c", "")])
    boxes = box_table([("x7#0", "x7", 1.5, 2.0, 11.5, 22.0, LABEL, True, 0.5, 20.0)])

    write_coco(Annotations(images, boxes, tmp_path), tmp_path / "instances.json")

    content = json.loads((tmp_path / "instances.json").read_text())
    assert [row["id"] for row in content["images"]] == [7, "x7"]
    assert content["annotations"] == [
        {
            "id": 1,
            "image_id": "x7",
            "category_id": 1,
            "bbox": [1.5, 2.0, 10.0, 20.0],
            "area": 200.0,
            "iscrowd": 0,
            "ignore": True,
            "visibility": 0.5,
        }
    ]
    assert content["categories"] == [{"id": 1, "name": LABEL}]


# Corners and visibility of a box that COCO cannot say, and what must be said about it.
IMPOSSIBLE = {
    "finer than a millionth": ((0.1 + 1e-9, 0.0, 5.0, 5.0), 1.0, "finer than a millionth"),
    "far edge finer than a millionth": ((0.0, 0.0, 5.0, 5 + 1e-9), 1.0, "finer than a millionth"),
    "corner not a number": ((0.0, math.nan, 5.0, 5.0), 1.0, "nan"),
    "infinite corner": ((0.0, 0.0, math.inf, 5.0), 1.0, "inf"),
    "corners exchanged": ((5.0, 0.0, 0.0, 5.0), 1.0, "no area"),
    "flat box": ((0.0, 3.0, 5.0, 3.0), 1.0, "no area"),
    "visibility in percent": ((0.0, 0.0, 5.0, 5.0), 50.0, "visibility"),
    "infinite visibility": ((0.0, 0.0, 5.0, 5.0), math.inf, "visibility"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_box_that_could_not_be_read_back_is_refused_and_the_old_file_stays(tmp_path, case):
    corners, visibility, message = IMPOSSIBLE[case]
    images = image_table([("1", "a.jpg", 40, 30, "s", "c", "day")])
    boxes = box_table([("1#0", "1", *corners, LABEL, False, visibility, corners[3] - corners[1])])
    path = tmp_path / "instances.json"
    path.write_text("old")

    with pytest.raises(InputError, match=message):
        write_coco(Annotations(images, boxes, tmp_path), path)

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
