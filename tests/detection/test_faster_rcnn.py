import numpy as np
import pytest
import torch
from rectangles import pictures, truth

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
    assert [len(boxes) for boxes in chosen.boxes] == [2, len(people[0].boxes)]
    assert np.array_equal(chosen.boxes[0].numpy(), people[2].boxes)


def test_the_configuration_builds_the_same_network_again(detector):
    assert detector.config == {**SMALL, "norm": "group"}
    again = build(detector.name, detector.config, seed=0).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in detector.state_dict().items())
    assert not [name for name in again if "running_mean" in name]
