import dataclasses
import random
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rectangles import pictures, truth

from secpipeline.detection.augment import Augmentation
from secpipeline.detection.csp import CspTiny
from secpipeline.detection.recipes import Adversarial, Recipe
from secpipeline.detection.registry import build
from secpipeline.detection.training import train
from secpipeline.errors import CannotDecide, InputError
from secpipeline.robustness.attacks import AttackSpec, perturb

CPU = torch.device("cpu")
RECIPE = Recipe("tiny", "csp_tiny", {"channels": [8, 16, 16]}, (64, 64), 5, 4, 0.004, 1e-4, 1, None)
ADVERSARIAL = dataclasses.replace(RECIPE, adversarial=Adversarial(8 / 255, 8 / 255, 1, clean_epochs=2))
IMAGES, PEOPLE = pictures(10, seed=4)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise(detector, images, encoded, generator):
    step = torch.rand(images.shape, generator=generator) * 2 - 1
    return (images + step * 8 / 255).clamp(0, 1)


def attack_of(recipe):
    return noise if recipe.adversarial else None


def fresh(recipe=RECIPE, kind=CspTiny):
    detector = build(recipe.detector, dict(recipe.config), seed=recipe.seed)
    detector.__class__ = kind
    return detector


def run(recipe=RECIPE, detector=None, images=IMAGES, people=PEOPLE, **keywords):
    detector = detector or fresh(recipe)
    keywords = {"perturb": attack_of(recipe), "device": CPU, **keywords}
    return detector, train(detector, images, people, recipe, **keywords)


def same(first, second):
    second = second.state_dict()
    return all(torch.equal(tensor, second[name]) for name, tensor in first.state_dict().items())


def test_the_loss_falls_on_a_small_set():
    detector, record = run(dataclasses.replace(RECIPE, epochs=25))
    assert len(record.losses) == 25
    assert record.losses[-1] < 0.6 * record.losses[0]
    assert (record.recipe, record.images, record.resumed_at, record.device) == ("tiny", 250, 0, "cpu")
    assert record.seconds > 0
    assert not detector.training


def test_the_seed_decides_the_weights_and_nothing_else_does():
    first, record = run()
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    second, again = run()
    assert same(first, second)
    assert record.losses == again.losses
    start = fresh()
    other, _ = run(dataclasses.replace(RECIPE, seed=2), detector=start)
    assert not same(first, other)


class Recording(CspTiny):
    """Keeps the height of every person it is shown, batch by batch."""

    seen: list

    def encode(self, people, height, width):
        self.seen.append([float(side) for person in people for side in person.boxes[:, 3] - person.boxes[:, 1]])
        return super().encode(people, height, width)


def test_every_epoch_sees_the_images_augmented_anew():
    detector = fresh(kind=Recording)
    detector.seen = []
    run(detector=detector, images=IMAGES[:4], people=[truth([(24, 20, 36, 44)])] * 4)
    assert len(detector.seen) == RECIPE.epochs
    heights = [height for epoch in detector.seen for height in epoch]
    assert len(set(heights)) == len(heights) == 4 * RECIPE.epochs


def test_the_images_are_left_as_they_were():
    images = IMAGES.copy()
    run(dataclasses.replace(RECIPE, epochs=1), images=images)
    assert np.array_equal(images, IMAGES)


class Kill(BaseException):
    """As sudden as SIGKILL, but survived by the test."""


def killed_after(steps):
    """A detector whose training dies in its step number ``steps``, counted from 0."""

    class Killed(CspTiny):
        taken = 0

        def losses(self, images, encoded):
            if Killed.taken == steps:
                raise Kill
            Killed.taken += 1
            return super().losses(images, encoded)

    return Killed


@pytest.mark.parametrize("recipe", [RECIPE, ADVERSARIAL], ids=["clean", "adversarial"])
@pytest.mark.parametrize(("steps", "epochs"), [(2, 0), (3, 1), (7, 2), (13, 4)])
def test_a_training_that_was_killed_and_resumed_ends_with_the_weights_of_one_that_was_not(
    tmp_path, recipe, steps, epochs
):
    unbroken, whole = run(recipe)
    with pytest.raises(Kill):
        run(recipe, detector=fresh(recipe, killed_after(steps)), checkpoint_dir=tmp_path / "resume")
    resumed, record = run(
        recipe,
        detector=fresh(dataclasses.replace(recipe, seed=77)) if epochs else None,
        checkpoint_dir=tmp_path / "resume",
    )
    assert record.resumed_at == epochs
    assert record.images == (recipe.epochs - epochs) * len(IMAGES)
    assert record.losses == whole.losses
    assert same(unbroken, resumed)


