import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from release_tables import make_tables

from secpipeline.datasets.tables import BOX_COLUMNS, IMAGE_COLUMNS
from secpipeline.errors import InputError
from secpipeline.validation import suites
from secpipeline.validation.page import render
from secpipeline.validation.results import test_result
from secpipeline.validation.running import validate
from secpipeline.validation.suites import load_suite
from secpipeline.validation.tables import SUITES, relations_frame, validate_tables

EXPECTATIONS = Path(__file__).parents[2] / "expectations"
NOT_NULL = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "x"}}


def write_suite(directory, expectations, **changes):
    path = directory / "small.json"
    raw = {"name": "small", "meta": {"row_id": ["image_id"]}, "expectations": expectations} | changes
    path.write_text(json.dumps(raw))
    return path


def failures(suite, images, boxes):
    """Labels of the checks of one suite that fail."""
    frame = {
        "images": lambda: images,
        "boxes": lambda: boxes,
        "relations": lambda: relations_frame(images, boxes),
    }
    result = validate(load_suite(EXPECTATIONS / f"{suite}.json"), frame[suite]())
    return {check.label for check in result.results if not check.passed}


def test_valid_tables_pass_with_every_declared_check_evaluated():
    results = validate_tables(*make_tables(), EXPECTATIONS).results

    assert tuple(result.name for result in results) == SUITES
    assert all(result.passed and result.evaluated == result.declared > 0 for result in results)
    assert test_result(results)["result"] == "PASSED"
    assert test_result(results)["failedTests"] == []


def test_the_column_lists_are_those_of_the_annotation_tables():
    declared = {}
    for name in ("images", "boxes"):
        first = load_suite(EXPECTATIONS / f"{name}.json").expectations[0]
        assert first.type == "expect_table_columns_to_match_ordered_list"
        declared[name] = tuple(first.kwargs["column_list"])

    assert declared == {"images": IMAGE_COLUMNS, "boxes": BOX_COLUMNS}


