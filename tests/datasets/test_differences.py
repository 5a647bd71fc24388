import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_deliveries import document, write_delivery

from secpipeline.datasets.differences import release_diff
from secpipeline.datasets.formats.coco import read_coco
from secpipeline.datasets.releases import Release, write_release, write_tables
from secpipeline.datasets.splits import assign_splits
from secpipeline.errors import InputError


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    root = tmp_path_factory.mktemp("delivery")
    annotations = read_coco(write_delivery(root / "delivery", document()))
    write_release(root / "release", annotations, assign_splits(annotations.images))
    return root / "release"


@pytest.fixture
def changed(release, tmp_path):
    """Write the release's tables again with a change."""
    tables = Release(release, release)

    def write(images=lambda table: table, boxes=lambda table: table):
        write_tables(tmp_path / "new", images(tables.images.copy()), boxes(tables.boxes.copy()))
        return tmp_path / "new"

    return write


def rows(table):
    return [tuple(row) for row in table.itertuples(index=False, name=None)]


def test_a_release_does_not_differ_from_itself(release):
    difference = release_diff(release, release)

    assert difference.same
    assert difference.by_source().empty
    assert difference.text() == "the releases hold the same images and boxes\n"


def test_images_that_came_went_or_changed_are_named_with_what_changed(release, changed):
    def edit(images):
        images.loc[0, ["sha256", "split"]] = ["0" * 64, "calibration"]
        images.loc[1, "source"] = "vendor-z"
        new = images.iloc[[2]].assign(image_id="new", source="vendor-n")
        return pd.concat([images.drop(index=3), new], ignore_index=True)

    difference = release_diff(release, changed(images=edit))

    assert rows(difference.images) == [
        ("added", "new", "vendor-n", ""),
        ("removed", "4", "vendor-b", ""),
        ("changed", "1", "vendor-a", "sha256, split"),
        ("changed", "2", "vendor-z", "source"),
    ]
    assert difference.boxes.empty


def test_where_an_image_lies_among_the_shards_is_no_difference(release, changed):
    difference = release_diff(release, changed(images=lambda t: t.assign(shard="shards/1.tar", offset=7)))

    assert difference.same


def add(image_id="4", **values):
    def apply(boxes):
        new = boxes.iloc[[1]].assign(image_id=image_id, box_id=f"{image_id}#0", **values)
        return pd.concat([new, boxes], ignore_index=True)

    return apply


def edit(row, **values):
    def apply(boxes):
        boxes.loc[row, list(values)] = list(values.values())
        return boxes

    return apply


def renumber(boxes):
    """Another box before the others of image 1, which get other numbers."""
    new = boxes.iloc[[0]].assign(box_id="1#0", x1=20.0, x2=26.0)
    boxes.loc[boxes["image_id"] == "1", "box_id"] = ["1#1", "1#2"]
    return pd.concat([new, boxes], ignore_index=True)


NOTHING = ("", "", np.nan)
# A change of the boxes and the differences that must be told: kind, image, source, old box, new box, overlap.
BOX_CHANGES = {
    "an added box": (add(), [("added", "4", "vendor-b", "", "4#0", np.nan)]),
    "a removed box": (lambda t: t.drop(index=1), [("removed", "3", "vendor-a", "3#0", "", np.nan)]),
    "a moved box": (edit(1, x1=19.25, x2=27.25), [("changed", "3", "vendor-a", "3#0", "3#0", 7 / 9)]),
    "a box moved away": (
        edit(1, x1=0.25, x2=8.25),
        [("added", "3", "vendor-a", "", "3#0", np.nan), ("removed", "3", "vendor-a", "3#0", "", np.nan)],
    ),
    "a box that is ignored": (edit(1, ignore=False), [("changed", "3", "vendor-a", "3#0", "3#0", 1.0)]),
    "a box of another visibility": (edit(1, visibility=0.5), [("changed", "3", "vendor-a", "3#0", "3#0", 1.0)]),
    "a box before the others": (renumber, [("added", "1", "vendor-a", "", "1#0", np.nan)]),
    "boxes in another order": (lambda t: t.iloc[::-1], []),
    "a box twice": (
        lambda t: pd.concat([t, t.iloc[[1]].assign(box_id="3#1")]),
        [("added", "3", "vendor-a", "", "3#1", np.nan)],
    ),
    "no boxes at all": (
        lambda t: t.head(0),
        [("removed", image, source, box, "", np.nan) for image, source, box in
         (("1", "vendor-a", "1#0"), ("1", "vendor-a", "1#1"), ("3", "vendor-a", "3#0"), ("6", "vendor-h", "6#0"))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BOX_CHANGES)
def test_a_changed_box_is_told_with_what_it_was(release, changed, case):
    change, expected = BOX_CHANGES[case]

    found = release_diff(release, changed(boxes=change)).boxes

    assert len(found) == len(expected)
    for row, wanted in zip(rows(found), expected, strict=True):
        assert row[:5] == wanted[:5]
        np.testing.assert_allclose(row[5], wanted[5])


def test_the_other_way_round_what_was_added_is_removed(release, changed):
    new = changed(images=lambda t: t.drop(index=3), boxes=add("2"))

    there, back = release_diff(release, new), release_diff(new, release)

    swap = {"added": "removed", "removed": "added", "changed": "changed"}
    assert sorted(back.images["kind"].map(swap)) == sorted(there.images["kind"])
    assert sorted(back.boxes["kind"].map(swap)) == sorted(there.boxes["kind"])


def test_the_text_has_totals_a_line_a_source_and_the_images(release, changed):
    def edit_images(images):
        images.loc[0, "split"] = "calibration"
        return images.drop(index=3)

    difference = release_diff(
        release, changed(images=edit_images, boxes=lambda t: edit(1, x1=19.25, x2=27.25)(t.drop(index=3)))
    )

    assert difference.text() == (
        "images: 0 added, 1 removed, 1 changed; boxes: 0 added, 1 removed, 1 changed\n"
        "  vendor-a  images +0 −0 ~1  boxes +0 −0 ~1\n"
        "  vendor-b  images +0 −1 ~0  boxes +0 −0 ~0\n"
        "  vendor-h  images +0 −0 ~0  boxes +0 −1 ~0\n"
        "  removed  4\n"
        "  changed  1: split\n"
        "  changed  3: boxes\n"
        "  changed  6: boxes\n"
    )  # fmt: skip
    assert difference.text(most=2).endswith("  removed  4\n  changed  1: split\n  and 2 more\n")
    assert difference.text(most=3).endswith("  changed  3: boxes\n  and 1 more\n")


def test_a_directory_that_is_no_release_is_refused_by_name(release, tmp_path):
    for pair in ((release, tmp_path), (tmp_path, release)):
        with pytest.raises(InputError, match=r"images\.parquet: not found"):
            release_diff(*pair)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.sets(st.integers(0, 5)), st.sets(st.integers(0, 3)), st.sets(st.integers(0, 3)))
def test_what_is_counted_is_what_was_done(release, tmp_path_factory, dropped, removed, moved):
    tables = Release(release, release)
    images = tables.images.drop(index=sorted(dropped))
    boxes = tables.boxes.copy()
    boxes.loc[sorted(moved), "x1"] += 0.5
    boxes = boxes.drop(index=sorted(removed))
    new = tmp_path_factory.mktemp("new")
    write_tables(new, images, boxes)

    counts = release_diff(release, new).by_source().sum()

    done = {"images removed": len(dropped), "boxes removed": len(removed), "boxes changed": len(moved - removed)}
    assert counts[counts > 0].to_dict() == {what: number for what, number in done.items() if number}
