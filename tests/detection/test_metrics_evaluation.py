import json
import math
from functools import partial

import numpy as np
import pandas as pd
import pytest

from secpipeline.detection import metrics
from secpipeline.detection.bootstrap import bootstrap, draw
from secpipeline.detection.breakdown import AREAS, HEIGHTS, VISIBILITIES, breakdown, sampled_precisions
from secpipeline.detection.evaluation import PUBLISHED, compare, evaluate
from secpipeline.detection.matching import COCO_IOUS, REASONABLE, VISIBLE, match, match_coco
from secpipeline.errors import CannotDecide, InputError

CORNERS = ["x1", "y1", "x2", "y2"]


def street(images=60, found=0.8, seed=0):
    """Boxes, predictions and images of 20 scenes, by day and by night; at night fewer people are found."""
    rng = np.random.default_rng(seed)
    times = np.where(np.arange(images) % 3 == 0, "night", "day")
    truth, detections = [], []
    for number, time in enumerate(times):
        for _ in range(rng.poisson(3)):
            height, x, y = rng.uniform(20, 250), rng.uniform(0, 500), rng.uniform(0, 100)
            box = np.array([x, y, x + 0.41 * height, y + height])
            truth.append((f"i{number}", *box, rng.random() < 0.1, rng.uniform()))
            if rng.random() < (found if time == "day" else found / 2):
                place = box + rng.normal(0, 0.03 * height, 4)
                detections.append((f"i{number}", *place, rng.uniform(0.3, 1)))
        for _ in range(rng.poisson(1)):
            height, x, y = rng.uniform(20, 250), rng.uniform(0, 500), rng.uniform(0, 100)
            detections.append((f"i{number}", x, y, x + 0.41 * height, y + height, rng.uniform(0, 0.7)))
    table = pd.DataFrame({"image_id": [f"i{n}" for n in range(images)], "time_of_day": times, "source": "x"})
    table["scene"] = [f"s{number // 3}" for number in range(images)]
    return (
        pd.DataFrame(truth, columns=["image_id", *CORNERS, "ignore", "visibility"]),
        pd.DataFrame(detections, columns=["image_id", *CORNERS, "score"]),
        table,
    )


def test_an_evaluation_is_the_metrics_themselves_and_json_holds_it():
    boxes, predictions, images = street()
    result = evaluate(boxes, predictions, images, 0.5, resamples=200, seed=3)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    ids, counts = images["image_id"].tolist(), draw(60, 200, seed=3)
    for subset in PUBLISHED:
        found = match(boxes, predictions, ids, subset)
        told = result["mr2"][subset.name]
        expected = bootstrap(lambda drawn, found=found: metrics.resampled_log_average_miss_rate(found, drawn), counts)
        assert (told["value"], told["low"], told["high"]) == (expected.value, expected.low, expected.high)
        assert (told["bounds"], told["people"], told["why"]) == (subset.bounds, found.people.sum(), None)
    coco = match_coco(boxes, predictions, ids)
    assert result["ap50_95"]["value"] == pytest.approx(metrics.mean_average_precision(coco))
    assert result["ap75"]["value"] == pytest.approx(metrics.average_precision(coco[COCO_IOUS.index(0.75)]))
    found = match(boxes, predictions, ids, REASONABLE)
    assert result["miss_rate"]["value"] == pytest.approx(metrics.miss_rate(found, 0.5))
    assert result["fppi"]["value"] == pytest.approx(metrics.false_positives_per_image(found, 0.5))
    assert (result["images"], result["detections"], result["threshold"]) == (60, len(predictions), 0.5)
    assert (result["resamples"], result["seed"], result["drawn"]) == (200, 3, "image_id")
    assert result["people"] == (~boxes["ignore"]).sum()


def test_rows_of_other_images_do_not_count():
    boxes, predictions, images = street()
    some = images.iloc[:30]
    chosen = [table.loc[table["image_id"].isin(some["image_id"])] for table in (boxes, predictions)]
    assert evaluate(boxes, predictions, some, 0.5, resamples=100) == evaluate(*chosen, some, 0.5, resamples=100)


