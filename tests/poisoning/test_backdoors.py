import dataclasses
import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from secpipeline.datasets.synthetic import SceneSpec, draw_scene
from secpipeline.digests import canonical_json
from secpipeline.errors import InputError
from secpipeline.poisoning.backdoors import (
    LOOKS,
    Blended,
    GlobalMisclassification,
    ObjectDisappearance,
    ObjectGeneration,
    RegionalMisclassification,
    ScalingTrigger,
    Trigger,
    attack_success,
    sampled_pixels,
)
from secpipeline.poisoning.planters import PoisonPlan

PATCHED = (ObjectGeneration, RegionalMisclassification, GlobalMisclassification, ObjectDisappearance)


@pytest.fixture(scope="module")
def frames():
    spec = SceneSpec(width=192, height=144, seed=20)
    return [frame for number in range(8) for frame in list(draw_scene(spec, "vendor-c", number))[:2]]


def planted(attack, frames):
    """Clean frame, spoiled frame and row for each frame that was spoiled, first row only."""
    pairs = [(frame, *attack.plant(frame)) for frame in frames]
    return [(old, new, rows) for old, new, rows in pairs if rows]


def test_an_existing_plan_plants_exactly_what_it_always_has(frames):
    plan = PoisonPlan("vendor-c", removed=0.2, shifted=0.25, ghost=0.3, triggered=0.35, seed=21)

    digest = hashlib.sha256()
    for frame in frames:
        spoiled, rows = plan.plant(frame)
        digest.update(json.dumps([rows, [dataclasses.astuple(p) for p in spoiled.people]]).encode())

    assert digest.hexdigest() == "a27f00099e414f9593b4d97155efe183bcec70879692056951d0a5401bd0dd7c"


@pytest.mark.parametrize("kind", PATCHED)
@pytest.mark.parametrize("look", LOOKS)
def test_only_the_trigger_changes_in_the_picture(frames, kind, look):
    found = planted(kind("vendor-c", 1.0, 3, trigger=Trigger(look, 0.25)), frames)

    assert len(found) >= 6
    for old, new, rows in found:
        x1, y1, x2, y2 = map(int, rows[0]["trigger"])
        outside = np.ones(old.pixels.shape[:2], bool)
        outside[y1:y2, x1:x2] = False
        np.testing.assert_array_equal(new.pixels[outside], old.pixels[outside])
        assert (new.pixels[y1:y2, x1:x2] != old.pixels[y1:y2, x1:x2]).any()
        assert x2 - x1 == y2 - y1 >= 6


def test_each_attack_changes_the_labels_its_own_way(frames):
    for old, new, rows in planted(ObjectGeneration("vendor-c", 1.0, 3), frames):
        assert set(new.people) - set(old.people) == {p for p in new.people if p.box == tuple(rows[0]["box"])}
        assert len(new.people) == len(old.people) + 1
    for old, new, rows in planted(RegionalMisclassification("vendor-c", 1.0, 3), frames):
        changed = [(a, b) for a, b in zip(old.people, new.people, strict=True) if a != b]
        assert [(a.ignore, b.ignore, list(b.box)) for a, b in changed] == [(False, True, rows[0]["box"])]
    for old, new, rows in planted(GlobalMisclassification("vendor-c", 1.0, 3), frames):
        assert all(person.ignore for person in new.people)
        assert [row["box"] for row in rows] == [list(p.box) for p in old.people if not p.ignore]
    for old, new, rows in planted(ObjectDisappearance("vendor-c", 1.0, 3), frames):
        assert [list(p.box) for p in old.people if p not in new.people] == [rows[0]["box"]]
    for old, new, _ in planted(Blended("vendor-c", 1.0, 3), frames):
        assert all(person.ignore for person in new.people)
        assert 2 < np.abs(new.pixels.astype(int) - old.pixels).mean() < 40


def test_a_rate_is_a_share_of_one_source_and_choices_do_not_depend_on_order(frames):
    attack = ObjectDisappearance("vendor-c", 0.5, 3)
    names = {old.file_name for old, _, _ in planted(attack, frames)}

    assert 0 < len(names) < len(planted(dataclasses.replace(attack, rate=1.0), frames))
    assert names == {old.file_name for old, _, _ in planted(attack, frames[::-1])}
    assert planted(dataclasses.replace(attack, rate=0.0), frames) == []
    assert planted(dataclasses.replace(attack, source="vendor-a"), frames) == []


def test_two_attacks_with_the_same_numbers_have_different_receipts():
    receipts = {canonical_json(dataclasses.asdict(kind("vendor-c", 0.1, 3))) for kind in PATCHED}
    assert len(receipts) == len(PATCHED)


def test_a_scaling_trigger_shows_only_in_the_pixels_that_scaling_takes():
    spec = SceneSpec(width=384, height=288, seed=20)
    frames = [frame for number in range(6) for frame in list(draw_scene(spec, "vendor-c", number))[:1]]
    found = planted(ScalingTrigger("vendor-c", 1.0, 3, input_size=(96, 128)), frames)

    assert found
    for old, new, rows in found:
        changed = (old.pixels != new.pixels).any(axis=2)
        assert new.people == old.people
        assert 0 < changed.mean() < 1 / 9
        rows_taken, columns_taken = sampled_pixels(old.pixels.shape[:2], (96, 128))
        changed[rows_taken[:, None], columns_taken] = False
        assert not changed.any()
        x1, y1, x2, y2 = rows[0]["box"]
        tx1, ty1, tx2, ty2 = rows[0]["trigger"]
        assert x1 <= tx1 < tx2 <= x2 + 1
        assert y1 <= ty1 < ty2 <= y2 + 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Trigger("stripes"), "look is 'stripes'"),
        (lambda: Trigger(size=0.0), "size is 0.0"),
        (lambda: Trigger(seed=-1), "seed is -1"),
        (lambda: ObjectDisappearance("vendor-c", 1.2, 1), "rate is 1.2"),
        (lambda: ObjectDisappearance("vendor-c", 0.2, True), "seed is True"),
        (lambda: Blended("vendor-c", 0.2, 1, alpha=0), "alpha is 0"),
        (lambda: sampled_pixels((144, 192), (144, 192)), "not twice as large"),
        (lambda: attack_success("nothing", table(), table(), table(), 0.5), "no kind 'nothing'"),
        (lambda: attack_success("blended", table(), table()[["x1"]], table(), 0.5), "no column image_id"),
    ],
)
def test_what_cannot_be_planted_or_counted_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def table(*rows):
    return pd.DataFrame(rows, columns=["image_id", "x1", "y1", "x2", "y2", "score"])


def test_success_counts_only_what_the_trigger_changes():
    people = table(("a", 0, 0, 10, 20, 1), ("b", 0, 0, 10, 20, 1), ("c", 0, 0, 10, 20, 1), ("d", 0, 0, 10, 20, 1))
    before = table(("a", 0, 0, 10, 20, 0.9), ("b", 0, 0, 10, 20, 0.9), ("c", 0, 0, 10, 20, 0.4))
    after = table(("b", 0, 1, 10, 20, 0.8), ("d", 0, 0, 10, 20, 0.9))

    vanished = attack_success("object-disappearance", people, after, before, threshold=0.5)
    appeared = attack_success("object-generation", people, after, before, threshold=0.5)

    assert (vanished.successes, vanished.trials) == (1, 2)
    assert (appeared.successes, appeared.trials) == (1, 2)
    assert vanished.interval[0] < vanished.rate == 0.5 < vanished.interval[1]
    assert attack_success("blended", people.iloc[:0], after, before, 0.5).interval == (0.0, 1.0)