def test_a_training_that_was_killed_twice_ends_the_same(tmp_path):
    unbroken, whole = run()
    for steps in (4, 4):
        with pytest.raises(Kill):
            run(detector=fresh(kind=killed_after(steps)), checkpoint_dir=tmp_path)
    resumed, record = run(checkpoint_dir=tmp_path)
    assert record.resumed_at == 2
    assert record.losses == whole.losses
    assert same(unbroken, resumed)


def test_a_finished_training_is_not_trained_again(tmp_path):
    detector, record = run(checkpoint_dir=tmp_path)
    again, resumed = run(detector=fresh(dataclasses.replace(RECIPE, seed=8)), checkpoint_dir=tmp_path)
    assert (resumed.resumed_at, resumed.images, resumed.losses) == (RECIPE.epochs, 0, record.losses)
    assert same(detector, again)


@pytest.mark.parametrize(
    "change", [{"learning_rate": 0.002}, {"epochs": 3}, {"seed": 3}, {"batch_size": 5}, {"name": "other"}]
)
def test_the_checkpoint_of_another_recipe_is_ignored(tmp_path, change):
    run(dataclasses.replace(RECIPE, epochs=2), checkpoint_dir=tmp_path)
    other = dataclasses.replace(RECIPE, **{"epochs": 2, **change})
    resumed, record = run(other, checkpoint_dir=tmp_path)
    assert record.resumed_at == 0
    assert same(resumed, run(other)[0])


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path):
    run(dataclasses.replace(RECIPE, epochs=1), checkpoint_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=re.escape(str(path))):
        run(dataclasses.replace(RECIPE, epochs=1), checkpoint_dir=tmp_path)


class Overflowing(CspTiny):
    """The loss of the third batch is not a number; ``batch`` is what it was made of."""

    batch: list

    def encode(self, people, height, width):
        self.batch.append([len(person.ignore) for person in people])
        return super().encode(people, height, width)

    def losses(self, images, encoded):
        terms = super().losses(images, encoded)
        return {name: term * float("nan") if len(self.batch) == 3 else term for name, term in terms.items()}


def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_images():
    # As many ignored regions as the image's number, so that a batch tells which images it holds.
    marked = [truth(ignore=[(20, 20, 44, 44)] * number) for number in range(8)]
    detector = fresh(kind=Overflowing)
    detector.batch = []
    with pytest.raises(CannotDecide, match="loss is nan on images") as raised:
        run(dataclasses.replace(RECIPE, batch_size=2), detector, IMAGES[:8], marked)
    assert len(detector.batch) == 3
    assert f"on images {detector.batch[2]};" in str(raised.value)


def test_an_adversarial_recipe_and_an_attack_belong_together():
    with pytest.raises(InputError, match="belong together"):
        run(ADVERSARIAL, perturb=None)
    with pytest.raises(InputError, match="belong together"):
        run(RECIPE, perturb=noise)


def test_the_attack_begins_after_the_clean_epochs_and_is_what_is_learned_from():
    seen = []

    def attack(detector, images, encoded, generator):
        seen.append(len(images))
        return noise(detector, images, encoded, generator)

    attacked, record = run(ADVERSARIAL, perturb=attack)
    assert seen == [4, 4, 2] * (ADVERSARIAL.epochs - 2)
    unchanged, clean = run(ADVERSARIAL, perturb=lambda detector, images, encoded, generator: images)
    assert record.losses[:2] == clean.losses[:2]
    assert record.losses[2] != clean.losses[2]
    assert not same(attacked, unchanged)
    assert same(unchanged, run(RECIPE)[0])


@pytest.mark.parametrize(("count", "truths"), [(0, 0), (4, 3), (0, 2)])
def test_training_on_nothing_or_on_unequal_lists_is_refused(count, truths):
    with pytest.raises(InputError, match=f"{count} training images and {truths} truths"):
        run(images=IMAGES[:count], people=PEOPLE[:truths])


HEIGHT, WIDTH = 96, 128