def test_scenes_are_drawn_if_asked_for_and_another_subset_is_measured():
    boxes, predictions, images = street()
    over_images, over_scenes = (
        evaluate(boxes, predictions, images, 0.5, subset=VISIBLE, subsets=[VISIBLE], resamples=200, clusters=clusters)
        for clusters in (None, "scene")
    )
    assert over_scenes["drawn"] == "scene"
    assert list(over_scenes["mr2"]) == ["visible"]
    assert over_scenes["fppi"]["subset"] == "visible"
    assert over_scenes["ap50"]["value"] == over_images["ap50"]["value"]
    assert over_scenes["ap50"]["low"] != over_images["ap50"]["low"]


def test_what_cannot_be_measured_says_why():
    boxes, predictions, images = street()
    nobody = evaluate(boxes.assign(visibility=1.0), predictions, images, 0.5, resamples=100)["mr2"]["heavy"]
    assert (nobody["people"], nobody["value"], nobody["low"]) == (0, None, None)
    assert nobody["why"] == "nobody among the images is heavy (height 50 px and more, visibility 0.2-0.65)"
    empty = evaluate(boxes.iloc[:0], predictions.iloc[:0], images, 0.5, resamples=100)
    assert empty["fppi"]["value"] == 0
    assert empty["ap50"]["value"] is None
    assert json.dumps(empty, allow_nan=False)
    unseen = evaluate(boxes, predictions.iloc[:0], images, 0.5, resamples=100)
    assert (unseen["ap50"]["value"], unseen["miss_rate"]["value"]) == (0, 1)


def test_a_comparison_is_the_difference_of_two_evaluations():
    boxes, predictions, images = street()
    fewer = predictions.loc[np.random.default_rng(0).random(len(predictions)) < 0.6]
    result = compare(boxes, predictions, fewer, images, (0.5, 0.6), resamples=300, seed=1)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    sides = [
        evaluate(boxes, table, images, threshold, resamples=300, seed=1)
        for table, threshold in ((predictions, 0.5), (fewer, 0.6))
    ]
    for name in ("ap50", "ap75", "ap50_95", "miss_rate", "fppi"):
        assert result[name]["value"] == pytest.approx(sides[1][name]["value"] - sides[0][name]["value"])
    assert result["miss_rate"]["low"] > 0
    assert result["miss_rate"]["sign_share"] == pytest.approx(1 / 301)
    assert result["detections"] == [len(predictions), len(fewer)]
    assert result["thresholds"] == [0.5, 0.6]
    same = compare(boxes, predictions, predictions, images, (0.5, 0.5), resamples=100)
    assert (same["ap50"]["value"], same["ap50"]["sign_share"]) == (0, 1)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (InputError, "column scene", {"clusters": "scene"}),
        (InputError, "threshold: nan", {"threshold": math.nan}),
        (InputError, "resamples: 5", {"resamples": 5}),
    ],
)
def test_unusable_input_is_refused(error, message, change):
    boxes, predictions, images = street(10)
    settings = {"threshold": 0.5, "resamples": 100, **change}
    with pytest.raises(error, match=message):
        evaluate(boxes, predictions, images.drop(columns="scene"), **settings)
    with pytest.raises(CannotDecide, match="no images"):
        evaluate(boxes, predictions, images.iloc[:0], 0.5, resamples=100)


