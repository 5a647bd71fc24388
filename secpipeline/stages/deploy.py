"""Deploy: publish the released artifact, or record why nothing was published."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from secpipeline.deployment import channel
from secpipeline.deployment.client import Deployment, open_channel
from secpipeline.digests import check_name, sha256_bytes, sha256_file
from secpipeline.errors import AttestationError
from secpipeline.provenance.evidence import EvidenceStore
from secpipeline.provenance.report import Refusal, Report
from secpipeline.provenance.verification import Expectations, verify_chain
from secpipeline.stages.context import StageContext, StageResult, read_report
from secpipeline.stages.gate import POLICY
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
        workspace.ring(),
        partial(verify_deployment, workspace),
        memory(workspace, record["channel"]),
        policy=_policy(workspace),
    )


def _policy(workspace: Any) -> Path | None:
    """The policy file, if it is still the one that the release passed."""
    path: Path = workspace.root / POLICY
    passed = read_report(workspace.store.artifacts / "release" / "release.json")["policy"]["sha256"]
    return path if path.is_file() and sha256_file(path) == passed else None


def verify_deployment(workspace: Any, files: Path, evidence: Path, revocations: Path | None = None) -> Report:
    """Verify the chain up to the deployment in a channel: its evidence in full, its files byte for byte."""
    from secpipeline.workspace import step_specs  # noqa: PLC0415 - the workspace imports the table of stages

    chain = tuple(stage.name for stage in STAGES if stage.name != "monitor")
    return verify_chain(
        EvidenceStore(evidence),
        None,
        workspace.ring().owners(),
        step_specs(),
        only=chain,
        files={"deploy": files},
        expect=Expectations(newer_trust=revocations),
    )


def verify_channel(
    workspace: Any, name: str, *, at_least_version: int | None = None, max_age: dt.timedelta | None = None
) -> Report:
    """Verify what a channel serves: the channel itself, and the deployment with the evidence that lies beside it."""
    try:
        found = active(workspace, name, at_least_version=at_least_version, max_age=max_age)
    except AttestationError as error:
        return Report((Refusal(error.code, "deploy", "", error.message),), ("deploy",), 0)
    return verify_deployment(workspace, found.files, found.evidence, found.revocations)


def active(
    workspace: Any, name: str, *, at_least_version: int | None = None, max_age: dt.timedelta | None = None
) -> Deployment:
    """What a channel serves, by the channel's own evidence; the chain behind it is not verified here.

    Raises
    ------
    AttestationError
        If the channel cannot be trusted.
    """
    return open_channel(
        workspace.channels / check_name(name),
        workspace.ring().owners(),
        memory(workspace, name),
        at_least_version=at_least_version,
        max_age=max_age,
    )


def serving(workspace: Any) -> tuple[str, ...]:
    """The names of the channels that something was ever deployed to."""
    return tuple(sorted(path.parent.name for path in workspace.channels.glob("*/1.root.json")))


def rollback(workspace: Any, name: str) -> str:
    """Put the previous version of a channel back, once it is verified.

    Returns
    -------
    str
        One line that says what is active now.
    """
    active = channel.rollback(
        workspace.channels, name, workspace.ring(), partial(verify_deployment, workspace), memory(workspace, name)
    )
    return f"{name}: version {active.version} is active again"


def refresh(workspace: Any, name: str) -> str:
    """Sign anew that what a channel serves is still so; run it more often than the channel's timestamp lives.

    Returns
    -------
    str
        One line that says until when.
    """
    active = channel.refresh(workspace.channels, name, workspace.ring(), memory(workspace, name))
    return f"{name}: version {active.version} is active; valid until {active.expires:%Y-%m-%d %H:%M} UTC"


def publish_revocations(workspace: Any, revocations: Mapping[str, bytes]) -> tuple[str, ...]:
    """Tell the readers of every channel what was revoked; whether the deployment still stands is for them to judge.

    Returns
    -------
    tuple
        The channels that were told.
    """
    names = serving(workspace)
    for name in names:
        channel.publish_revocations(workspace.channels, name, workspace.ring(), revocations, memory(workspace, name))
    return names


def memory(workspace: Any, name: str) -> Path:
    """What this machine remembers of a channel; another home may have a channel of the same name."""
    home = sha256_bytes(str(workspace.home).encode())[:12]
    place: Path = workspace.memory / "channels" / home / check_name(name)
    return place
