import hashlib

import numpy as np
import pytest
import safetensors.torch
import torch
from rectangles import pictures, truth
from torch import nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection._utils import Matcher, SSDMatcher
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou, generalized_box_iou_loss

from secpipeline.detection import box_targets, weights
from secpipeline.detection.export import to_onnx
from secpipeline.detection.onnx_detector import OnnxDetector
from secpipeline.detection.registry import DETECTORS, build
from secpipeline.detection.torchvision_models import grid_anchors
from secpipeline.errors import InputError, IntegrityError
from secpipeline.robustness.attacks import AttackSpec, perturb

SIZE = (64, 96)
SSD = "ssdlite320_mobilenet_v3_large"
HEAVY = ["retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn"]
ONE_STAGE = [SSD, *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY)]
PEOPLE = [(10, 8, 34, 60), (50, 10, 70, 58)]


@pytest.fixture(scope="module")
def built():
    """Each detector is built once."""
    kept = {}

    def get(name):
        if name not in kept:
            kept[name] = build(name, {}, seed=0).eval()
        return kept[name]

    return get


@pytest.fixture(params=ONE_STAGE)
def detector(request, built):
    return built(request.param)


@pytest.fixture(scope="module")
def batch():
    images, _ = pictures(2, size=SIZE)
    return torch.from_numpy(images).float() / 255, [truth(PEOPLE), truth()]


def test_anchors_lie_on_the_maps_that_the_network_makes(detector, batch):
    images, _ = batch
    for height, width in (SIZE, (48, 80)):
        with torch.no_grad():
            maps = detector.features(images[:, :, :height, :width].contiguous())
        assert [tuple(m.shape[-2:]) for m in maps] == [(-(-height // s), -(-width // s)) for s in detector._strides]


def test_losses_are_torchvisions_own(detector, batch):
    images, people = batch
    encoded = detector.encode(people, *SIZE)
    found = detector.losses(images[:1], encoded[torch.tensor([0])])
    label = 1 if detector._classes == 2 else 0
    target = [{"boxes": torch.tensor(people[0].boxes), "labels": torch.full((2,), label)}]
    outputs, anchors = detector._head(images[:1]), [encoded.anchors]
    levels = [-(-SIZE[0] // s) * -(-SIZE[1] // s) for s in detector._strides]
    further = {
        SSD: lambda: [[detector.model.proposal_matcher(box_iou(target[0]["boxes"], encoded.anchors))]],
        "fcos_resnet50_fpn": lambda: [levels],
    }
    wanted = detector.model.compute_loss(target, outputs, anchors, *further.get(detector.name, list)())
    assert set(found) == set(wanted)
    assert encoded.positive[0].sum() > 1
    for name, term in found.items():
        torch.testing.assert_close(term[0], wanted[name], rtol=1e-4, atol=1e-5)


def test_each_image_has_its_own_losses_and_a_gradient_even_without_people(detector, batch):
    images, people = batch
    wanted = images.clone().requires_grad_(True)
    encoded = detector.encode(people, *SIZE)
    terms = detector.losses(wanted, encoded)
    alone = detector.losses(images[1:], encoded[torch.tensor([1])])
    for name, term in terms.items():
        assert term.shape == (2,)
        assert term.isfinite().all()
        torch.testing.assert_close(term[1:], alone[name], rtol=1e-4, atol=1e-6)
    assert terms["bbox_regression"][0] > 0
    assert terms["bbox_regression"][1] == 0
    sum(terms.values())[1].backward()
    assert wanted.grad.isfinite().all()
    strength = wanted.grad.abs().mean((1, 2, 3))
    assert strength[0] == 0
    assert strength[1] > 1e-10


def test_dense_boxes_lie_in_the_frame_and_scores_belong_to_logits(detector, batch):
    images, _ = batch
    with torch.no_grad():
        boxes, scores = detector.dense(images)
        logits = detector.logits(images)
    assert boxes.shape == (*scores.shape, 4)
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])).all()
    torch.testing.assert_close(scores, logits.sigmoid(), rtol=1e-4, atol=1e-6)
    assert scores.std() > 0


def test_the_targets_decode_to_the_people(detector, batch):
    _, people = batch
    encoded = detector.encode(people, *SIZE)
    assert {tuple(box) for box in encoded.boxes[0][encoded.positive[0]].tolist()} == {
        tuple(map(float, box)) for box in PEOPLE
    }
    assert not encoded.positive[1].any()
    assert encoded.counted[1].all()


def test_anchors_in_an_ignored_region_are_not_counted(detector):
    region = (0, 0, 48, SIZE[0])
    encoded = detector.encode([truth(ignore=[region]), truth(PEOPLE, ignore=[(0, 0, SIZE[1], SIZE[0])])], *SIZE)
    inside = box_targets.in_ignored(encoded.anchors, torch.tensor([region]))
    assert inside.any()
    assert torch.equal(encoded.counted[0], ~inside)
    assert encoded.counted[1][encoded.positive[1]].all()


@pytest.mark.parametrize("training", [True, False])
def test_statistics_and_modes_are_left_alone(detector, batch, training):
    images, people = batch
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    expected = detector.eval().logits(images)
    try:
        detector.train(training)
        detector.losses(images, detector.encode(people, *SIZE))
        torch.testing.assert_close(detector.logits(images), expected, rtol=1e-4, atol=1e-5)
        assert detector.training is training
    finally:
        detector.eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())


def test_the_weights_learn_from_the_loss(detector, batch):
    images, people = batch
    detector.zero_grad()
    sum(detector.losses(images, detector.encode(people, *SIZE)).values()).mean().backward()
    learning = [name for name, weight in detector.named_parameters() if weight.grad is not None and weight.grad.any()]
    first = next(name for name, _ in detector.named_parameters() if "backbone" in name)
    detector.zero_grad()
    assert first in learning
    assert any("classification_head" in name for name in learning)
    assert any("regression_head" in name for name in learning)


@pytest.mark.slow
@pytest.mark.parametrize("name", [SSD, *HEAVY])
def test_the_artifact_computes_what_the_detector_computes(built, batch, tmp_path, name):
    images, _ = batch
    detector = built(name)
    to_onnx(detector, tmp_path / "detector.onnx", SIZE)
    served = OnnxDetector((tmp_path / "detector.onnx").read_bytes(), SIZE, detector.nms_iou).detect(images.numpy(), 0.0)
    for one, other in zip(served, detector.detect(images, 0.0), strict=True):
        np.testing.assert_allclose(one.scores[:10], other.scores[:10].numpy(), rtol=1e-3, atol=1e-5)


def test_box_deltas_come_back():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 50, 2, generator=generator) * 60
    boxes, anchors = torch.cat([corners, corners + torch.rand(2, 50, 2, generator=generator) * 30 + 2], -1)
    for factors in ((1, 1, 1, 1), (10, 10, 5, 5)):
        deltas = box_targets.encode_deltas(boxes, anchors, factors)
        torch.testing.assert_close(box_targets.decode_deltas(deltas, anchors, factors), boxes, rtol=1e-4, atol=1e-3)


