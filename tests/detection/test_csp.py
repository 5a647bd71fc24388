import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rectangles import pictures, truth

from secpipeline.datasets.loading import Truth
from secpipeline.detection.csp import STRIDE, CspTiny, encode
from secpipeline.detection.registry import build
from secpipeline.errors import InputError

HEIGHT, WIDTH = 96, 128
SMALL = {"channels": [8, 16, 16]}


def encoded(*people, height=HEIGHT, width=WIDTH):
    return encode(people, height, width)


class Told(CspTiny):
    """A network whose maps are given."""

    def __init__(self, centre, scale, offset):
        super().__init__(SMALL)
        self.given = centre, scale, offset

    def maps(self, images):
        return self.given


def told(targets, sure=12.0):
    return Told((targets.positive.float() * 2 - 1) * sure, targets.scale, targets.offset)


def blank(count=1):
    return torch.zeros(count, 3, HEIGHT, WIDTH)


def test_a_person_is_encoded_at_the_cell_of_its_centre():
    targets = encoded(truth([(21, 9, 44, 76)]))
    assert targets.centre.shape == targets.positive.shape == targets.counted.shape == (1, HEIGHT // 4, WIDTH // 4)
    assert targets.positive.nonzero().tolist() == [[0, 10, 8]]
    assert targets.scale[0, :, 10, 8].tolist() == pytest.approx([math.log(67), math.log(23)])
    assert targets.offset[0, :, 10, 8].tolist() == pytest.approx([0.125, 0.625])
    assert targets.counted.all()


def test_the_centre_map_is_one_at_the_centre_falls_away_from_it_and_ends_at_the_box():
    centre = encoded(truth([(21, 9, 44, 76)])).centre[0]
    assert centre[10, 8] == 1
    assert (centre == 1).sum() == 1
    assert (centre[10, 8:11].diff() < 0).all()
    assert (centre[10, 5:9].diff() > 0).all()
    assert (centre[10:19, 8].diff() < 0).all()
    outside = torch.ones_like(centre, dtype=bool)
    outside[2:19, 5:11] = False
    assert not centre[outside].any()


def test_an_image_without_people_has_no_targets_and_counts_everywhere():
    targets = encoded(truth())
    assert not targets.centre.any()
    assert not targets.positive.any()
    assert targets.counted.all()


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_people_with_one_centre_cell_the_taller_is_learned(order):
    short, tall = (24, 24, 40, 64), (20, 4, 44, 84)
    targets = encoded(truth([short, tall][::order]))
    assert targets.positive.sum() == 1
    assert targets.scale[targets.positive[:, None].expand_as(targets.scale)].tolist() == pytest.approx(
        [math.log(80), math.log(24)]
    )


def test_cells_of_an_ignored_region_are_not_counted():
    counted = encoded(truth(ignore=[(41, 42, 59, 79)])).counted[0]
    assert not counted[10:20, 10:15].any()
    assert (~counted).sum() == 10 * 5


def test_an_ignored_region_may_reach_over_the_edges_of_the_frame():
    counted = encoded(truth(ignore=[(-30, -30, 8, 8), (120, 90, 400, 400)])).counted[0]
    assert (~counted).nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [22, 30], [22, 31], [23, 30], [23, 31]]


def test_a_person_inside_an_ignored_region_is_still_learned():
    targets = encoded(truth([(24, 4, 40, 84)], [(0, 0, WIDTH, HEIGHT)]))
    assert torch.equal(targets.counted, targets.positive)


def slowly_encoded(people, rows, columns):
    """The targets of one image, box by box."""
    centre, positive = np.zeros((rows, columns), np.float32), np.zeros((rows, columns), bool)
    scale, offset = np.zeros((2, rows, columns), np.float32), np.zeros((2, rows, columns), np.float32)
    counted = np.ones((rows, columns), bool)
    for x1, y1, x2, y2 in people.ignore / STRIDE:
        counted[max(0, int(y1)) : math.ceil(y2), max(0, int(x1)) : math.ceil(x2)] = False
    for box in sorted(people.boxes.tolist(), key=lambda b: b[3] - b[1]):
        x1, y1, x2, y2 = (value / STRIDE for value in box)
        cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
        column, row = min(columns - 1, int(cx)), min(rows - 1, int(cy))
        for r, c in itertools.product(range(int(y1), math.ceil(y2)), range(int(x1), math.ceil(x2))):
            down = np.exp(-(((r - row) / max(0.6, 0.12 * (y2 - y1))) ** 2) / 2)
            across = np.exp(-(((c - column) / max(0.6, 0.24 * (x2 - x1))) ** 2) / 2)
            centre[r, c] = max(centre[r, c], np.float32(down * across))
        centre[row, column] = 1
        positive[row, column] = True
        scale[:, row, column] = math.log((y2 - y1) * STRIDE), math.log((x2 - x1) * STRIDE)
        offset[:, row, column] = cx - column, cy - row
    return centre, positive, scale, offset, counted | positive


