"""Recipes with defences, trained through the one training loop."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

sys.path.append(str(Path(__file__).parent / "detection"))
from rectangles import pictures

from secpipeline.datasets.loading import Pixels, Placement
from secpipeline.defended_training import build, teacher_of, train_recipe
from secpipeline.detection import defences, registry
from secpipeline.detection.recipes import Adversarial, EarlyStopping, Recipe, load_recipe
from secpipeline.detection.seen import SeenBatch
from secpipeline.errors import InputError
from secpipeline.robustness.adversaries import adversary
from secpipeline.robustness.probes import validation

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
LINF = Adversarial(8 / 255, 8 / 255, 1, clean_epochs=1)
ONLY_PATCH = Adversarial(0.0, 0.0, 1, clean_epochs=1)
PLAIN = Recipe("tiny", "csp_tiny", {"channels": [4, 4, 4]}, (64, 64), 3, 4, 0.004, 1e-4, 1, None)
PATCH = {"patch": {"fraction": 0.4, "texels": 4, "patches": 2, "composition": "joint"}}
TAUGHT = {"distillation": {"teacher": "plain", "kind": "robust"}}
RECIPES = {
    "plain": PLAIN,
    "mixed": dataclasses.replace(PLAIN, defences={"cutmix": {}, "mosaic": {}, "augmix": {}}),
    "patch": dataclasses.replace(PLAIN, adversarial=ONLY_PATCH, defences=PATCH),
    "composite": dataclasses.replace(PLAIN, adversarial=LINF, defences=PATCH),
    "free": dataclasses.replace(PLAIN, adversarial=LINF, defences={"free": {"replays": 2}}),
    "taught": dataclasses.replace(PLAIN, adversarial=LINF, defences=TAUGHT),
    "taught and free": dataclasses.replace(PLAIN, adversarial=LINF, defences={**TAUGHT, "free": {"replays": 2}}),
    "resize": dataclasses.replace(PLAIN, defences={"preprocessing": {"kind": "resize", "strength": 0.4}}),
}


def pixels(count=10, seed=4):
    images, people = pictures(count, seed=seed)
    names = [f"image-{index}" for index in range(count)]
    shown = zip(names, people, strict=True)
    rows = [(name, *box, False, 1.0, box[3] - box[1]) for name, found in shown for box in found.boxes]
    columns = ["image_id", "x1", "y1", "x2", "y2", "ignore", "visibility", "height"]
    boxes = pd.DataFrame(rows, columns=columns).astype({"ignore": bool, "visibility": float})
    return Pixels(images, people, names, boxes, [Placement(1.0, 0.0, 0.0)] * count)


DATA = pixels()


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def teacher(recipe):
    return build(dataclasses.replace(PLAIN, seed=9)).eval() if teacher_of(recipe) else None


def trained(recipe, **keywords):
    return train_recipe(recipe, DATA, teacher=teacher(recipe), device=CPU, **keywords)


def same(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("name", RECIPES)
def test_every_defence_trains_and_leaves_its_mark(name):
    detector, record = trained(RECIPES[name])
    assert len(record.losses) == 3
    assert np.isfinite(record.losses).all()
    again, _ = trained(RECIPES[name])
    assert same(detector, again)
    if name != "plain":
        assert not same(detector, trained(PLAIN)[0])


class Kill(BaseException):
    """As sudden as SIGKILL, but survived by the test."""


@pytest.mark.parametrize("name", ["patch", "composite", "free", "taught", "taught and free", "resize"])
def test_a_defended_training_that_was_killed_ends_as_one_that_was_not(tmp_path, monkeypatch, name):
    whole, record = trained(RECIPES[name])
    steps = []

    class Killed(registry.DETECTORS["csp_tiny"]):
        def encode(self, *arguments):
            steps.append(1)
            if len(steps) == 8:  # of 9, in the last epoch
                raise Kill
            return super().encode(*arguments)

    with monkeypatch.context() as patched:
        patched.setitem(registry.DETECTORS, "csp_tiny", Killed)
        with pytest.raises(Kill):
            trained(RECIPES[name], checkpoint_dir=tmp_path)
    resumed, rest = trained(RECIPES[name], checkpoint_dir=tmp_path)
    assert rest.resumed_at == 2
    assert rest.losses == record.losses
    assert same(whole, resumed)


def test_a_filter_stands_before_the_recipes_detector():
    recipe = dataclasses.replace(PLAIN, defences={"preprocessing": {"kind": "median", "strength": 3}})
    detector, _ = trained(recipe)
    assert detector.config == {"inner": "csp_tiny", "config": PLAIN.config, "kind": "median", "strength": 3.0}


@pytest.mark.parametrize(
    ("recipe", "given", "said"),
    [
        (RECIPES["taught"], None, "a trained teacher belong together"),
        (PLAIN, build(PLAIN), "a trained teacher belong together"),
        (dataclasses.replace(PLAIN, defences=PATCH), None, "adversarial must be given"),
        (dataclasses.replace(PLAIN, early_stopping=EarlyStopping("clean", 1)), None, "needs calibration images"),
        (dataclasses.replace(PLAIN, defences={"armour": {}}), None, "unknown defence 'armour'"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_training(recipe, given, said):
    with pytest.raises(InputError, match=said):
        train_recipe(recipe, DATA, teacher=given, device=CPU)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_recipes_fit_together(path):
    recipe = load_recipe(path)
    found = defences.read(recipe.defences, str(path))
    assert (adversary(recipe, found, SeenBatch()) is None) is (recipe.adversarial is None)
    name = teacher_of(recipe)
    assert name is None or teacher_of(load_recipe(path.with_name(f"{name}.yaml"))) is None


def test_early_stopping_keeps_the_epoch_that_the_probe_found_strongest(monkeypatch):
    recipe = dataclasses.replace(RECIPES["composite"], epochs=5, early_stopping=EarlyStopping("robust", 1))
    scores = iter([0.2, 0.6, 0.5])
    monkeypatch.setattr("secpipeline.robustness.probes._under_pgd", lambda *_: 0.9)
    monkeypatch.setattr("secpipeline.robustness.probes._under_patch", lambda *_: next(scores))
    _, record = trained(recipe, calibration=DATA)
    assert record.scores == (0.2, 0.6, 0.5)
    assert record.kept_epoch == 2


def test_the_probe_falls_when_an_attack_succeeds():
    recipe = dataclasses.replace(PLAIN, epochs=25, config={"channels": [8, 8, 8]})
    detector, _ = trained(recipe)
    scores = {}
    for metric, epsilon in (("clean", 0.01), ("robust", 1 / 255), ("robust ", 32 / 255)):
        attacked = dataclasses.replace(
            recipe,
            adversarial=Adversarial(epsilon, epsilon, 1, 0),
            early_stopping=EarlyStopping(metric.strip(), 1),
        )
        scores[metric] = validation(attacked, defences.Defences(), DATA)(detector, 0)
    assert scores["clean"] > 0.5
    assert scores["robust "] < 0.5 * scores["clean"]
    assert scores["robust "] <= scores["robust"] <= scores["clean"] + 0.02
    with pytest.raises(InputError, match="says against what"):
        validation(dataclasses.replace(recipe, early_stopping=EarlyStopping("robust", 1)), defences.Defences(), DATA)
