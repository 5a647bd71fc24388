"""Training on several accelerators or machines, as a child of Dagster: ``torchrun`` through Pipes.

``$SECPIPELINE_TORCHRUN`` holds the launcher's arguments, such as ``--standalone --nproc-per-node=8``, or
``--nnodes=4 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500`` on each of four machines that share the
project's folders. Without it training stays in Dagster's own process.

The child runs the stage through the runner as anything else does. What it reports counts for nothing: the asset then
asks the runner itself, which verifies the signed evidence and finds that there is nothing left to compute.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import dagster as dg
from dagster_pipes import open_dagster_pipes

from secpipeline import runner
from secpipeline.errors import SecpipelineError
from secpipeline.stages.train import led
from secpipeline.workspace import Workspace

ARGUMENTS = "SECPIPELINE_TORCHRUN"


def wanted() -> bool:
    """Whether training is to be started through ``torchrun``."""
    return bool(os.environ.get(ARGUMENTS, "").strip())


def run_stage(context: dg.AssetExecutionContext, workspace: Workspace, stage: str) -> None:
    """Run a stage in the processes that ``torchrun`` starts.

    Raises
    ------
    Failure
        If any of them fails, or none says that the stage was run.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", *shlex.split(os.environ[ARGUMENTS])]
    project, home = str(workspace.root), str(workspace.home)
    try:
        done = dg.PipesSubprocessClient().run(
            context=context,
            command=[*launcher, "-m", "assets.pipes_training", project, home, stage],
            cwd=str(Path(__file__).resolve().parents[1]),
        )
    except Exception as error:  # Pipes raises a class that Dagster does not export
        raise dg.Failure(description=f"{stage}: {error}", allow_retries=False) from error
    if not done.get_results(implicit_materializations=False):
        raise dg.Failure(description=f"{stage}: torchrun ended without having run the stage", allow_retries=False)


def main(project: str, home: str, stage: str) -> int:
    """What each process does: the first runs the stage, the others join its training."""
    try:
        with led() as leads:
            if leads:
                with open_dagster_pipes() as pipes:
                    outcome = runner.run(Workspace.open(Path(project), Path(home)), stage)
                    pipes.report_asset_materialization(data_version=outcome.digest)
    except SecpipelineError as error:
        sys.stderr.write(f"secpipeline: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
