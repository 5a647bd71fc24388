import numpy as np
import pytest

from secpipeline.errors import InputError
from secpipeline.robustness import policy
from secpipeline.robustness.corruptions import CORRUPTIONS, SEVERITIES, corrupt


@pytest.fixture(scope="module")
def scenes():
    """Pictures with edges, so that blur and compression have something to spoil."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(40, 220, (4, 3, 12, 16), dtype=np.uint8)
    return coarse.repeat(8, axis=2).repeat(8, axis=3)


def damage(before, after):
    return np.abs(after.astype(float) - before).mean()


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_corruption_is_seeded_keeps_shape_and_grows_with_severity(scenes, name):
    original = scenes.copy()
    levels = [corrupt(scenes, name, severity, seed=1) for severity in SEVERITIES]
    assert np.array_equal(scenes, original)
    assert all(level.shape == scenes.shape and level.dtype == np.uint8 for level in levels)
    assert 0 < damage(scenes, levels[0]) < damage(scenes, levels[1]) < damage(scenes, levels[2])
    assert np.array_equal(levels[1], corrupt(scenes, name, 2, seed=1))


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_an_image_is_corrupted_the_same_whatever_stands_behind_it(scenes, name):
    assert np.array_equal(corrupt(scenes, name, 2, seed=5)[:2], corrupt(scenes[:2], name, 2, seed=5))


@pytest.mark.parametrize("name", ["gaussian_noise", "motion_blur", "fog", "low_light"])
def test_another_seed_is_another_corruption(scenes, name):
    assert not np.array_equal(corrupt(scenes, name, 3, seed=1), corrupt(scenes, name, 3, seed=2))


def test_each_corruption_does_what_its_name_says(scenes):
    flat = np.full((1, 3, 96, 128), 128, np.uint8)
    assert 0.07 * 255 < corrupt(flat, "gaussian_noise", 2, seed=0).std() < 0.09 * 255
    assert np.array_equal(corrupt(flat, "motion_blur", 3, seed=0), flat)
    assert np.abs(np.diff(corrupt(scenes, "motion_blur", 3, seed=0).astype(int), axis=3)).max() < 180 / 4
    assert corrupt(flat, "fog", 3, seed=0).min() > 128
    assert corrupt(flat, "low_light", 2, seed=0).mean() == pytest.approx(0.4 * 128, rel=0.03)


@pytest.mark.parametrize(("name", "severity"), [("snow", 1), ("fog", 0), ("fog", 4)])
def test_unknown_corruptions_and_severities_are_refused(scenes, name, severity):
    with pytest.raises(InputError, match=name):
        corrupt(scenes, name, severity, seed=0)


def test_the_policy_knows_the_same_names():
    assert set(policy.CORRUPTIONS) == set(CORRUPTIONS)
    assert policy.SEVERITIES == SEVERITIES
