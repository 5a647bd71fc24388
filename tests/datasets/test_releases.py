import hashlib
import io
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_deliveries import document, encode, picture, write_delivery

from secpipeline.datasets.coco import read_coco
from secpipeline.datasets.decoding import DecodeLimits
from secpipeline.datasets.releases import Release, dhash, write_release, write_tables
from secpipeline.datasets.splits import assign_splits
from secpipeline.datasets.tables import BOX_COLUMNS, BOX_SCHEMA, IMAGE_COLUMNS, IMAGE_SCHEMA, table_bytes
from secpipeline.errors import InputError, IntegrityError


def deliver_small(root, content=None):
    annotations = read_coco(write_delivery(root, content))
    return annotations, assign_splits(annotations.images)


@pytest.fixture
def delivery(tmp_path):
    return deliver_small(tmp_path / "delivery")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "release"


@pytest.fixture
def release(delivery, out):
    write_release(out, *delivery)
    return Release(out, out)


def overwrite(path, change):
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(bytes(data))


def tree(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_a_release_holds_what_was_delivered_with_every_fact_about_it(delivery, out):
    annotations, splits = delivery

    summary = write_release(out, annotations, splits)

    release = Release(out, out)
    assert tuple(release.images.columns) == IMAGE_COLUMNS
    assert tuple(release.boxes.columns) == BOX_COLUMNS
    for column in annotations.images.columns:
        assert release.images[column].tolist() == annotations.images[column].tolist()
    pd.testing.assert_frame_equal(release.boxes, annotations.boxes, check_exact=True)
    assert release.images["split"].tolist() == splits.tolist()
    assert set(release.images["format"]) == {"jpeg"}
    for row in release.images.itertuples():
        data = (annotations.root / row.file_name).read_bytes()
        assert release.read(row.image_id) == data
        assert row.sha256 == hashlib.sha256(data).hexdigest()
        assert row.length == len(data)
        pixels = np.asarray(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(release.decode(row.image_id), pixels)
        assert row.dhash == dhash(pixels)
    assert summary == {
        "digest": hashlib.sha256((out / "dataset.sha256").read_bytes()).hexdigest(),
        "images": 6,
        "boxes": 4,
        "shards": 1,
        "bytes": release.images["length"].sum(),
    }
    assert release.damaged() == []


def test_equal_deliveries_give_equal_releases_byte_for_byte(tmp_path):
    digests = []
    for name in ("one", "two"):
        digests.append(write_release(tmp_path / name, *deliver_small(tmp_path / f"delivery {name}"))["digest"])

    assert digests[0] == digests[1]
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_another_pixel_box_or_split_is_another_release(tmp_path, delivery):
    annotations, splits = delivery
    digests = [write_release(tmp_path / "plain", annotations, splits)["digest"]]

    digests.append(write_release(tmp_path / "split", annotations, splits.replace("train", "test"))["digest"])
    annotations.boxes.loc[0, "x1"] += 1e-6
    digests.append(write_release(tmp_path / "box", annotations, splits)["digest"])
    image = annotations.root / annotations.images["file_name"][3]
    image.write_bytes(encode(picture(4), quality=91))
    digests.append(write_release(tmp_path / "pixel", annotations, splits)["digest"])

    assert len(set(digests)) == 4


def test_the_manifest_names_every_file_with_its_digest(release, out):
    lines = [line.split("  ") for line in (out / "dataset.sha256").read_text().splitlines()]

    files = tree(out)
    assert {name: digest for digest, name in lines} == {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != "dataset.sha256"
    }
    assert [name for _, name in lines] == ["boxes.parquet", "images.parquet", "shards/00000.tar"]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sha256sum_accepts_a_release_and_notices_a_changed_byte(release, out):
    command = ["sha256sum", "--check", "--strict", "dataset.sha256"]
    assert subprocess.run(command, cwd=out, capture_output=True, check=False).returncode == 0

    overwrite(out / "shards/00000.tar", lambda data: data.__setitem__(600, data[600] ^ 1))

    checked = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert "shards/00000.tar: FAILED" in checked.stdout


BAD_IMAGE = "vendor-a/mall/003.jpg"


def replace(data):
    return lambda path: path.write_bytes(data)


def link(path):
    path.rename(path.with_name("real.jpg"))
    path.symlink_to("real.jpg")


def turn_into_directory(path):
    path.unlink()
    path.mkdir()


def sideways():
    tags = Image.Exif()
    tags[0x0112] = 6
    return encode(picture(3), exif=tags)


GOOD = encode(picture(3), quality=90)
# What happens to an image after its annotation was read, and what must be said about it.
UNUSABLE = {
    "missing": (lambda path: path.unlink(), "cannot be read"),
    "a directory": (turn_into_directory, "cannot be read"),
    "a symbolic link": (link, "symbolic link"),
    "empty": (replace(b""), "content is not JPEG"),
    "truncated": (replace(GOOD[:-30]), "truncated"),
    "followed by more": (replace(GOOD + b"PK\x03\x04"), "4 bytes after the end"),
    "of another size": (replace(encode(picture(3, height=32, width=24))), "24×32 pixels, annotated as 32×24"),
    "another format": (replace(encode(picture(3), "PNG")), "content is not JPEG"),
    "on its side": (replace(sideways()), "EXIF rotation"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_one_unusable_image_is_refused_by_name_and_nothing_is_written(delivery, out, case):
    spoil, message = UNUSABLE[case]
    annotations, splits = delivery
    spoil(annotations.root / BAD_IMAGE)

    with pytest.raises(InputError) as refusal:
        write_release(out, annotations, splits)

    text = str(refusal.value)
    assert text.startswith("1 of 6 images cannot be used:\n")
    assert f"{BAD_IMAGE}: " in text
    assert message in text
    assert len(text.splitlines()) == 2
    assert not out.exists()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (DecodeLimits(max_pixels=700), "32×24 pixels, more than the 700"),
        (DecodeLimits(max_bytes=100), "more than the 100"),
    ],
)
def test_images_that_cost_too_much_are_refused(delivery, out, limits, message):
    with pytest.raises(InputError, match=f"6 of 6 images cannot be used.*(?s:.*){message}"):
        write_release(out, *delivery, limits=limits)

    assert not out.exists()


def test_many_bad_images_are_counted_and_the_first_ten_named(tmp_path, out):
    content = document()
    content["images"] = [
        content["images"][0] | {"id": n, "file_name": f"{n:02d}.jpg", "scene": f"s{n}"} for n in range(14)
    ]
    content["annotations"] = []
    annotations, splits = deliver_small(tmp_path / "delivery", content)
    for number in range(1, 14):
        (annotations.root / f"{number:02d}.jpg").unlink()

    with pytest.raises(InputError) as refusal:
        write_release(out, annotations, splits)

    lines = str(refusal.value).splitlines()
    assert lines[0] == "13 of 14 images cannot be used:"
    assert [line.strip().split(":")[0] for line in lines[1:-1]] == [f"{n:02d}.jpg" for n in range(1, 11)]
    assert lines[-1].strip() == "and 3 more"


def test_a_changed_byte_in_a_shard_is_traced_to_its_image(release, out):
    row = release.images.iloc[3]
    middle = row["offset"] + row["length"] // 2
    overwrite(out / row["shard"], lambda data: data.__setitem__(middle, data[middle] ^ 1))
    damaged = Release(out, out)

    with pytest.raises(IntegrityError) as refusal:
        damaged.decode(row["image_id"])

    assert f"image {row['image_id']} ({row['file_name']}) in {row['shard']}" in str(refusal.value)
    assert refusal.value.expected == row["sha256"]
    assert damaged.damaged() == [row["image_id"]]
    for other in release.images["image_id"].drop(3):
        damaged.read(other)


def test_a_truncated_shard_loses_the_images_behind_the_cut(release, out):
    cut = release.images["offset"][4] + 10
    overwrite(out / "shards/00000.tar", lambda data: data.__delitem__(slice(int(cut), None)))
    damaged = Release(out, out)

    with pytest.raises(InputError, match=r"00000\.tar: \d+ bytes, but an image should end at byte"):
        damaged.read("6")

    assert damaged.damaged() == ["5", "6"]


def test_a_missing_shard_damages_every_image(release, out):
    (out / "shards/00000.tar").unlink()

    assert Release(out, out).damaged() == ["1", "2", "3", "4", "5", "6"]


def edit(**values):
    def apply(boxes):
        boxes.loc[1, list(values)] = list(values.values())
        return boxes

    return apply


def add_box(image_id):
    return lambda boxes: pd.concat(
        [boxes, boxes.tail(1).assign(image_id=image_id, box_id=f"{image_id}#9")], ignore_index=True
    )


EDITS = {
    "a moved corner": (edit(x1=20.0), ["3"]),
    "a corner moved by a hair": (edit(x1=20.25 + 1e-9), ["3"]),
    "a corner that is no number": (edit(x1=np.nan), ["3"]),
    "an infinite corner": (edit(y2=np.inf), ["3"]),
    "an ignored box that counts": (edit(ignore=False), ["3"]),
    "another label": (edit(label="car"), ["3"]),
    "a removed box": (lambda boxes: boxes.drop(index=1), ["3"]),
    "an added box": (add_box("4"), ["4"]),
    "a box given to another image": (edit(image_id="5"), ["3", "5"]),
    "a box of an image that is not there": (add_box("99"), ["99"]),
    "boxes in another order": (lambda boxes: boxes.iloc[::-1], ["1"]),
}


@pytest.mark.parametrize("case", EDITS)
def test_an_edited_box_is_named_with_its_image(release, out, case):
    change, expected = EDITS[case]
    (out / "boxes.parquet").write_bytes(table_bytes(change(release.boxes.copy()), BOX_SCHEMA))

    assert Release(out, out).damaged() == expected


def test_an_image_that_is_not_in_the_release_is_refused_by_name(release):
    with pytest.raises(InputError, match="release: has no image 99"):
        release.read("99")


def test_a_release_that_names_an_image_twice_is_refused(release, out):
    twice = pd.concat([release.images, release.images.iloc[[2]]])
    (out / "images.parquet").write_bytes(table_bytes(twice, IMAGE_SCHEMA))

    with pytest.raises(InputError, match=r"images\.parquet: image 3 appears twice"):
        Release(out, out)


@pytest.mark.parametrize("name", ["images.parquet", "boxes.parquet"])
def test_a_release_without_a_table_is_refused_by_name(release, out, name):
    (out / name).unlink()

    with pytest.raises(InputError, match=f"{name}: not found"):
        Release(out, out)


def test_tables_of_their_own_read_the_images_of_another_release(release, out, tmp_path):
    images = release.images.iloc[[0, 2, 5]]
    boxes = release.boxes[release.boxes["image_id"] == "3"]

    digest = write_tables(tmp_path / "curated", images, boxes)

    curated = Release(tmp_path / "curated", out)
    assert digest == hashlib.sha256((tmp_path / "curated/dataset.sha256").read_bytes()).hexdigest()
    assert curated.images["image_id"].tolist() == ["1", "3", "6"]
    np.testing.assert_array_equal(curated.decode("3"), release.decode("3"))
    assert curated.damaged() == []
    with pytest.raises(InputError, match="curated: has no image 2"):
        curated.read("2")


def test_near_twins_share_most_bits_of_their_hash_and_strangers_do_not():
    rng = np.random.default_rng(0)
    pixels = np.asarray(Image.fromarray(rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)).resize((128, 96)))
    brighter = np.clip(pixels * 0.8 + 30, 0, 255).astype(np.uint8)
    smaller = np.asarray(Image.fromarray(pixels).resize((64, 48)))
    stranger = rng.integers(0, 256, (96, 128, 3)).astype(np.uint8)

    def distance(other):
        return (int(dhash(pixels), 16) ^ int(dhash(other), 16)).bit_count()

    assert len(dhash(pixels)) == 16
    assert distance(pixels) == 0
    assert distance(brighter) <= 6
    assert distance(smaller) <= 6
    assert distance(stranger) >= 20


def test_a_hash_tells_where_brightness_rises_to_the_right():
    rising = np.repeat(np.linspace(0, 255, 90).astype(np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)

    assert dhash(rising) == "f" * 16
    assert dhash(rising[:, ::-1].copy()) == "0" * 16
