import numpy as np
import pandas as pd
import pytest

from secpipeline.detection import calibration
from secpipeline.detection.bootstrap import bootstrap, draw
from secpipeline.detection.breakdown import breakdown
from secpipeline.detection.evaluation import evaluate
from secpipeline.detection.matching import REASONABLE, VISIBLE, match
from secpipeline.digests import canonical_json
from secpipeline.robustness.evaluation_report import evaluation_report

CORNERS = ["x1", "y1", "x2", "y2"]
IMAGES, THRESHOLD, RESAMPLES, SEED = 40, 0.5, 200, 3
KINDS = {"clean": "clean", "noise": "control", "pgd": "attack"}


def street():
    """Two people on each of 40 images of 10 scenes, all found with a score of 0.9 and once doubted with 0.2."""
    names = [f"i{number}" for number in range(IMAGES)]
    times = np.where(np.arange(IMAGES) % 2, "day", "night")
    images = pd.DataFrame({"image_id": names, "time_of_day": times, "source": "x"})
    images["scene"] = [f"s{number // 4}" for number in range(IMAGES)]
    boxes = pd.DataFrame({"image_id": np.repeat(names, 2), "x1": np.tile([0.0, 100.0], IMAGES), "y1": 0.0})
    boxes = boxes.assign(x2=boxes["x1"] + 24, y2=60.0, ignore=False, visibility=1.0)
    sure = boxes[["image_id", *CORNERS]].assign(score=0.9)
    doubted = sure.iloc[:10].assign(x1=300.0, x2=324.0, score=0.2)
    return boxes, pd.concat([sure, doubted], ignore_index=True), images


def attacked(clean):
    """Of the 80 people 20 disappear, and seven detections appear on nobody."""
    ghosts = clean.iloc[:7].assign(x1=500.0, x2=524.0)
    return pd.concat([clean.iloc[20:], ghosts], ignore_index=True)


def report(predictions=None, boxes=None, images=None, subset=VISIBLE, resamples=RESAMPLES):
    people, clean, scenes = street()
    predictions = {"clean": clean, "noise": clean, "pgd": attacked(clean)} if predictions is None else predictions
    boxes, images = (people if boxes is None else boxes), (scenes if images is None else images)
    found = evaluation_report(predictions, KINDS, boxes, images, subset, THRESHOLD, resamples, SEED)
    assert canonical_json(found)
    return found


def test_clean_images_and_groups_are_those_of_the_library_drawn_over_scenes():
    boxes, clean, images = street()
    found = report()
    settings = {"subset": VISIBLE, "resamples": RESAMPLES, "seed": SEED, "clusters": "scene"}
    assert found["clean"] == evaluate(boxes, clean, images, THRESHOLD, **settings)
    assert (found["drawn"], found["why"], found["subset"]["name"]) == ("scene", None, "visible")
    counts = draw(IMAGES, RESAMPLES, SEED, images["scene"].tolist())
    expected = breakdown(boxes, clean, images, THRESHOLD, counts)
    assert [row["group"] for row in found["groups"]] == expected["group"].tolist()
    for row, (_, same) in zip(found["groups"], expected.iterrows(), strict=True):
        if row["people"]:
            assert (row["ap50"], row["miss_rate_low"], row["why"]) == (same["ap50"], same["miss_rate_low"], None)
        else:
            assert (row["ap50"], row["miss_rate_high"], row["why"]) == (None, None, "the group has nobody")
    assert {row["people"] for row in found["groups"] if row["by"] == "time_of_day"} == {40}
    assert any(row["people"] == 0 for row in found["groups"])


def test_calibration_stands_beside_what_chance_does():
    boxes, clean, images = street()
    found = report()["calibration"]
    matches = match(boxes, clean, images["image_id"].tolist(), VISIBLE)
    assert found["detections"] == 90
    assert found["error"]["value"] == pytest.approx((80 * 0.1 + 10 * 0.2) / 90)
    assert found["error"]["low"] <= found["error"]["value"] <= found["error"]["high"]
    assert found["error_by_chance"] == calibration.calibration_error_by_chance(matches, RESAMPLES, SEED)
    filled = {row["detections"]: row["precision"] for row in found["reliability"] if row["detections"]}
    assert filled == {80: 1.0, 10: 0.0}
    assert found["reliability"][5]["precision"] is None


def test_exchanges_of_every_attack_and_control_are_counted_from_the_clean_images():
    noise, pgd = report()["exchanges"]
    assert [(one["condition"], one["kind"]) for one in (noise, pgd)] == [("noise", "control"), ("pgd", "attack")]
    counted = ("found", "disappeared", "recovered", "hallucinated")
    assert [noise[name] for name in counted] == [80, 0, 0, 0]
    assert [pgd[name] for name in counted] == [80, 20, 0, 7]
    rate = pgd["disappearance_rate"]
    assert rate["value"] == 0.25
    assert rate["low"] < 0.25 < rate["high"]
    assert pgd["hallucination_rate"]["value"] == 7 / IMAGES
    _, _, images = street()
    counts = draw(IMAGES, RESAMPLES, SEED, images["scene"].tolist())
    lost = np.where(np.arange(IMAGES) < 10, 2, 0)
    expected = bootstrap(lambda drawn: (drawn @ lost) / (2 * drawn.sum(axis=1)), counts)
    assert (rate["low"], rate["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_too_few_scenes_are_told_and_nothing_is_measured():
    _, _, images = street()
    found = report(images=images.assign(scene=["a"] * 20 + ["b"] * 20))
    assert found["why"].startswith("2 scenes are too few")
    assert (found["clean"], found["groups"], found["calibration"], found["exchanges"]) == (None, [], None, [])


def test_a_detector_that_sees_nothing_has_reasons_instead_of_numbers():
    _, clean, _ = street()
    found = report({"clean": clean.iloc[:0], "pgd": clean})
    assert found["clean"]["miss_rate"]["value"] == 1
    assert found["calibration"]["error"]["why"] == "no detections that count: calibration is undefined"
    assert (found["calibration"]["detections"], found["calibration"]["error_by_chance"]) == (0, None)
    (pgd,) = found["exchanges"]
    assert pgd["disappearance_rate"] == {
        "value": None, "low": None, "high": None, "why": "nobody was found before: the rate is undefined"
    }  # fmt: skip
    assert pgd["recovered"] == 80
    assert pgd["hallucination_rate"]["value"] == 0


def test_people_in_one_scene_alone_have_values_where_there_is_no_interval():
    boxes, clean, _ = street()
    once = pd.concat([boxes[boxes["image_id"] == "i0"], boxes[boxes["image_id"] != "i0"].assign(ignore=True)])
    found = report({"clean": clean, "pgd": attacked(clean)}, boxes=once, resamples=110)
    everybody = found["groups"][0]
    assert everybody["people"] == 2
    assert everybody["miss_rate"] == 0
    assert everybody["miss_rate_low"] is None
    assert "too few images with people" in everybody["why"]
    (pgd,) = found["exchanges"]
    assert "too few images with people" in pgd["disappearance_rate"]["why"]


def test_exchanges_are_about_the_subset_of_the_suite():
    boxes, _, _ = street()
    half_hidden = boxes.assign(visibility=np.where(boxes["x1"] == 0, 1.0, 0.3))
    assert report(boxes=half_hidden)["exchanges"][0]["found"] == 40
    small = report(boxes=boxes.assign(y2=45.0))
    assert (small["exchanges"][0]["found"], small["calibration"]["detections"]) == (80, 90)
    assert report(boxes=boxes.assign(y2=45.0), subset=REASONABLE)["exchanges"][0]["found"] == 0