def test_a_breakdown_has_a_row_a_group_and_groups_of_images_are_those_images_alone():
    boxes, predictions, images = street()
    counts = draw(60, 200, seed=0)
    table = breakdown(boxes, predictions, images, 0.5, counts)
    assert table["by"].value_counts().to_dict() == {
        "all": 1, "area": 3, "height": 3, "visibility": 4, "time_of_day": 2, "source": 1
    }  # fmt: skip
    rows = table.set_index(["by", "group"])
    for time in ("day", "night"):
        ids = images.loc[images["time_of_day"] == time, "image_id"].tolist()
        alone = match_coco(boxes, predictions, ids)
        assert rows.loc[("time_of_day", time), "images"] == len(ids)
        drawn = counts[:, images["time_of_day"] == time]
        expected = bootstrap(partial(metrics.resampled_average_precision, alone[0]), drawn)
        assert rows.loc[("time_of_day", time), ["ap50_low", "ap50_high"]].tolist() == [expected.low, expected.high]
        assert rows.loc[("time_of_day", time), "ap50_95"] == pytest.approx(metrics.mean_average_precision(alone))
    assert rows.loc[("time_of_day", "day"), "ap50_low"] > rows.loc[("time_of_day", "night"), "ap50_high"]
    whole = ["images", "people", "ap50", "ap50_low", "ap50_high", "ap75", "ap50_95"]
    assert rows.loc[("source", "x"), whole].tolist() == rows.loc[("all", "everybody"), whole].tolist()
    for dimension, subsets in (("area", AREAS), ("height", HEIGHTS), ("visibility", VISIBILITIES)):
        for subset in subsets:
            row = rows.loc[(dimension, subset.name)]
            found = match_coco(boxes, predictions, images["image_id"].tolist(), subset)
            assert row["bounds"] == subset.bounds
            assert row["people"] == found[0].people.sum()
            assert row["ap50"] == pytest.approx(metrics.average_precision(found[0]))
            assert row["miss_rate"] == pytest.approx(metrics.miss_rate(found[0], 0.5))
            assert row["ap50_low"] <= row["ap50"] <= row["ap50_high"]
            assert row["miss_rate_low"] <= row["miss_rate"] <= row["miss_rate_high"]


def test_with_fewer_people_of_a_visibility_its_precision_falls_and_its_miss_rate_stays():
    boxes, predictions, images = street(200)
    rare = boxes.assign(visibility=np.where(np.random.default_rng(0).random(len(boxes)) < 0.1, 0.95, 0.5))
    stray = predictions.assign(x1=predictions["x1"] + 2000, x2=predictions["x2"] + 2000)
    found = pd.concat([predictions, stray])
    rows = breakdown(rare, found, images, 0.5, draw(200, 100, seed=0)).set_index(["by", "group"])
    bare, heavy = rows.loc[("visibility", "bare")], rows.loc[("visibility", "heavy")]
    assert bare["ap50_high"] < heavy["ap50_low"]
    assert bare["miss_rate_low"] < heavy["miss_rate"] < bare["miss_rate_high"]


def test_a_group_of_nobody_has_no_numbers_and_an_unnamed_one_is_unknown():
    boxes, predictions, images = street(12)
    lonely = images.assign(source=["y"] + [None] * 11)
    boxes = boxes.loc[boxes["image_id"] != "i0"].assign(visibility=1.0)
    rows = breakdown(boxes, predictions, lonely, 0.5, draw(12, 200, seed=0)).set_index(["by", "group"])
    assert rows.loc[("source", "y"), "people"] == rows.loc[("visibility", "hidden"), "people"] == 0
    assert rows.loc[("source", "y"), ["ap50", "ap50_low", "ap75", "ap50_95_high"]].isna().all()
    assert rows.loc[("source", "unknown"), "images"] == 11
    assert rows.loc[("source", "y"), "why"] == "the group has nobody"
    assert pd.isna(rows.loc[("all", "everybody"), "why"])


@pytest.mark.parametrize("kind", ["object", "category"])
def test_a_group_that_is_called_unknown_is_that_of_the_unnamed_ones(kind):
    boxes, predictions, images = street(12)
    mixed = images.assign(source=pd.Series(["y", "unknown"] + [None] * 10, dtype=kind).to_numpy())
    mixed["source"] = mixed["source"].astype(kind)
    rows = breakdown(boxes, predictions, mixed, 0.5, draw(12, 200, seed=0)).set_index(["by", "group"])
    assert rows.loc["source", "images"].to_dict() == {"unknown": 11, "y": 1}


def test_a_breakdown_of_other_images_is_refused():
    boxes, predictions, images = street(12)
    with pytest.raises(InputError, match="counts of 10 images for 12"):
        breakdown(boxes, predictions, images, 0.5, draw(10, 100, seed=0))
    with pytest.raises(InputError, match="column weather"):
        breakdown(boxes, predictions, images, 0.5, draw(12, 100, seed=0), by=["weather"])
    with pytest.raises(InputError, match="1 thresholds"):
        sampled_precisions(match_coco(boxes, predictions, images["image_id"].tolist(), ious=[0.5]), draw(12, 100, 0))
