"""The defences of a recipe: read strictly, composed, and each doing what it says."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rectangles import pictures, truth

from secpipeline.detection import defences, registry
from secpipeline.detection.corrupting import AugMix
from secpipeline.detection.distillation import Distillation, divergence, penalty
from secpipeline.detection.mixing import CutMix, Mosaic
from secpipeline.detection.preprocessing import Preprocessed, jpeg, median, resample
from secpipeline.detection.seen import Replay, SeenBatch
from secpipeline.errors import InputError

RECIPE = Path("recipe.yaml")
TINY = {"channels": [4, 4, 4]}
ALL = {
    "augmix": {"severity": 0.3, "chains": 2},
    "cutmix": {"probability": 0.5},
    "distillation": {"teacher": "standard", "kind": "defensive", "temperature": 4},
    "mosaic": {},
    "patch": {"fraction": "9/20", "composition": "joint"},
    "preprocessing": {"kind": "jpeg", "strength": 60},
}


def batch(count=6, seed=0):
    images, people = pictures(count, seed=seed)
    return torch.from_numpy(images).float() / 255, people


def generators(seed=0):
    return np.random.default_rng(seed), torch.Generator().manual_seed(seed)


def test_all_defences_are_read():
    found = defences.read(ALL, "recipe.yaml")
    assert found.augmix == AugMix(0.7, 0.3, 2)
    assert found.patch.fraction == pytest.approx(0.45)
    assert found.distillation.temperature == 4.0
    assert found.free is None
    defences.check(ALL, RECIPE)
    defences.check({}, RECIPE)


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ([], "defences must hold a mapping"),
        ({"armour": {}}, "unknown defence 'armour'"),
        ({"cutmix": None}, "defences.cutmix: must hold a mapping"),
        ({"cutmix": {"share": 1}}, "defences.cutmix: unknown key 'share'"),
        ({"cutmix": {"probability": 1.5}}, "cutmix.probability 1.5 is not from 0 to 1"),
        ({"cutmix": {"probability": True}}, "defences.cutmix.probability: True must be a finite number"),
        ({"cutmix": {"probability": float("nan")}}, "defences.cutmix.probability: nan must be a finite number"),
        ({"cutmix": {"probability": "1/0"}}, "must be a finite number"),
        ({"mosaic": {"probability": -1}}, "mosaic.probability"),
        ({"augmix": {"chains": 2.0}}, "defences.augmix.chains: 2.0 must be of type int"),
        ({"augmix": {"severity": 2}}, "augmix.severity"),
        ({"patch": {}}, "the key 'fraction' is missing"),
        ({"patch": {"fraction": 0}}, "patch.fraction"),
        ({"patch": {"fraction": 0.3, "composition": "both"}}, "'both' is not one of mixed, joint, alternating"),
        ({"patch": {"fraction": 0.3, "objective": "loss"}}, "patch.objective"),
        ({"free": {"replays": 1}}, "free.replays"),
        ({"free": {}, "patch": {"fraction": 0.3}}, "give free or patch"),
        ({"distillation": {}}, "the key 'teacher' is missing"),
        ({"distillation": {"teacher": "a", "kind": "strict"}}, "'strict' is not one of plain, defensive, robust"),
        ({"distillation": {"teacher": "a", "kind": "defensive"}}, "does not soften"),
        ({"preprocessing": {"kind": "jpeg", "strength": 0}}, "preprocessing.strength"),
        ({"preprocessing": {"kind": "median", "strength": 4}}, "odd number of pixels"),
        ({"preprocessing": {"kind": "blur", "strength": 4}}, "'blur' is not one of jpeg, median, resize"),
    ],
)
def test_what_is_wrong_with_a_mapping_is_said_with_file_and_key(mapping, said):
    with pytest.raises(InputError) as refusal:
        defences.check(mapping, RECIPE)
    assert str(refusal.value).startswith("recipe.yaml: ")
    assert said in str(refusal.value)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*defences.KINDS, "other"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.dictionaries(st.sampled_from(["probability", "fraction", "kind", "strength"]), inner),
            max_leaves=4,
        ),
        max_size=3,
    )
)
def test_any_mapping_is_read_or_refused(mapping):
    try:
        found = defences.read(mapping, "recipe.yaml")
    except InputError:
        return
    assert {name for name in defences.KINDS if getattr(found, name) is not None} == set(mapping)


def test_augmentations_run_in_one_chain_that_ends_in_the_memory():
    images, people = batch()
    seen = SeenBatch()
    augment = defences.augmentation(defences.read(ALL, "recipe.yaml"), seen)
    changed, moved = augment(images, people, *generators())
    again, moved_again = augment(images, people, *generators())
    assert torch.equal(changed, again)
    assert all(np.array_equal(a.boxes, b.boxes) for a, b in zip(moved, moved_again, strict=True))
    assert not torch.equal(changed, images)
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    assert seen.find(again).truth == moved_again
    assert defences.augmentation(defences.Defences(), seen) is None


def test_the_memory_finds_the_batch_it_is_asked_for_and_the_clean_one_behind_an_attack():
    seen = SeenBatch()
    first, second = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    for images in (first, second):
        seen(images, [truth(), truth()], *generators())
    assert seen.find(first).images is first
    assert seen.find(first + 0.1).images is first
    assert seen.find(second).images is second
    with pytest.raises(InputError, match="memory has not seen"):
        seen.find(torch.zeros(3, 3, 4, 4))
    with pytest.raises(InputError, match="memory has not seen"):
        SeenBatch().find(first)


def test_a_replay_repeats_a_batch_and_begins_anew_with_the_epoch():
    replay, (order, generator) = Replay(3), generators()
    numbers = [torch.full((1, 3, 2, 2), float(number)) for number in range(5)]
    shown = [float(replay(images, [truth()], order, generator)[0].mean()) for images in numbers]
    assert shown == [0, 0, 0, 3, 3]
    assert float(replay(numbers[1], [truth()], *generators(1))[0].mean()) == 1


def whole(boxes, ignore=()):
    return truth(boxes, ignore)


def painted(people, count=2, size=(64, 64)):
    """Every person is a plain rectangle of a shade of its own."""
    images = torch.zeros(count, 3, *size)
    for index, found in enumerate(people):
        for number, (x1, y1, x2, y2) in enumerate(found.boxes.astype(int)):
            images[index, :, y1:y2, x1:x2] = 0.3 + 0.1 * (2 * index + number)
    return images


@pytest.mark.parametrize("mix", [CutMix(1.0), Mosaic(1.0)])
def test_after_mixing_every_box_holds_its_person_and_every_person_is_accounted_for(mix):
    people = [whole([(4, 10, 20, 50), (40, 20, 56, 60)]), whole([(24, 8, 40, 48)])]
    images = painted(people)
    shown = 0
    for seed in range(20):
        mixed, moved = mix(images, people, *generators(seed))
        for picture, found in zip(mixed, moved, strict=True):
            covered = torch.zeros(64, 64, dtype=torch.bool)
            for x1, y1, x2, y2 in np.concatenate([found.boxes, found.ignore]).round().astype(int):
                covered[y1:y2, x1:x2] = True
            assert not (picture[0] > 0.2)[~covered].any()
            for x1, y1, x2, y2 in found.boxes.round().astype(int):
                assert (picture[0, y1:y2, x1:x2] > 0.2).float().mean() >= 0.45
                shown += 1
    assert shown > 20
    assert torch.equal(images, painted(people))


def test_mixing_with_probability_nought_changes_nothing():
    images, people = batch()
    for mix in (CutMix(0.0), Mosaic(0.0)):
        mixed, moved = mix(images, people, *generators())
        assert torch.equal(mixed, images)
        assert moved == people


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.sampled_from([CutMix(0.7), Mosaic(0.7)]))
def test_mixed_boxes_lie_in_the_frame(seed, count, mix):
    images, people = batch(count, seed % 97)
    mixed, moved = mix(images, people, *generators(seed))
    assert mixed.shape == images.shape
    for found in moved:
        for boxes in (found.boxes, found.ignore):
            assert boxes.dtype == np.float32
            assert boxes.shape[1:] == (4,)
            assert (boxes >= 0).all()
            assert (boxes <= 64).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_augmix_changes_its_share_of_the_images_and_no_box():
    images, people = batch(40)
    changed, same = AugMix(0.5, 0.5)(images, people, *generators())
    moved = [not torch.equal(a, b) for a, b in zip(images, changed, strict=True)]
    assert 10 <= sum(moved) <= 30
    assert same == people
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    nothing, _ = AugMix(0.0)(images, people, *generators())
    assert torch.equal(nothing, images)
    gentle = AugMix(1.0, 0.02)(images, people, *generators())[0]
    strong = AugMix(1.0, 0.9)(images, people, *generators())[0]
    assert (gentle - images).abs().mean() < 0.3 * (strong - images).abs().mean()


def test_the_divergence_is_nought_where_student_and_teacher_agree_and_pulls_towards_the_teacher():
    teacher = torch.tensor([[2.0, -3.0, 0.5]])
    assert float(divergence(teacher, teacher, 2.0)) == pytest.approx(0, abs=1e-6)
    student = torch.tensor([[0.0, 0.0, 0.5]], requires_grad=True)
    apart = divergence(teacher, student, 1.0)
    apart.sum().backward()
    assert float(apart.detach()) > 0.5
    assert student.grad[0, 0] < 0 < student.grad[0, 1]
    assert abs(float(student.grad[0, 2])) < 1e-6


def test_a_robust_student_follows_the_teacher_on_clean_images():
    images, people = batch(2)
    teacher, student = (registry.build("csp_tiny", TINY, seed=seed) for seed in (1, 2))
    seen = SeenBatch()
    seen(images, people, *generators())
    attacked = (images + 0.2).clamp(0, 1)
    seen.find(images)
    student.eval()
    found = {}
    for kind in ("plain", "robust"):
        found[kind] = penalty(Distillation("t", kind, weight=3.0), teacher, seen)(student, attacked, None)
        shown = images if kind == "robust" else attacked
        wanted = divergence(teacher.logits(shown), student.logits(attacked), 1.0).mean()
        assert float(found[kind].detach()) == pytest.approx(3 * float(wanted.detach()), rel=1e-4)
    assert float(found["plain"].detach()) != pytest.approx(float(found["robust"].detach()), rel=1e-6)
    found["robust"].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_teacher_with_another_map_is_refused():
    class Coarse(type(registry.build("csp_tiny", TINY))):
        def logits(self, images):
            return super().logits(images)[:, ::2]

    teacher = registry.build("csp_tiny", TINY, seed=1)
    teacher.__class__ = Coarse
    with pytest.raises(InputError, match="looks at 128 places and csp_tiny at 256"):
        penalty(Distillation("t"), teacher, SeenBatch())(
            registry.build("csp_tiny", TINY), torch.rand(1, 3, 64, 64), None
        )


def streets(size=(40, 52)):
    """Smooth pictures, as JPEG likes them."""
    rng = torch.Generator().manual_seed(3)
    return torch.nn.functional.interpolate(torch.rand(2, 3, 5, 7, generator=rng), size, mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("quality", [20, 60, 90])
def test_the_differentiable_jpeg_is_close_to_a_real_one(quality):
    images = streets()
    ours = jpeg(images, quality)
    for mine, picture in zip(ours, images, strict=True):
        buffer = io.BytesIO()
        pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
        real = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1) / 255
        assert (mine - real).abs().mean() < 0.004
        assert (mine - real).abs().mean() < 0.5 * (picture - real).abs().mean() + 0.002


def test_filters_do_what_they_are_named_for():
    images = streets()
    reference = np.stack([[np.pad(channel, 1, mode="edge") for channel in picture] for picture in images.numpy()])
    windows = np.lib.stride_tricks.sliding_window_view(reference, (3, 3), (2, 3))
    assert np.allclose(median(images, 3).numpy(), np.median(windows, (4, 5)))
    assert torch.allclose(resample(images, 1.0), images, atol=1e-6)
    assert (resample(images, 0.5) - images).abs().max() > 0.01


@pytest.mark.parametrize(("kind", "strength"), [("jpeg", 30), ("median", 3), ("resize", 0.5)])
def test_an_attack_sees_through_every_filter(kind, strength):
    detector = registry.build(
        "preprocessed", {"inner": "csp_tiny", "config": TINY, "kind": kind, "strength": strength}, seed=1
    ).eval()
    images, people = batch(2)
    images = images.clone().requires_grad_(True)
    encoded = detector.encode(people, 64, 64)
    (gradient,) = torch.autograd.grad(sum(term.sum() for term in detector.losses(images, encoded).values()), images)
    assert gradient.isfinite().all()
    assert (gradient != 0).flatten(1).float().mean(1).min() > 0.1
    stepped = (images.detach() + 8 / 255 * gradient.sign()).clamp(0, 1)
    with torch.no_grad():
        before, after = (sum(term.sum() for term in detector.losses(x, encoded).values()) for x in (images, stepped))
    assert float(after) > float(before)
    twin = registry.build("preprocessed", detector.config)
    twin.load_state_dict(detector.state_dict())
    assert torch.equal(twin.eval().dense(images)[1], type(detector).dense(fresh(detector), images)[1])


def test_a_filter_is_the_same_in_mixed_precision():
    detector = registry.build("preprocessed", {"inner": "csp_tiny", "config": TINY, "kind": "jpeg", "strength": 40})
    images = streets()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = detector.see(images)
    assert torch.equal(mixed, detector.see(images))


def fresh(detector):
    """The same detector before it drew anything."""
    again = registry.build("preprocessed", detector.config)
    again.load_state_dict(detector.state_dict())
    return again.eval()


def test_a_random_filter_draws_anew_at_every_look():
    detector = registry.build("preprocessed", {"inner": "csp_tiny", "config": TINY, "kind": "resize", "strength": 0.4})
    images = batch(1)[0]
    detector.eval()
    assert not torch.equal(detector.logits(images), detector.logits(images))


@pytest.mark.parametrize(
    "config",
    [
        {"inner": "csp_tiny", "config": {}, "kind": "jpeg"},
        {"inner": "csp_tiny", "config": {}, "kind": "jpeg", "strength": 50, "more": 1},
        {"inner": "preprocessed", "config": {}, "kind": "jpeg", "strength": 50},
        {"inner": "csp_tiny", "config": {}, "kind": "jpeg", "strength": 500},
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(config):
    with pytest.raises(InputError):
        Preprocessed(config)
