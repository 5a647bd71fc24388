"""Deliveries that were once read wrongly."""

import io

import numpy as np
import pytest
from PIL import Image

from secpipeline.datasets.annotations import Annotations, Picture, Rejection, assemble
from secpipeline.datasets.formats import read
from secpipeline.datasets.formats.eurocity import _time
from secpipeline.datasets.rows import Row
from secpipeline.errors import InputError
from secpipeline.stages.ingest import _without


def test_an_image_that_shares_its_id_with_a_rejected_one_does_not_lose_its_labels_unseen(tmp_path):
    broken = Rejection("a", "a.jpg", "vendor-a", "a.jpg: its header is malformed")
    with pytest.raises(InputError, match="image_id a is also that of an image that cannot be read"):
        assemble(tmp_path, [Picture(Row("images[0]", {}), "a", "a.png", (32, 24))], [], rejected=[broken])


def test_yolo_pictures_of_one_name_and_one_of_them_broken_are_refused(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "classes.txt").write_text("person\n")
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.2 0.4\n")
    (tmp_path / "images/a.jpg").write_bytes(b"\xff\xd8broken")
    picture = io.BytesIO()
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(picture, "PNG")
    (tmp_path / "images/a.png").write_bytes(picture.getvalue())
    with pytest.raises(InputError, match="also that of an image that cannot be read"):
        read(tmp_path, "yolo")


def test_a_delivery_of_nothing_but_broken_images_says_so_and_blames_no_owner(tmp_path):
    broken = Rejection("a", "a.jpg", "vendor-a", "a.jpg: its header is malformed")
    empty = assemble(tmp_path, [], [], rejected=[broken])
    assert isinstance(empty, Annotations)
    with pytest.raises(InputError, match=r"no image can be used, such as a\.jpg: its header is malformed"):
        _without(empty, {})


def test_the_last_directory_of_labels_tells_day_from_night(tmp_path):
    assert _time(tmp_path / "labels/ECP/night/labels/val/x.json") == "night"
    assert _time(tmp_path / "labels/x.json") == ""
