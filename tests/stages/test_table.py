import ast
from pathlib import Path

import pytest
import yaml

from secpipeline import versioning
from secpipeline.errors import InputError
from secpipeline.stages.table import BY_NAME, STAGES, dvc_pipeline, stage_named, upstream

ROOT = Path(__file__).parents[2]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_the_library_never_imports_dagster_dvc_or_pickle():
    forbidden = {"dagster", "dvc", "pickle", "dagster_pipes", "assets"}
    sources = list((ROOT / "secpipeline").rglob("*.py"))
    assert len(sources) > 30
    guilty = {
        str(path): found for path in sources if (found := {name.split(".")[0] for name in imported(path)} & forbidden)
    }
    assert not guilty


def test_science_knows_nothing_of_evidence_or_of_what_comes_later():
    order = ["datasets", "validation", "poisoning", "detection", "robustness", "provenance", "deployment", "monitoring"]
    science = {"datasets", "validation", "poisoning", "detection", "robustness", "monitoring"}
    later = {name: set(order[index + 1 :]) for index, name in enumerate(order)}
    for package in order:
        forbidden = later[package] | {"stages", "runner", "workspace"}
        if package in science:
            forbidden |= {"provenance", "deployment"}
        for path in (ROOT / "secpipeline" / package).rglob("*.py"):
            used = {name.split(".")[1] for name in imported(path) if name.startswith("secpipeline.")}
            assert not used & (forbidden - {package}), f"{path} imports {used & forbidden}"


def test_dvc_yaml_is_what_the_table_renders():
    assert (ROOT / "dvc.yaml").read_bytes() == versioning.pipeline_bytes(ROOT), "run `secpipeline pipeline`"


def test_every_dvc_stage_goes_through_the_runner():
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_bytes())["stages"]
    assert list(pipeline) == [stage.name for stage in STAGES]
    assert all(entry["cmd"] == f"secpipeline run {name}" for name, entry in pipeline.items())
    assert all((ROOT / dep).exists() for entry in pipeline.values() for dep in entry["deps"] if "build/" not in dep)


def test_inputs_come_earlier_in_the_table():
    for index, stage in enumerate(STAGES):
        assert set(stage.inputs) <= {earlier.name for earlier in STAGES[:index]}


def test_upstream_is_transitive_and_ordered():
    assert [stage.name for stage in upstream("train")] == ["ingest", "validate", "audit_labels", "curate"]
    assert upstream("ingest") == ()
    assert {stage.name for stage in upstream("monitor")} == {stage.name for stage in STAGES} - {"monitor"}


def test_the_code_version_follows_the_code(monkeypatch, tmp_path):
    package = tmp_path / "package"
    (package / "stages").mkdir(parents=True)
    for name in ("gate", "context"):
        (package / f"stages/{name}.py").write_text("a = 1\n")
    (package / "robustness").mkdir()
    (package / "detection").mkdir()
    for name in ("gate", "policy"):
        (package / f"robustness/{name}.py").write_text("b = 1\n")
    monkeypatch.setattr("secpipeline.stages.table.PACKAGE", package)
    before = BY_NAME["gate"].code_version()
    (package / "robustness/policy.py").write_text("b = 2\n")
    assert BY_NAME["gate"].code_version() != before


def test_the_trainer_has_no_gate_key_and_the_gate_no_release_key():
    roles = {stage.name: stage.role for stage in STAGES}
    assert roles["train"] not in {roles["gate"], roles["release"], roles["deploy"]}
    assert roles["gate"] not in {roles["release"], roles["deploy"]}


def test_unknown_stage_and_missing_project_file_are_named(tmp_path):
    with pytest.raises(InputError, match="no such stage"):
        stage_named("publish")
    with pytest.raises(InputError, match=r"policies/default\.yaml"):
        BY_NAME["gate"].project_files(tmp_path)


def test_the_pipeline_names_every_artifact_directory_once():
    outs = [out for entry in dvc_pipeline(ROOT)["stages"].values() for out in entry["outs"]]
    assert len(outs) == len(set(outs)) == len(STAGES)
