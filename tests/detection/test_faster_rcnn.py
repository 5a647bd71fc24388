import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rectangles import pictures, truth
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import box_iou, nms

from secpipeline.detection import box_targets, suppression, torchvision_two_stage
from secpipeline.detection.box_targets import Boxes
from secpipeline.detection.interface import CANDIDATES, Detections
from secpipeline.detection.registry import build

SIZE = (96, 128)
PROPOSALS = 12
SMALL = {"proposals": PROPOSALS, "training_proposals": PROPOSALS}
TERMS = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}


@pytest.fixture(scope="module")
def detector():
    return build("fasterrcnn_mobilenet_v3_large_320_fpn", SMALL, seed=0).eval()


@pytest.fixture(scope="module")
def batch():
    images, people = pictures(2, size=SIZE)
    return torch.from_numpy(images).float() / 255, [people[0], truth()]


def test_each_image_has_its_own_losses_with_and_without_people(detector, batch):
    images, people = batch
    terms = detector.losses(images, detector.encode(people, *SIZE))
    assert set(terms) == TERMS
    for term in terms.values():
        assert term.shape == (2,)
        assert term.isfinite().all()
    assert terms["loss_box_reg"][0] > 0
    assert terms["loss_box_reg"][1] == 0
    alone = detector.losses(images[1:], detector.encode(people[1:], *SIZE))
    for name, term in terms.items():
        torch.testing.assert_close(term[1:], alone[name], rtol=1e-4, atol=1e-6)


def test_the_same_call_gives_the_same_losses_and_leaves_the_global_generator_alone(detector, batch):
    images, people = batch
    encoded = detector.encode(people, *SIZE)
    torch.manual_seed(1)
    first = detector.losses(images, encoded)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = detector.losses(images, encoded)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(term, again[name]) for name, term in first.items())


@pytest.mark.parametrize("index", [0, 1])
def test_the_loss_of_an_image_has_a_gradient_in_this_image_alone(detector, batch, index):
    images, people = batch
    wanted = images.clone().requires_grad_(True)
    sum(detector.losses(wanted, detector.encode(people, *SIZE)).values())[index].backward()
    assert wanted.grad.isfinite().all()
    assert (wanted.grad.flatten(1).abs().amax(1) > 0).tolist() == [other == index for other in (0, 1)]


def test_the_weights_learn_from_the_loss(detector, batch):
    images, people = batch
    detector.zero_grad()
    sum(detector.losses(images, detector.encode(people, *SIZE)).values()).mean().backward()
    learning = [name for name, weight in detector.named_parameters() if weight.grad is not None and weight.grad.any()]
    detector.zero_grad()
    assert any("backbone.body.0." in name for name in learning)
    assert any("rpn." in name for name in learning)
    assert any("roi_heads.box_predictor" in name for name in learning)


def test_logits_are_one_a_proposal_and_differentiable(detector, batch):
    images, _ = batch
    wanted = images.clone().requires_grad_(True)
    logits = detector.logits(wanted)
    assert logits.shape == (2, PROPOSALS)
    assert logits.isfinite().all()
    logits.sum().backward()
    assert (wanted.grad.flatten(1).abs().amax(1) > 0).all()


def test_dense_boxes_lie_in_the_frame_and_their_scores_belong_to_their_logits(detector, batch):
    images, _ = batch
    with torch.no_grad():
        boxes, scores = detector.dense(images)
        logits = detector.logits(images)
    assert boxes.shape == (2, PROPOSALS, 4)
    assert scores.shape == (2, PROPOSALS)
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])).all()
    filled = logits > -30
    assert filled.any(1).all()
    torch.testing.assert_close(scores[filled], logits[filled].sigmoid(), rtol=1e-4, atol=1e-5)
    assert not scores[~filled].any()


