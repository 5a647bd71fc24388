"""A small real chain, run once for the whole session and copied by the tests that break it."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT.parent / "shared/data/street_sample/instances.json"

os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "yes")


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch):
    """Nothing that a test writes has to survive a power cut; syncing is most of the time of a signed entry."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def small_project(root: Path) -> Path:
    """A project with little data and one-epoch recipes; the gate of its policy is not loosened.

    Judges are trained until they see something: an audit is refused where they say nothing.
    """
    root.mkdir(parents=True)
    for name in ("policies", "recipes", "expectations"):
        shutil.copytree(ROOT / name, root / name)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"]["synthetic"].update(width=128, height=96, scenes_per_source=3, frames_per_scene=2)
    params["audit"].update(folds=2, judges=1)
    params["attack"]["images"] = 8
    params["monitor"]["window"] = 24
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    for path in (root / "recipes").glob("*.yaml"):
        recipe = yaml.safe_load(path.read_text())
        recipe.update(input_size=[96, 128], epochs=8 if path.stem == "judge" else 1)
        path.write_text(yaml.safe_dump(recipe))
    return root


@pytest.fixture
def tiny_project(tmp_path):
    """A project as :func:`small_project` makes it, of the test's own."""
    return small_project(tmp_path / "project")


@pytest.fixture(scope="session")
def finished_chain(tmp_path_factory):
    """The directory of a project whose chain has run to its end (refused: too few images for a verdict)."""
    from secpipeline import runner
    from secpipeline.workspace import Workspace

    directory = tmp_path_factory.mktemp("chain")
    patch = pytest.MonkeyPatch()
    patch.setenv("SECPIPELINE_KEYS", str(directory / "keys"))
    root = small_project(directory / "project")
    runner.run_chain(Workspace.open(root))
    patch.undo()
    return directory


@pytest.fixture
def chain(finished_chain, tmp_path, monkeypatch):
    """A private copy of the finished chain, as a workspace."""
    from secpipeline.workspace import Workspace

    shutil.copytree(finished_chain, tmp_path / "copy", copy_function=shutil.copy2)
    monkeypatch.setenv("SECPIPELINE_KEYS", str(tmp_path / "copy/keys"))
    return Workspace.open(tmp_path / "copy/project")


def loosened(policy):
    """A policy that lets any detector pass, for tests of what comes after the gate."""
    policy["require_source_attribution"] = False
    policy["sample"].update(min_images=1, min_people=1, relative_margin=1.0)
    policy["clean"]["ap50_floor"] = 0.0
    policy["attacked"].update(ap50_floor=0.0, miss_rate_ceiling=1.0, fppi_ceiling=1000.0)
    policy["corrupted"]["mean_ap50_floor"] = 0.0
    policy["artifact"].update(
        max_ap50_difference=1.0, max_box_difference=1000.0, max_score_difference=1.0, max_unmatched=100_000
    )
    policy["health"] = dict.fromkeys(policy["health"], 1.0)
    return policy


@pytest.fixture(scope="session")
def deployed_chain(finished_chain, tmp_path_factory):
    """The directory of a project whose detector was deployed, by a policy that lets anything pass."""
    from secpipeline import runner
    from secpipeline.workspace import Workspace

    directory = tmp_path_factory.mktemp("deployed") / "copy"
    shutil.copytree(finished_chain, directory, copy_function=shutil.copy2)
    path = directory / "project/policies/default.yaml"
    path.write_text(yaml.safe_dump(loosened(yaml.safe_load(path.read_text()))))
    patch = pytest.MonkeyPatch()
    patch.setenv("SECPIPELINE_KEYS", str(directory / "keys"))
    workspace = Workspace.open(directory / "project")
    for stage in ("gate", "release", "deploy", "monitor"):
        runner.run(workspace, stage).require()
    patch.undo()
    return directory


@pytest.fixture
def deployment(deployed_chain, tmp_path, monkeypatch):
    """A private copy of the deployed chain, as a workspace."""
    from secpipeline.workspace import Workspace

    shutil.copytree(deployed_chain, tmp_path / "copy", copy_function=shutil.copy2)
    monkeypatch.setenv("SECPIPELINE_KEYS", str(tmp_path / "copy/keys"))
    return Workspace.open(tmp_path / "copy/project")
