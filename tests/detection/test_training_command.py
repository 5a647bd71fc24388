"""`secpipeline train`: experiments outside the chain."""

import argparse
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from rectangles import pictures

from secpipeline.commands import training
from secpipeline.datasets.formats.coco import read_coco
from secpipeline.datasets.releases import write_release
from secpipeline.datasets.splits import assign_splits
from secpipeline.detection import weights
from secpipeline.errors import AttestationError, InputError

RECIPES = Path(__file__).parents[2] / "recipes"
SHIPPED = sorted(path.stem for path in RECIPES.glob("*.yaml"))
RECIPE = {
    "detector": "csp_tiny", "config": {"channels": [8, 16, 16]}, "input_size": [64, 64], "epochs": 5, "batch_size": 4,
    "learning_rate": 0.004, "weight_decay": 0.0001, "seed": 1, "zoom": 1.1, "adversarial": None, "ema": 0.9,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Twenty pictures of two sources as a release."""
    root = tmp_path_factory.mktemp("delivery")
    images, people = pictures(20, seed=3)
    document = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    for number, (image, truth) in enumerate(zip(images, people, strict=True)):
        source, scene = f"vendor-{'ab'[number % 2]}", f"scene-{number // 2}"
        row = {"id": number, "file_name": f"{number}.png", "width": 64, "height": 64, "source": source, "scene": scene}
        document["images"].append(row)
        Image.fromarray(image.transpose(1, 2, 0)).save(root / row["file_name"])
        for x1, y1, x2, y2 in truth.boxes.tolist():
            box = {"image_id": number, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            document["annotations"].append({"id": len(document["annotations"]), **box})
    (root / "instances.json").write_text(json.dumps(document))
    annotations = read_coco(root / "instances.json")
    write_release(root / "release", annotations, assign_splits(annotations.images))
    return root / "release"


@pytest.fixture
def project(tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "params.yaml").write_text("{}")
    (tmp_path / "recipes/mine.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


def train(project, *arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--project", type=Path)
    parser.add_argument("--home", type=Path)
    commands = parser.add_subparsers()

    def add(name, function, text):
        added = commands.add_parser(name, help=text)
        added.set_defaults(command=function)
        return added

    training.add_commands(add)
    options = parser.parse_args(["--project", str(project), "train", *map(str, arguments)])
    return options.command(options)


def folder_of(output):
    return Path(output.splitlines()[-1].removeprefix("wrote "))


def test_weights_and_record_are_written_where_it_says(project, release, capsys):
    assert train(project, "--recipe", "mine", "--data", release, "--epochs-limit", 2) == 0
    out = folder_of(capsys.readouterr().out)
    assert out.parent == project / "build/experiments"
    assert out.name.startswith("mine-")
    assert {path.name for path in out.iterdir()} == {"detector.safetensors", "training.json"}
    record = json.loads((out / "training.json").read_text())
    assert (len(record["losses"]), record["recipe"], record["device"][:3] != "") == (2, "mine", True)
    assert weights.load(out / "detector.safetensors").name == "csp_tiny"


def test_the_same_training_is_not_repeated_and_another_has_another_folder(project, release, capsys):
    given = ("--recipe", "mine", "--data", release, "--epochs-limit", 1)
    train(project, *given)
    first = folder_of(capsys.readouterr().out)
    before = (first / "training.json").read_bytes()
    train(project, *given)
    assert "holds this training already" in capsys.readouterr().out
    assert (first / "training.json").read_bytes() == before
    train(project, *given, "--images-limit", 4)
    limited = folder_of(capsys.readouterr().out)
    assert limited != first
    assert json.loads((limited / "training.json").read_text())["training_images"] == 4
    (project / "recipes/mine.yaml").write_text(yaml.safe_dump({**RECIPE, "seed": 2}))
    train(project, *given)
    assert folder_of(capsys.readouterr().out) not in (first, limited)


def test_a_recipe_may_be_a_path_and_the_folder_may_be_chosen(project, release, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text(yaml.safe_dump({**RECIPE, "epochs": 1}))
    train(project, "--recipe", elsewhere, "--data", release, "--out", tmp_path / "mine")
    assert folder_of(capsys.readouterr().out) == tmp_path / "mine"
    first = weights.load(tmp_path / "mine/detector.safetensors").state_dict()
    train(project, "--recipe", elsewhere, "--data", release, "--out", tmp_path / "again")
    second = weights.load(tmp_path / "again/detector.safetensors").state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


LARGE = {"fasterrcnn", "judge_strong"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in SHIPPED])
def test_every_shipped_recipe_trains_a_few_steps(project, release, name, capsys):
    shutil.copytree(RECIPES, project / "recipes", dirs_exist_ok=True)
    train(project, "--recipe", name, "--data", release, "--epochs-limit", 2, "--images-limit", 4)
    out = folder_of(capsys.readouterr().out)
    record = json.loads((out / "training.json").read_text())
    assert record["recipe"] == name
    assert len(record["losses"]) == 2
    assert all(math.isfinite(loss) for loss in record["losses"])
    assert weights.load(out / "detector.safetensors").config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs-limit", 0], "--epochs-limit 0: give 1 or more"),
        (["--images-limit", -1], "--images-limit -1: give 1 or more"),
        (["--recipe", "other"], "other.yaml: no such recipe; there are mine"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_arguments_are_one_clear_error_and_write_nothing(project, release, arguments, message):
    with pytest.raises(InputError, match=message):
        train(project, "--recipe", "mine", "--data", release, *arguments)
    assert not (project / "build").exists()


def test_without_data_the_chain_s_own_release_must_verify(project, monkeypatch):
    monkeypatch.setenv("SECPIPELINE_KEYS", str(project / "keys"))
    with pytest.raises((AttestationError, InputError)):
        train(project, "--recipe", "mine")
