import collections
import dataclasses
import math

import numpy as np
import pytest

from secpipeline.datasets.synthetic import PersonBox, SceneSpec, draw_scene
from secpipeline.errors import InputError
from secpipeline.poisoning.planters import PoisonPlan, stamp_trigger

SPEC = SceneSpec(width=192, height=144, scenes_per_source=30, frames_per_scene=4, seed=20)
PLAN = PoisonPlan("vendor-c", removed=0.2, shifted=0.25, ghost=0.3, triggered=0.35, seed=21)


@pytest.fixture(scope="module")
def clean():
    """The 120 frames of the source that gets poison."""
    return [frame for number in range(SPEC.scenes_per_source) for frame in draw_scene(SPEC, "vendor-c", number)]


@pytest.fixture(scope="module")
def poisoned(clean):
    """Clean frame, poisoned frame and truth, for each frame."""
    return [(frame, *PLAN.plant(frame)) for frame in clean]


def rows_of(poisoned, kind):
    """(clean frame, poisoned frame, box) of each row of a kind."""
    return [(old, new, tuple(row["box"])) for old, new, rows in poisoned for row in rows if row["kind"] == kind]


def boxes_of(frame):
    return collections.Counter(person.box for person in frame.people)


def overlap(a, b):
    wide, tall = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(wide, 0) * max(tall, 0)


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def close_to_share(count, share, total):
    """Within three standard deviations of a binomial count."""
    return abs(count - share * total) < 3 * math.sqrt(total * share * (1 - share))


def test_as_much_is_planted_as_was_asked_for(clean, poisoned):
    counts = collections.Counter(row["kind"] for _, _, rows in poisoned for row in rows)
    labelled = sum(not person.ignore for frame in clean for person in frame.people)
    with_people = sum(any(not person.ignore for person in frame.people) for frame in clean)
    without_victims = labelled - counts["triggered"]

    assert set(counts) == {"removed", "shifted", "ghost", "triggered"}
    assert with_people > 80
    assert close_to_share(counts["triggered"], PLAN.triggered, with_people)
    assert close_to_share(counts["removed"], PLAN.removed, without_victims)
    assert close_to_share(counts["shifted"], PLAN.shifted, without_victims)
    assert close_to_share(counts["ghost"], PLAN.ghost, without_victims)


def test_the_truth_accounts_for_every_changed_box(poisoned):
    for old, new, rows in poisoned:
        by_kind = collections.defaultdict(collections.Counter)
        for row in rows:
            assert set(row) == {"file_name", "kind", "box"}
            assert row["file_name"] == old.file_name == new.file_name
            by_kind[row["kind"]][tuple(row["box"])] += 1
        lost, gained = boxes_of(old) - boxes_of(new), boxes_of(new) - boxes_of(old)
        gone = by_kind["removed"] + by_kind["triggered"]
        assert gained == by_kind["shifted"] + by_kind["ghost"]
        assert lost & gone == gone
        assert (lost - gone).total() == by_kind["shifted"].total()


def test_ignored_people_are_left_alone(poisoned):
    found = 0
    for old, new, _ in poisoned:
        ignored = [person for person in old.people if person.ignore]
        assert [person for person in new.people if person.ignore] == ignored
        found += len(ignored)
    assert found > 5


def test_a_shifted_box_still_touches_its_person_but_no_longer_fits(poisoned):
    shifted = rows_of(poisoned, "shifted")

    best = []
    for old, _, box in shifted:
        found = [overlap(box, p.box) / (area(box) + area(p.box) - overlap(box, p.box)) for p in old.people]
        best.append(max(found))
    assert len(shifted) > 30
    assert np.median(best) < 0.5
    assert min(best) > 0


def test_no_ghost_stands_where_a_person_is(poisoned):
    ghosts = rows_of(poisoned, "ghost")

    assert len(ghosts) > 40
    for old, _, box in ghosts:
        assert all(overlap(box, person.box) <= 0.02 * area(box) for person in old.people)


def test_false_boxes_lie_inside_the_image_and_look_like_people(poisoned):
    for kind in ("ghost", "shifted"):
        for _, _, (x1, y1, x2, y2) in rows_of(poisoned, kind):
            assert 0 <= x1 < x2 <= 192
            assert 0 <= y1 < y2 <= 144
    ghosts = np.array([box for _, _, box in rows_of(poisoned, "ghost")])
    aspect = (ghosts[:, 2] - ghosts[:, 0]) / (ghosts[:, 3] - ghosts[:, 1])
    assert 0.15 < aspect.min() <= aspect.max() < 0.65
    assert 0.3 < np.median(aspect) < 0.5


