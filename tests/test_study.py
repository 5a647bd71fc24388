"""Studies: read strictly, computed once, resumed after a kill, and summed up truthfully."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from secpipeline.commands import study as command
from secpipeline.detection.interface import Detector
from secpipeline.errors import CannotDecide, InputError
from secpipeline.study import cells as cells_module
from secpipeline.study import report, runs
from secpipeline.study.cells import Cell, latency
from secpipeline.study.data import data_digest, prepare
from secpipeline.study.plan import load_study
from secpipeline.study.runs import cells, run_study

ROOT = Path(__file__).parents[1]
SMALL = {
    "data": {
        "synthetic": {
            "width": 96, "height": 64, "sources": 3, "scenes_per_source": 7, "frames_per_scene": 1, "seed": 3,
        },
        "splits": {"calibration": 0.2, "test": 0.4, "holdout_sources": ["vendor-c"], "seed": 1},
    },
    "seeds": [1],
    "base": {
        "detector": "csp_tiny", "config": {"channels": [4, 4, 4]}, "input_size": [64, 96], "epochs": 1,
        "batch_size": 4, "learning_rate": 0.004, "weight_decay": 0.0001, "zoom": 1.1, "adversarial": None,
    },
    "recipes": {
        "standard": {},
        "student": {"defences": {"distillation": {"teacher": "standard"}}},
    },
    "evaluation": {
        "subset": "everybody", "images": 9, "batch_size": 8, "resamples": 100,
        "linf": {"epsilon": "4/255", "step_size": "2/255", "steps": 1, "restarts": 1, "objectives": ["vanish"]},
        "patch": {
            "fraction": 0.4, "texels": 4, "steps": 1, "rate": 0.1, "batch_size": 2, "objectives": ["vanish"],
            "seeds": [0],
        },
        "corruptions": ["fog"], "severities": [1], "seed": 5,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def changed(*path, value):
    """The small study with one value changed, or taken out if it is ``...``."""
    study = json.loads(json.dumps(SMALL))
    inner = study
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return study


def loaded(folder, study=SMALL):
    folder.mkdir(exist_ok=True)
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return load_study(path, folder / "out")


class Weightless(Detector):
    """A detector without weights, as one that another program runs."""

    name = "weightless"
    encode = losses = logits = dense = None

    def __init__(self, config):
        super().__init__()
        self.config = config


def test_a_study_of_a_black_box_is_refused_before_its_data_are_made(tmp_path):
    study = changed("recipes", "student", value={"detector": f"{__name__}:Weightless"})
    with pytest.raises(InputError, match=r"recipe student: detector .*:Weightless is a black box"):
        run_study(loaded(tmp_path, study), tmp_path / "out", 1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["recipes"]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("seeds",), ..., "with just the keys data, seeds, base, recipes, evaluation"),
        (("seeds",), [1, 1], "hold one twice"),
        (("seeds",), [], "must be a list of whole numbers"),
        (("seeds",), [True], "must be a list of whole numbers"),
        (("recipes",), {}, "one of such mappings by name"),
        (("recipes", "../x"), {}, "needs a short name"),
        (("recipes", "standard"), {"epochs": 0}, "standard.yaml: epochs: 0"),
        (("recipes", "standard"), {"colour": 1}, "standard.yaml: unknown key 'colour'"),
        (("recipes", "standard"), {"defences": {"armour": {}}}, "standard.yaml: unknown defence 'armour'"),
        (("recipes", "student", "defences", "distillation", "teacher"), "nobody", "is no recipe of this study"),
        (("recipes", "student", "defences", "distillation", "teacher"), "student", "has a teacher itself"),
        (("data", "synthetic", "sources"), 99, "sources must be a whole number from 1 to 8"),
        (("data", "splits", "seed"), ..., "the key 'seed' is missing"),
        (("data",), {"tables": "x"}, "the key 'shards' is missing"),
        (("evaluation", "subset"), "giants", "subset 'giants' is not one of"),
        (("evaluation", "corruptions"), ["rain"], "corruptions 'rain' is not one of"),
        (("evaluation", "severities"), [9], "severities 9 is not one of"),
        (("evaluation", "resamples"), 10, "resamples 10 must be 100 or more"),
        (("evaluation", "images"), 0, "images 0 must be 1 or more"),
        (("evaluation", "linf", "objectives"), ["fly"], "objective 'fly' is not one of"),
        (("evaluation", "linf", "restarts"), 0, "linf.restarts 0 must be 1 or more"),
        (("evaluation", "patch", "fraction"), 2.0, "fraction 2.0 is not in (0, 1]"),
    ],
)
def test_what_is_wrong_with_a_study_is_said_with_file_and_key(tmp_path, path, value, said):
    with pytest.raises(InputError) as refusal:
        loaded(tmp_path, changed(*path, value=value))
    assert said in str(refusal.value)
    assert ".yaml" in str(refusal.value)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_studies_are_valid(tmp_path, path):
    study = load_study(path, tmp_path)
    assert len(study.recipes) >= 4
    assert study.recipes[0].name == "standard"
    assert len({cell.digest for cell in cells(study)}) == len(study.recipes) * len(study.seeds)


def test_the_data_is_split_by_scene_and_drawn_once(tmp_path):
    study = loaded(tmp_path)
    data = prepare(study, tmp_path / "out", 1)
    (kept,) = (tmp_path / "out" / "data").iterdir()
    before = kept.stat().st_mtime_ns
    again = prepare(study, tmp_path / "out", 1)
    assert kept.stat().st_mtime_ns == before
    assert np.array_equal(data.train.images, again.train.images)
    parts = [part.image_ids for part in (data.train, data.calibration, data.test)]
    scenes = [{image_id.rsplit("-", 1)[0] for image_id in part} for part in parts]
    assert not scenes[0] & scenes[1]
    assert not scenes[0] & scenes[2]
    assert not scenes[1] & scenes[2]
    assert len(parts[2]) == len(data.test_scenes) == 9
    assert not any(image_id.startswith("vendor-c") for image_id in parts[0] + parts[1])
    for part in (data.train, data.test):
        boxes = sum(len(found.boxes) for found in part.truth)
        assert boxes == (~part.boxes["ignore"]).sum() > 0
        assert part.images.shape[1:] == (3, 64, 96)


def test_frames_of_another_size_are_refused(tmp_path):
    study = loaded(tmp_path, changed("recipes", "standard", value={"input_size": [64, 64]}))
    with pytest.raises(InputError, match="one size a study"):
        prepare(study, tmp_path / "out", 1)
    study = loaded(tmp_path, changed("base", "input_size", value=[64, 64]))
    with pytest.raises(InputError, match="scenes of 64 × 96 pixels"):
        prepare(study, tmp_path / "out", 1)


def test_everything_that_decides_a_cell_is_in_its_digest(tmp_path):
    def digests(study):
        return [cell.digest for cell in cells(loaded(tmp_path, study))]

    first = digests(SMALL)
    assert digests(SMALL) == first
    for path, value in {
        ("seeds",): [2],
        ("base", "epochs"): 2,
        ("data", "synthetic", "seed"): 4,
        ("evaluation", "patch", "steps"): 2,
        ("evaluation", "images"): 8,
    }.items():
        assert not set(digests(changed(*path, value=value))) & set(first)
    taught = digests(changed("recipes", "standard", value={"epochs": 2}))
    assert taught[1] != first[1]


def test_a_study_is_computed_once_goes_on_after_a_kill_and_is_written_up(tmp_path, monkeypatch, capsys):
    study, out = loaded(tmp_path), tmp_path / "out"
    first, second = cells(study)
    measure = cells_module.measure
    with monkeypatch.context() as patched:
        done = []

        def killed(*arguments):
            if done:
                raise KeyboardInterrupt
            done.append(1)
            return measure(*arguments)

        patched.setattr(cells_module, "measure", killed)
        with pytest.raises(KeyboardInterrupt):
            run_study(study, out, 1)
    assert first.read(out) is not None
    assert second.read(out) is None
    kept = first.result_path(out).read_bytes()
    with monkeypatch.context() as patched:  # the second was trained before the kill; it only remains to be measured
        patched.setattr(cells_module, "train_recipe", None)
        results = run_study(study, out, 1)
    assert first.result_path(out).read_bytes() == kept
    assert [result["recipe"] for result in results] == ["standard", "student"]
    with monkeypatch.context() as patched:
        patched.setattr(runs, "run_cell", None)
        patched.setattr(runs, "prepare", None)
        assert run_study(study, out, 1) == results
    options = argparse.Namespace(file=tmp_path / "mine.yaml", out=out, home=None, jobs=1)
    assert command._study(options) == 0
    assert "| student |" in capsys.readouterr().out
    assert json.loads((out / "results.json").read_text())["recipes"][1]["recipe"] == "student"
    assert (out / "results.md").read_text().count("\n| ") == 3
    assert len([path for path in out.glob("*.png") if path.read_bytes().startswith(b"\x89PNG")]) == 4
    assert not list((out / "resume").iterdir())


def test_a_result_that_was_changed_by_hand_is_refused(tmp_path):
    cell = cells(loaded(tmp_path))[0]
    path = cell.result_path(tmp_path)
    path.parent.mkdir()
    for text in ("{", "[]", json.dumps({"digest": "another"})):
        path.write_text(text)
        with pytest.raises(InputError, match=f"{cell.recipe.name}-1-.*delete it"):
            cell.read(tmp_path)


@pytest.mark.slow
def test_cells_side_by_side_find_what_cells_one_by_one_find(tmp_path):
    study = loaded(tmp_path)
    single, side_by_side = (run_study(study, tmp_path / f"jobs-{jobs}", jobs) for jobs in (1, 2))
    for one, other in zip(single, side_by_side, strict=True):
        assert one["replicates"] == other["replicates"]


def die(_):
    os._exit(1)


@pytest.mark.slow
def test_a_cell_whose_process_dies_is_one_clear_error(tmp_path, monkeypatch):
    study = loaded(tmp_path)
    monkeypatch.setattr(runs, "_run_here", die)
    with pytest.raises(CannotDecide, match="the process of a cell died"):
        run_study(study, tmp_path / "out", 2)
    assert os.environ.get("TQDM_DISABLE") is None


def result(recipe, seed, value, seconds=1.0, latency_ms=2.0):
    """A cell's result whose measures are all ``value``, a little less on every resample."""
    replicates = {name: [value, *(value - 0.001 * k for k in range(100))] for name in report.MEASURES}
    measures = {name: {"value": value, "low": value, "high": value} for name in report.MEASURES}
    training = {
        "seconds": seconds,
        "cpu_seconds": 2 * seconds,
        "device": "cpu",
        "peak_memory_bytes": 2**20,
        "losses": [1.0],
        "resumed_at": 0,
    }
    return {
        "recipe": recipe, "seed": seed, "digest": "", "training": training, "latency_ms": latency_ms,
        "measures": measures, "worst": {"linf": "linf-vanish", "patch": "patch-vanish-0"}, "replicates": replicates,
    }  # fmt: skip


