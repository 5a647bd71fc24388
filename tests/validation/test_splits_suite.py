from pathlib import Path

import pandas as pd
import pytest
from release_tables import make_tables

from secpipeline.validation.running import validate
from secpipeline.validation.splits import shares_frame, units_frame
from secpipeline.validation.suites import load_suite

EXPECTATIONS = Path(__file__).parents[2] / "expectations"


def checked(name, frame):
    return validate(load_suite(EXPECTATIONS / f"{name}.json"), frame)


def units(images, **keywords):
    return checked("splits", units_frame(images, **keywords))


def resembling(images, *rows):
    """These rows get one hash; the others keep theirs, which are random."""
    images = images.copy()
    images.loc[list(rows), "dhash"] = "00ff00ff00ff00ff"
    return images


def test_scenes_of_one_split_pass():
    images, _ = make_tables()
    frame = units_frame(images)

    assert units(images).passed
    assert frame["kind"].eq("scene").all()
    assert frame["images"].sum() == len(images)


def test_a_scene_in_two_splits_is_named_with_its_images():
    images, _ = make_tables()
    images.loc[0, "split"] = "test"

    result = units(images)
    (failed,) = [check for check in result.results if check.failed]

    assert failed.column == "misplaced"
    assert failed.examples[0]["source"] == "vendor-a"
    assert failed.examples[0]["misplaced"] == "1"
    assert set(failed.examples[0]["examples"].split()) == {"vendor-a/000/000", "vendor-a/000/001"}


def test_a_scene_without_a_split_for_one_image_is_named():
    images, _ = make_tables()
    images.loc[0, "split"] = None

    assert not units(images).passed


def test_a_held_out_source_may_only_be_tested_on():
    images, _ = make_tables()

    assert not units(images, holdout_sources=["vendor-b"]).passed
    frame = units_frame(images, ["vendor-b"])
    held = frame[frame["kind"] == "held-out source"].iloc[0]
    assert held["misplaced"] == ((images["source"] == "vendor-b") & (images["split"] != "test")).sum()
    images.loc[images["source"] == "vendor-b", "split"] = "test"
    assert units(images, holdout_sources=["vendor-b", "nobody"]).passed


def test_one_file_in_two_splits_fails_and_in_one_split_does_not():
    images, _ = make_tables()
    train, test = images.index[images["split"] == "train"][[0, 1]], images.index[images["split"] == "test"][0]
    images.loc[train[1], "sha256"] = images.loc[train[0], "sha256"]
    assert units(images).passed
    images.loc[test, "sha256"] = images.loc[train[0], "sha256"]

    (failed,) = [check for check in units(images).results if check.failed]

    assert failed.examples[0]["kind"] == "duplicate"
    assert images.loc[test, "image_id"] in failed.examples[0]["examples"]


def test_lookalikes_across_splits_are_a_warning():
    images, _ = make_tables()
    train, test = images.index[images["split"] == "train"][0], images.index[images["split"] == "test"][0]

    result = units(resembling(images, train, test))

    assert result.passed
    (warned,) = [check for check in result.results if check.warned]
    assert warned.column == "lookalikes"
    assert set(warned.examples[0]["examples"].split()) == set(images.loc[[train, test], "image_id"])
    assert not list(units(resembling(images, 0, 3)).warnings()), "both are in training"


def test_a_hash_that_is_none_hides_no_other_row():
    images, _ = make_tables()
    train, test = images.index[images["split"] == "train"][0], images.index[images["split"] == "test"][0]
    images = resembling(images, train, test)
    images.loc[1, "dhash"] = "nonsense"
    images.loc[2, "dhash"] = None

    assert list(units(images).warnings())


@pytest.mark.parametrize("lost", ["train", "calibration", "test"])
def test_an_empty_split_fails_by_name(lost):
    images, _ = make_tables()
    result = checked("shares", shares_frame(images[images["split"] != lost]))

    assert not result.passed
    assert any(f"split={lost}" in failure for failure in result.failures())


def test_a_split_of_another_name_fails():
    images, _ = make_tables()
    images.loc[0, "split"] = "holdout"

    assert any("split=holdout" in failure for failure in checked("shares", shares_frame(images)).failures())


def test_lopsided_splits_are_a_warning():
    images = pd.DataFrame({"split": ["train"] * 995 + ["test"] * 4 + ["calibration"]})
    result = checked("shares", shares_frame(images))

    assert result.passed
    assert len([check for check in result.results if check.warned]) == 1
    assert checked("shares", shares_frame(make_tables()[0])).passed
