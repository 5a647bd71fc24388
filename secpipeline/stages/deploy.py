"""Deploy: publish the released artifact, or record why nothing was published."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from secpipeline.deployment import channel
from secpipeline.digests import sha256_file
from secpipeline.provenance.verification import Report, verify_chain
from secpipeline.stages.context import StageContext, StageResult
from secpipeline.stages.gate import read_report
from secpipeline.stages.table import STAGES

DEPLOYED_FILES = ("detector.onnx", "detector.json")


def run(context: StageContext) -> StageResult:
    """Assemble the deployment; the channel is switched by :func:`after`, once this is signed."""
    verdict = read_report(context.inputs["gate"] / "verdict.json")
    release = read_report(context.inputs["release"] / "release.json")
    reasons = [f"gate {verdict['verdict']}: {reason['text']}" for reason in verdict["reasons"]]
    passed = verdict["verdict"] == "pass" and release["verdict"] == "pass"
    artifact = sha256_file(context.inputs["export"] / "detector.onnx")
    if passed and release["artifact"]["sha256"] != artifact:
        passed, reasons = False, [f"the release covers {release['artifact']['sha256']}, the artifact is {artifact}"]
    if passed:
        for name in DEPLOYED_FILES:
            shutil.copyfile(context.inputs["export"] / name, context.out / name)
    settings = context.params["deploy"]
    record = {
        "channel": settings["channel"],
        "outcome": "deployed" if passed else "refused",
        "reasons": [] if passed else reasons,
        "artifact": artifact,
        "verdict": verdict["verdict"],
        "recipe": release["detector"]["recipe"],
    }
    context.write_json("deployment.json", record)
    return StageResult(record, details=record, refusal=() if passed else tuple(reasons))


def after(workspace: Any) -> None:
    """Activate what was just signed; a refused deployment leaves the channel as it was."""
    files = workspace.store.artifacts / "deploy"
    record = read_report(files / "deployment.json")
    if record["outcome"] != "deployed":
        return
    channel.activate(
        workspace.channels,
        record["channel"],
        files,
        workspace.home / "evidence",
        lambda copied, evidence: verify_deployment(workspace, copied, evidence),
    )


def verify_deployment(workspace: Any, files: Path, evidence: Path) -> Report:
    """Verify the chain up to the deployment in a channel: its evidence in full, its files byte for byte."""
    from secpipeline.workspace import step_specs  # noqa: PLC0415 - the workspace imports the table of stages

    chain = tuple(stage.name for stage in STAGES if stage.name != "monitor")
    return verify_chain(evidence, None, workspace.ring().owners(), step_specs(), only=chain, files={"deploy": files})


def verify_channel(workspace: Any, name: str) -> Report:
    """Verify what a channel serves, with the evidence that lies beside it."""
    directory = workspace.channels / name
    files, evidence = channel.location(directory, channel.current(directory))
    return verify_deployment(workspace, files, evidence)


def rollback(workspace: Any, name: str) -> str:
    """Put the previous version of a channel back, once it is verified.

    Returns
    -------
    str
        One line that says what is active now.
    """
    active = channel.rollback(
        workspace.channels, name, lambda copied, evidence: verify_deployment(workspace, copied, evidence)
    )
    return f"{name}: version {active.version} is active again"