def test_recipes_are_summed_up_over_seeds_and_set_against_the_first(tmp_path):
    study = dataclasses.replace(loaded(tmp_path), seeds=(1, 2))
    results = [
        result("standard", 1, 0.8), result("standard", 2, 0.6),
        result("student", 1, 0.4, 3.0, 3.0), result("student", 2, 0.6, 5.0, 3.0),
    ]  # fmt: skip
    first, second = report.summarise(study, results)
    assert first["clean_ap50"]["value"] == pytest.approx(0.7)
    assert second["clean_ap50"]["value"] == pytest.approx(0.5)
    assert second["clean_ap50"]["by_seed"] == [0.4, 0.6]
    against = second["clean_ap50"]["against_first"]
    assert against["value"] == pytest.approx(-0.2)
    assert against["high"] - against["low"] < 1e-9 < first["clean_ap50"]["high"] - first["clean_ap50"]["low"]
    assert second["training_cost"] == pytest.approx(4.0)
    assert second["latency"] == pytest.approx(1.5)
    assert second["peak_memory_mib"] == pytest.approx(1.0)
    text = report.table([first, second])
    assert "| student | 0.500 [0.403, 0.500] | -0.200 [-0.200, -0.200] |" in text
    assert report.pareto_chart([first, second], ("clean_ap50", "linf_ap50"), ("x", "y")).startswith(b"\x89PNG")


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8), st.booleans())
def test_the_front_is_of_those_that_no_other_beats(points, cheaper):
    kept = report.front([(float(x), float(y)) for x, y in points], cheaper)
    sign = -1 if cheaper else 1
    for index, (x, y) in enumerate(points):
        beaten = any(sign * a >= sign * x and b >= y and (a, b) != (x, y) for a, b in points)
        assert (index in kept) is not beaten


def test_latency_counts_the_time_of_a_detection(tmp_path):
    detector = cells_module.defended_training.build(loaded(tmp_path).recipes[0])
    assert 0.05 < latency(detector, np.zeros((2, 3, 64, 96), np.uint8)) < 1000


def test_the_code_is_in_the_digest(tmp_path, monkeypatch):
    study = loaded(tmp_path)
    before = Cell.of(study, study.recipes[0], 1).digest
    monkeypatch.setattr(cells_module, "_code", lambda: "other code")
    assert Cell.of(study, study.recipes[0], 1).digest != before
    assert data_digest(study) == data_digest(loaded(tmp_path))


@pytest.mark.parametrize("jobs", [0, -1])
def test_the_command_wants_at_least_one_job(jobs):
    with pytest.raises(InputError, match="--jobs"):
        command._study(argparse.Namespace(file=Path("x.yaml"), out=None, home=None, jobs=jobs))