@st.composite
def crowds(draw):
    """People and ignored regions in the frame, many of them in the same cells."""

    def boxes(most):
        edges = st.tuples(
            st.integers(0, WIDTH - 8), st.integers(0, HEIGHT - 16), st.integers(1, 60), st.integers(1, 90)
        )
        rows = [(a, b, min(a + w, WIDTH), min(b + h, HEIGHT)) for a, b, w, h in draw(st.lists(edges, max_size=most))]
        return np.array(rows, np.float32).reshape(-1, 4)

    return Truth(boxes(6), boxes(3))


@settings(max_examples=60, deadline=None)
@given(st.lists(crowds(), max_size=4))
def test_a_batch_is_encoded_as_box_by_box(people):
    targets = encode(people, HEIGHT, WIDTH)
    assert len(targets.centre) == len(people)
    for index, one in enumerate(people):
        slow = slowly_encoded(one, HEIGHT // STRIDE, WIDTH // STRIDE)
        for field, expected in zip(dataclasses.fields(targets), slow, strict=True):
            np.testing.assert_allclose(getattr(targets, field.name)[index].numpy(), expected, rtol=1e-6, atol=1e-7)


def test_a_false_alarm_is_punished_outside_and_not_inside_an_ignored_region():
    targets = encoded(truth([(4, 4, 20, 44)], [(80, 40, 120, 80)]))
    quiet = told(targets).losses(blank(), targets)["centre"]
    alarm = {}
    for place, (row, column) in {"inside": (15, 25), "outside": (5, 25)}.items():
        detector = told(targets)
        detector.given[0][0, row, column] = 3.0
        alarm[place] = detector.losses(blank(), targets)["centre"]
    assert torch.equal(alarm["inside"], quiet)
    assert alarm["outside"] > quiet + 1


@pytest.mark.parametrize(("height", "width"), [(90, 128), (96, 120), (8, 8), (97, 129)])
def test_frames_that_are_no_multiple_of_16_are_refused(height, width):
    with pytest.raises(InputError, match=f"{height} × {width} pixels"):
        encoded(truth(), height=height, width=width)


def test_targets_of_some_images_are_those_of_these_images_alone():
    people = truth([(21, 9, 44, 76)]), truth([(60, 20, 84, 80), (2, 2, 20, 50)], [(90, 0, 120, 30)]), truth()
    chosen = encoded(*people)[torch.tensor([2, 1])]
    alone = encoded(people[2], people[1])
    for name in ("centre", "positive", "scale", "offset", "counted"):
        assert torch.equal(getattr(chosen, name), getattr(alone, name))


@st.composite
def crowds(draw):
    """People in the frame, no two with one centre cell."""
    cells, boxes = set(), []
    for _ in range(draw(st.integers(0, 6))):
        tall, wide = draw(st.floats(6, HEIGHT)), draw(st.floats(3, 60))
        x, y = draw(st.floats(0, WIDTH - wide)), draw(st.floats(0, HEIGHT - tall))
        box = np.array([x, y, x + wide, y + tall], np.float32)
        cell = (int((box[0] + box[2]) / 2 / STRIDE), int((box[1] + box[3]) / 2 / STRIDE))
        if cell not in cells:
            cells.add(cell)
            boxes.append(box.tolist())
    return boxes


@settings(max_examples=60, deadline=None)
@given(crowds(), crowds())
def test_boxes_that_are_encoded_are_decoded_again_to_less_than_a_pixel(first, second):
    targets = encoded(truth(first), truth(second))
    boxes, scores = told(targets).dense(blank(2))
    assert boxes.shape == (2, HEIGHT * WIDTH // 16, 4)
    for index, people in enumerate((first, second)):
        found = boxes[index][scores[index] > 0.5].numpy()
        assert len(found) == len(people)
        for box in people:
            assert np.abs(found - np.array(box)).max(axis=1).min() < 0.1


def test_decoded_boxes_end_at_the_frame():
    targets = encoded(truth([(-20, -10, 16, 50), (100, 40, 150, 130)]))
    boxes, scores = told(targets).dense(blank())
    found = boxes[0][scores[0] > 0.5].numpy()
    assert sorted(found.round(2).tolist()) == [[0, 0, 16, 50], [100, 40, WIDTH, HEIGHT]]


def test_the_losses_vanish_where_the_maps_are_right_and_grow_where_they_are_not():
    targets = encoded(truth([(21, 9, 44, 76)]), truth([(60, 20, 84, 80), (2, 2, 20, 50)]))
    right = told(targets).losses(blank(2), targets)
    assert set(right) == {"centre", "scale", "offset"}
    assert not right["scale"].any()
    assert not right["offset"].any()
    assert right["centre"].max() < 1e-3
    for index, name in enumerate(("centre", "scale", "offset")):
        maps = list(told(targets).given)
        maps[index] = maps[index] + 0.5 if name != "centre" else -maps[index]
        wrong = Told(*maps).losses(blank(2), targets)
        assert (wrong[name] > right[name] + 1e-2).all()
        assert all(torch.equal(wrong[other], right[other]) for other in set(right) - {name})


@pytest.fixture(scope="module")
def batch():
    detector = build("csp_tiny", SMALL, seed=0).eval()
    images, people = pictures(3, size=(HEIGHT, WIDTH))
    people[2] = truth()
    return detector, torch.from_numpy(images).float() / 255, people


def test_each_image_has_its_own_loss_whatever_else_is_in_the_batch(batch):
    detector, images, people = batch
    together = detector.losses(images, detector.encode(people, HEIGHT, WIDTH))
    for index in range(3):
        alone = detector.losses(images[index : index + 1], detector.encode(people[index : index + 1], HEIGHT, WIDTH))
        for name, terms in together.items():
            assert terms.shape == (3,)
            assert terms.isfinite().all()
            torch.testing.assert_close(terms[index : index + 1], alone[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("index", range(3))
def test_the_loss_of_an_image_has_a_gradient_in_this_image_alone(batch, index):
    detector, images, people = batch
    wanted = images.clone().requires_grad_(True)
    sum(detector.losses(wanted, detector.encode(people, HEIGHT, WIDTH)).values())[index].backward()
    moved = wanted.grad.flatten(1).abs().amax(1) > 0
    assert moved.tolist() == [other == index for other in range(3)]
    assert wanted.grad.isfinite().all()


def test_a_detection_is_a_cell_of_the_dense_map_with_the_score_of_its_logit(batch):
    detector, images, _ = batch
    boxes, scores = detector.dense(images)
    torch.testing.assert_close(scores, detector.logits(images).sigmoid())
    found = detector.detect(images, 0.0)
    assert [len(one.scores) > 1 for one in found] == [True] * 3
    for index, one in enumerate(found):
        assert (one.scores.diff() <= 0).all()
        assert {tuple(box) for box in one.boxes.tolist()} <= {tuple(box) for box in boxes[index].tolist()}


def test_the_shipped_network_has_fewer_than_a_million_parameters():
    assert 10_000 < sum(parameter.numel() for parameter in build("csp_tiny").parameters()) < 1_000_000


def test_the_configuration_builds_the_same_network_again():
    detector = build("csp_tiny", SMALL, seed=1)
    again = build("csp_tiny", detector.config, seed=1)
    assert detector.config == SMALL
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in detector.state_dict().items())
    other = build("csp_tiny", detector.config, seed=2).state_dict()
    assert any(not torch.equal(tensor, other[name]) for name, tensor in state.items())


def test_building_with_a_seed_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    build("csp_tiny", SMALL, seed=5)
    assert torch.equal(before, torch.get_rng_state())


def test_a_misspelt_key_of_the_config_is_refused_by_name():
    with pytest.raises(InputError, match="chanels"):
        CspTiny({"chanels": [8, 16, 16]})
