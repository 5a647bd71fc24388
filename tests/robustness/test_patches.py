"""Learned patches: where they are put, that they hurt, and the attacks of a training loop that use them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bright_detector import BrightDetector, street
from hypothesis import given, settings
from hypothesis import strategies as st

from secpipeline.datasets.loading import Truth
from secpipeline.detection.defences import Defences, Free, Patch
from secpipeline.detection.distillation import Distillation
from secpipeline.detection.recipes import Adversarial, Recipe
from secpipeline.detection.seen import SeenBatch
from secpipeline.errors import CannotDecide, InputError
from secpipeline.robustness import health
from secpipeline.robustness.adversaries import FreeAdversary, PatchAdversary, adversary
from secpipeline.robustness.attacks import AttackSpec
from secpipeline.robustness.health import attack_all
from secpipeline.robustness.patches import PatchSpec, hide, jitter, learn, paste, torsos, wear
from secpipeline.robustness.restarts import attack_restarts

VANISH = PatchSpec("worn", "vanish", fraction=0.3, texels=4, steps=15, rate=0.2)


def people(*boxes):
    return Truth(np.array(boxes, np.float32).reshape(-1, 4), np.zeros((0, 4), np.float32))


def patch(value, side=4):
    return torch.full((1, 3, side, side), float(value))


def test_a_patch_lies_on_the_torso_and_nowhere_else():
    images = torch.zeros(2, 3, 100, 80)
    truth = [people((20, 10, 40, 60)), people()]
    worn = paste(images, torsos(truth, 0.4), torch.cat([patch(1), patch(1)]))
    rows, columns = np.nonzero(worn[0, 0].numpy())
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (19, 38, 20, 39)
    assert worn[0, 0].sum() == 400
    assert torch.equal(worn[1], images[1])


def test_the_nearest_persons_patch_is_on_top():
    near, far = (10, 5, 50, 85), (20, 20, 40, 60)
    images = torch.zeros(1, 3, 100, 80)
    for boxes in ((near, far), (far, near)):
        places = torsos([people(*boxes)], 0.5)
        assert float(places[0, -1, 2]) == 40
        alone = paste(images, torsos([people(near)], 0.5), patch(1))
        assert torch.allclose(paste(images, places, patch(1)) * alone, alone)


def test_a_patch_keeps_its_picture():
    image = torch.zeros(1, 3, 40, 40)
    texture = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4) / 16
    worn = paste(image, torch.tensor([[[20.0, 20.0, 16.0]]]), texture)[0, :, 12:28, 12:28]
    shrunk = torch.nn.functional.avg_pool2d(worn[None], 4)
    assert torch.allclose(shrunk[0, :, 1:3, 1:3], texture[0, :, 1:3, 1:3], atol=0.01)
    assert shrunk[0, 0, 0, 0] < shrunk[0, 0, 0, 3] < shrunk[0, 0, 3, 3]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-20, 90), st.floats(-20, 70), st.floats(2, 60)), max_size=4), st.integers(0, 99))
def test_pasting_changes_only_pixels_within_the_squares_even_jittered(placed, seed):
    boxes = [(x, y, x + 0.4 * tall, y + tall) for x, y, tall in placed]
    places = jitter(torsos([people(*boxes)], 0.5), torch.Generator().manual_seed(seed))
    worn = paste(torch.zeros(1, 3, 64, 96), places, patch(1))[0, 0]
    allowed = torch.zeros(64, 96, dtype=torch.bool)
    for x, y, side in places[0].tolist():
        reach = side / 2 + 1e-3
        rows, columns = torch.arange(64) + 0.5, torch.arange(96) + 0.5
        allowed |= ((rows - y).abs() <= reach)[:, None] & ((columns - x).abs() <= reach)[None]
    assert set(worn.round(decimals=5).unique().tolist()) <= {0.0, 1.0}
    assert not worn[~allowed].any()
    assert worn.sum() >= 0.8 * allowed.sum() - 4


def test_hidden_images_wear_nothing():
    places = torsos([people((20, 10, 40, 60)), people((20, 10, 40, 60))], 0.4)
    worn = paste(torch.zeros(2, 3, 100, 80), hide(places, torch.tensor([True, False])), patch(1).repeat(2, 1, 1, 1))
    assert worn[0].sum() == 0
    assert worn[1].sum() > 0


def test_a_learned_patch_hides_people_it_was_not_learned_on():
    detector = BrightDetector()
    images, truth, _, _ = street(16, seed=1)
    others, their_truth, _, _ = street(16, seed=2)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    learned = learn(detector, images, truth, VANISH, batch_size=8, seed=0)
    assert learned.shape == (3, 4, 4)
    assert float(learned.mean()) < 0.3
    worn = wear(others, their_truth, learned, 0.3)
    assert worn.dtype == np.uint8
    crowded = [index for index, found in enumerate(their_truth) if len(found.boxes)]

    def seen(pictures):
        with torch.no_grad():
            return float(detector.logits(torch.from_numpy(pictures[crowded]).float() / 255).sigmoid().sum())

    grey = wear(others, their_truth, torch.full((3, 4, 4), 128 / 255), 0.3)
    assert seen(worn) < 0.1 * seen(others)
    assert seen(worn) < 0.2 * seen(grey)
    assert all(torch.equal(before[name], value) for name, value in detector.state_dict().items())
    assert all(parameter.requires_grad for parameter in detector.parameters())


def test_the_seed_decides_the_patch():
    detector, (images, truth, _, _) = BrightDetector(), street(8, seed=1)
    first, again, other = (learn(detector, images, truth, VANISH, 4, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_patch_needs_people_and_sane_numbers():
    images, _, _, _ = street(4)
    with pytest.raises(InputError, match="none of 4 images holds people"):
        learn(BrightDetector(), images, [people()] * 4, VANISH, 4, 0)
    for key, value in {"objective": "fly", "fraction": 0.0, "texels": 1, "steps": 0, "rate": 2.0}.items():
        with pytest.raises(InputError, match="patch worn"):
            PatchSpec(**{**vars(VANISH), key: value})


def test_restarts_are_at_least_as_strong_as_each_of_them():
    detector, (images, truth, _, _) = BrightDetector(), street(12, seed=3)
    spec = AttackSpec("pgd", "vanish", 4 / 255, 2 / 255, 1, random_start=True)

    def height(pictures):
        logits = detector.logits(torch.from_numpy(pictures).float() / 255)
        return -torch.nn.functional.softplus(logits).sum(1)

    worst = height(attack_restarts(detector, images, truth, spec, 3, 5, seed=0))
    singles = torch.stack([height(attack_all(detector, images, truth, spec, 5, seed).images) for seed in range(3)])
    assert torch.allclose(worst, singles.max(0).values, atol=1e-4)
    assert (singles.max(0).values > singles[0]).any()


# Training-loop attacks.

BOUND = Adversarial(4 / 255, 4 / 255, 2, clean_epochs=0)
NO_BOUND = Adversarial(0.0, 0.0, 2, clean_epochs=0)
RECIPE = Recipe("tiny", "csp_tiny", {}, (64, 96), 1, 4, 0.01, 0.0, 1, BOUND)


def scene(count=12):
    """A batch that went through the memory, with its targets."""
    images, truth, _, _ = street(count, seed=5, people=(1, 3))
    detector, seen = BrightDetector(), SeenBatch()
    tensor, truth = seen(torch.from_numpy(images).float() / 255, truth, None, None)
    return detector, tensor, truth, detector.encode(truth, 64, 96), seen


def changed_pixels(attacked, images):
    return ((attacked - images).abs() > 1e-6).any(1)


def test_the_patch_attack_hurts_and_keeps_to_the_squares_of_its_share():
    detector, images, truth, encoded, seen = scene()
    attack = PatchAdversary(Patch(0.3, share=0.5, decoys=False), NO_BOUND, seen)
    attacked = attack(detector, images, encoded, torch.Generator().manual_seed(0))
    touched = changed_pixels(attacked, images).flatten(1).any(1)
    assert 2 <= int(touched.sum()) <= 10
    loss = {key: detector.losses(x, encoded)["person"] for key, x in {"clean": images, "attacked": attacked}.items()}
    assert (loss["attacked"] - loss["clean"])[touched].mean() > 1
    inside = changed_pixels(paste(images, jitter_free(truth, 0.3 * 1.3), patch(1).repeat(12, 1, 1, 1)), images)
    assert not (changed_pixels(attacked, images) & ~inside).any()


def jitter_free(truth, fraction):
    return torsos(truth, fraction)


def test_patches_grow_stronger_through_an_epoch_and_begin_anew_with_the_next():
    detector, images, _, encoded, seen = scene()
    attack = PatchAdversary(Patch(0.15, share=1.0, decoys=False, patches=2, objective="vanish"), NO_BOUND, seen)
    epoch, next_epoch = (torch.Generator().manual_seed(seed) for seed in (0, 1))
    hurt = []
    for generator in [epoch] * 6 + [next_epoch]:
        with torch.no_grad():
            attacked = attack(detector, images, encoded, generator)
            hurt.append(float(detector.losses(attacked, encoded)["person"].mean()))
    assert hurt[5] > 3 * hurt[0]
    assert hurt[6] < 0.6 * hurt[5]


@pytest.mark.parametrize("composition", ["mixed", "joint", "alternating"])
def test_compositions_meet_the_threats_they_name(composition):
    detector, images, _, encoded, seen = scene()
    attack = PatchAdversary(Patch(0.3, share=0.5, decoys=False, composition=composition), BOUND, seen)
    large, any_change = [], []
    for seed in range(4):
        attacked = attack(detector, images, encoded, torch.Generator().manual_seed(seed))
        difference = (attacked - images).abs().flatten(1).max(1).values
        assert attacked.min() >= 0
        assert attacked.max() <= 1
        large.append(difference > BOUND.epsilon + 1e-5)
        any_change.append(difference > 0)
    large = torch.stack(large)
    assert torch.stack(any_change).all()
    whole = large.all(1) | ~large.any(1)
    assert bool(whole.all()) is (composition == "alternating")
    assert 0 < large.float().mean() < 1


def test_decoys_lie_where_nobody_is():
    detector, images, truth, encoded, seen = scene()
    everybody = changed_pixels(paste(images, torsos(truth, 0.4), patch(1).repeat(12, 1, 1, 1)), images)
    for decoys in (False, True):
        attack = PatchAdversary(Patch(0.3, share=1.0, decoys=decoys), NO_BOUND, seen)
        attacked = attack(detector, images, encoded, torch.Generator().manual_seed(0))
        assert bool((changed_pixels(attacked, images) & ~everybody).any()) is decoys


def test_free_training_moves_its_perturbation_with_the_backward_pass_of_training():
    detector, images, _, encoded, _ = scene()
    attack, generator = FreeAdversary(4 / 255), torch.Generator()
    losses = []
    for _ in range(4):
        attacked = attack(detector, images, encoded, generator)
        assert float((attacked - images).detach().abs().max()) <= 4 / 255 + 1e-6
        loss = detector.losses(attacked, encoded)["person"].mean()
        loss.backward()
        losses.append(float(loss.detach()))
    assert losses[0] < losses[1]
    clean = attack(detector, images, encoded, torch.Generator())
    assert torch.equal(clean, images)


def test_the_adversary_is_what_the_recipe_says():
    seen = SeenBatch()
    plain = RECIPE.__class__(**{**vars(RECIPE), "adversarial": None})
    still = RECIPE.__class__(**{**vars(RECIPE), "adversarial": NO_BOUND})
    assert adversary(plain, Defences(), seen) is None
    assert isinstance(adversary(RECIPE, Defences(patch=Patch(0.3)), seen), PatchAdversary)
    assert isinstance(adversary(still, Defences(patch=Patch(0.3)), seen), PatchAdversary)
    assert isinstance(adversary(RECIPE, Defences(free=Free()), seen), FreeAdversary)
    for recipe, found in ((plain, Defences(free=Free())), (plain, Defences(patch=Patch(0.3))), (still, Defences())):
        with pytest.raises(InputError, match="recipe tiny"):
            adversary(recipe, found, seen)


def test_the_linf_attack_remembers_the_clean_batch_for_a_teacher():
    detector, images, _, encoded, seen = scene()
    attack = adversary(RECIPE, Defences(distillation=Distillation("t", "robust")), seen)
    attacked = attack(detector, images, encoded, torch.Generator().manual_seed(0))
    assert 0 < float((attacked - images).abs().max()) <= 4 / 255 + 1e-6
    assert seen.find(attacked).images is images


def test_an_attack_whose_gradients_overflow_is_no_sign_of_robustness(monkeypatch):
    images = np.zeros((2, 3, 32, 32), np.uint8)
    found = SimpleNamespace(images=images, non_finite=np.array([False, True]))
    monkeypatch.setattr(health, "attack_all", lambda *_: found)
    spec = AttackSpec("pgd", "detection_loss", 4 / 255, 1 / 255, 2, random_start=True)
    with pytest.raises(CannotDecide, match="gradients of 1 images are not finite"):
        health.attack_soundly(None, images, [], spec, 2, 0)
    found.non_finite[1] = False
    assert health.attack_soundly(None, images, [], spec, 2, 0) is images
