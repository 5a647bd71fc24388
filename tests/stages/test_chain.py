"""The chain through the runner: what it leaves behind, and what it refuses."""

import json
import shutil
import tarfile

import pandas as pd
import pytest

from secpipeline import audit, runner
from secpipeline.cli import main
from secpipeline.datasets.deliveries import deliver
from secpipeline.datasets.synthetic import SceneSpec
from secpipeline.errors import AttestationError, GateRefused
from secpipeline.stages.table import STAGES


def overwrite(path, data):
    """Replace a read-only artifact without touching the object that it is linked to."""
    path.unlink()
    path.write_bytes(data)


def refusal_texts(workspace):
    return [str(refusal) for refusal in audit.verify_everything(workspace).chain.refusals]


def test_every_stage_leaves_signed_evidence_and_the_chain_verifies(chain):
    verification = audit.verify_everything(chain)
    assert verification.ok, verification.text()
    assert len(verification.chain.steps) == len(STAGES)
    assert not verification.pending


def test_too_few_images_are_inconclusive_and_deploy_nothing(chain):
    outcome = runner.run(chain, "gate")
    assert outcome.summary["verdict"] == "inconclusive"
    assert any("images" in reason for reason in outcome.summary["reasons"])
    with pytest.raises(GateRefused, match="inconclusive"):
        runner.run(chain, "deploy").require()
    assert not list(chain.channels.glob("*/1.root.json"))


def test_unchanged_stages_reuse_their_evidence(chain):
    before = {stage.name: chain.evidence.current(stage.name) for stage in STAGES}
    runs = runner.run_chain(chain)
    assert all(run.reused for run in runs)
    assert {stage.name: chain.evidence.current(stage.name) for stage in STAGES} == before


def test_a_changed_parameter_is_computed_again_and_the_old_result_comes_back_for_free(chain):
    first = runner.run(chain, "ingest")
    changed = runner.run(chain, "ingest", {"splits.test": 0.3})
    assert not changed.reused
    assert changed.digest != first.digest
    back = runner.run(chain, "ingest")
    assert back.reused
    assert back.digest == first.digest


def test_a_changed_input_makes_later_evidence_stale(chain):
    runner.run(chain, "ingest", {"splits.test": 0.3})
    assert any("stale" in text for text in refusal_texts(chain))
    with pytest.raises(AttestationError, match="stale"):
        runner.run(chain, "train")


def test_an_edited_box_is_named_with_its_image(chain):
    path = chain.store.artifacts / "ingest/boxes.parquet"
    boxes = pd.read_parquet(path)
    image_id = boxes.loc[3, "image_id"]
    boxes.loc[3, "x1"] += 1
    path.unlink()
    boxes.to_parquet(path, index=False)
    texts = refusal_texts(chain)
    assert any("ingest/boxes.parquet" in text and image_id in text for text in texts), texts
    with pytest.raises(AttestationError, match=r"ingest/boxes\.parquet"):
        runner.run(chain, "validate")


def test_an_image_deleted_from_its_shard_is_named(chain, tmp_path):
    path = next((chain.store.artifacts / "ingest/shards").glob("*.tar"))
    images = pd.read_parquet(chain.store.artifacts / "ingest/images.parquet")
    victim = images["file_name"].iloc[-1]
    with tarfile.open(path) as old, tarfile.open(tmp_path / "new.tar", "w") as new:
        for member in old.getmembers():
            if not member.name.endswith(victim):
                new.addfile(member, old.extractfile(member))
    path.unlink()
    shutil.move(tmp_path / "new.tar", path)
    texts = refusal_texts(chain)
    assert any(f"ingest/shards/{path.name}" in text for text in texts), texts
    assert any(images["image_id"].iloc[-1] in text for text in texts), texts