def test_images_with_fewer_proposals_are_filled_up_with_nobody(batch):
    detector = build("fasterrcnn_mobilenet_v3_large_320_fpn", {"proposals": 900}, seed=0).eval()
    images, _ = batch
    with torch.no_grad():
        boxes, scores = detector.dense(images)
        logits = detector.logits(images)
    filled = logits > -30
    assert logits.shape == (2, 900)
    assert ((filled.sum(1) > 0) & (filled.sum(1) < 900)).all()
    assert (logits[~filled] == -30).all()
    assert (scores[filled] > 0).all()
    assert not scores[~filled].any()
    assert not boxes[~filled].any()


def test_candidates_are_the_dense_boxes_best_first(detector, batch):
    images, _ = batch
    with torch.no_grad():
        boxes, scores = detector.candidates(images)
        dense, dense_scores = detector.dense(images)
    assert scores.shape == (2, min(CANDIDATES, PROPOSALS))
    assert (scores.diff(dim=1) <= 0).all()
    for index in range(2):
        best = dense_scores[index].argmax()
        torch.testing.assert_close(boxes[index, 0], dense[index, best])


def test_detections_are_best_first_and_at_or_above_the_threshold(detector, batch):
    images, _ = batch
    with torch.no_grad():
        middle = detector.dense(images)[1].median().item()
    everything, sure = detector.detect(images, 0.0), detector.detect(images, middle)
    for all_found, found in zip(everything, sure, strict=True):
        assert isinstance(found, Detections)
        assert found.boxes.shape == (len(found.scores), 4)
        assert found.boxes.dtype == found.scores.dtype == torch.float32
        assert (found.scores >= middle).all()
        assert (all_found.scores.diff() <= 0).all()
    assert 0 < sum(len(one.scores) for one in sure) < sum(len(one.scores) for one in everything)


@pytest.mark.parametrize("training", [True, False])
def test_looking_leaves_the_mode_alone_and_does_not_depend_on_it(detector, batch, training):
    images, people = batch
    expected = detector.eval().logits(images)
    try:
        detector.train(training)
        detector.losses(images, detector.encode(people, *SIZE))
        assert detector.training is training
        torch.testing.assert_close(detector.logits(images), expected, rtol=1e-4, atol=1e-5)
        assert detector.training is training
    finally:
        detector.eval()


def test_targets_of_some_images_are_those_of_these_images(detector, batch):
    people = [*batch[1], truth([(1, 2, 30, 80), (5, 5, 20, 40)])]
    chosen = detector.encode(people, *SIZE)[torch.tensor([2, 0])]
    assert chosen.people.present.sum(1).tolist() == [2, len(people[0].boxes)]
    assert np.array_equal(chosen.people.boxes[0][chosen.people.present[0]].numpy(), people[2].boxes)
    assert torch.equal(chosen.ignore.boxes, torch.zeros(2, 1, 4))


def scattered(rng, count, ignored=0):
    corners = rng.uniform(0, [80, 50], (count + ignored, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(8, 45, (count + ignored, 2))], 1)
    return truth(boxes[:count], boxes[count:])


@pytest.mark.parametrize("proposals", [12, 700])
def test_an_image_has_the_losses_that_it_has_alone_however_many_people_the_others_show(proposals):
    config = {"proposals": PROPOSALS, "training_proposals": proposals}
    detector = build("fasterrcnn_mobilenet_v3_large_320_fpn", config, seed=0).eval()
    rng = np.random.default_rng(1)
    people = [scattered(rng, *counts) for counts in ((2, 1), (0, 0), (30, 0), (1, 6))]
    images = torch.from_numpy(rng.uniform(0, 1, (4, 3, *SIZE)).astype(np.float32))
    images[1, :, 40:] = 0.5
    with torch.no_grad():
        together = detector.losses(images, detector.encode(people, *SIZE))
        for index, one in enumerate(people):
            alone = detector.losses(images[index : index + 1], detector.encode([one], *SIZE))
            for name in TERMS:
                torch.testing.assert_close(together[name][index], alone[name][0], rtol=1e-5, atol=1e-7)


