"""Where a chain lives, and what is not taken for one."""

import json

import pytest

from secpipeline.errors import InputError
from secpipeline.workspace import Workspace


def project(folder):
    (folder / "params.yaml").write_text("seed: 1\n")
    return folder


def test_a_directory_without_parameters_is_no_project(tmp_path):
    with pytest.raises(InputError, match=r"no params\.yaml here"):
        Workspace.open(tmp_path)


def test_evidence_of_an_earlier_version_is_named_with_what_to_do(tmp_path):
    evidence = project(tmp_path) / "build/evidence"
    evidence.mkdir(parents=True)
    entry = {"index": 0, "link": "b9" * 32, "previous": "", "stage": "ingest", "statement": "28" * 32, "time": 1}
    (evidence / "log.jsonl").write_text(json.dumps(entry, separators=(",", ":")) + "\n")
    with pytest.raises(InputError, match=r"build: its evidence is of a version before 0\.3.*mv .*build-0\.2"):
        Workspace.open(tmp_path)


def test_a_workspace_of_this_version_opens_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SECPIPELINE_KEYS", str(tmp_path / "keys"))
    (tmp_path / "project").mkdir()
    workspace = Workspace.open(project(tmp_path / "project"))
    workspace.trust()
    assert workspace.evidence.log.path.is_file()
    assert Workspace.open(workspace.root) == workspace