@pytest.mark.parametrize("name", ["train/detector.safetensors", "export/detector.onnx", "gate/verdict.json"])
def test_one_flipped_byte_is_named_with_both_digests(chain, name):
    path = chain.store.artifacts / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    overwrite(path, bytes(data))
    texts = refusal_texts(chain)
    assert len(texts) == 1
    assert name in texts[0]
    assert main(["--project", str(chain.root), "verify"]) == 4


def test_a_missing_and_an_extra_file_are_named(chain):
    (chain.store.artifacts / "attack/report.json").unlink()
    (chain.store.artifacts / "gate/note.txt").write_text("trust me")
    texts = refusal_texts(chain)
    assert any("attack/report.json" in text for text in texts)
    assert any("gate/note.txt" in text for text in texts)


def test_a_forged_verdict_that_nobody_signed_deploys_nothing(chain):
    path = chain.store.artifacts / "gate/verdict.json"
    verdict = json.loads(path.read_bytes())
    verdict.update(verdict="pass", reasons=[])
    overwrite(path, json.dumps(verdict).encode())
    with pytest.raises(AttestationError, match=r"gate/verdict\.json"):
        runner.run(chain, "deploy")
    assert not list(chain.channels.glob("*/1.root.json"))


def test_a_damaged_output_is_rebuilt_by_running_its_stage_again(chain):
    path = chain.store.artifacts / "validate/report.json"
    overwrite(path, b"{}")
    runner.run(chain, "validate")
    assert audit.verify_everything(chain).ok


def test_the_command_line_answers_refusals_in_one_line(chain, capsys):
    assert main(["--project", str(chain.root), "run", "deploy"]) == 5
    error = capsys.readouterr().err
    assert "inconclusive" in error
    assert "Traceback" not in error


def test_a_file_is_traced_up_and_down_from_the_evidence(chain, capsys):
    exported = str(chain.store.artifacts / "export/detector.onnx")
    assert main(["--project", str(chain.root), "trace", exported]) == 0
    upward = capsys.readouterr().out
    assert upward.startswith("export ")
    assert all(stage in upward for stage in ("ingest", "curate", "train"))
    assert "deploy" not in upward
    assert main(["--project", str(chain.root), "trace", exported, "--down", "--json"]) == 0
    (branch,) = json.loads(capsys.readouterr().out)
    assert {"attack", "gate", "release", "deploy"} == {run["stage"] for run in branch["runs"]}
    assert main(["--project", str(chain.root), "trace", "0" * 64]) == 2
    assert "no signed run" in capsys.readouterr().err


def test_ones_own_data_run_through_to_a_verdict_in_a_workspace_of_their_own(chain, tmp_path, capsys):
    spec = SceneSpec(width=128, height=96, sources=3, scenes_per_source=2, frames_per_scene=2, seed=4)
    delivery = deliver(tmp_path / "mine", spec, processes=1)
    before = {path: path.stat().st_mtime_ns for path in chain.store.artifacts.rglob("*")}
    assert main(["--project", str(chain.root), "demo", "--dataset", str(delivery.instances)]) == 5
    printed = capsys.readouterr()
    assert "12 images" in printed.out
    assert "the policy asks for 100" in printed.out
    assert "chain verified         yes" in printed.out
    assert "Traceback" not in printed.err
    assert {path: path.stat().st_mtime_ns for path in chain.store.artifacts.rglob("*")} == before
    assert list((chain.home / "datasets").glob("mine-*/report/index.html"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "train", "--set", "train.recipe"], 2, "KEY=VALUE"),
        (["run", "train", "--set", "train.reciep=standard"], 2, "no such parameter"),
        (["run", "train", "--set", "train.recipe=nonsense"], 2, "nonsense"),
        (["run", "train", "--set", "train.recipe=[open"], 2, "not valid YAML"),
        (["demo", "--dataset", "nowhere.json"], 2, "nowhere.json"),
    ],
)
def test_bad_arguments_are_one_clear_error(chain, capsys, arguments, code, words):
    assert main(["--project", str(chain.root), *arguments]) == code
    assert words in capsys.readouterr().err