def regions(rng, levels, size):
    """Scores without ties and boxes of three images: one's are mostly beside the frame, one's have hardly any size."""
    height, width, count = *size, sum(levels)
    scores = np.stack([rng.permutation(np.linspace(-4, 4, count)) for _ in range(3)])
    centre = rng.uniform(0, [width, height], (3, count, 2)) + np.array([[[0, 0]], [[0.99 * width, 0]], [[0, 0]]])
    half = rng.uniform(4, 40, (3, count, 2)) * np.array([1, 1, 2e-5])[:, None, None]
    boxes = np.concatenate([centre - half, centre + half], 2)
    return torch.from_numpy(scores.astype(np.float32)), torch.from_numpy(boxes.astype(np.float32))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("number", [20, 150, 2000])
def test_the_proposals_are_those_that_torchvision_selects(training, number):
    config = {"proposals": number, "training_proposals": number + 5}
    detector = build("fasterrcnn_mobilenet_v3_large_320_fpn", config, seed=0).eval()
    rpn, levels = detector.model.rpn, [600, 150, 40]
    scores, boxes = regions(np.random.default_rng(number), levels, SIZE)
    ours = detector._best(scores, box_targets.clip(boxes, *SIZE), levels, training)
    rpn.training = training
    theirs, _ = rpn.filter_proposals(boxes, scores, [SIZE] * 3, levels)
    assert ours.boxes.shape == (3, number + 5 * training, 4)
    assert ours.present.sum(1).tolist() == [len(wanted) for wanted in theirs]
    for placed, present, wanted in zip(ours.boxes, ours.present, theirs, strict=True):
        assert len(wanted)
        torch.testing.assert_close(placed[: len(wanted)], wanted)
        assert not placed[~present].any()


def boxes_of(rng, count, chains):
    """Random boxes on a grid, or chains in which each box overlaps its neighbours alone."""
    if chains:
        start = rng.permutation(count) * 2
        return np.stack([start, np.zeros(count), start + 10, np.full(count, 10)], 1)
    corners = rng.integers(0, 12, (count, 2))
    return np.concatenate([corners, corners + rng.integers(1, 9, (count, 2))], 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 120), st.booleans(), st.sampled_from([0.25, 0.5, 0.7, 0.75]))
def test_suppressing_a_batch_at_once_is_greedy_suppression(seed, count, chains, iou):
    rng = np.random.default_rng(seed)
    boxes = torch.from_numpy(np.stack([boxes_of(rng, count, chains) for _ in range(3)]).astype(np.float32))
    present = torch.from_numpy(rng.uniform(size=(3, count)) < 0.8)
    kept = suppression.greedy(boxes, present, iou)
    for index in range(3):
        where = present[index].nonzero().flatten()
        scores = torch.arange(len(where), 0, -1, dtype=torch.float32)
        assert kept[index].nonzero().flatten().tolist() == where[nms(boxes[index][where], scores, iou)].tolist()


def test_a_long_chain_is_followed_to_its_end(monkeypatch):
    start = torch.arange(300.0)
    boxes = torch.stack([start * 2, torch.zeros(300), start * 2 + 10, torch.full((300,), 10.0)], 1)[None].repeat(
        5, 1, 1
    )
    monkeypatch.setattr(suppression, "_PAIRS", {"cpu": 2 * 300**2})
    kept = suppression.greedy(boxes, torch.ones(5, 300, dtype=torch.bool), 0.6)
    assert torch.equal(kept, (torch.arange(300) % 2 == 0).expand(5, -1))


def test_the_sampling_order_of_two_places_does_not_depend_on_how_many_there_are():
    long, back = torchvision_two_stage._order(500, torch.device("cpu"))
    short, _ = torchvision_two_stage._order(40, torch.device("cpu"))
    assert torch.equal(long[long < 40], short)
    assert torch.equal(long[back], torch.arange(500))
    assert not torch.equal(short, torch.arange(40))


