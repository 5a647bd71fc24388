import hashlib
import json
import math

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_deliveries import outcome

from secpipeline.datasets.tables import (
    BOX_COLUMNS,
    BOX_SCHEMA,
    IMAGE_COLUMNS,
    IMAGE_SCHEMA,
    annotation_digests,
    empty_boxes,
    read_table,
    table_bytes,
)
from secpipeline.errors import InputError

BOXES = pd.DataFrame(
    [
        ("i1#0", "i1", 1.0, 2.0, 11.5, 22.0, "pedestrian", False, 0.5, 20.0),
        ("i2#0", "i2", 0.0, 0.0, 5.0, 10.0, "pedestrian", True, math.nan, 10.0),
        ("i1#1", "i1", 3.0, 2.0, 9.0, 18.0, "pedestrian", False, math.nan, 16.0),
    ],
    columns=list(BOX_COLUMNS),
)
IMAGES = pd.DataFrame(
    [
        (
            "i1",
            "a.jpg",
            "shards/00000.tar",
            512,
            900,
            "0" * 64,
            32,
            24,
            "jpeg",
            "s",
            "c",
            "train",
            "",
            "f" * 16,
            "1" * 64,
        )
    ],
    columns=list(IMAGE_COLUMNS),
)
IDS = pd.Series(["i1", "i2", "i3"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@pytest.mark.parametrize(
    ("frame", "schema"),
    [(BOXES, BOX_SCHEMA), (empty_boxes(), BOX_SCHEMA), (IMAGES, IMAGE_SCHEMA)],
    ids=["boxes", "no boxes", "images"],
)
def test_a_table_is_read_back_as_it_was_written(tmp_path, frame, schema):
    path = tmp_path / "table.parquet"
    path.write_bytes(table_bytes(frame, schema))

    pd.testing.assert_frame_equal(read_table(path, schema), frame, check_exact=True, check_dtype=schema is BOX_SCHEMA)


def test_equal_tables_give_equal_bytes_whatever_else_the_frame_carries():
    plain = table_bytes(BOXES, BOX_SCHEMA)

    noted = BOXES.assign(note="mine").set_index(pd.Index([7, 8, 9]))
    reordered = noted[sorted(noted.columns)]
    assert table_bytes(reordered, BOX_SCHEMA) == plain
    assert table_bytes(BOXES.assign(x1=0.0), BOX_SCHEMA) != plain


WRONG = {
    "text among the coordinates": BOXES.astype({"x1": object}).assign(x1=["left", 1.0, 2.0]),
    "number as an image": BOXES.assign(image_id=[1, 2, 3]),
    "text for a flag": BOXES.assign(ignore=["no", "no", "yes"]),
    "list for a height": BOXES.assign(height=[[1], [2], [3]]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_column_of_another_type_is_refused(case):
    with pytest.raises(InputError, match="wrong type"):
        table_bytes(WRONG[case], BOX_SCHEMA)


def test_an_image_table_without_whole_sizes_is_refused():
    with pytest.raises(InputError, match="wrong type"):
        table_bytes(IMAGES.assign(width=32.5), IMAGE_SCHEMA)
    with pytest.raises(InputError, match="wrong type"):
        table_bytes(IMAGES.assign(width=2**40), IMAGE_SCHEMA)


def test_missing_columns_are_refused_by_name():
    with pytest.raises(InputError, match="no column label, height"):
        table_bytes(BOXES.drop(columns=["label", "height"]), BOX_SCHEMA)


# What lies where a box table should be, and what must be said.
UNREADABLE = {
    "nothing": (None, "not found; run ingest first"),
    "empty file": (b"", "not a readable parquet file"),
    "text": (b"box_id,image_id\n", "not a readable parquet file"),
    "half a table": (table_bytes(BOXES, BOX_SCHEMA)[:200], "not a readable parquet file"),
    "an image table": (table_bytes(IMAGES, IMAGE_SCHEMA), "columns are not those of a release"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_is_no_such_table_is_refused_by_name(tmp_path, case):
    data, message = UNREADABLE[case]
    path = tmp_path / "boxes.parquet"
    if data is not None:
        path.write_bytes(data)

    with pytest.raises(InputError, match=message) as refusal:
        read_table(path, BOX_SCHEMA)

    assert str(refusal.value).startswith(f"{path}: ")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_table_with_broken_bytes_is_read_or_refused_by_name(folder, changes):
    broken = bytearray(table_bytes(BOXES, BOX_SCHEMA))
    for where, value in changes:
        broken[int(where * len(broken))] = value
    path = folder / "boxes.parquet"
    path.write_bytes(bytes(broken))

    frame, refusal = outcome(lambda: read_table(path, BOX_SCHEMA))

    if refusal is None:
        assert tuple(frame.columns) == BOX_COLUMNS
        assert all(isinstance(value, str) for value in frame["label"])
    else:
        assert refusal.startswith(f"{path}: ")


def test_a_table_whose_text_is_no_text_is_refused_by_name(tmp_path):
    path = tmp_path / "boxes.parquet"
    table = pa.Table.from_pandas(BOXES, schema=BOX_SCHEMA, preserve_index=False).replace_schema_metadata(None)
    no_text = pa.array([b"\xff\xfe"] * len(BOXES)).view(pa.string())
    pq.write_table(table.set_column(BOX_COLUMNS.index("label"), "label", no_text), path)

    with pytest.raises(InputError, match=r"boxes\.parquet: not a readable parquet file"):
        read_table(path, BOX_SCHEMA)


def test_a_table_whose_column_names_are_no_text_is_refused_by_name(tmp_path):
    path = tmp_path / "boxes.parquet"
    path.write_bytes(table_bytes(BOXES, BOX_SCHEMA).replace(b"visibility", b"visibilit\xff"))

    with pytest.raises(InputError, match=r"boxes\.parquet: not a readable parquet file"):
        read_table(path, BOX_SCHEMA)


def test_a_digest_is_that_of_the_image_s_rows_in_canonical_json():
    rows = [
        ["i1#0", "i1", 1.0, 2.0, 11.5, 22.0, "pedestrian", False, 0.5, 20.0],
        ["i1#1", "i1", 3.0, 2.0, 9.0, 18.0, "pedestrian", False, None, 16.0],
    ]
    text = json.dumps(rows, separators=(",", ":")) + "\n"

    first, _, third = annotation_digests(IDS, BOXES)

    assert first == hashlib.sha256(text.encode()).hexdigest()
    assert third == hashlib.sha256(b"[]\n").hexdigest()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("box_id", "i1#7"),
        ("x1", 1.0000000001),
        ("y1", math.nan),
        ("x2", math.inf),
        ("y2", -math.inf),
        ("label", "car"),
        ("ignore", True),
        ("visibility", math.nan),
        ("height", 20.5),
    ],
)
def test_any_changed_value_changes_the_digest_of_its_image_and_of_no_other(column, value):
    edited = BOXES.copy()
    edited.loc[0, column] = value

    before, after = annotation_digests(IDS, BOXES), annotation_digests(IDS, edited)

    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True, True]


def test_numbers_that_json_does_not_know_are_told_apart():
    digests = {annotation_digests(IDS, BOXES.assign(x2=value))[0] for value in (math.nan, math.inf, -math.inf)}

    assert len(digests) == 3


def test_a_removed_or_reordered_box_changes_the_digest_of_its_image_alone():
    before = annotation_digests(IDS, BOXES)

    assert annotation_digests(IDS, BOXES.drop(index=1))[1] == before[2]
    assert annotation_digests(IDS, BOXES.iloc[::-1])[0] != before[0]
    assert annotation_digests(IDS, BOXES.iloc[[1, 0, 2]]) == before
