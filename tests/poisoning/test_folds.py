import pandas as pd
import pytest

from secpipeline.errors import InputError
from secpipeline.poisoning.folds import assign_folds


def make_images(sources, scenes=4, frames=3):
    rows = [
        {"image_id": f"{source}/{scene}/{frame}", "source": source, "scene": str(scene)}
        for source in sources
        for scene in range(scenes)
        for frame in range(frames)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_whole_sources_are_left_out_and_folds_are_balanced(k):
    images = make_images("abcdefgh")

    folds = assign_folds(images, k, seed=0)

    assert (images.assign(fold=folds).groupby("source")["fold"].nunique() == 1).all()
    assert set(folds) == set(range(k))
    sizes = folds.value_counts()
    assert sizes.max() - sizes.min() <= 12


def test_with_few_sources_no_scene_is_shared():
    images = make_images("ab", scenes=5)

    folds = assign_folds(images, 3, seed=0)

    assert (images.assign(fold=folds).groupby(["source", "scene"])["fold"].nunique() == 1).all()
    assert folds.nunique() == 3


def test_the_same_scene_name_in_two_sources_is_two_scenes():
    assert assign_folds(make_images("ab", scenes=1), 2, seed=0).nunique() == 2


def test_row_order_does_not_matter_and_the_seed_does():
    images = make_images("abcdefgh")
    shuffled = images.sample(frac=1, random_state=1)

    folds = assign_folds(images, 3, seed=0)

    assert assign_folds(shuffled, 3, seed=0).sort_index().equals(folds)
    assert any(not assign_folds(images, 3, seed=seed).equals(folds) for seed in range(1, 6))


def test_scenes_with_the_same_picture_stay_together():
    images = make_images("ab", scenes=6)
    twins = pd.DataFrame({"image_id": ["a/0/0", "b/1/2"], "other_id": ["b/1/1", "a/4/0"]})

    folds = assign_folds(images, 3, seed=0, twins=twins).set_axis(images["image_id"])

    assert folds["a/0/0"] == folds["b/1/1"] == folds["a/4/0"]
    assert (images.assign(fold=folds.to_numpy()).groupby(["source", "scene"])["fold"].nunique() == 1).all()
    assert folds.nunique() == 3


def test_whole_sources_are_left_out_whatever_they_share():
    images = make_images("abcd")
    twins = pd.DataFrame({"image_id": ["a/0/0"], "other_id": ["b/0/0"]})

    assert assign_folds(images, 2, seed=0, twins=twins).equals(assign_folds(images, 2, seed=0))


def test_too_few_scenes_or_folds_are_refused():
    with pytest.raises(InputError, match="2 scenes cannot fill 3 folds"):
        assign_folds(make_images("a", scenes=2), 3, seed=0)
    with pytest.raises(InputError, match=r"audit\.folds is 1"):
        assign_folds(make_images("ab"), 1, seed=0)