def test_no_more_places_are_sampled_than_the_sampler_says(detector):
    sampler = detector.model.rpn.fg_bg_sampler
    generator = torch.Generator().manual_seed(0)
    counted = torch.rand(4, 900, generator=generator) < 0.9
    positive = counted & (torch.rand(4, 900, generator=generator) < torch.tensor([0, 0.02, 0.5, 1])[:, None])
    person, taken = torchvision_two_stage._sample(positive, counted, sampler)
    most = int(sampler.batch_size_per_image * sampler.positive_fraction)
    assert not (person & ~positive).any()
    assert not (taken & ~counted).any()
    assert torch.equal(person, taken & positive)
    assert torch.equal(person.sum(1), positive.sum(1).clamp(max=most))
    others = (counted & ~positive).sum(1)
    assert torch.equal(taken.sum(1), person.sum(1) + torch.minimum(others, 256 - person.sum(1)))


def test_the_second_stage_learns_from_sampled_regions_that_are_not_ignored(detector):
    rng = np.random.default_rng(8)
    people = [scattered(rng, 3, 2), truth(), truth(ignore=[(0, 0, SIZE[1], SIZE[0])])]
    encoded = detector.encode(people, *SIZE)
    boxes = torch.from_numpy(np.stack([scattered(rng, 900).boxes for _ in people]))
    present = torch.from_numpy(rng.uniform(size=(3, 900)) < 0.9)
    boxes.masked_fill_(~present[..., None], 0)
    chosen = detector._choose(Boxes(boxes, present), encoded)
    assert chosen.boxes.shape == chosen.matched.shape == (3, 512, 4)
    assert chosen.counted.sum(1).tolist() == [512, 512, 0]
    assert not (chosen.positive & ~chosen.counted).any()
    looked_at, positive = chosen.boxes[0], chosen.positive[0]
    overlap = box_iou(looked_at, torch.from_numpy(people[0].boxes))
    assert len(looked_at.unique(dim=0)) == 512
    assert torch.equal(positive, overlap.amax(1) >= 0.5)
    assert positive.sum() > 3
    assert torch.equal(chosen.matched[0][positive], torch.from_numpy(people[0].boxes)[overlap.argmax(1)[positive]])
    assert not (box_targets.in_ignored(looked_at, encoded.ignore.boxes[0]) & ~positive).any()
    assert box_targets.in_ignored(boxes[0], encoded.ignore.boxes[0]).any()


class Asking(TorchDispatchMode):
    """Counts the operations whose result's size or value the processor has to wait for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        if masks or name in ("nonzero", "_local_scalar_dense", "equal", "masked_select", "unique", "is_nonzero"):
            self.asked.append(name)
        return func(*args, **(kwargs or {}))


def test_a_step_asks_the_device_for_little_and_not_more_often_for_more_images(detector):
    rng = np.random.default_rng(4)
    counts = []
    for number in (1, 6):
        images = torch.from_numpy(rng.uniform(0, 1, (1, 3, *SIZE)).astype(np.float32)).repeat(number, 1, 1, 1)
        people = [scattered(rng, 2, 1)] * number
        sum(detector.losses(images, detector.encode(people, *SIZE)).values())  # what is asked once is remembered
        with Asking() as encoding:
            encoded = detector.encode(people, *SIZE)
        with Asking() as step:
            sum(detector.losses(images, encoded).values()).sum().backward()
        assert encoding.asked == []
        assert set(step.asked) <= {"equal", "nonzero"}
        assert step.asked.count("nonzero") == len(detector.model.roi_heads.box_roi_pool.scales)
        counts.append(len(step.asked))
    detector.zero_grad()
    assert counts[0] == counts[1]


def test_the_configuration_builds_the_same_network_again(detector):
    assert detector.config == {**SMALL, "norm": "group"}
    again = build(detector.name, detector.config, seed=0).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in detector.state_dict().items())
    assert not [name for name in again if "running_mean" in name]
