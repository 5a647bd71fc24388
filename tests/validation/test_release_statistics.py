import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from release_tables import make_tables

from secpipeline.digests import canonical_json
from secpipeline.errors import InputError
from secpipeline.validation.comparison import COMPARED, against_baseline, against_peers
from secpipeline.validation.page import render
from secpipeline.validation.running import validate
from secpipeline.validation.statistics import ALL, BINS, BLOCK, SOURCE, SPLIT, collect, parse
from secpipeline.validation.suites import load_suite

EXPECTATIONS = Path(__file__).parents[2] / "expectations"
SOURCES = tuple(f"vendor-{letter}" for letter in "abcdef")


def release(seed=0, *, scenes=30, frames=2, mean=4.0):
    """Sources that differ by chance only."""
    rng = np.random.default_rng(seed)
    image_rows, box_rows = [], []
    for source in SOURCES:
        for scene in range(scenes):
            split = ("train", "train", "train", "calibration", "test")[scene % 5]
            people = rng.poisson(mean)
            for frame in range(frames):
                name = f"{source}/{scene:03}/{frame}"
                image_rows.append((name, 200, 160, int(rng.integers(8000, 12000)), source, f"{scene:03}", split, "day"))
                height = rng.lognormal(3.5, 0.4, people)
                box_rows += [(name, 5.0, 5.0, 5 + 0.4 * h, 5 + h, False, rng.uniform()) for h in height]
    columns = ["image_id", "width", "height", "length", "source", "scene", "split", "time_of_day"]
    images = pd.DataFrame(image_rows, columns=columns)
    boxes = pd.DataFrame(box_rows, columns=["image_id", "x1", "y1", "x2", "y2", "ignore", "visibility"])
    return images, boxes


def boxes_of(images, boxes, source):
    return boxes["image_id"].isin(images.loc[images["source"] == source, "image_id"])


def checked(name, frame):
    return validate(load_suite(EXPECTATIONS / f"{name}.json"), frame)


def warned(result):
    rows = [row for check in result.results if check.warned for row in check.examples]
    return {(row.get("source") or row["name"], row["measure"]) for row in rows}


def test_the_counts_are_those_of_counting_one_by_one():
    images, boxes = make_tables()
    boxes.loc[[0, 3], "ignore"] = True
    statistics = collect(images, [boxes])

    for (partition, name), group in statistics.groups.items():
        if partition not in (SPLIT, SOURCE, ALL):
            continue
        own = images if partition == ALL else images[images[partition] == name]
        labels = boxes[boxes["image_id"].isin(own["image_id"])]
        people = labels[~labels["ignore"]]
        per_image = own["image_id"].map(people["image_id"].value_counts()).fillna(0)
        assert group.images == len(own)
        assert group.boxes == len(people)
        assert group.ignored == len(labels) - len(people)
        assert group.empty == (per_image == 0).sum()
        assert group.boxes_squared == (per_image**2).sum()
        assert group.unknown_visibility == people["visibility"].isna().sum()
        assert group.scenes == len(own[["source", "scene"]].drop_duplicates())
        assert group.measures()["boxes_per_image"].value == pytest.approx(len(people) / len(own))
        middle = np.quantile(people["height"], 0.5, method="inverted_cdf")
        assert group.measures()["height_median"].value == pytest.approx(middle, rel=0.045)


def test_every_partition_holds_every_image_once():
    images, boxes = release()
    statistics = collect(images, [boxes])

    assert {partition for partition, _ in statistics.groups} == {"all", "split", "time_of_day", "source", "scene_block"}
    for partition in ("all", "split", "time_of_day", "source", "scene_block"):
        groups = statistics.of(partition).values()
        assert sum(group.images for group in groups) == len(images)
        assert sum(int(group.histograms["height"].sum()) for group in groups) == len(boxes)
    assert set(statistics.of(BLOCK)) == {f"{source} #{number}" for source in SOURCES for number in (0, 1)}


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 60), max_size=5), st.integers(0, 3))
def test_parts_give_the_statistics_of_the_whole(cuts, seed):
    images, boxes = make_tables(seed=seed)
    edges = sorted({0, len(boxes), *(min(cut, len(boxes)) for cut in cuts)})
    parts = [boxes.iloc[a:b] for a, b in itertools.pairwise(edges)]

    assert collect(images, parts).to_json() == collect(images, [boxes]).to_json()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(BINS)), st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bin_of_the_exact_one(name, values, share):
    bins = BINS[name]
    placed = bins.place(np.array(values))
    counts = np.bincount(placed, minlength=bins.count)
    ordered = np.sort(placed)
    exact = ordered[max(0, int(np.ceil(share * len(values) - 1e-9)) - 1)]

    found = bins.quantile(counts, share)

    low, high = np.log2([bins.low, bins.high]) if bins.logarithmic else (bins.low, bins.high)
    edges = [low + (high - low) * position / bins.count for position in (exact, exact + 1)]
    edges = [2**edge for edge in edges] if bins.logarithmic else edges
    assert edges[0] * (1 - 1e-9) <= found <= edges[1] * (1 + 1e-9)


