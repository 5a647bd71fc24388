"""A table in parts gives what the whole table gives, and holds no more than a part."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from release_tables import make_tables

from secpipeline.datasets.tables import BOX_SCHEMA, IMAGE_SCHEMA, table_bytes
from secpipeline.errors import InputError
from secpipeline.validation.parts import ParquetTable, whole
from secpipeline.validation.repeats import Repeats
from secpipeline.validation.running import validate
from secpipeline.validation.suites import load_suite
from secpipeline.validation.tables import validate_release, validate_tables

EXPECTATIONS = Path(__file__).parents[2] / "expectations"


def cut(frame, sizes):
    edges = [0, *itertools.accumulate(sizes)]
    return [frame.iloc[a:b] for a, b in itertools.pairwise([*edges, len(frame)])]


def damaged_tables():
    images, boxes = make_tables()
    boxes.loc[[0, 9, len(boxes) - 1], "label"] = "cyclist"
    boxes.loc[[1, 7], "x1"] = np.nan
    boxes.loc[2, "x2"] = 9999.0
    boxes.loc[[4, 11], "box_id"] = boxes.loc[len(boxes) - 2, "box_id"]
    twin = boxes.loc[3, ["image_id", "x1", "y1", "x2", "y2"]]
    boxes.loc[len(boxes) - 3, twin.index] = twin
    images.loc[[2, 20], "sha256"] = images.loc[5, "sha256"]
    return images, boxes


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_a_damaged_release_gives_the_same_results_in_parts(tmp_path, rows):
    images, boxes = damaged_tables()
    if rows == 1:  # each part costs a run of Great Expectations
        images, boxes = images.head(6), boxes.head(14)
    (tmp_path / "images.parquet").write_bytes(table_bytes(images, IMAGE_SCHEMA))
    (tmp_path / "boxes.parquet").write_bytes(table_bytes(boxes, BOX_SCHEMA))

    parts = validate_release(tmp_path, EXPECTATIONS, part_rows=rows)
    at_once = validate_tables(images, boxes, EXPECTATIONS)

    assert parts.results == at_once.results
    assert parts.statistics.to_json() == at_once.statistics.to_json()
    assert any(not result.passed for result in parts.results)


SMALL = {
    "name": "small",
    "meta": {"row_id": ["image_id"]},
    "expectations": [
        {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "key"}, "meta": {"missing": "allowed"}},
        {
            "type": "expect_compound_columns_to_be_unique",
            "kwargs": {"column_list": ["key", "number"]},
            "meta": {"missing": "allowed"},
        },
    ],
}
keys = st.sampled_from([0.0, -0.0, 1.0, 2.5, np.nan, np.inf])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(keys, st.integers(0, 2)), min_size=1, max_size=12), st.lists(st.integers(0, 4), max_size=3))
def test_repetitions_across_parts_are_those_of_the_whole(tmp_path_factory, rows, sizes):
    path = tmp_path_factory.mktemp("suite") / "small.json"
    path.write_text(json.dumps(SMALL))
    suite = load_suite(path)
    frame = pd.DataFrame(rows, columns=["key", "number"]).astype({"key": "float64"})
    frame.insert(0, "image_id", [f"i{number}" for number in range(len(frame))])

    assert validate(suite, cut(frame, sizes)) == validate(suite, frame)


def test_a_repeated_value_far_apart_is_found_and_named(tmp_path):
    (tmp_path / "small.json").write_text(json.dumps(SMALL))
    frame = pd.DataFrame({"image_id": [f"i{n}" for n in range(30)], "key": np.arange(30.0), "number": 1})
    frame.loc[29, "key"] = frame.loc[0, "key"] = 0.0
    frame.loc[29, "key"] = -0.0  # the same number in other bytes

    result = validate(load_suite(tmp_path / "small.json"), cut(frame, [10, 10]))

    assert [check.unexpected_count for check in result.results] == [2, 2]
    assert [row["image_id"] for row in result.results[0].examples] == ["i0", "i29"]


def test_only_rows_that_may_repeat_are_held():
    parts = [pd.DataFrame({"id": [f"{part}-{row}" for row in range(100)], "other": 1}) for part in range(5)]
    parts[4].loc[7, "id"] = parts[1].loc[3, "id"]
    repeats = Repeats(["id"], ["id"])
    for part in parts:
        repeats.see(part)

    assert repeats.suspects(parts)["id"].tolist() == ["0-0", "1-3", "1-3"]


def test_a_check_that_one_part_drops_counts_as_not_run(tmp_path):
    (tmp_path / "small.json").write_text(
        json.dumps({**SMALL, "expectations": [
            {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "key"}}
        ]})
    )  # fmt: skip
    whole_part, other = pd.DataFrame({"image_id": ["a"], "key": [1.0]}), pd.DataFrame({"image_id": ["b"]})

    result = validate(load_suite(tmp_path / "small.json"), [whole_part, other])

    assert not result.passed
    assert not result.results[0].ran


def test_empty_parts_are_no_rows(tmp_path):
    (tmp_path / "small.json").write_text(json.dumps(SMALL))
    empty = pd.DataFrame({"image_id": pd.Series(dtype="str"), "key": pd.Series(dtype="float64"), "number": []})

    assert "no rows" in next(validate(load_suite(tmp_path / "small.json"), [empty, empty]).failures())
    assert "no rows" in next(validate(load_suite(tmp_path / "small.json"), []).failures())


def test_a_parquet_table_is_read_in_parts_as_often_as_wanted(tmp_path):
    _, boxes = make_tables()
    path = tmp_path / "boxes.parquet"
    path.write_bytes(table_bytes(boxes, BOX_SCHEMA))
    table = ParquetTable(path, BOX_SCHEMA, rows=5)

    for _ in range(2):
        parts = list(table)
        assert max(len(part) for part in parts) == 5
        pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), boxes, check_dtype=False)
    narrow = ParquetTable(path, BOX_SCHEMA, columns=("height", "box_id"))
    assert [list(part.columns) for part in narrow] == [["height", "box_id"]]
    assert whole([], BOX_SCHEMA, ("box_id", "height")).columns.tolist() == ["box_id", "height"]


def test_a_file_that_is_no_table_is_one_clear_error(tmp_path):
    path = tmp_path / "boxes.parquet"
    with pytest.raises(InputError, match=r"boxes\.parquet: not found"):
        list(ParquetTable(path, BOX_SCHEMA))
    path.write_bytes(b"PAR1 is not enough")
    with pytest.raises(InputError, match=r"boxes\.parquet: not a readable parquet"):
        list(ParquetTable(path, BOX_SCHEMA))
    data = table_bytes(make_tables()[1], BOX_SCHEMA)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"boxes\.parquet: not a readable parquet"):
        list(ParquetTable(path, BOX_SCHEMA))
    path.write_bytes(data)
    with pytest.raises(InputError, match="its columns are not those of a release"):
        list(ParquetTable(path, IMAGE_SCHEMA))
    table = pq.read_table(path).drop_columns("x1")
    pq.write_table(table.add_column(2, "x1", [["left"] * len(table)]), path)
    with pytest.raises(InputError, match=r"boxes\.parquet: not a readable parquet"):
        list(ParquetTable(path, BOX_SCHEMA))
