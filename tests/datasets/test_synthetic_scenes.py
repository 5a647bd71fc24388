import dataclasses
import itertools

import numpy as np
import pytest

from secpipeline.datasets.synthetic import SceneSpec, draw_scene
from secpipeline.datasets.synthetic.scene import random_scene
from secpipeline.datasets.synthetic.stage import Stage
from secpipeline.errors import InputError

SPEC = SceneSpec(width=256, height=192, scenes_per_source=4, frames_per_scene=2, seed=20)
TINY = SceneSpec(width=96, height=72, sources=2, scenes_per_source=2, frames_per_scene=2, seed=5)


def draw_all(spec):
    return [
        frame
        for source in spec.source_names
        for number in range(spec.scenes_per_source)
        for frame in draw_scene(spec, source, number)
    ]


@pytest.fixture(scope="module")
def frames():
    """Two frames of 32 scenes."""
    return draw_all(SPEC)


def people_of(frames, ignored=False):
    return [person for frame in frames for person in frame.people if ignored or not person.ignore]


def test_equal_specs_give_equal_frames():
    for one, two in zip(draw_all(TINY), draw_all(TINY), strict=True):
        np.testing.assert_array_equal(one.pixels, two.pixels)
        assert one.people == two.people
        assert one.file_name == two.file_name


def test_every_frame_is_a_picture_of_its_own():
    everything = draw_all(TINY) + draw_all(dataclasses.replace(TINY, seed=6))

    assert len({frame.pixels.tobytes() for frame in everything}) == len(everything) == 16


def test_a_frame_does_not_depend_on_how_many_others_are_drawn():
    more = dataclasses.replace(TINY, sources=5, scenes_per_source=9, frames_per_scene=4)

    short, long = list(draw_scene(TINY, "vendor-b", 1)), list(draw_scene(more, "vendor-b", 1))

    for one, two in zip(short, long[:2], strict=True):
        np.testing.assert_array_equal(one.pixels, two.pixels)
        assert one.people == two.people


def test_frames_are_named_by_source_scene_and_number():
    names = [frame.file_name for frame in draw_all(TINY)]

    assert names == [
        f"{source}/scene-{scene:03d}/{number:03d}.jpg"
        for source in ("vendor-a", "vendor-b")
        for scene in (0, 1)
        for number in (0, 1)
    ]


def test_boxes_lie_inside_the_image_and_visibility_is_a_share(frames):
    for frame in frames:
        assert frame.pixels.shape == (192, 256, 3)
        assert frame.pixels.dtype == np.uint8
        for person in frame.people:
            x1, y1, x2, y2 = person.box
            assert 0 <= x1 < x2 <= 256
            assert 0 <= y1 < y2 <= 192
            assert 0 < person.visibility <= 1


def test_people_are_ignored_exactly_where_they_are_tiny_or_mostly_hidden(frames):
    everybody = people_of(frames, ignored=True)

    assert 0.02 < sum(person.ignore for person in everybody) / len(everybody) < 0.25
    for person in everybody:
        assert person.ignore == (person.box[3] - person.box[1] < 20 or person.visibility < 0.15)


def test_people_come_in_all_sizes_that_a_detector_is_asked_for(frames):
    heights = np.array([person.box[3] - person.box[1] for person in people_of(frames)])

    assert len(heights) > 200
    assert heights.min() < 24
    assert heights.max() > 130
    for low, high in ((20, 35), (35, 55), (55, 80), (80, 160)):
        assert ((heights >= low) & (heights < high)).mean() > 0.1


def test_people_have_the_shape_of_people(frames):
    boxes = np.array([p.box for p in people_of(frames) if p.box[0] > 0 and p.box[2] < 256 and p.box[3] < 192])
    aspect = (boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])

    assert 0.2 < np.median(aspect) < 0.5
    assert aspect.max() < 1


def test_every_time_of_day_occurs_and_night_is_darker_than_day(frames):
    brightness = {
        time: np.mean([frame.pixels.mean() for frame in frames if frame.time_of_day == time])
        for time in {frame.time_of_day for frame in frames}
    }

    assert set(brightness) == {"day", "dusk", "night"}
    assert brightness["day"] > brightness["dusk"] > brightness["night"] > 20
    assert brightness["day"] - brightness["night"] > 20


def test_some_images_show_nobody_and_most_show_several(frames):
    counts = np.array([len(frame.people) for frame in frames])

    assert 1 <= (counts == 0).sum() < len(counts) / 3
    assert np.median(counts) >= 2


