import hashlib
import shutil
import subprocess

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_deliveries import write_delivery

from secpipeline.datasets.formats.coco import read_coco
from secpipeline.datasets.releases import Release, read_manifest, write_release, write_tables
from secpipeline.datasets.splits import assign_splits
from secpipeline.datasets.tables import BOX_SCHEMA, IMAGE_SCHEMA, table_bytes
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


def test_the_manifest_names_every_file_with_its_digest(release, out):
    lines = [line.split("  ") for line in (out / "dataset.sha256").read_text().splitlines()]

    files = tree(out)
    described = {name: data for name, data in files.items() if name not in ("dataset.sha256", "decoder.json")}
    assert {name: digest for digest, name in lines} == {
        name: hashlib.sha256(data).hexdigest() for name, data in described.items()
    }
    names = [name for _, name in lines]
    assert names == sorted(names)
    assert names[:2] == ["boxes.parquet", "images.parquet"]
    assert set(names[2:]) == set(release.images["shard"])
    assert read_manifest(out) == dict(reversed(line) for line in lines)


@pytest.mark.parametrize("text", ["", "0" * 64 + " boxes.parquet\n", "abc  boxes.parquet\n", "\xff"])
def test_a_manifest_that_is_none_is_refused_by_name(release, out, text):
    (out / "dataset.sha256").write_text(text, encoding="latin-1")
    if not text:
        (out / "dataset.sha256").unlink()

    with pytest.raises(InputError, match=r"dataset\.sha256: (cannot be read|not a manifest)"):
        read_manifest(out)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sha256sum_accepts_a_release_and_notices_a_changed_byte(release, out):
    command = ["sha256sum", "--check", "--strict", "dataset.sha256"]
    assert subprocess.run(command, cwd=out, capture_output=True, check=False).returncode == 0

    shard = release.images["shard"][0]
    overwrite(out / shard, lambda data: data.__setitem__(600, data[600] ^ 1))

    checked = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert f"{shard}: FAILED" in checked.stdout


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
    shard = release.images["shard"][0]
    mine = release.images[release.images["shard"] == shard].sort_values("offset")
    assert len(mine) == 6
    cut = mine["offset"].iloc[1] + 10
    overwrite(out / shard, lambda data: data.__delitem__(slice(int(cut), None)))
    damaged = Release(out, out)

    with pytest.raises(InputError, match=r"\d+\.tar: \d+ bytes, but an image should end at byte"):
        damaged.read(mine["image_id"].iloc[2])

    assert damaged.damaged() == sorted(mine["image_id"].iloc[1:])


def test_a_missing_shard_damages_the_images_in_it(release, out):
    shard = release.images["shard"][3]
    (out / shard).unlink()

    assert Release(out, out).damaged() == release.images.loc[release.images["shard"] == shard, "image_id"].tolist()


@pytest.mark.parametrize("column", ["offset", "length", "width", "shard", "sha256"])
def test_a_release_whose_table_has_a_hole_is_refused_by_row_and_column(release, out, column):
    table = pa.Table.from_pandas(release.images, schema=IMAGE_SCHEMA, preserve_index=False)
    values = table.column(column).to_pylist()
    values[2] = None
    index = table.schema.get_field_index(column)
    holed = table.set_column(index, IMAGE_SCHEMA.field(column), pa.array(values, IMAGE_SCHEMA.field(column).type))
    pq.write_table(holed, out / "images.parquet")

    with pytest.raises(InputError, match=rf"images\.parquet: row 2 has no {column}"):
        Release(out, out)


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
