import dataclasses
import itertools

import numpy as np
import pytest
import torch
from bright_detector import BrightDetector, street
from hypothesis import given, settings
from hypothesis import strategies as st

from secpipeline.datasets.loading import Truth
from secpipeline.detection import registry
from secpipeline.errors import CannotDecide, InputError
from secpipeline.robustness.attacks import AttackSpec, craft, grey_patch, perturb, sign_noise, to_8_bit
from secpipeline.robustness.objectives import OBJECTIVES

EPSILON = 4 / 255
THRESHOLD = 0.5


def attack(objective, steps=10, epsilon=EPSILON, random_start=True):
    return AttackSpec(objective, objective, epsilon, epsilon / max(1, steps) * 2, steps, random_start)


def batch(count=6, seed=0, people=(0, 3)):
    images, truth, _, _ = street(count, seed, people)
    detector = BrightDetector()
    return detector, torch.from_numpy(images).float() / 255, detector.encode(truth, *images.shape[2:]), truth


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def detections(detector, images):
    return sum(len(found.scores) for found in detector.detect(images, THRESHOLD))


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(sorted(OBJECTIVES.keys() - {"misplace"})),
    st.floats(0.5 / 255, 64 / 255),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_attacked_images_stay_in_the_ball_and_in_range(objective, epsilon, steps, random_start, seed):
    detector, images, encoded, _ = batch(2, seed)
    attacked = perturb(detector, images, encoded, attack(objective, steps, epsilon, random_start), seeded(seed))
    assert (attacked - images).abs().max() <= epsilon + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1


def test_loss_rises_with_the_detection_loss_attack_and_more_with_more_steps():
    detector, images, encoded, _ = batch()
    spec = AttackSpec("small steps", "detection_loss", EPSILON, EPSILON / 10, 1, False)
    losses = [OBJECTIVES["detection_loss"](detector, images, encoded)]
    for steps in (1, 5, 10):
        attacked = perturb(detector, images, encoded, AttackSpec(**{**vars(spec), "steps": steps}), seeded())
        losses.append(OBJECTIVES["detection_loss"](detector, attacked, encoded))
    assert all((after > before).all() for before, after in itertools.pairwise(losses))


def test_one_step_without_random_start_is_the_fast_gradient_sign_method():
    detector, images, encoded, _ = batch()
    wanted = images.clone().requires_grad_(True)
    OBJECTIVES["detection_loss"](detector, wanted, encoded).sum().backward()
    expected = (images + EPSILON * wanted.grad.sign()).clamp(0, 1)
    spec = AttackSpec("fgsm", "detection_loss", EPSILON, EPSILON, 1, random_start=False)
    torch.testing.assert_close(perturb(detector, images, encoded, spec, seeded()), expected)


def test_vanish_hides_everybody_and_fabricate_invents_people():
    detector, images, encoded, truth = batch()
    people = sum(len(one.boxes) for one in truth)
    assert detections(detector, images) == people > 0
    assert detections(detector, perturb(detector, images, encoded, attack("vanish"), seeded())) == 0
    assert detections(detector, perturb(detector, images, encoded, attack("fabricate"), seeded())) > people


def test_misplace_leaves_people_found_elsewhere_and_does_not_look_at_scores():
    detector = registry.build("csp_tiny", {"channels": [8, 16, 16]}, seed=3).eval()
    torch.nn.init.normal_(
        detector.scale.weight, std=0.05, generator=seeded()
    )  # an untrained one says the same everywhere
    truth = [Truth(np.array([[20, 10, 40, 70]], np.float32), np.zeros((0, 4), np.float32))]
    images = torch.rand(1, 3, 96, 64, generator=seeded())
    encoded = detector.encode(truth, 96, 64)
    attacked = perturb(detector, images, encoded, attack("misplace", epsilon=32 / 255), seeded())
    place = encoded.positive.flatten(1)
    boxes = [detector.dense(seen)[0][place] for seen in (images, attacked)]
    wanted = torch.from_numpy(truth[0].boxes)
    assert (boxes[1] - wanted).abs().sum() > 1.05 * (boxes[0] - wanted).abs().sum()
    elsewhere = dataclasses.replace(encoded, centre=torch.zeros_like(encoded.centre))
    before, after = (OBJECTIVES["misplace"](detector, images, targets) for targets in (encoded, elsewhere))
    assert torch.equal(before, after)


def test_misplace_needs_a_detector_that_names_the_terms_about_places():
    detector, images, encoded, _ = batch()
    with pytest.raises(InputError, match="bright: does not name the terms of its loss that are about places"):
        perturb(detector, images, encoded, attack("misplace"), seeded())


def test_fabricate_has_a_gradient_on_images_without_people():
    detector, images, encoded, _ = batch(3, people=(0, 0))
    crafted = craft(detector, images, encoded, attack("fabricate"), seeded())
    assert not crafted.zero_gradient.any()
    assert (detector.logits(crafted.images) > detector.logits(images)).all()


def test_images_of_a_batch_do_not_influence_each_other():
    detector, images, encoded, _ = batch()
    spec = attack("detection_loss", random_start=False)
    together = perturb(detector, images, encoded, spec, seeded())
    alone = perturb(detector, images[2:3], encoded[torch.tensor([2])], spec, seeded())
    torch.testing.assert_close(together[2:3], alone)