def crowd(rng, count, ignored=0, size=SIZE, grid=4):
    """People and ignored regions at random, on a coarse grid so that overlaps are often equal."""
    height, width = np.array(size) // grid
    corners = rng.integers(0, [width - 2, height - 2], (count + ignored, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 12, (count + ignored, 2))], 1) * grid
    return truth(boxes[:count], boxes[count:])


RULES = [Matcher(0.7, 0.3, allow_low_quality_matches=True), Matcher(0.5, 0.4, allow_low_quality_matches=True)]
RULES += [Matcher(0.5, 0.5), SSDMatcher(0.5)]


@pytest.mark.parametrize("at_once", [1, 2000, 2**23])
@pytest.mark.parametrize("rule", RULES, ids=["first stage", "retinanet", "second stage", "ssd"])
@pytest.mark.parametrize("own", [False, True])
def test_people_are_matched_as_torchvision_matches_them_image_by_image(monkeypatch, rule, at_once, own):
    monkeypatch.setattr(box_targets, "_AT_ONCE", at_once)
    rng = np.random.default_rng(3)
    people = [crowd(rng, count) for count in (4, 0, 1, 9, 0, 25)]
    rows = [torch.from_numpy(crowd(rng, 160).boxes) for _ in people]
    anchors = torch.stack(rows) if own else rows[0]
    boxes, _ = box_targets.filled_up(people, torch.device("cpu"))
    found = box_targets.match_by_overlap(boxes, anchors, rule, claims=isinstance(rule, SSDMatcher))
    seen = set()
    for index, one in enumerate(people):
        theirs = torch.full((160,), -1)
        if len(one.boxes):
            theirs = rule(box_iou(torch.from_numpy(one.boxes), rows[index] if own else anchors))
        assert torch.equal(found[index], theirs)
        seen |= set(theirs.sign().tolist())
    assert {-1, 1} <= seen