def two_coloured(x1, y1, x2, y2):
    """A rectangle on black, its left half red and its right half blue: mirrored it is blue and red."""
    image = np.zeros((1, 3, HEIGHT, WIDTH), np.uint8)
    image[0, 0, y1:y2, x1 : (x1 + x2) // 2] = 255
    image[0, 2, y1:y2, (x1 + x2) // 2 : x2] = 255
    return image


def augmented(image, people, seed):
    moved, changed = Augmentation(np.random.default_rng(seed), zoom=1.1).apply(image, [people])
    return moved[0], changed[0]


def extent(bright):
    """Outer edges of the bright pixels as a box."""
    rows, columns = np.nonzero(bright)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


# Within the middle of the frame, which no augmentation moves out of sight or shows a second time in the filled border.
@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.integers(46, 56), st.integers(34, 38), st.integers(16, 24), st.integers(20, 26))
def test_boxes_follow_the_pixels(seed, x, y, width, height):
    box = (x, y, x + width, y + height)
    moved, people = augmented(two_coloured(*box), truth([box], [box]), seed)
    assert people.boxes.shape == people.ignore.shape == (1, 4)
    assert np.array_equal(people.boxes, people.ignore)
    assert np.abs(extent(moved.max(axis=0) > 0.3) - people.boxes[0]).max() <= 1.5


def test_mirrored_pictures_have_mirrored_boxes():
    box = (44, 34, 60, 60)
    mirrored = []
    for seed in range(40):
        moved, people = augmented(two_coloured(*box), truth([box]), seed)
        red, blue = extent(moved[0] > 0.3), extent(moved[2] > 0.3)
        mirrored.append(bool(red[0] > blue[0]))
        assert np.abs(np.array([min(red[0], blue[0]), max(red[2], blue[2])]) - people.boxes[0, [0, 2]]).max() <= 1.5
    assert 8 <= sum(mirrored) <= 32


def test_pictures_are_seen_nearer_and_farther_shifted_and_under_another_light():
    box = (56, 35, 72, 61)
    found = [augmented(two_coloured(*box), truth([box]), seed) for seed in range(40)]
    heights = np.array([people.boxes[0, 3] - people.boxes[0, 1] for _, people in found]) / 26
    assert heights.min() < 0.96
    assert heights.max() > 1.06
    places = np.array([people.boxes[0, :2] + people.boxes[0, 2:] for _, people in found]) / 2
    assert (places.std(axis=0) > 1).all()
    brightest = np.array([moved.max() for moved, _ in found])
    assert brightest.min() < 0.8
    assert brightest.max() > 0.95


def test_people_who_leave_the_frame_become_ignored_regions_and_all_boxes_stay_inside():
    corner = (0, 0, 6, 70)
    kept, hidden = 0, 0
    for seed in range(120):
        _, people = augmented(np.zeros((1, 3, HEIGHT, WIDTH), np.uint8), truth([corner]), seed)
        kept, hidden = kept + len(people.boxes), hidden + len(people.ignore)
        assert len(people.boxes) + len(people.ignore) <= 1
        for boxes in (people.boxes, people.ignore):
            assert boxes.dtype == np.float32
            assert (boxes[:, :2] >= 0).all()
            assert (boxes[:, 2:] <= [WIDTH, HEIGHT]).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert kept > 40
    assert hidden > 2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["black", "white", "noise"]))
def test_augmented_pixels_stay_in_range_and_the_original_stays_as_it_was(seed, content):
    rng = np.random.default_rng(seed)
    images = {
        "black": np.zeros((2, 3, 32, 48), np.uint8),
        "white": np.full((2, 3, 32, 48), 255, np.uint8),
        "noise": rng.integers(0, 256, (2, 3, 32, 48), dtype=np.uint8),
    }[content]
    before = images.copy()
    moved, people = Augmentation(rng, zoom=1.1).apply(images, [truth(), truth([(4, 4, 12, 28)])])
    assert moved.shape == images.shape
    assert moved.dtype == np.float32
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert len(people) == 2
    assert np.array_equal(images, before)


def test_equal_seeds_augment_equally_and_others_do_not():
    first, people = augmented(IMAGES[:1], PEOPLE[0], 3)
    again, same_people = augmented(IMAGES[:1], PEOPLE[0], 3)
    other, _ = augmented(IMAGES[:1], PEOPLE[0], 4)
    assert np.array_equal(first, again)
    assert np.array_equal(people.boxes, same_people.boxes)
    assert not np.array_equal(first, other)


def test_a_zoomed_out_frame_shows_nobody_a_second_time():
    box = (2, 30, 14, 60)
    fewer = 0
    for seed in range(60):
        moved, people = Augmentation(np.random.default_rng(seed), zoom=2.0).apply(two_coloured(*box), [truth([box])])
        known = np.concatenate([people[0].boxes, people[0].ignore])
        bright = np.argwhere(moved[0].max(axis=0) > 0.4)
        inside = [
            any(b[0] - 2 <= x <= b[2] + 1 and b[1] - 2 <= y <= b[3] + 1 for b in known.tolist()) for y, x in bright
        ]
        assert all(inside), seed
        fewer += len(known) and known[0, 3] - known[0, 1] < 24
    assert fewer > 10


def test_an_attack_in_the_loop_leaves_no_trace_in_the_detector():
    detector = build("csp_tiny", {"channels": [8, 16, 16]}, seed=0).train()
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    encoded = detector.encode([truth([(8, 8, 24, 48)]), truth()], 64, 64)
    spec = AttackSpec("pgd", "detection_loss", 4 / 255, 1 / 255, 3, random_start=True)
    attacked = perturb(detector, images, encoded, spec, torch.Generator().manual_seed(0))
    assert not torch.equal(attacked, images)
    assert detector.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())
    assert all(parameter.requires_grad for parameter in detector.parameters())