def test_a_trigger_lies_on_its_victim_and_nothing_else_changes(poisoned):
    triggered = rows_of(poisoned, "triggered")

    assert len(triggered) > 20
    for old, new, (x1, y1, x2, y2) in triggered:
        changed = (old.pixels != new.pixels).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        side = max(4, (y2 - y1) / 6 + 2)
        centre = (x1 + x2) / 2
        assert y1 <= rows[0] <= y1 + 0.3 * (y2 - y1) + 2
        assert rows[-1] < y1 + 0.3 * (y2 - y1) + side + 1
        assert max(0, min(centre - side, 192 - 2 * side)) <= columns[0] + 1
        assert columns[-1] < min(192, max(centre + side, 2 * side)) + 1
        assert set(np.unique(new.pixels[changed])) == {12, 245}


def test_pictures_without_a_trigger_stay_as_they_are_and_clean_frames_are_not_touched(clean, poisoned):
    untouched = 0
    for old, new, rows in poisoned:
        if all(row["kind"] != "triggered" for row in rows):
            np.testing.assert_array_equal(new.pixels, old.pixels)
            untouched += 1
    assert untouched > 20
    again = list(draw_scene(SPEC, "vendor-c", 3))
    for frame, fresh in zip(clean[12:16], again, strict=True):
        np.testing.assert_array_equal(frame.pixels, fresh.pixels)
        assert frame.people == fresh.people


def test_other_sources_come_back_as_they_are(clean):
    other = dataclasses.replace(PLAN, source="vendor-d", removed=1, shifted=0, ghost=1, triggered=1)

    for frame in clean:
        same, rows = other.plant(frame)
        assert same is frame
        assert rows == []


def test_a_plan_is_repeated_exactly_in_any_order_and_another_seed_has_other_victims(clean, poisoned):
    again = {frame.file_name: PLAN.plant(frame) for frame in reversed(clean)}
    other = dataclasses.replace(PLAN, seed=22)

    for old, new, rows in poisoned:
        repeated, repeated_rows = again[old.file_name]
        assert repeated_rows == rows
        assert repeated.people == new.people
        np.testing.assert_array_equal(repeated.pixels, new.pixels)
    differing = [other.plant(old)[1] != rows for old, _, rows in poisoned if old.people]
    assert np.mean(differing) > 0.6


def only(**shares):
    return PoisonPlan("vendor-c", **{"removed": 0, "shifted": 0, "ghost": 0, "triggered": 0, "seed": 1} | shares)


def test_all_and_nothing_are_exact(clean):
    for frame in clean:
        asked_for = [person for person in frame.people if not person.ignore]
        same, rows = only().plant(frame)
        assert (same.people, rows) == (tuple(asked_for + [p for p in frame.people if p.ignore]), [])
        bare, rows = only(removed=1).plant(frame)
        assert all(person.ignore for person in bare.people)
        assert [tuple(row["box"]) for row in rows] == [person.box for person in asked_for]
        stamped, rows = only(triggered=1).plant(frame)
        assert len(rows) == min(1, len(asked_for))
        assert len(stamped.people) == len(frame.people) - len(rows)
        moved, rows = only(shifted=1).plant(frame)
        assert len(rows) == len(asked_for)
        assert not {person.box for person in asked_for} & {tuple(row["box"]) for row in rows}
        assert len(moved.people) == len(frame.people)


@pytest.mark.parametrize(
    ("box", "side"),
    [((20, 10, 44, 82), 12), ((0, 0, 9, 24), 4), ((60, 0, 64, 48), 8), ((10, 40, 20, 48), 4), ((30, 47, 34, 48), 4)],
)
def test_a_trigger_is_a_checkerboard_of_a_sixth_of_the_victim(box, side):
    grey = np.full((96, 64, 3), 100, np.uint8)

    stamped = stamp_trigger(grey, PersonBox(box, 1.0, False))

    assert (grey == 100).all()
    changed = (stamped != 100).all(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert (len(rows), len(columns)) == (side, side)
    patch = stamped[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1, 0]
    cell = side // 4
    np.testing.assert_array_equal(patch[::cell, ::cell], [[245, 12, 245, 12], [12, 245, 12, 245]] * 2)
    np.testing.assert_array_equal(patch, patch[::cell, ::cell].repeat(cell, axis=0).repeat(cell, axis=1))


@pytest.mark.parametrize("name", ["removed", "shifted", "ghost", "triggered"])
@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf, "0.1", None])
def test_a_share_that_is_no_fraction_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"^poison: {name} is .*, not a fraction from 0 to 1"):
        only(**{name: value})


@pytest.mark.parametrize("seed", [-1, 1.5, "1", None])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    with pytest.raises(InputError, match=r"^poison: seed is .*, not a whole number"):
        only(seed=seed)


def test_more_victims_than_boxes_are_refused():
    assert only(removed=0.5, shifted=0.5).shifted == 0.5
    with pytest.raises(InputError, match="removed and shifted are more than all"):
        only(removed=0.6, shifted=0.5)
