import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secpipeline.datasets.splits import assign_splits
from secpipeline.errors import InputError


def image_table(sources=4, scenes=20, frames=3):
    rows = [
        (f"vendor-{'abcdefgh'[source]}", f"scene-{scene:03d}")
        for source in range(sources)
        for scene in range(scenes)
        for _ in range(frames)
    ]
    return pd.DataFrame(rows, columns=["source", "scene"])


def by_scene(images, splits):
    """The set of splits that each scene's images are in."""
    return splits.groupby([images["source"], images["scene"]]).agg(set).to_dict()


tables = st.lists(
    st.tuples(st.sampled_from(["vendor-a", "vendor-b", "vendor-h"]), st.sampled_from("stuvwxyz")),
    min_size=1,
    max_size=60,
).map(lambda rows: pd.DataFrame(rows, columns=["source", "scene"]))
enough = tables.filter(lambda t: len(t[t["source"] != "vendor-h"].drop_duplicates()) >= 3)
shares = st.tuples(st.floats(0.01, 0.49), st.floats(0.01, 0.49))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(enough, shares, st.integers(0, 5))
def test_scenes_stay_whole_and_every_split_gets_some(images, share, seed):
    calibration, test = share

    splits = assign_splits(images, calibration, test, ("vendor-h",), seed)

    scenes = by_scene(images, splits)
    assert all(len(found) == 1 for found in scenes.values())
    assert all(found == {"test"} for (source, _), found in scenes.items() if source == "vendor-h")
    seen = [next(iter(found)) for (source, _), found in scenes.items() if source != "vendor-h"]
    assert set(seen) == {"train", "calibration", "test"}
    assert abs(seen.count("test") - test * len(seen)) <= 1
    assert abs(seen.count("calibration") - calibration * len(seen)) <= 1


@settings(max_examples=50, deadline=None, derandomize=True)
@given(enough, st.randoms(use_true_random=False))
def test_the_order_and_number_of_images_do_not_matter(images, random):
    order = list(range(len(images)))
    random.shuffle(order)
    shuffled = images.iloc[order]
    doubled = pd.concat([images, images], ignore_index=True)

    splits = assign_splits(images, seed=1)

    pd.testing.assert_series_equal(assign_splits(shuffled, seed=1).sort_index(), splits)
    assert assign_splits(doubled, seed=1).tolist() == splits.tolist() * 2


def test_the_result_lies_on_the_index_of_the_images():
    images = image_table().set_index(pd.Index([f"i{n}" for n in range(240)]))

    splits = assign_splits(images)

    assert splits.index.equals(images.index)
    assert splits.name == "split"


def test_every_source_gives_its_share_of_test_and_calibration_scenes():
    images = image_table()

    scenes = pd.Series({k: next(iter(v)) for k, v in by_scene(images, assign_splits(images, 0.15, 0.25)).items()})

    assert scenes.value_counts().to_dict() == {"train": 48, "test": 20, "calibration": 12}
    counts = scenes.groupby(level=0).value_counts().unstack()
    assert counts["test"].between(4, 6).all()
    assert counts["calibration"].between(2, 4).all()


def test_equal_scene_names_of_two_sources_are_two_scenes():
    images = image_table()

    scenes = by_scene(images, assign_splits(images))

    assert any(scenes["vendor-a", f"scene-{n:03d}"] != scenes["vendor-b", f"scene-{n:03d}"] for n in range(20))


def test_another_seed_is_another_assignment():
    images = image_table()

    assert assign_splits(images, seed=3).equals(assign_splits(images, seed=3))
    assert not assign_splits(images, seed=3).equals(assign_splits(images, seed=4))


def test_any_two_scenes_can_be_tested_together():
    images = image_table(sources=1, scenes=8, frames=1)

    pairs = {tuple(images["scene"][assign_splits(images, test=0.25, seed=seed) == "test"]) for seed in range(200)}

    assert len(pairs) == 8 * 7 / 2


def test_a_held_out_source_is_tested_on_top_of_the_share_and_only_where_it_is_present():
    images = image_table()

    held = by_scene(images, assign_splits(images, test=0.25, holdout_sources=("vendor-b", "vendor-z")))

    assert all(held["vendor-b", f"scene-{n:03d}"] == {"test"} for n in range(20))
    others = [found for (source, _), found in held.items() if source != "vendor-b"]
    assert others.count({"test"}) == 15


@pytest.mark.parametrize(
    ("calibration", "test"),
    [(0, 0.2), (0.2, 0), (-0.1, 0.5), (0.5, 0.5), (0.9, 0.2), (float("nan"), 0.2), (0.2, float("inf"))],
)
def test_shares_that_leave_a_split_empty_are_refused(calibration, test):
    with pytest.raises(InputError, match=r"^splits: calibration .* and test .* must be positive"):
        assign_splits(image_table(), calibration, test)


@pytest.mark.parametrize(
    ("images", "holdout", "count"),
    [
        (image_table(sources=1, scenes=2), (), 2),
        (image_table(sources=2, scenes=20), ("vendor-a", "vendor-b"), 0),
        (image_table(sources=1, scenes=1, frames=50), (), 1),
        (image_table(sources=2, scenes=2), ("vendor-b",), 2),
    ],
)
def test_too_few_scenes_for_three_splits_are_refused_with_their_number(images, holdout, count):
    with pytest.raises(InputError, match=f"^splits: {count} scenes outside the held-out sources, at least 3"):
        assign_splits(images, holdout_sources=holdout)