def test_values_out_of_range_or_not_finite_do_no_harm():
    images, boxes = make_tables()
    boxes.loc[0, ["x1", "x2"]] = [np.nan, np.inf]
    boxes.loc[1, ["y1", "y2"]] = [10.0, 10.0]
    boxes.loc[2, ["y1", "y2"]] = [1e9, -1e9]
    boxes.loc[3, "image_id"] = "nobody"
    images.loc[0, ["source", "scene", "split"]] = None
    images.loc[1, "width"] = 0

    statistics = collect(pd.concat([images, images.head(3)]), [boxes])

    assert statistics.groups[ALL, ""].images == len(images)
    assert statistics.groups[ALL, ""].boxes == len(boxes) - 1
    assert json.loads(canonical_json(statistics.to_json()))
    assert len(against_peers(statistics))


def test_statistics_of_nothing_are_empty():
    images, boxes = make_tables()
    assert collect(images.head(0), [boxes]).groups == {}
    assert collect(images, []).groups[ALL, ""].boxes == 0


def test_honest_sources_do_not_stand_out():
    for seed in range(5):
        images, boxes = release(seed)
        result = checked("statistics", against_peers(collect(images, [boxes])))
        assert result.passed
        assert not list(result.warnings())


CHANGES = {
    "half of the boxes removed": ("boxes_per_image", lambda own, rng: own[rng.random(len(own)) < 0.4]),
    "no boxes at all": ("boxes_per_image", lambda own, rng: own.head(0)),
    "twice as tall": ("height_median", lambda own, rng: own.assign(y2=own["y1"] + 2 * (own["y2"] - own["y1"]))),
    "wider": ("aspect_median", lambda own, rng: own.assign(x2=own["x1"] + 1.8 * (own["x2"] - own["x1"]))),
    "all visible": ("visibility_median", lambda own, rng: own.assign(visibility=1.0)),
    "visibility forgotten": ("unknown_visibility_share", lambda own, rng: own.assign(visibility=np.nan)),
    "half ignored": ("ignored_share", lambda own, rng: own.assign(ignore=rng.random(len(own)) < 0.5)),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_source_that_differs_much_is_named_with_the_measure(case):
    measure, change = CHANGES[case]
    images, boxes = release(1, scenes=60)
    mine = boxes_of(images, boxes, "vendor-c")
    boxes = pd.concat([boxes[~mine], change(boxes[mine], np.random.default_rng(2))], ignore_index=True)

    result = checked("statistics", against_peers(collect(images, [boxes])))

    assert result.passed, "what is unusual is not wrong"
    assert ("vendor-c", measure) in warned(result)
    assert {source for source, _ in warned(result)} == {"vendor-c"}


def test_compressed_pictures_are_named():
    images, boxes = release()
    images.loc[images["source"] == "vendor-b", "length"] //= 3

    assert warned(checked("statistics", against_peers(collect(images, [boxes])))) == {
        ("vendor-b", "bits_per_pixel_median")
    }


def test_removals_that_ghosts_make_up_for_cannot_be_seen_here():
    images, boxes = release(3, scenes=60)
    mine = boxes_of(images, boxes, "vendor-c").to_numpy()
    moved = np.flatnonzero(mine)[::8]
    boxes.loc[moved, "image_id"] = np.roll(boxes.loc[moved, "image_id"].to_numpy(), 5)

    assert not list(checked("statistics", against_peers(collect(images, [boxes]))).warnings())


def test_few_scenes_or_peers_are_not_compared_and_said_to_be():
    images, boxes = release(scenes=4)
    few = against_peers(collect(images, [boxes]))
    assert set(few["status"]) == {"too few"}
    assert few["deviation"].isna().all()
    images, boxes = release()
    two = images["source"].isin(SOURCES[:2])
    assert set(against_peers(collect(images[two], [boxes]))["status"]) == {"too few"}


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 3), min_size=6, max_size=6), st.booleans())
def test_a_measure_that_was_compared_has_a_deviation(counts, known):
    images, boxes = release(scenes=12, frames=1)
    people = dict(zip(SOURCES, counts, strict=True))
    rank = boxes.groupby("image_id").cumcount()
    boxes = boxes[rank < boxes["image_id"].str.split("/").str[0].map(people)]
    boxes = boxes if known else boxes.assign(visibility=np.nan)

    frame = against_peers(collect(images, [boxes]))

    assert ((frame["status"] == COMPARED) == frame["deviation"].notna()).all()
    assert (frame["deviation"].dropna() >= 0).all()


