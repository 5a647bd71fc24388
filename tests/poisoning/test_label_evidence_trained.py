"""The benchmark of the label audit: it counts rightly what judges that see everything find, and it runs."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from secpipeline.datasets.synthetic import SceneSpec
from secpipeline.datasets.tables import CORNERS

SCRIPT = Path(__file__).parents[2] / "benchmarks/label_evidence_trained.py"
SPEC = SceneSpec(192, 144, scenes_per_source=10, frames_per_scene=2, seed=300)


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("label_evidence_trained", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def seen(tmp_path_factory, bench):
    """What two judges predict that see everybody, each a little beside: the labels before anything was planted."""
    release, _ = bench.draw(tmp_path_factory.mktemp("honest"), SPEC, bench.NOTHING)
    rng = np.random.default_rng(0)
    people = release.boxes[~release.boxes["ignore"]]
    tables = [people[["image_id"]].assign(judge=name, score=rng.uniform(0.95, 0.99, len(people))) for name in "01"]
    for table in tables:
        table[list(CORNERS)] = people[list(CORNERS)].to_numpy() + rng.normal(0, 0.3, (len(people), 4))
    return pd.concat(tables, ignore_index=True)


@pytest.mark.parametrize("kind", ["removed", "shifted", "ghost"])
def test_judges_that_see_everybody_find_what_was_planted(tmp_path, bench, seen, kind):
    release, planted = bench.draw(tmp_path, SPEC, kind)
    found = bench.measure(release.images, release.boxes, seen, planted, kind)
    assert found["planted"] == len(planted) > 2
    assert found["precision"] >= 0.65
    assert found["by evidence"] >= 0.65
    assert sum(right for *_, right in found["scores"]) >= 0.65 * len(planted)
    assert found["planted images"] == planted["image_id"].nunique() >= found["planted images held"]
    assert max(found["AP50"]) > 0.95


def test_cleanlab_doubts_the_shifted_label_and_the_person_without_one(bench):
    images = pd.DataFrame({"image_id": ["a"], "source": ["vendor-a"], "scene": ["s"]})
    people = np.array([[10, 10, 30, 60], [60, 10, 80, 60], [120, 10, 140, 60]], float)
    predictions = pd.DataFrame(people, columns=list(CORNERS)).assign(image_id="a", score=0.97)
    boxes = pd.DataFrame(np.add(people[:2], [[0], [8]]), columns=list(CORNERS)).assign(image_id="a", ignore=False)
    boxes["box_id"] = ["good", "shifted"]
    assert bench.doubted(images, boxes, predictions, "location")["box_id"].iloc[0] == "shifted"
    assert bench.doubted(images, boxes, predictions, "missing")["x1"].tolist() == [120]


def test_each_planted_error_and_each_finding_counts_once(bench):
    planted = pd.DataFrame({"image_id": ["a", "a", "b"], "x1": [0, 1, 0], "y1": 0, "x2": [10, 11, 10], "y2": [20] * 3})
    twice = planted.iloc[[2, 2, 2]]
    assert bench.precision(twice, CORNERS, planted) == pytest.approx(1 / 3)
    one_for_two = pd.concat([planted.iloc[:1], planted.iloc[2:].assign(image_id="c")])
    assert bench.precision(one_for_two, CORNERS, planted) == pytest.approx(1 / 3)
    assert bench.precision(planted, CORNERS, planted) == 1
    late = pd.concat([planted.assign(image_id="c"), planted])
    assert bench.precision(late, CORNERS, planted) == 0


def test_the_interval_is_of_data_seeds(bench):
    assert bench.interval([0.5]) == "(one seed)"
    assert bench.interval([0.5, 0.5, 0.5]) == "[0.50, 0.50]"
    assert bench.interval([0.0, 1.0]) == "[0.00, 1.00]"


def test_what_judges_saw_is_kept_and_that_of_other_judges_refused(tmp_path, bench, monkeypatch):
    images = pd.DataFrame({"image_id": ["a", "b"], "source": ["v", "w"], "scene": ["s", "s"]})
    seen = pd.DataFrame({"image_id": ["a"], "x1": [1.5], "score": [0.5], "judge": ["0"]})
    monkeypatch.setattr(bench, "out_of_fold", lambda *_: seen)
    setting, path = {"folds": 2, "judges": 1}, tmp_path / "300-ghost.parquet"
    first, _ = bench.judged(images, None, None, setting, path)
    monkeypatch.delattr(bench, "out_of_fold")
    pd.testing.assert_frame_equal(bench.judged(images, None, None, setting, path)[0], first)
    with pytest.raises(SystemExit, match=r"300-ghost\.parquet: was made with another recipe or other options"):
        bench.judged(images, None, None, {**setting, "judges": 2}, path)


@pytest.mark.slow
def test_the_quick_form_trains_judges_once_and_refuses_results_of_another_setting(tmp_path):
    command = [sys.executable, str(SCRIPT), "--quick", "--out", str(tmp_path), "--kinds", "removed", "none"]
    first = subprocess.run(command, check=True, capture_output=True, text=True)
    results = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert sorted(results) == ["300-none.json", "300-removed.json"]
    assert 0.02 < results["300-removed.json"]["AP50"][0] < 1
    assert "precision" not in results["300-none.json"]
    assert "| removed | 300 |" in first.stdout
    assert "| none (1) |" in first.stdout
    made = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert again.stdout == first.stdout
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == made
    (tmp_path / "300-removed.json").unlink()
    audited = subprocess.run(command, check=True, capture_output=True, text=True)
    assert audited.stdout.splitlines()[:5] == first.stdout.splitlines()[:5]
    assert (tmp_path / "300-removed.parquet").stat().st_mtime_ns == made[tmp_path / "300-removed.parquet"]
    path = tmp_path / "300-none.json"
    result = results[path.name]
    path.write_text(json.dumps({**result, "setting": {**result["setting"], "epochs": 9}}))
    refused = subprocess.run(command, check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "300-none.json: was made with another recipe or other options" in refused.stderr
