import hashlib
import math

import pytest
import safetensors.torch
import torch
from rectangles import pictures, truth
from torchvision.models import resnet18

from secpipeline.detection import weights
from secpipeline.detection.export import to_onnx
from secpipeline.detection.onnx_detector import OnnxDetector
from secpipeline.detection.registry import build
from secpipeline.errors import InputError, IntegrityError

SIZE = (48, 64)
SMALL = {"channels": 8}
NAMES = ["csp_resnet18", "csp_resnet50"]


@pytest.fixture(scope="module", params=NAMES)
def detector(request):
    return build(request.param, SMALL, seed=0).eval()


@pytest.fixture(scope="module")
def batch():
    images, people = pictures(2, size=SIZE)
    return torch.from_numpy(images).float() / 255, [people[0], truth()]


def test_every_cell_of_stride_four_has_a_box_and_a_score(detector, batch):
    images, _ = batch
    boxes, scores = detector.dense(images)
    assert boxes.shape == (2, SIZE[0] * SIZE[1] // 16, 4)
    torch.testing.assert_close(scores, detector.logits(images).sigmoid())
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])).all()


def test_each_image_has_its_own_losses_and_gradient(detector, batch):
    images, people = batch
    wanted = images.clone().requires_grad_(True)
    terms = detector.losses(wanted, detector.encode(people, *SIZE))
    alone = detector.losses(images[1:], detector.encode(people[1:], *SIZE))
    for name, term in terms.items():
        assert term.shape == (2,)
        torch.testing.assert_close(term[1:], alone[name], rtol=1e-4, atol=1e-6)
    sum(terms.values())[1].backward()
    assert wanted.grad.isfinite().all()
    assert (wanted.grad.flatten(1) != 0).float().mean(1).tolist() == [0, pytest.approx(1, abs=0.01)]


