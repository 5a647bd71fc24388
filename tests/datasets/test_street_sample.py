from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from secpipeline.datasets.decoding import decode
from secpipeline.datasets.duplicates import find_duplicates
from secpipeline.datasets.formats.coco import read_coco, write_coco
from secpipeline.datasets.ingestion import write_release
from secpipeline.datasets.loading import from_frame, load
from secpipeline.datasets.releases import Release
from secpipeline.datasets.splits import assign_splits
from secpipeline.errors import InputError

SAMPLE = Path(__file__).parents[3] / "shared/data/street_sample/instances.json"

pytestmark = pytest.mark.skipif(not SAMPLE.is_file(), reason="the street sample is not here")


@pytest.fixture(scope="module")
def annotations():
    return read_coco(SAMPLE)


@pytest.fixture(scope="module")
def release(annotations, tmp_path_factory):
    directory = tmp_path_factory.mktemp("sample")
    write_release(directory, annotations, assign_splits(annotations.images))
    return Release(directory, directory)


def test_real_photographs_become_a_release(annotations, release):
    assert len(release.images) == 12
    assert len(release.boxes) >= 12
    assert set(release.images["format"]) == {"png"}
    assert set(release.images["split"]) == {"train", "calibration", "test"}
    assert release.damaged() == []
    assert release.images["dhash"].is_unique
    for row in release.images.itertuples():
        assert release.decode(row.image_id).shape == (row.height, row.width, 3)
        assert release.read(row.image_id) == (annotations.root / row.file_name).read_bytes()


def test_real_photographs_are_no_duplicates_of_one_another(release):
    assert find_duplicates(release.images, release.boxes, pixels=release.decode).empty


def test_a_real_photograph_that_was_cut_is_refused_even_with_a_new_end():
    for path in (SAMPLE.parent / "background").glob("*.jpg"):
        data = path.read_bytes()
        assert decode(data, path.name).pixels.shape[2] == 3
        with pytest.raises(InputError, match="truncated"):
            decode(data[: len(data) // 2].rstrip(b"\xff") + b"\xff\xd9", path.name)


def test_real_annotations_are_written_and_read_back_exactly(annotations, tmp_path):
    write_coco(annotations, tmp_path / "instances.json")

    again = read_coco(tmp_path / "instances.json")

    pd.testing.assert_frame_equal(again.images, annotations.images)
    pd.testing.assert_frame_equal(again.boxes, annotations.boxes)


def test_real_photographs_of_many_sizes_share_a_frame(release):
    data = load(release, release.images["image_id"].tolist(), size=(192, 256))

    assert data.images.shape == (12, 3, 192, 256)
    assert sum(len(truth.boxes) + len(truth.ignore) for truth in data.truth) == len(release.boxes)
    for image_id, placement in zip(data.image_ids, data.placements, strict=True):
        framed = data.boxes.loc[data.boxes["image_id"] == image_id, ["x1", "y1", "x2", "y2"]].to_numpy()
        native = release.boxes.loc[release.boxes["image_id"] == image_id, ["x1", "y1", "x2", "y2"]].to_numpy()
        assert (framed >= -0.5).all()
        assert (framed <= np.array([256, 192, 256, 192]) + 0.5).all()
        np.testing.assert_allclose(from_frame(framed, placement), native, atol=1e-9)