# What to break (suite, column, value) and the check that must notice it.
DAMAGE = {
    "digest with a newline at its end": ("images", "sha256", "0" * 64 + "\n", "match_regex(sha256)"),
    "path that leaves the delivery": ("images", "file_name", "a/../../b.jpg", "match_regex(file_name)"),
    "absolute path": ("images", "file_name", "/etc/passwd", "match_regex(file_name)"),
    "control character in a name": ("images", "image_id", "a\x1b[2J", "match_regex(image_id)"),
    "unknown split": ("images", "split", "holdout", "be_in_set(split)"),
    "missing source": ("images", "source", None, "not_be_null(source)"),
    "one-pixel image": ("images", "width", 1, "be_between(width)"),
    "missing coordinate": (
        "relations",
        "x1",
        np.nan,
        "box_inside_image(x1, y1, x2, y2, image_width, image_height)",
    ),
    "infinite coordinate": (
        "relations",
        "x2",
        np.inf,
        "box_inside_image(x1, y1, x2, y2, image_width, image_height)",
    ),
    "box left of the image": (
        "relations",
        "x1",
        -3.0,
        "box_inside_image(x1, y1, x2, y2, image_width, image_height)",
    ),
    "box without an area": (
        "relations",
        "x2",
        0.0,
        "box_inside_image(x1, y1, x2, y2, image_width, image_height)",
    ),
    "box of no image": ("relations", "image_id", "nobody", "not_be_null(image_width)"),
    "box named after another image": ("relations", "box_id", "other#0", "be_in_set(owner_matches)"),
    "unknown class": ("boxes", "label", "cyclist", "be_in_set(label)"),
    "impossible visibility": ("boxes", "visibility", 1.5, "be_between(visibility)"),
    "height that is not the box's": ("relations", "height", 500.0, "be_between(height_error)"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_noticed(case):
    suite, column, value, expected = DAMAGE[case]
    images, boxes = make_tables()
    frame = images if suite == "images" else boxes
    frame.loc[3, column] = value

    assert any(label.endswith(expected) for label in failures(suite, images, boxes))


@pytest.mark.parametrize("column", ["image_id", "file_name", "sha256"])
def test_a_repeated_image_fails(column):
    images, boxes = make_tables()
    images.loc[1, column] = images.loc[0, column]

    assert f"expect_column_values_to_be_unique({column})" in failures("images", images, boxes)


def test_the_same_box_twice_fails():
    images, boxes = make_tables()
    twice = pd.concat([boxes, boxes.tail(1).assign(box_id=boxes["box_id"].iloc[-1] + "9")], ignore_index=True)

    assert "expect_compound_columns_to_be_unique(image_id, x1, y1, x2, y2)" in failures("boxes", images, twice)


def test_row_examples_name_image_and_box():
    _, boxes = make_tables()
    boxes.loc[2, "label"] = "cyclist"

    suite = validate(load_suite(EXPECTATIONS / "boxes.json"), boxes)
    (failed,) = [r for r in suite.results if not r.passed]

    assert failed.unexpected_count == 1
    assert list(failed.examples[0].items())[:2] == [
        ("box_id", boxes.loc[2, "box_id"]),
        ("image_id", boxes.loc[2, "image_id"]),
    ]
    assert boxes.loc[2, "box_id"] in next(suite.failures())


def test_an_empty_table_fails_though_every_check_would_hold(tmp_path):
    suite = load_suite(write_suite(tmp_path, [NOT_NULL]))

    result = validate(suite, pd.DataFrame({"image_id": pd.Series(dtype="str"), "x": pd.Series(dtype="float64")}))

    assert not result.passed
    assert result.evaluated == 0
    assert "no rows" in next(result.failures())


def test_a_missing_column_fails_with_the_reason(tmp_path):
    suite = load_suite(write_suite(tmp_path, [NOT_NULL]))

    result = validate(suite, pd.DataFrame({"image_id": ["a"]}))

    assert not result.passed
    assert "could not run" in result.results[0].detail
    assert '"x"' in result.results[0].detail


def test_a_check_that_great_expectations_drops_counts_as_failed(tmp_path):
    suite = load_suite(write_suite(tmp_path, [NOT_NULL]))
    misspelled = dataclasses.replace(suite.expectations[0], type="expect_column_values_to_nott_be_null")
    weakened = dataclasses.replace(suite, expectations=(*suite.expectations, misspelled))

    result = validate(weakened, pd.DataFrame({"image_id": ["a"], "x": [1.0]}))

    assert not result.passed
    assert (result.declared, result.evaluated) == (2, 1)


BETWEEN = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "x", "min_value": 0}}
REFUSED = {
    "misspelled type": [{"type": "expect_column_values_to_nott_be_null", "kwargs": {"column": "x"}}],
    "misspelled argument": [NOT_NULL, {**BETWEEN, "kwargs": {"column": "x", "min_valu": 0}}],
    "rows excused": [{**NOT_NULL, "kwargs": {"column": "x", "mostly": 0.5}}],
    "rows left out": [{**NOT_NULL, "kwargs": {"column": "x", "row_condition": 'col("x") > 0'}}],
    "missing values skipped": [BETWEEN],
    "open regular expression": [
        NOT_NULL,
        {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "x", "regex": "^a$"}},
    ],
    "no expectations": [],
    "not a list": {},
    "unknown key beside kwargs": [{**NOT_NULL, "severity": "info"}],
    "unknown severity": [{**NOT_NULL, "meta": {"severity": "info"}}],
    "type that is no text": [{"type": ["expect_column_values_to_not_be_null"], "kwargs": {"column": "x"}}],
    "arguments that are no object": [{**NOT_NULL, "kwargs": "x"}],
    "pattern that is no text": [
        NOT_NULL,
        {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "x", "regex": 3}},
    ],
    "check of the whole table that parts would change": [
        {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "x", "min_value": 0}},
    ],
    "misspelled excuse": [NOT_NULL, {**BETWEEN, "meta": {"missing": "fine"}}],
    "not an object": ["expect_column_values_to_not_be_null"],
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_suite_that_could_hide_something_is_refused(tmp_path, case):
    path = write_suite(tmp_path, REFUSED[case])

    with pytest.raises(InputError, match=r"small\.json"):
        load_suite(path)


def test_missing_values_may_be_allowed_by_name(tmp_path):
    allowed = {**BETWEEN, "meta": {"missing": "allowed"}}

    result = validate(
        load_suite(write_suite(tmp_path, [allowed])),
        pd.DataFrame({"image_id": ["a", "b"], "x": [1.0, np.nan]}),
    )

    assert result.passed


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"name": "small", "name": "small"}', '{"name": "other", "meta": {"row_id": ["a"]}}'],
)
def test_a_malformed_suite_file_is_refused(tmp_path, text):
    path = tmp_path / "small.json"
    path.write_text(text)

    with pytest.raises(InputError, match=r"small\.json"):
        load_suite(path)