def test_a_release_like_the_accepted_one_passes():
    images, boxes = release(0)
    accepted = collect(images, [boxes])
    for seed in range(4):
        images, boxes = release(seed)
        result = checked("baseline", against_baseline(collect(images, [boxes]), accepted))
        assert result.passed
        assert not list(result.warnings())


def test_a_drift_from_the_accepted_release_is_a_warning_and_a_leap_a_failure():
    images, boxes = release(0, scenes=60)
    accepted = collect(images, [boxes])
    rng = np.random.default_rng(4)
    drifted = checked("baseline", against_baseline(collect(images, [boxes[rng.random(len(boxes)) < 0.72]]), accepted))
    assert drifted.passed
    assert any("boxes_per_image" in warning for warning in drifted.warnings())
    leapt = checked("baseline", against_baseline(collect(images, [boxes[rng.random(len(boxes)) < 0.2]]), accepted))
    assert not leapt.passed
    assert any("boxes_per_image" in failure for failure in leapt.failures())


def test_sources_that_came_or_went_since_the_accepted_release_are_named():
    images, boxes = release()
    accepted = collect(images[images["source"] != "vendor-b"], [boxes])
    now = images.assign(source=images["source"].replace("vendor-c", "vendor-z"))

    frame = against_baseline(collect(now, [boxes]), accepted)
    status = frame[frame["partition"] == SOURCE].groupby("name")["status"].first().to_dict()

    assert status == {
        **dict.fromkeys(("vendor-a", "vendor-d", "vendor-e", "vendor-f"), COMPARED),
        **dict.fromkeys(("vendor-b", "vendor-z"), "new"),
        "vendor-c": "gone",
    }
    assert checked("baseline", frame).passed
    assert list(checked("baseline", frame).warnings())


def test_statistics_are_read_again_as_they_were_written():
    images, boxes = make_tables()
    statistics = collect(images, [boxes])
    data = canonical_json(statistics.to_json())

    assert parse(data, "statistics.json").to_json() == statistics.to_json()
    assert canonical_json(parse(data, "statistics.json").to_json()) == data


def damages():
    def set_path(*path, value):
        def damage(record):
            place = record
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value

        return damage

    return {
        "another version": set_path("version", value=2),
        "other bins": set_path("bins", "height", value=[1, 100, 10, True]),
        "no groups": set_path("groups", value=[]),
        "groups of no list": set_path("groups", value={"a": 1}),
        "a count that is none": set_path("groups", 0, "boxes", value=-1),
        "a count with a fraction": set_path("groups", 0, "images", value=1.5),
        "a count that is true": set_path("groups", 0, "images", value=True),
        "a bin that is not there": set_path("groups", 0, "histograms", "height", value={"9999": 1}),
        "a bin below none": set_path("groups", 0, "histograms", "height", value={"-3": 1}),
        "a bin that is no number": set_path("groups", 0, "histograms", "height", value={"x": 1}),
        "no histogram": set_path("groups", 0, "histograms", value={}),
    }


@pytest.mark.parametrize("case", damages())
def test_damaged_statistics_are_no_baseline(case):
    images, boxes = make_tables()
    record = json.loads(canonical_json(collect(images, [boxes]).to_json()))
    damages()[case](record)

    with pytest.raises(InputError, match=r"accepted\.json"):
        parse(json.dumps(record).encode(), "accepted.json")


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b'{"version": 1}', b"[" * 100_000, b"null"])
def test_what_is_no_statistics_is_no_baseline(data):
    with pytest.raises(InputError, match=r"accepted\.json"):
        parse(data, "accepted.json")


def test_the_page_shows_statistics_and_escapes_names():
    images, boxes = release()
    images["source"] = images["source"].replace("vendor-c", "<script>alert(3)</script>")
    accepted = collect(images.assign(source="<img src=x>"), [boxes])
    statistics = collect(images, [boxes[boxes.index % 2 == 0]])
    peers, change = against_peers(statistics), against_baseline(statistics, accepted)

    page = render([checked("statistics", peers), checked("baseline", change)], peers, change)

    assert "&lt;script&gt;alert(3)&lt;/script&gt;" in page
    assert "<script" not in page
    assert "<img" not in page
    assert "median of the sources" in page
    assert "boxes per image" in page
    assert "Against the accepted release" in page