def test_the_generator_decides_the_random_start_and_nothing_else_does():
    detector, images, encoded, _ = batch()
    spec = AttackSpec("short", "vanish", EPSILON, EPSILON / 4, 1, random_start=True)
    first = perturb(detector, images, encoded, spec, seeded(1))
    torch.manual_seed(99)
    assert torch.equal(first, perturb(detector, images, encoded, spec, seeded(1)))
    assert not torch.equal(first, perturb(detector, images, encoded, spec, seeded(2)))


@pytest.mark.parametrize("training", [True, False])
def test_the_detector_is_left_as_it_was(training):
    detector, images, encoded, _ = batch()
    detector.train(training)
    before = detector.gain.detach().clone()
    with torch.no_grad():
        perturb(detector, images, encoded, attack("detection_loss"), seeded())
    assert detector.training is training
    assert detector.gain.requires_grad
    assert detector.gain.grad is None
    assert torch.equal(detector.gain, before)


def test_weights_are_asked_for_gradients_again_after_an_attack_that_raised():
    class Raising(BrightDetector):
        def losses(self, images, encoded):
            raise ValueError("no losses today")

    detector, images, encoded = Raising(), *batch()[1:3]
    with pytest.raises(ValueError, match="no losses today"):
        perturb(detector, images, encoded, attack("detection_loss"), seeded())
    assert detector.gain.requires_grad


class Overflowing(BrightDetector):
    """NaN gradient for the second image alone."""

    def losses(self, images, encoded):
        poison = torch.ones(len(images))
        poison[1] = float("nan")
        return {"person": super().losses(images, encoded)["person"] * poison}


def test_a_gradient_that_is_not_finite_is_refused_and_names_the_image():
    _, images, encoded, _ = batch()
    with pytest.raises(CannotDecide, match=r"images \[1\] of the batch"):
        perturb(Overflowing(), images, encoded, attack("detection_loss"), seeded())


def test_craft_reports_unusable_gradients_image_by_image():
    _, images, encoded, _ = batch()
    crafted = craft(Overflowing(), images, encoded, attack("detection_loss", random_start=False), seeded())
    assert crafted.non_finite.tolist() == [False, True, False, False, False, False]
    assert torch.equal(crafted.images[1], images[1])
    assert crafted.images.isfinite().all()
    assert not crafted.zero_gradient.any()
    assert craft(BrightDetector(gain=0), images, encoded, attack("vanish"), seeded()).zero_gradient.all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "confuse"}, "objective"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": 4.0}, "epsilon"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"step_size": 0.0}, "step_size"),
        ({"step_size": 1.0}, "step_size"),
        ({"steps": 0}, "steps"),
    ],
)
def test_an_impossible_attack_is_refused(change, message):
    values = {
        "name": "pgd",
        "objective": "vanish",
        "epsilon": EPSILON,
        "step_size": 0.01,
        "steps": 3,
        "random_start": True,
    }
    with pytest.raises(InputError, match=message):
        AttackSpec(**{**values, **change})


@given(st.integers(0, 2**31), st.integers(1, 40))
def test_rounding_to_8_bits_keeps_the_ball(seed, levels):
    rng = np.random.default_rng(seed)
    original = rng.integers(0, 256, (1, 3, 5, 7), dtype=np.uint8)
    epsilon = (levels - 0.5 * rng.integers(0, 2)) / 255
    noise = rng.uniform(-epsilon, epsilon, original.shape)
    attacked = torch.from_numpy(np.clip(original / 255 + noise, 0, 1)).float()
    rounded = to_8_bit(attacked, original, epsilon)
    assert np.abs(rounded.astype(int) - original).max() <= epsilon * 255 + 1e-6
    assert np.abs(rounded / 255 - attacked.numpy()).max() <= 1 / 255


def test_sign_noise_moves_every_pixel_by_epsilon_and_does_not_fool_the_detector():
    detector = BrightDetector()
    images, truth, _, _ = street(8)
    noisy = sign_noise(images, EPSILON, seed=0)
    assert set(np.unique(np.abs(noisy.astype(int) - images))) == {4}
    assert np.array_equal(noisy, sign_noise(images, EPSILON, seed=0))
    people = sum(len(one.boxes) for one in truth)
    assert detections(detector, torch.from_numpy(noisy).float() / 255) == people


def test_grey_patch_covers_a_square_on_the_torso_of_everybody_and_nothing_else():
    images = np.zeros((2, 3, 100, 80), np.uint8)
    truth = [
        Truth(np.array([[20, 10, 52, 90]], np.float32), np.zeros((0, 4), np.float32)),
        Truth(np.zeros((0, 4), np.float32), np.array([[0, 0, 9, 9]], np.float32)),
    ]
    patched = grey_patch(images, truth, 0.25)
    rows, columns = np.nonzero(patched[0, 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (30, 49, 26, 45)
    assert set(np.unique(patched[0])) == {0, 128}
    assert not patched[1].any()
    assert not images.any()


def test_grey_patch_is_cut_at_the_image_and_checks_what_it_gets():
    images = np.zeros((1, 3, 40, 40), np.uint8)
    truth = [Truth(np.array([[-20, -20, 4, 60]], np.float32), np.zeros((0, 4), np.float32))]
    assert grey_patch(images, truth, 1.0).any()
    with pytest.raises(InputError, match="fraction"):
        grey_patch(images, truth, 0.0)
    with pytest.raises(InputError, match="1 images but truth for 2"):
        grey_patch(images, truth * 2, 0.5)
