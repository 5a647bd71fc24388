import hashlib
import io
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from small_deliveries import DOCUMENT, document, encode, picture, write_delivery

from secpipeline.datasets import ingestion
from secpipeline.datasets.annotations import Annotations, Rejection
from secpipeline.datasets.decoding import DecodeLimits
from secpipeline.datasets.duplicates import dhash
from secpipeline.datasets.formats.coco import read_coco
from secpipeline.datasets.releases import Release, write_release
from secpipeline.datasets.splits import assign_splits
from secpipeline.datasets.tables import BOX_COLUMNS, CORNERS, IMAGE_COLUMNS, empty_boxes
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


def tree(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def many(scenes=40, frames=3):
    """A document of many small images of two sources, without boxes."""
    names = [(source, scene, frame) for source in "ab" for scene in range(scenes) for frame in range(frames)]
    images = [
        DOCUMENT["images"][0]
        | {"id": f"{source}{scene:03d}{frame}", "file_name": f"{source}/{scene:03d}/{frame}.jpg"}
        | {"source": source, "scene": str(scene)}
        for source, scene, frame in names
    ]
    return document() | {"images": images, "annotations": []}


def deliver_many(root, content):
    for number, row in enumerate(content["images"]):
        path = root / row["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(number)))
    (root / "instances.json").write_text(json.dumps(content))
    annotations = read_coco(root / "instances.json")
    return annotations, assign_splits(annotations.images)


def test_a_release_holds_what_was_delivered_with_every_fact_about_it(delivery, out):
    annotations, splits = delivery

    written = write_release(out, annotations, splits)

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
    assert written.digest == hashlib.sha256((out / "dataset.sha256").read_bytes()).hexdigest()
    assert (written.images, written.boxes, written.shards) == (6, 4, 1)
    assert written.bytes == release.images["length"].sum()
    assert (written.reused_images, written.reused_shards, written.rejected) == (0, 0, ())
    assert release.damaged() == []


def test_equal_deliveries_give_equal_releases_byte_for_byte_whoever_works_on_them(tmp_path):
    digests = []
    for name, workers in (("one", 1), ("two", 5)):
        delivery = deliver_many(tmp_path / f"delivery {name}", many())
        digests.append(write_release(tmp_path / name, *delivery, workers=workers, shard_bytes=30_000).digest)

    assert digests[0] == digests[1]
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert len(list((tmp_path / "one/shards").iterdir())) > 5


def test_the_order_of_the_delivery_shows_in_the_tables_but_not_in_the_shards(tmp_path):
    annotations, splits = deliver_many(tmp_path / "delivery", many())
    shuffled = Annotations(annotations.images.sample(frac=1, random_state=0), annotations.boxes, annotations.root)

    write_release(tmp_path / "one", annotations, splits, shard_bytes=30_000)
    write_release(tmp_path / "two", shuffled, splits, shard_bytes=30_000)

    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    assert {name for name in one if one[name] != two[name]} == {"images.parquet", "dataset.sha256"}
    images = Release(tmp_path / "two", tmp_path / "two").images
    assert images["image_id"].tolist() == shuffled.images["image_id"].tolist()
    assert images["split"].tolist() == splits.loc[shuffled.images.index].tolist()
    by_place = images.sort_values(["shard", "offset"])
    assert by_place[["source", "scene", "file_name"]].apply(tuple, axis=1).is_monotonic_increasing


def test_another_pixel_box_or_split_is_another_release(tmp_path, delivery):
    annotations, splits = delivery
    digests = [write_release(tmp_path / "plain", annotations, splits).digest]

    digests.append(write_release(tmp_path / "split", annotations, splits.replace("train", "test")).digest)
    annotations.boxes.loc[0, "x1"] += 1e-6
    digests.append(write_release(tmp_path / "box", annotations, splits).digest)
    image = annotations.root / annotations.images["file_name"][3]
    image.write_bytes(encode(picture(4), quality=91))
    digests.append(write_release(tmp_path / "pixel", annotations, splits).digest)

    assert len(set(digests)) == 4


BAD_IMAGE = "vendor-a/mall/003.jpg"


def replace(data):
    return lambda path: path.write_bytes(data)


def link(path):
    path.rename(path.with_name("real.jpg"))
    path.symlink_to("real.jpg")


def link_directory(path):
    path.parent.rename(path.parent.with_name("real"))
    path.parent.symlink_to("real")


def turn_into_directory(path):
    path.unlink()
    path.mkdir()


def turn_into_pipe(path):
    path.unlink()
    os.mkfifo(path)


def sideways(pixels=None, orientation=6, **options):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return encode(picture(3) if pixels is None else pixels, exif=tags, **options)


GOOD = encode(picture(3), quality=90)
# What happens to an image after its annotation was read, and what must be said about it.
UNUSABLE = {
    "missing": (lambda path: path.unlink(), "cannot be read as a plain file (No such file"),
    "a directory": (turn_into_directory, "cannot be read as a plain file"),
    "a pipe": (turn_into_pipe, "cannot be read as a plain file"),
    "a symbolic link": (link, "cannot be read as a plain file"),
    "behind a symbolic link": (link_directory, "lies behind a symbolic link"),
    "empty": (replace(b""), "content is not JPEG"),
    "truncated": (replace(GOOD[:-30]), "truncated"),
    "truncated with a new end": (replace(GOOD[: len(GOOD) // 2] + b"\xff\xd9"), "truncated"),
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


@pytest.mark.parametrize("case", UNUSABLE)
def test_one_unusable_image_is_left_out_where_that_is_allowed(delivery, out, case):
    spoil, message = UNUSABLE[case]
    annotations, splits = delivery
    splits = splits.replace("calibration", "train")  # the bad image is alone in its split
    spoil(annotations.root / BAD_IMAGE)

    written = write_release(out, annotations, splits, max_rejected=0.2)

    (rejection,) = written.rejected
    assert (rejection.image_id, rejection.file_name, rejection.source) == ("3", BAD_IMAGE, "vendor-a")
    assert message in rejection.reason
    release = Release(out, out)
    assert release.images["image_id"].tolist() == ["1", "2", "4", "5", "6"]
    assert release.images["split"].tolist() == splits.drop(2).tolist()
    assert release.boxes["image_id"].tolist() == ["1", "1", "6"]
    assert release.damaged() == []


def test_the_limit_of_rejected_images_is_inclusive_and_counts_those_of_the_reader(delivery, out):
    annotations, splits = delivery
    splits = splits.replace("calibration", "train")
    (annotations.root / BAD_IMAGE).unlink()
    early = Rejection("7", "x.jpg", "vendor-a", "x.jpg: its header is malformed")
    annotations = Annotations(annotations.images, annotations.boxes, annotations.root, annotations.files, (early,))

    with pytest.raises(InputError, match=r"2 of 7 images cannot be used, more than data\.max_rejected 0\.28 allows:\n"):
        write_release(out, annotations, splits, max_rejected=0.28)

    written = write_release(out, annotations, splits, max_rejected=2 / 7)
    assert [rejection.file_name for rejection in written.rejected] == ["x.jpg", BAD_IMAGE]


def test_rejections_may_not_empty_a_split(delivery, out):
    annotations, splits = delivery
    lonely = splits.value_counts().idxmin()
    for name in annotations.images.loc[splits == lonely, "file_name"]:
        (annotations.root / name).unlink()

    with pytest.raises(InputError, match=f"no usable image is left for {lonely}"):
        write_release(out, annotations, splits, max_rejected=0.9)
    assert not out.exists()


def test_a_delivery_without_a_usable_image_is_refused_whatever_is_allowed(delivery, out):
    annotations, splits = delivery
    for name in annotations.images["file_name"]:
        (annotations.root / name).unlink()

    with pytest.raises(InputError, match="6 of 6 images cannot be used:"):
        write_release(out, annotations, splits, max_rejected=1.0)


@pytest.mark.parametrize("bad", [-0.1, 1.5, float("nan"), "0.1", True, None])
def test_an_impossible_limit_is_refused(delivery, out, bad):
    with pytest.raises(InputError, match=r"max_rejected is .*; it must be a share from 0 to 1"):
        write_release(out, *delivery, max_rejected=bad)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (DecodeLimits(max_pixels=700), "32×24 pixels, more than the 700"),
        (DecodeLimits(max_bytes=100), "more than the 100"),
        (DecodeLimits(max_seconds=-1.0), "takes more than the -1 seconds"),
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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_applied_orientation_turns_the_boxes_with_the_pixels(tmp_path, out, orientation):
    """A bright block where the box is stays where the box is."""
    content = document()
    content["annotations"] = [content["annotations"][0] | {"image_id": 3, "bbox": [4, 6, 9, 13]}]
    annotations, splits = deliver_small(tmp_path / "delivery", content)
    stored = np.zeros((24, 32, 3), np.uint8)
    stored[6:19, 4:13] = 255
    data = sideways(stored, orientation, quality=100, subsampling=0)
    (annotations.root / BAD_IMAGE).write_bytes(data)

    write_release(out, annotations, splits, turn="apply")

    release = Release(out, out)
    pixels = release.decode("3")
    np.testing.assert_array_equal(pixels, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))
    row = release.images.iloc[2]
    assert (row["height"], row["width"]) == pixels.shape[:2] == ((32, 24) if orientation > 4 else (24, 32))
    x1, y1, x2, y2 = release.boxes.loc[0, list(CORNERS)].astype(int)
    inside = np.zeros(pixels.shape[:2], bool)
    inside[y1:y2, x1:x2] = True
    np.testing.assert_array_equal(inside, pixels.mean(axis=2) > 128)
    assert release.boxes.loc[0, "height"] == y2 - y1
    assert row["dhash"] == dhash(pixels)
    assert release.damaged() == []
    alone = write_release(tmp_path / "alone", annotations, splits, turn="apply")
    again = write_release(tmp_path / "again", annotations, splits, turn="apply", previous=out)
    assert again.digest == alone.digest


def test_boxes_drawn_on_the_turned_picture_are_refused(tmp_path, out):
    content = document()
    content["images"][2].update(width=24, height=32)
    content["annotations"] = []
    annotations, splits = deliver_small(tmp_path / "delivery", content)
    (annotations.root / BAD_IMAGE).write_bytes(sideways())

    with pytest.raises(InputError, match="32×24 pixels, annotated as 24×32; its boxes must be drawn on the stored"):
        write_release(out, annotations, splits, turn="apply")


def test_another_way_to_turn_is_refused(delivery, out):
    with pytest.raises(InputError, match="orientation is 'guess'; it must be refuse or apply"):
        write_release(out, *delivery, turn="guess")


@pytest.fixture
def decodings(monkeypatch):
    """The names of the images that were decoded."""
    names = []
    decode = ingestion.decode

    def counted(data, name, *rest):
        names.append(name)
        return decode(data, name, *rest)

    monkeypatch.setattr(ingestion, "decode", counted)
    return names


def grow(content, *rows):
    content["images"] += [content["images"][0] | {"id": name, "file_name": f"{name}.jpg"} | row for name, row in rows]
    return content


def test_a_release_after_another_reuses_its_shards_and_decodes_what_is_new(tmp_path, decodings):
    content = many()
    delivery = deliver_many(tmp_path / "first", content)
    first = write_release(tmp_path / "one", *delivery, shard_bytes=30_000)
    content = grow(content, ("new-1", {"source": "a", "scene": "7"}), ("new-2", {"source": "c", "scene": "0"}))
    delivery = deliver_many(tmp_path / "second", content)
    decodings.clear()

    second = write_release(tmp_path / "two", *delivery, shard_bytes=30_000, previous=tmp_path / "one")

    assert sorted(decodings) == ["new-1.jpg", "new-2.jpg"]
    assert (second.images, second.reused_images) == (242, 240)
    assert first.shards > 5
    assert second.reused_shards >= first.shards - 2
    inodes = [{path.stat().st_ino for path in (tmp_path / name / "shards").iterdir()} for name in ("one", "two")]
    assert len(inodes[0] & inodes[1]) == second.reused_shards
    alone = write_release(tmp_path / "alone", *delivery, shard_bytes=30_000)
    assert alone.digest == second.digest
    assert tree(tmp_path / "alone") == tree(tmp_path / "two")


def test_an_unchanged_delivery_is_not_decoded_again_unless_the_rules_changed(tmp_path, delivery, decodings):
    write_release(tmp_path / "one", *delivery)
    for name, options, expected in (
        ("same", {}, 0),
        ("other limits", {"limits": DecodeLimits(max_pixels=999)}, 6),
        ("other turn", {"turn": "apply"}, 6),
    ):
        decodings.clear()
        write_release(tmp_path / name, *delivery, previous=tmp_path / "one", **options)
        assert len(decodings) == expected, name
    decodings.clear()
    (tmp_path / "one/decoder.json").write_text('{"decoder": "older"}')
    write_release(tmp_path / "older", *delivery, previous=tmp_path / "one")
    assert len(decodings) == 6


def test_known_bytes_under_a_name_of_another_format_are_looked_at_again(tmp_path, delivery, out):
    annotations, splits = delivery
    write_release(tmp_path / "one", annotations, splits)
    path = annotations.root / BAD_IMAGE
    path.rename(path.with_suffix(".png"))
    annotations.images.loc[2, "file_name"] = BAD_IMAGE.replace(".jpg", ".png")

    with pytest.raises(InputError, match=r"003\.png: its content is not PNG"):
        write_release(out, annotations, splits, previous=tmp_path / "one")


def test_a_changed_shard_of_the_previous_release_is_written_anew(tmp_path, out):
    delivery = deliver_many(tmp_path / "delivery", many())
    write_release(tmp_path / "one", *delivery, shard_bytes=30_000)
    victim = next((tmp_path / "one/shards").iterdir())
    data = bytearray(victim.read_bytes())
    data[700] ^= 1
    victim.write_bytes(bytes(data))

    written = write_release(out, *delivery, previous=tmp_path / "one", shard_bytes=30_000)

    assert written.reused_shards == written.shards - 1 > 3
    assert Release(out, out).damaged() == []


@pytest.mark.parametrize("name", ["images.parquet", "boxes.parquet"])
def test_a_previous_release_whose_tables_are_not_those_of_its_manifest_is_refused(tmp_path, delivery, out, name):
    write_release(tmp_path / "one", *delivery)
    other = deliver_small(tmp_path / "other", document() | {"annotations": document()["annotations"][:1]})
    other[0].images["scene"] += "x"
    write_release(tmp_path / "two", *other)
    shutil.copy(tmp_path / "two" / name, tmp_path / "one" / name)

    with pytest.raises(IntegrityError, match=name):
        write_release(out, *delivery, previous=tmp_path / "one")


def test_a_previous_release_that_is_none_is_refused_by_name(tmp_path, delivery, out):
    with pytest.raises(InputError, match=r"dataset\.sha256: cannot be read; give the directory of a release"):
        write_release(out, *delivery, previous=tmp_path / "nothing")


def test_a_release_without_boxes_has_an_empty_box_table(tmp_path, out):
    write_release(out, *deliver_small(tmp_path / "delivery", document() | {"annotations": []}))

    pd.testing.assert_frame_equal(Release(out, out).boxes, empty_boxes())


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.sets(st.integers(0, 119), max_size=40), st.integers(1, 6))
def test_what_is_left_out_of_a_delivery_shifts_no_other_shard(tmp_path_factory, dropped, workers):
    root = tmp_path_factory.getbasetemp() / "shifted"
    if not (root / "instances.json").exists():
        deliver_many(root, many(scenes=20))
    annotations = read_coco(root / "instances.json")
    splits = pd.Series("train", annotations.images.index)
    out = tmp_path_factory.mktemp("release")
    whole = write_release(out / "whole", annotations, splits, shard_bytes=20_000)
    kept = annotations.images.drop(index=sorted(dropped))
    fewer = Annotations(kept, annotations.boxes, annotations.root)

    part = write_release(out / "part", fewer, splits, shard_bytes=20_000, previous=out / "whole", workers=workers)

    release = Release(out / "whole", out / "whole")
    touched = release.images.loc[sorted(dropped), "shard"].nunique()
    # A shard that lost its last image may join the next one.
    assert whole.shards - part.reused_shards <= 2 * touched
    assert Release(out / "part", out / "part").damaged() == []