def test_people_move_on_between_the_frames_of_a_scene_whose_street_stays(frames):
    pairs = [(one, two) for one, two in zip(frames[::2], frames[1::2], strict=True) if one.people]

    assert all(one.scene == two.scene and one.camera == two.camera for one, two in pairs)
    moved = [one.people != two.people for one, two in pairs]
    assert np.mean(moved) > 0.9
    within = [np.corrcoef(one.pixels.ravel(), two.pixels.ravel())[0, 1] for one, two in pairs]
    across = [
        np.corrcoef(one.pixels.ravel(), other.pixels.ravel())[0, 1]
        for (one, _), (other, _) in itertools.pairwise(pairs)
    ]
    assert np.median(within) > 0.8 > np.median(across) + 0.2


def covered_by_somebody_nearer(person, people):
    """The largest share of a box that lies under the box of one person who stands lower in the image."""
    x1, y1, x2, y2 = person.box
    shares = [0.0]
    for other in people:
        wide = min(x2, other.box[2]) - max(x1, other.box[0])
        tall = min(y2, other.box[3]) - max(y1, other.box[1])
        if other.box[3] > y2 and wide > 0 and tall > 0:
            shares.append(wide * tall / ((x2 - x1) * (y2 - y1)))
    return max(shares)


def test_whoever_stands_behind_somebody_is_seen_less(frames):
    free, covered = [], []
    for frame in frames:
        for person in frame.people:
            share = covered_by_somebody_nearer(person, frame.people)
            if person.box[0] > 0 and person.box[2] < 256 and person.box[3] < 192 and (share == 0 or share > 0.3):
                (covered if share > 0.3 else free).append(person.visibility)

    assert len(covered) > 20
    assert np.median(free) > 0.98
    assert np.mean(covered) < np.mean(free) - 0.2
    assert np.mean([visibility < 0.9 for visibility in covered]) > 0.7


def only(scene, *people):
    """A scene with nothing on its street but these people."""
    return dataclasses.replace(scene, vehicles=(), furniture=(), people=people)


def daylight_walkers():
    """Scenes of the spec in daylight, each with one of its people who carries nothing and is wholly in the image."""
    for source in SPEC.source_names:
        for number in range(SPEC.scenes_per_source):
            scene = random_scene(SPEC, source, number)
            person = next((person for person in scene.people if person.look.bag == "none"), None)
            if person is None or scene.street.time_of_day != "day":
                continue
            seen = Stage(only(scene, person), SPEC.seed).frame(0)
            if seen.people and seen.people[0].box[0] > 8 and seen.people[0].box[2] < 248:
                yield scene, person, seen


def test_a_box_is_tight_around_what_a_person_changes_in_the_picture():
    tried = 0
    for scene, _, seen in daylight_walkers():
        empty = Stage(only(scene), SPEC.seed).frame(0)
        changed = np.abs(seen.pixels.astype(int) - empty.pixels).max(axis=2) > 25
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        x1, y1, x2, y2 = seen.people[0].box
        assert rows[0] == pytest.approx(y1, abs=3)
        assert rows[-1] + 1 == pytest.approx(y2, abs=4)
        assert columns[0] == pytest.approx(x1, abs=8)
        assert columns[-1] + 1 == pytest.approx(x2, abs=8)
        assert changed[round(y1) : round(y2), round(x1) : round(x2)].mean() > 0.25
        assert seen.people[0].visibility == 1
        tried += 1
    assert tried >= 5


def test_somebody_who_steps_in_front_hides_a_person_but_not_their_box():
    scene, person, alone = next(daylight_walkers())
    in_front = dataclasses.replace(person, z=person.z * 0.97)
    behind = dataclasses.replace(person, z=person.z * 1.03)

    hidden, nearer = Stage(only(scene, person, in_front), SPEC.seed).frame(0).people
    still, *_ = Stage(only(scene, person, behind), SPEC.seed).frame(0).people

    assert hidden.visibility < 0.4
    assert nearer.visibility == still.visibility == 1
    assert hidden.box == still.box == alone.people[0].box


@pytest.mark.parametrize(("width", "height"), [(64, 64), (64, 1024), (1024, 64), (101, 77)])
def test_odd_sizes_can_be_drawn(width, height):
    spec = SceneSpec(width=width, height=height, scenes_per_source=1, frames_per_scene=1, seed=2)

    frames = draw_all(spec)

    assert {frame.pixels.shape for frame in frames} == {(height, width, 3)}
    boxes = np.array([person.box for person in people_of(frames, ignored=True)])
    assert len(boxes) > 0
    assert boxes.min() >= 0
    assert (boxes[:, 2:] <= [width, height]).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", 63),
        ("width", 1025),
        ("width", 256.0),
        ("height", "192"),
        ("height", None),
        ("sources", 0),
        ("sources", 9),
        ("scenes_per_source", 0),
        ("frames_per_scene", -1),
        ("frames_per_scene", float("nan")),
        ("seed", -1),
        ("seed", 2**31 + 1),
    ],
)
def test_a_spec_out_of_its_range_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"^synthetic data: {name} must be a whole number from"):
        SceneSpec(**{name: value})