@pytest.mark.slow
def test_it_learns_a_picture():
    images, people = pictures(1, size=SIZE)
    images = torch.from_numpy(images).float() / 255
    learner = build("csp_resnet18", {"channels": 32}, seed=1).train()
    encoded = learner.encode(people, *SIZE)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = sum(learner.losses(images, encoded).values()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.slow
def test_mixed_precision_gives_nearly_the_same_scores_and_finite_gradients(detector, batch):
    images, people = batch
    wanted = images.clone().requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        scores = detector.dense(images)[1]
        loss = sum(detector.losses(wanted, detector.encode(people, *SIZE)).values()).sum()
    loss.backward()
    torch.testing.assert_close(scores, detector.dense(images)[1], rtol=0.05, atol=0.01)
    assert wanted.grad.isfinite().all()
    assert wanted.grad.any()


def test_with_an_aspect_ratio_every_box_has_it_and_heights_alone_are_learned(batch):
    images, people = batch
    fixed = build("csp_resnet18", {**SMALL, "aspect": 0.41}, seed=0).eval()
    assert fixed.scale.out_channels == 1
    _, scale, _ = fixed.maps(images)
    torch.testing.assert_close(scale[:, 1] - scale[:, 0], torch.full_like(scale[:, 0], math.log(0.41)))
    wide = [truth([(x1, y1, x1 + 3 * (x2 - x1), y2) for x1, y1, x2, y2 in p.boxes.tolist()]) for p in people]
    narrow_targets, wide_targets = fixed.encode(people, *SIZE), fixed.encode(wide, *SIZE)
    heights = narrow_targets.scale[:, 0][narrow_targets.positive]
    assert torch.equal(heights, wide_targets.scale[:, 0][wide_targets.positive])
    assert fixed.losses(images, narrow_targets)["scale"][0] > 0
    again = build("csp_resnet18", fixed.config, seed=0)
    assert again.scale.out_channels == 1


@pytest.mark.slow
def test_the_dense_part_compiles_as_one_graph(batch):
    detector = build("csp_resnet18", SMALL, seed=0).eval()
    images, _ = batch
    # Capturing one graph is what depends on the code; this backend needs no compiler for the machine.
    compiled = torch.compile(detector.dense, fullgraph=True, backend="aot_eager")
    for found, eager in zip(compiled(images), detector.dense(images), strict=True):
        torch.testing.assert_close(found, eager, rtol=1e-4, atol=1e-4)


def test_its_memory_is_laid_out_channels_last(detector):
    assert all(
        weight.is_contiguous(memory_format=torch.channels_last) for weight in detector.parameters() if weight.dim() == 4
    )


def test_the_last_stage_is_dilated_instead_of_strided(detector):
    images = torch.zeros(1, 3, *SIZE)
    shapes = []
    hook = detector.backbone.layer4.register_forward_hook(lambda *call: shapes.append(call[2].shape[-2:]))
    detector.logits(images)
    hook.remove()
    assert shapes == [(SIZE[0] // 16, SIZE[1] // 16)]


@pytest.mark.slow
def test_the_artifact_computes_what_the_detector_computes(detector, batch, tmp_path):
    images, _ = batch
    to_onnx(detector, tmp_path / "detector.onnx", SIZE)
    served = OnnxDetector((tmp_path / "detector.onnx").read_bytes(), SIZE, detector.nms_iou).detect(images.numpy(), 0.0)
    for one, other in zip(served, detector.detect(images, 0.0), strict=True):
        torch.testing.assert_close(torch.tensor(one.scores), other.scores, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """ImageNet weights as they are published, at random."""
    torch.manual_seed(3)
    state = resnet18(weights=None).state_dict()
    directory = tmp_path_factory.mktemp("published")
    safetensors.torch.save_file(state, directory / "resnet18.safetensors")
    return directory, state


def source(path):
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_a_backbone_starts_from_published_weights_and_names_its_source(published, tmp_path):
    directory, state = published
    named = source(directory / "resnet18.safetensors")
    detector = build("csp_resnet18", {**SMALL, "backbone": named}, seed=0)
    assert torch.equal(detector.backbone.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert torch.equal(detector.backbone.bn1.running_var, state["bn1.running_var"])
    assert detector.weight_sources() == {named["path"]: named["sha256"]}
    weights.save(detector, tmp_path / "trained.safetensors")
    loaded = weights.load(tmp_path / "trained.safetensors")
    assert loaded.weight_sources() == {}
    assert torch.equal(loaded.backbone.conv1.weight, state["conv1.weight"])
    assert build("csp_resnet18", SMALL, seed=0).weight_sources() == {}


def test_other_bytes_than_the_digest_names_are_refused(published):
    directory, _ = published
    named = {**source(directory / "resnet18.safetensors"), "sha256": 64 * "0"}
    with pytest.raises(IntegrityError, match=r"resnet18\.safetensors: expected sha256 0000"):
        build("csp_resnet18", {**SMALL, "backbone": named})


def test_weights_of_another_network_are_refused(published):
    directory, _ = published
    with pytest.raises(InputError, match=r"weights of another network|wrong shape"):
        build("csp_resnet50", {**SMALL, "backbone": source(directory / "resnet18.safetensors")})


class Trap:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return type(self.marker).touch, (self.marker,)


def test_a_file_that_would_run_code_is_refused_and_does_not(tmp_path):
    torch.save({"conv1.weight": Trap(tmp_path / "it ran")}, tmp_path / "trap.pth")
    with pytest.raises(InputError, match=r"trap\.pth: no safetensors file; no pickle"):
        build("csp_resnet18", {**SMALL, "backbone": source(tmp_path / "trap.pth")})
    assert not (tmp_path / "it ran").exists()


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.pth: weights cannot be read"):
        build("csp_resnet18", {"backbone": {"path": str(tmp_path / "nowhere.pth"), "sha256": 64 * "0"}})


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"chanels": 8}, "chanels"),
        ({"channels": 0}, "channels"),
        ({"channels": True}, "channels"),
        ({"aspect": "0.41"}, "aspect"),
        ({"aspect": -1}, "aspect"),
        ({"aspect": float("nan")}, "aspect"),
        ({"backbone": "resnet18.pth"}, "backbone"),
        ({"backbone": {"path": "resnet18.pth"}}, "backbone"),
        ({"backbone": {"path": "resnet18.pth", "sha256": "abc"}}, "backbone"),
    ],
)
def test_impossible_configuration_is_refused_by_key(config, named):
    with pytest.raises(InputError, match=f"csp_resnet18: .*{named}"):
        build("csp_resnet18", config)


def test_the_configuration_builds_the_same_network_again(detector):
    again = build(detector.name, detector.config, seed=0).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in detector.state_dict().items())
