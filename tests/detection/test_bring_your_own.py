import copy
import hashlib

import numpy as np
import onnx
import pytest
import street_sample
import torch
import yaml
from adapters import fastestdet, yolox_nano
from onnx import TensorProto, helper
from rectangles import pictures, truth

from secpipeline.detection import weights
from secpipeline.detection.brought import Adapter, BlackBox, WhiteBox
from secpipeline.detection.export import to_onnx
from secpipeline.detection.inference import predict
from secpipeline.detection.matching import EVERYBODY, match
from secpipeline.detection.metrics import average_precision
from secpipeline.detection.onnx_detector import OnnxDetector
from secpipeline.detection.onnx_import import convert
from secpipeline.detection.recipes import load_recipe
from secpipeline.detection.registry import build
from secpipeline.detection.training import train
from secpipeline.errors import InputError, IntegrityError
from secpipeline.robustness.attacks import AttackSpec, craft
from secpipeline.stages.train import Job, fit

SIZE = (48, 64)
CELL = 8
WIDE, TALL = 20.0, 28.0


def grid():
    y, x = torch.meshgrid(torch.arange(SIZE[0] // CELL), torch.arange(SIZE[1] // CELL), indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2) * CELL + CELL / 2.0


def decode(outputs):
    """A box of one size around every cell, its score the cell's output."""
    half = torch.tensor([WIDE, TALL]) / 2
    boxes = torch.cat([grid() - half, grid() + half], -1)
    return boxes.expand(len(outputs[0]), -1, -1), outputs[0].flatten(1)


ADAPTER = Adapter(SIZE, lambda images: images * 255, decode)
PLACES = SIZE[0] * SIZE[1] // CELL**2


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A detector of bright cells as an ONNX file for one image in [0, 255]."""
    kernel = np.full((1, 3, CELL, CELL), 1 / (3 * CELL**2 * 20), np.float32)
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel", "bias"], ["z"], strides=[CELL, CELL]),
        helper.make_node("Sigmoid", ["z"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, *SIZE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1, SIZE[0] // CELL, SIZE[1] // CELL])],
        [
            onnx.numpy_helper.from_array(kernel, "kernel"),
            onnx.numpy_helper.from_array(np.array([-7], np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = tmp_path_factory.mktemp("brought") / "bright.onnx"
    path.write_bytes(model.SerializeToString())
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


@pytest.fixture(scope="module")
def white(config):
    return WhiteBox("bright", config, ADAPTER).eval()


@pytest.fixture(scope="module")
def black(config):
    return BlackBox("bright", config, ADAPTER).eval()


@pytest.fixture(scope="module")
def batch():
    images, people = pictures(3, size=SIZE)
    return torch.from_numpy(images).float() / 255, [*people[:2], truth()]


def test_both_boxes_find_the_same(white, black, batch):
    images, _ = batch
    for ours, theirs in zip(white.dense(images), black.dense(images), strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-4, atol=1e-4)
    seen = (images.numpy() * 255).astype(np.uint8)
    tables = [predict(one, seen, ["a", "b", "c"], batch_size=2, score_threshold=0.5) for one in (white, black)]
    assert len(tables[0]) == len(tables[1]) > 0
    assert tables[0]["image_id"].tolist() == tables[1]["image_id"].tolist()


def test_losses_are_an_images_own_and_the_same_for_both_boxes(white, black, batch):
    images, people = batch
    encoded = white.encode(people, *SIZE)
    terms = white.losses(images, encoded)
    one = torch.tensor([1])
    for name, term in terms.items():
        assert term.shape == (3,)
        torch.testing.assert_close(term[1:2], white.losses(images[1:2], encoded[one])[name])
        torch.testing.assert_close(term.detach(), black.losses(images, encoded)[name], rtol=1e-3, atol=1e-4)
    assert terms["missed"][2] == terms["box"][2] == 0


def given(boxes, scores):
    """A detector whose decoder says what it is told, whatever it sees."""
    return lambda outputs: (torch.tensor([boxes], dtype=torch.float32), torch.tensor([scores]) + 0 * outputs[0].sum())


def told(config, boxes, scores):
    return WhiteBox("told", config, Adapter(SIZE, lambda images: images, given(boxes, scores)))


PERSON, NEAR, FAR = [10, 10, 30, 40], [11, 10, 31, 40], [40, 5, 60, 35]


def judged(config, boxes, scores, people):
    detector = told(config, boxes, scores)
    return {k: v.item() for k, v in detector.losses(torch.zeros(1, 3, *SIZE), detector.encode([people], *SIZE)).items()}


def test_losses_rise_with_a_missed_person_a_misfit_and_a_false_alarm(config):
    people = truth([PERSON])
    right = judged(config, [PERSON, FAR], [0.99, 0.01], people)
    assert right["box"] == pytest.approx(0, abs=1e-5)
    assert judged(config, [PERSON, FAR], [0.2, 0.01], people)["missed"] > right["missed"] + 1
    assert judged(config, [NEAR, FAR], [0.99, 0.01], people)["box"] > 0.05
    assert judged(config, [PERSON, FAR], [0.99, 0.9], people)["false"] > right["false"] + 1


def test_of_several_boxes_on_a_person_the_most_confident_is_judged(config):
    people = truth([PERSON])
    alone = judged(config, [PERSON, FAR], [0.9, 0.01], people)
    assert judged(config, [PERSON, NEAR], [0.9, 0.3], people)["missed"] == pytest.approx(alone["missed"])
    assert judged(config, [NEAR, PERSON], [0.9, 0.3], people)["box"] > 0.05


def test_a_person_whom_no_box_overlaps_blames_the_nearest(config):
    small = truth([[50, 40, 58, 48]])
    far, near = [0, 0, 10, 10], [38, 38, 48, 48]
    missed = [judged(config, [far, near], scores, small)["missed"] for scores in ([0.9, 0.1], [0.1, 0.9])]
    assert missed[0] > missed[1] + 1


def test_a_box_in_an_ignored_region_is_not_judged(config):
    alarm = judged(config, [FAR], [0.9], truth())
    assert alarm["false"] > 1
    assert judged(config, [FAR], [0.9], truth(ignore=[[38, 0, 62, 40]]))["false"] == 0


def test_a_white_box_is_attacked_with_gradients(white, batch):
    images, people = batch
    encoded = white.encode(people, *SIZE)
    for objective in ("detection_loss", "vanish", "fabricate"):
        spec = AttackSpec("pgd", objective, epsilon=8 / 255, step_size=4 / 255, steps=3, random_start=False)
        crafted = craft(white, images, encoded, spec, torch.Generator().manual_seed(0))
        assert not crafted.non_finite.any()
        assert not crafted.zero_gradient.any()
        assert (crafted.images - images).abs().max() <= 8 / 255 + 1e-6
    before, after = white.dense(images)[1], white.dense(crafted.images)[1]
    assert (after.sum(1) > before.sum(1)).all()


def test_a_black_box_gives_values_and_refuses_gradients(white, black, batch):
    images, _ = batch
    torch.testing.assert_close(black.logits(images), white.logits(images), rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match="bright: a black box has no gradients"):
        black.logits(images.clone().requires_grad_(True))
    assert black.device == torch.device("cpu")


def bright_black(config):
    return BlackBox("bright", config, ADAPTER)


def recipe_file(folder, name, detector, config, **more):
    values = {
        **{"detector": detector, "config": config, "input_size": [48, 64], "epochs": 1, "batch_size": 2, "seed": 1},
        **{"learning_rate": 0.001, "weight_decay": 0.0, "zoom": 1.0, "adversarial": None, **more},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("who", ["mine", "taught"])
def test_training_a_black_box_is_refused_before_any_data_are_read(config, tmp_path, who):
    black = f"{__name__}:bright_black"
    path = recipe_file(tmp_path, "mine", black, config)
    if who == "taught":
        path = recipe_file(tmp_path, who, "csp_tiny", {}, defences={"distillation": {"teacher": "mine"}})
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(InputError) as refused:
        fit(Job(str(path), nowhere, nowhere, nowhere))
    assert str(refused.value) == (
        f"recipe mine: detector {black} is a black box: it cannot be trained; evaluate it, or bring it as a white box"
    )


def test_the_training_loop_refuses_a_black_box_and_takes_a_white_one(config, black, white, tmp_path):
    images, people = pictures(2, size=SIZE)
    recipe = load_recipe(recipe_file(tmp_path, "mine", f"{__name__}:bright_black", config))
    with pytest.raises(InputError, match="it cannot be trained"):
        train(black, images, people, recipe)
    assert len(train(copy.deepcopy(white), images, people, recipe).losses) == 1


def test_it_names_its_source_and_refuses_other_bytes(white, config):
    assert white.weight_sources() == {config["path"]: config["sha256"]}
    for kind in (WhiteBox, BlackBox):
        with pytest.raises(IntegrityError, match=r"bright\.onnx: expected sha256 0000"):
            kind("bright", {**config, "sha256": 64 * "0"}, ADAPTER)
        with pytest.raises(InputError, match="unknown config key 'sha265'"):
            kind("bright", {"path": "x", "sha265": ""}, ADAPTER)
        with pytest.raises(InputError, match=r"nowhere\.onnx: weights cannot be read"):
            kind("bright", {**config, "path": "nowhere.onnx"}, ADAPTER)


def test_frames_of_another_size_are_refused(white):
    with pytest.raises(InputError, match=r"bright: images of 64 × 64; it takes \(48, 64\)"):
        white.dense(torch.rand(1, 3, 64, 64))
    with pytest.raises(InputError, match=r"bright: images of 64 × 64"):
        white.encode([truth()], 64, 64)


def test_an_adapter_that_decodes_to_something_else_is_refused(config):
    detector = WhiteBox("wrong", config, Adapter(SIZE, lambda images: images, lambda outputs: (outputs[0],) * 2))
    with pytest.raises(InputError, match=r"wrong: its adapter decodes to boxes .* needed are \(B, K, 4\)"):
        detector.dense(torch.rand(1, 3, *SIZE))


def test_it_cannot_be_exported_and_says_why(white, tmp_path):
    with pytest.raises(InputError, match=r"cannot be exported to ONNX \(it came as ONNX"):
        to_onnx(white, tmp_path / "again.onnx", SIZE)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A user's module on the path."""
    (tmp_path / "brought_by_a_user.py").write_text(
        "from test_bring_your_own import ADAPTER, WhiteBox\n"
        "def bright(config):\n    return WhiteBox('bright', config, ADAPTER)\n"
        "def nothing(config):\n    return config\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "brought_by_a_user"


def test_an_entry_point_builds_a_users_detector(installed, config, batch, tmp_path):
    detector = build(f"{installed}:bright", config)
    assert detector.name == "bright"
    with torch.no_grad():
        next(detector.parameters()).mul_(1.5)
    path = tmp_path / "tuned.safetensors"
    weights.save(detector, path)
    with pytest.raises(InputError, match="bright: no such detector"):
        weights.load(path)
    loaded = weights.load(path, entry_point=f"{installed}:bright")
    torch.testing.assert_close(loaded.logits(batch[0]), detector.logits(batch[0]))


def test_a_file_of_weights_does_not_choose_which_code_runs(installed, config, tmp_path):
    detector = build(f"{installed}:bright", config)
    detector.name = "brought_by_nobody:bright"
    weights.save(detector, tmp_path / "trap.safetensors")
    (tmp_path / "brought_by_nobody.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')\n")
    with pytest.raises(InputError, match="does not say which detector"):
        weights.load(tmp_path / "trap.safetensors")
    assert not (tmp_path / "it ran").exists()


def test_nor_does_one_inside_of_a_filter(installed, tmp_path):
    (tmp_path / "brought_inside.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')\n")
    filtered = build("preprocessed", {"inner": "csp_tiny", "config": {}, "kind": "median", "strength": 3})
    filtered.config = {**filtered.config, "inner": "brought_inside:bright"}
    weights.save(filtered, tmp_path / "trap.safetensors")
    with pytest.raises(InputError, match="does not say which detector"):
        weights.load(tmp_path / "trap.safetensors")
    assert not (tmp_path / "it ran").exists()


def test_weights_beside_the_file_are_not_what_its_digest_names(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = onnx.load(config["path"])
    onnx.external_data_helper.convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    onnx.save(model, tmp_path / "outside.onnx")
    assert (tmp_path / "w.bin").is_file()
    content = (tmp_path / "outside.onnx").read_bytes()
    for opened in (lambda: convert(content, "outside"), lambda: OnnxDetector(content, SIZE, 0.5)):
        with pytest.raises(InputError):
            opened()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("brought_by_a_user:nothing", "returned dict, not a"),
        ("brought_by_a_user:absent", "cannot be imported"),
        ("brought_by_a_user:number", "is a int; give a function"),
        ("no_such_module_anywhere:bright", "cannot be imported"),
        ("brought_by_a_user:bright:more", "not an entry point"),
        ("../brought:bright", "not an entry point"),
        ("brought_by_a_user:", "not an entry point"),
        ("csp_tyny", "no such detector"),
    ],
)
def test_an_entry_point_that_is_none_is_refused(installed, name, message):
    with pytest.raises(InputError, match=message):
        build(name, {})


REAL = {"fastestdet_coco.onnx": fastestdet, "yolox_nano.onnx": yolox_nano}


@street_sample.needed
@pytest.mark.parametrize("file", REAL)
@pytest.mark.parametrize("kind", [pytest.param("white_box", marks=pytest.mark.slow), "black_box"])
def test_a_published_detector_finds_people_in_real_pictures(file, kind):
    detector = getattr(REAL[file], kind)(street_sample.weights(file))
    images, _, table, names = street_sample.pictures(detector.adapter.size)
    found = predict(detector, images, names)
    assert average_precision(match(table, found, names, EVERYBODY)) >= 0.9


@pytest.mark.slow
@street_sample.needed
@pytest.mark.parametrize("file", REAL)
def test_a_published_detector_is_blinded_with_gradients(file):
    detector = REAL[file].white_box(street_sample.weights(file)).eval()
    images, people, table, names = street_sample.pictures(detector.adapter.size)
    images, people, names = images[:2], people[:2], names[:2]
    pixels = torch.from_numpy(images).float() / 255
    spec = AttackSpec("pgd", "vanish", epsilon=8 / 255, step_size=2 / 255, steps=5, random_start=False)
    encoded = detector.encode(people, *detector.adapter.size)
    crafted = craft(detector, pixels, encoded, spec, torch.Generator().manual_seed(0))
    assert not crafted.zero_gradient.any()
    assert not crafted.non_finite.any()
    attacked = np.rint(crafted.images.numpy() * 255).astype(np.uint8)
    shown = table[table["image_id"].isin(names)]
    found = [match(shown, predict(detector, seen, names), names, EVERYBODY) for seen in (images, attacked)]
    before, after = map(average_precision, found)
    assert after < before - 0.3