def test_a_point_is_matched_as_torchvisions_fcos_matches_it(built, monkeypatch):
    detector, size = built("fcos_resnet50_fpn"), (192, 256)
    rng = np.random.default_rng(5)
    people = [crowd(rng, count, size=size, grid=8) for count in (5, 0, 1, 80)]
    anchors = detector._anchors(*size, torch.device("cpu"))
    boxes, _ = box_targets.filled_up(people, torch.device("cpu"))
    kept = []
    monkeypatch.setattr(detector.model.head, "compute_loss", lambda *arguments: kept.append(arguments[3]))
    targets = [{"boxes": torch.from_numpy(one.boxes)} for one in people]
    levels = [-(-size[0] // s) * -(-size[1] // s) for s in detector._strides]
    detector.model.compute_loss(targets, {}, [anchors] * 4, levels)
    theirs = torch.stack(kept[0])
    assert (theirs >= 0).any(1).tolist() == [True, False, True, True]
    for at_once in (1, 2**23):
        monkeypatch.setattr(box_targets, "_AT_ONCE", at_once)
        assert torch.equal(detector._matching(anchors, *size)(boxes), theirs)


def test_an_anchor_prefers_nobody_where_nobody_is():
    boxes, _ = box_targets.filled_up([truth(), truth(PEOPLE)], torch.device("cpu"))
    indifferent = box_targets.match_by_preference(boxes, torch.zeros(3, 4), lambda _: torch.zeros(2, 2, 3))
    assert indifferent.tolist() == [[-1, -1, -1], [0, 0, 0]]


def test_ignored_regions_do_not_depend_on_the_part_they_are_looked_at_in(monkeypatch):
    rng = np.random.default_rng(7)
    people = [crowd(rng, 0, ignored) for ignored in (3, 0, 8)]
    anchors = torch.from_numpy(crowd(rng, 200).boxes)
    _, regions = box_targets.filled_up(people, torch.device("cpu"))
    alone = torch.stack([box_targets.in_ignored(anchors, torch.from_numpy(one.ignore)) for one in people])
    monkeypatch.setattr(box_targets, "_AT_ONCE", 1)
    assert torch.equal(box_targets.in_ignored(anchors, regions.boxes), alone)
    assert alone.any(1).tolist() == [True, False, True]


def test_targets_of_a_batch_are_those_of_each_image_alone(detector):
    rng = np.random.default_rng(9)
    people = [crowd(rng, *counts) for counts in ((3, 0), (0, 2), (0, 0), (9, 4))]
    together = detector.encode(people, *SIZE)
    for index, one in enumerate(people):
        alone, chosen = detector.encode([one], *SIZE), together[torch.tensor([index])]
        assert all(
            torch.equal(getattr(chosen, name), getattr(alone, name)) for name in ("positive", "counted", "boxes")
        )
    assert detector.encode([], *SIZE).positive.shape == (0, len(together.anchors))


def test_the_giou_loss_counts_positive_anchors_alone():
    boxes = torch.tensor([[[0.0, 0, 10, 20], [float("nan")] * 4, [30, 0, 40, 20]]])
    wanted = torch.tensor([[[0.0, 0, 10, 20], [5, 5, 9, 9], [32, 0, 42, 20]]])
    positive = torch.tensor([[True, False, True]])
    targets = box_targets.AnchorTargets(positive, positive, wanted, wanted[0])
    expected = generalized_box_iou_loss(boxes[0, 2], wanted[0, 2]) / 2
    torch.testing.assert_close(box_targets.giou_loss(boxes, targets), expected[None])


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """SSDLite's weights as they are published: for 91 classes, with settled statistics."""
    torch.manual_seed(4)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
    path = tmp_path_factory.mktemp("published") / "ssdlite.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    return model.eval(), {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


@pytest.mark.parametrize("given", [{}, "", 0])
def test_weights_that_are_given_and_are_none_are_refused_not_left_out(given):
    with pytest.raises(InputError, match="weights"):
        build(SSD, {"weights": given}, seed=0)


def test_published_weights_keep_person_and_background(published, batch, tmp_path):
    model, source = published
    detector = build(SSD, {"weights": source}, seed=0).eval()
    assert detector.config == {"norm": "batch"}
    assert detector.weight_sources() == {source["path"]: source["sha256"]}
    images, _ = batch
    with torch.no_grad():
        classes = model.head(list(model.backbone((images - 0.5) / 0.5).values()))["cls_logits"]
        torch.testing.assert_close(detector.logits(images), classes[..., 1] - classes[..., 0], rtol=1e-3, atol=1e-4)
    weights.save(detector, tmp_path / "tuned.safetensors")
    loaded = weights.load(tmp_path / "tuned.safetensors")
    torch.testing.assert_close(loaded.logits(images), detector.logits(images))
    assert loaded.weight_sources() == {}


def statistics_of(detector):
    return {name: tensor.clone() for name, tensor in detector.state_dict().items() if "running" in name}


def modes(detector, kind):
    return {module.training for module in detector.modules() if isinstance(module, kind)}


def test_published_statistics_are_kept_in_training(published, batch):
    _, source = published
    detector = build(SSD, {"weights": source}, seed=0).train()
    images, people = batch
    before = statistics_of(detector)
    assert modes(detector, nn.BatchNorm2d) == {False}
    detector.losses(images, detector.encode(people, *SIZE))
    assert before
    assert all(torch.equal(tensor, before[name]) for name, tensor in statistics_of(detector).items())


@pytest.mark.parametrize("name", [SSD, "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_batch_normalisation_without_published_weights_learns_from_batches_but_not_from_attacks(batch, name):
    detector = build(name, {"norm": "batch"}, seed=0).train()
    images, people = batch
    encoded = detector.encode(people, *SIZE)
    assert modes(detector, nn.BatchNorm2d) == {True}
    assert modes(detector, nn.Dropout) <= {False}
    start = statistics_of(detector)
    detector.losses(images, encoded)
    learned = statistics_of(detector)
    assert start
    assert not any(torch.equal(tensor, start[name]) for name, tensor in learned.items() if "running_mean" in name)
    spec = AttackSpec("pgd", "detection_loss", 4 / 255, 2 / 255, 2, random_start=True)
    attacked = perturb(detector, images, encoded, spec, torch.Generator().manual_seed(0))
    assert not torch.equal(attacked, images)
    detector.eval()
    detector.losses(images, encoded)
    assert modes(detector, nn.BatchNorm2d) == {False}
    assert all(torch.equal(tensor, learned[name]) for name, tensor in statistics_of(detector).items())


def test_published_weights_that_do_not_fit_are_refused(published):
    _, source = published
    with pytest.raises(IntegrityError, match=r"ssdlite\.safetensors: expected sha256 0000"):
        build(SSD, {"weights": {**source, "sha256": 64 * "0"}})
    with pytest.raises(InputError, match="published weights need their batch normalisation"):
        build(SSD, {"weights": source, "norm": "group"})
    with pytest.raises(InputError, match="another network"):
        build("fasterrcnn_mobilenet_v3_large_320_fpn", {"weights": source})


@pytest.mark.parametrize(
    ("name", "config", "named"),
    [
        (SSD, {"nrom": "group"}, "nrom"),
        (SSD, {"norm": "layer"}, "norm"),
        (SSD, {"weights": "ssdlite.pth"}, "weights"),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", {"proposal": 3}, "proposal"),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", {"proposals": 0}, "proposals"),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", {"training_proposals": 2.5}, "training_proposals"),
        ("fasterrcnn_resnet50_fpn_v2", {"proposals": True}, "proposals"),
        ("retinanet_resnet50_fpn_v2", {"proposals": 3}, "proposals"),
        ("fcos_resnet50_fpn", {"anchors": 3}, "anchors"),
    ],
)
def test_impossible_configuration_is_refused_by_key(name, config, named):
    with pytest.raises(InputError, match=f"{name}: .*'{named}'"):
        build(name, config)


@pytest.mark.slow
def test_the_large_two_stage_network_has_losses_and_gradients(batch):
    detector = build("fasterrcnn_resnet50_fpn_v2", {"proposals": 12, "training_proposals": 12}, seed=0).eval()
    images, people = batch
    wanted = images.clone().requires_grad_(True)
    terms = detector.losses(wanted, detector.encode(people, *SIZE))
    assert set(terms) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    sum(terms.values()).sum().backward()
    assert (wanted.grad.flatten(1).abs().amax(1) > 0).all()
    boxes, scores = detector.dense(images)
    assert boxes.shape == (2, 12, 4)
    assert scores.shape == (2, 12)


def test_every_registered_detector_says_whether_it_exports():
    assert {name for name, kind in DETECTORS.items() if kind.not_exportable} == {
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "fasterrcnn_resnet50_fpn_v2",
    }


def test_anchors_are_those_that_torchvision_makes_from_real_maps(built):
    detector = built(SSD)
    with torch.no_grad():
        features = detector.features(torch.rand(1, 3, *SIZE))
    wanted = detector.model.anchor_generator(ImageList(torch.rand(1, 3, *SIZE), [SIZE]), features)[0]
    found = grid_anchors(detector.model.anchor_generator, detector._strides, *SIZE, torch.device("cpu"))
    assert torch.equal(found, wanted)
