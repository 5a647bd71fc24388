"""Training that Dagster starts through Pipes and torchrun."""

import dagster as dg
import pytest
import yaml

from assets import pipes_training
from secpipeline import runner
from secpipeline.stages.table import upstream

pytestmark = pytest.mark.slow


@pytest.fixture
def retrained(chain, monkeypatch):
    """The chain with another seed in its recipe, on two processes."""
    path = chain.root / "recipes/adversarial.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "seed": 77}))
    monkeypatch.setenv(pipes_training.ARGUMENTS, "--standalone --nproc-per-node=2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return chain


def materialized(workspace):
    @dg.asset
    def detector(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        pipes_training.run_stage(context, workspace, "train")
        outcome = runner.run(workspace, "train")
        return dg.MaterializeResult(data_version=dg.DataVersion(outcome.digest), metadata={"reused": outcome.reused})

    return dg.materialize([detector], raise_on_error=False)


def test_two_processes_train_and_the_runner_finds_signed_evidence(retrained):
    before = (retrained.store.artifacts / "train/detector.safetensors").read_bytes()
    result = materialized(retrained)
    assert result.success
    (event,) = result.asset_materializations_for_node("detector")
    assert event.metadata["reused"].value is True
    assert (retrained.store.artifacts / "train/detector.safetensors").read_bytes() != before
    assert b'"world_size":2' in (retrained.store.artifacts / "train/training.json").read_bytes()
    assert runner.verify(retrained, (*(stage.name for stage in upstream("train")), "train")).ok


def test_a_child_that_fails_materializes_nothing(retrained):
    (retrained.root / "recipes/adversarial.yaml").write_text("detector: 5\n")
    result = materialized(retrained)
    assert not result.success
    assert not result.asset_materializations_for_node("detector")
    failure = result.get_step_failure_events()[0].event_specific_data.user_failure_data
    assert failure.description.startswith("train: ")
