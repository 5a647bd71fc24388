import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_deliveries import document, write_delivery

from secpipeline.datasets.formats.coco import read_coco
from secpipeline.datasets.ingestion import write_release
from secpipeline.datasets.loading import PAD, from_frame, letterbox, load, place, to_frame
from secpipeline.datasets.releases import Release
from secpipeline.datasets.splits import assign_splits
from secpipeline.errors import InputError, IntegrityError

sides = st.integers(1, 90)
sizes = st.tuples(sides, sides)
coordinates = st.lists(st.tuples(*[st.floats(-1e4, 1e4)] * 4), max_size=5)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(sizes, sizes, coordinates)
def test_boxes_come_back_from_the_frame_where_they_were(native, size, boxes):
    placement = place(native, size)
    boxes = np.array(boxes, np.float64).reshape(-1, 4)

    there = to_frame(boxes, placement)

    assert there.shape == boxes.shape
    np.testing.assert_allclose(from_frame(there, placement), boxes, atol=1e-6)
    np.testing.assert_allclose(to_frame(from_frame(boxes, placement), placement), boxes, atol=1e-6)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(sizes, sizes)
def test_a_letterboxed_image_fills_one_side_and_is_centred_in_grey(native, size):
    frame, placement = letterbox(np.full((*native, 3), 200, np.uint8), size)

    assert frame.shape == (3, *size)
    assert frame.dtype == np.uint8
    covered = (frame == 200).all(axis=0)
    assert (frame[:, ~covered] == PAD).all()
    rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    assert covered.sum() == height * width
    assert height == size[0] or width == size[1]
    assert placement.scale == min(size[0] / native[0], size[1] / native[1])
    before, after = rows[0], size[0] - 1 - rows[-1]
    assert 0 <= after - before <= 1
    before, after = columns[0], size[1] - 1 - columns[-1]
    assert 0 <= after - before <= 1
    whole = to_frame([0, 0, native[1], native[0]], placement)[0]
    np.testing.assert_allclose(whole, [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], atol=1)


def test_an_image_of_the_frame_s_size_is_not_resampled():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)

    frame, placement = letterbox(pixels, (20, 30))

    np.testing.assert_array_equal(frame, pixels.transpose(2, 0, 1))
    assert (placement.scale, placement.left, placement.top) == (1, 0, 0)


@pytest.mark.parametrize("size", [(60, 80), (33, 90), (100, 40), (24, 32), (12, 70)])
def test_a_box_stays_on_what_it_is_around(size):
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[12:40, 20:36] = 255

    frame, placement = letterbox(pixels, size)
    x1, y1, x2, y2 = to_frame([20, 12, 36, 40], placement)[0]

    bright = frame[0] > 160
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    assert rows[0] == pytest.approx(y1, abs=1)
    assert rows[-1] + 1 == pytest.approx(y2, abs=1)
    assert columns[0] == pytest.approx(x1, abs=1)
    assert columns[-1] + 1 == pytest.approx(x2, abs=1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    root = tmp_path_factory.mktemp("frames")
    content = document()
    content["images"][2].update(width=60)
    annotations = read_coco(write_delivery(root / "delivery", content))
    write_release(root / "release", annotations, assign_splits(annotations.images))
    return root / "release"


@pytest.fixture
def release(directory):
    return Release(directory, directory)


def test_images_are_loaded_in_the_order_they_are_asked_for(release):
    data = load(release, ["6", "3", "1"], size=(24, 32))

    assert data.image_ids == ["6", "3", "1"]
    assert data.images.shape == (3, 3, 24, 32)
    for number, image_id in enumerate(data.image_ids):
        frame, placement = letterbox(release.decode(image_id), (24, 32))
        np.testing.assert_array_equal(data.images[number], frame)
        assert data.placements[number] == placement
    np.testing.assert_array_equal(data.images[0], release.decode("6").transpose(2, 0, 1))


def test_truth_separates_people_from_ignored_regions_in_frame_pixels(release):
    data = load(release, ["3", "2", "1"], size=(48, 64))

    scale, top = 64 / 60, (48 - 26) // 2
    expected = np.array([20.25, 4, 28.25, 22]) * scale + [0, top, 0, top]
    np.testing.assert_allclose(data.truth[0].ignore, [expected], rtol=1e-6)
    assert data.truth[0].boxes.shape == (0, 4)
    assert data.truth[1].boxes.shape == data.truth[1].ignore.shape == (0, 4)
    np.testing.assert_allclose(data.truth[2].boxes, [[4, 6, 16, 37], [0, 0, 64, 48]])
    assert data.truth[2].boxes.dtype == np.float32


def test_the_box_table_moves_to_the_frame_and_keeps_everything_else(release):
    data = load(release, ["3", "1"], size=(48, 64))

    assert data.boxes["box_id"].tolist() == ["3#0", "1#0", "1#1"]
    native = release.boxes.set_index("box_id").loc[data.boxes["box_id"]].reset_index()
    for column in ("image_id", "label", "ignore", "visibility"):
        assert data.boxes[column].equals(native[column])
    assert data.boxes["height"].tolist() == pytest.approx([18 * 64 / 60, 31, 48])
    for number, image_id in enumerate(data.image_ids):
        mine = data.boxes["image_id"] == image_id
        corners = data.boxes.loc[mine, ["x1", "y1", "x2", "y2"]]
        back = from_frame(corners, data.placements[number])
        np.testing.assert_allclose(back, native.loc[mine, ["x1", "y1", "x2", "y2"]], atol=1e-9)


def test_no_images_are_an_empty_load(release):
    data = load(release, [], size=(24, 32))

    assert data.images.shape == (0, 3, 24, 32)
    assert data.truth == []
    assert data.boxes.empty


def test_an_unknown_image_is_refused_by_name(release):
    with pytest.raises(InputError, match="has no image 99"):
        load(release, ["1", "99"], size=(24, 32))


def test_a_changed_image_is_not_loaded(release, directory, tmp_path):
    row = release.images.iloc[1]
    (tmp_path / "shards").mkdir()
    shard = bytearray((directory / row["shard"]).read_bytes())
    shard[row["offset"] + row["length"] - 5] ^= 1
    (tmp_path / row["shard"]).write_bytes(bytes(shard))

    with pytest.raises(IntegrityError, match="image 2 "):
        load(Release(directory, tmp_path), ["1", "2"], size=(24, 32))
