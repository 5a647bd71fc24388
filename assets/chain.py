"""The stage table as software-defined assets."""

from __future__ import annotations

import dagster as dg

from assets import pipes_training
from assets.metadata import describe
from assets.resources import WorkspaceResource
from secpipeline import runner, versioning
from secpipeline.errors import SecpipelineError
from secpipeline.stages.table import BY_NAME, STAGES, Stage
from secpipeline.workspace import Workspace

# After the gate a refusal is recorded through to the deployment, so that no stale record stays behind.
_RECORDED_REFUSALS = ("release", "deploy", "monitor")


def build(stage: Stage) -> dg.AssetsDefinition:
    """The asset of one stage: it asks the runner, and shows what the runner says."""

    @dg.asset(
        key=stage.asset,
        deps=[BY_NAME[name].asset for name in stage.inputs],
        group_name=stage.group,
        description=stage.summary,
        kinds=set(stage.kinds),
        owners=[f"team:{stage.role}"],
        tags={"role": stage.role, "stage": stage.name},
        code_version=stage.code_version()[:16],
        pool=stage.pool,
    )
    def materialize(context, workspace: WorkspaceResource) -> dg.MaterializeResult:  # type: ignore[type-arg, no-untyped-def]
        # Dagster refuses an annotated context where annotations are not evaluated.
        opened = workspace.open()
        try:
            if stage.name == "train" and pipes_training.wanted():
                pipes_training.run_stage(context, opened, stage.name)
            outcome = runner.run(opened, stage.name)
            if stage.name == "gate" and outcome.refusal:
                _record_refusal(opened)
            versioning.snapshot(opened)
            if stage.name == "deploy":
                outcome.require()
        except SecpipelineError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        return dg.MaterializeResult(
            data_version=dg.DataVersion(outcome.digest), metadata=describe(outcome, opened.store.artifacts)
        )

    return materialize


def _record_refusal(workspace: Workspace) -> None:
    for name in _RECORDED_REFUSALS:
        runner.run(workspace, name)


ASSETS = [build(stage) for stage in STAGES]