def test_a_missing_suite_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        validate_tables(*make_tables(), tmp_path)


def test_an_argument_of_the_wrong_type_is_refused_when_run(tmp_path):
    bad = {**BETWEEN, "kwargs": {"column": "x", "min_value": []}}
    suite = load_suite(write_suite(tmp_path, [NOT_NULL, bad]))

    with pytest.raises(InputError, match="suite small"):
        validate(suite, pd.DataFrame({"image_id": ["a"], "x": [1.0]}))


def test_tables_without_a_column_are_refused_by_name():
    images, boxes = make_tables()

    with pytest.raises(InputError, match="boxes table has no column height"):
        relations_frame(images, boxes.drop(columns="height"))
    with pytest.raises(InputError, match="images table has no column split"):
        validate_tables(images.drop(columns="split"), boxes, EXPECTATIONS)


def test_a_failed_suite_makes_the_test_result_fail_and_binds_the_suite_files():
    images, boxes = make_tables()
    boxes.loc[2, "label"] = "cyclist"
    results = validate_tables(images, boxes, EXPECTATIONS).results

    outcome = test_result(results)

    assert outcome["result"] == "FAILED"
    assert outcome["failedTests"] == ["boxes: expect_column_values_to_be_in_set(label)"]
    assert {c["name"]: c["digest"]["sha256"] for c in outcome["configuration"]} == {
        f"expectations/{r.name}.json": r.suite_sha256 for r in results
    }
    assert json.dumps([r.to_json() for r in results])


def test_no_results_are_no_pass():
    with pytest.raises(InputError, match="no suite was run"):
        test_result([])
    assert "<title>Validation: failed</title>" in render([])


def test_the_page_escapes_what_was_delivered():
    images, boxes = make_tables()
    boxes.loc[2, "label"] = "<script>alert(1)</script>"
    images.loc[1, "split"] = "<img src=x onerror=alert(2)>"

    page = render(validate_tables(images, boxes, EXPECTATIONS).results)

    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page
    assert "<img" not in page
    assert "http://" not in page
    assert "https://" not in page


def test_the_page_says_what_failed_and_why_it_is_checked():
    images, boxes = make_tables()
    boxes.loc[2, "label"] = "cyclist"

    page = render(validate_tables(images, boxes, EXPECTATIONS).results)

    assert "<title>Validation: failed</title>" in page
    assert "the one class that the detectors know" in page
    assert boxes.loc[2, "box_id"] in page


def test_every_shipped_expectation_says_why_it_is_there():
    declared = [e for path in EXPECTATIONS.glob("*.json") for e in load_suite(path).expectations]

    assert len(declared) > 60
    assert all(e.reason for e in declared)
    assert {e.type for e in declared} <= set(suites._ALLOWED)


LOOSE = {**BETWEEN, "meta": {"severity": "warning", "missing": "allowed"}}


def test_a_warning_is_recorded_and_refuses_nothing(tmp_path):
    suite = load_suite(write_suite(tmp_path, [NOT_NULL, LOOSE]))

    result = validate(suite, pd.DataFrame({"image_id": ["a", "b"], "x": [1.0, -3.0]}))
    outcome = test_result([result])

    assert result.passed
    assert not list(result.failures())
    assert [warning for warning in result.warnings() if "image_id=b" in warning]
    assert outcome["result"] == "WARNED"
    assert outcome["warnedTests"] == ["small: expect_column_values_to_be_between(x)"]
    assert outcome["failedTests"] == []
    page = render([result])
    assert "<title>Validation: warned</title>" in page
    assert "<code>-3</code>" in page


def test_a_warning_that_could_not_be_looked_at_is_a_failure(tmp_path):
    suite = load_suite(write_suite(tmp_path, [LOOSE]))

    result = validate(suite, pd.DataFrame({"image_id": ["a"]}))

    assert not result.passed
    assert test_result([result])["result"] == "FAILED"
    assert "could not run" in next(result.failures())
    assert not list(result.warnings())


def test_an_error_beside_a_warning_is_still_an_error(tmp_path):
    suite = load_suite(write_suite(tmp_path, [NOT_NULL, LOOSE]))

    outcome = test_result([validate(suite, pd.DataFrame({"image_id": ["a", "b"], "x": [np.nan, -3.0]}))])

    assert outcome["result"] == "FAILED"
    assert outcome["failedTests"] == ["small: expect_column_values_to_not_be_null(x)"]
    assert outcome["warnedTests"] == ["small: expect_column_values_to_be_between(x)"]
