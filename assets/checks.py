"""Asset checks show the verdicts; they decide nothing. The runner and the channel refuse with or without them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import dagster as dg

from assets.resources import WorkspaceResource
from secpipeline import runner
from secpipeline.stages.deploy import verify_channel
from secpipeline.stages.table import BY_NAME, STAGES, Stage, upstream

ERROR = dg.AssetCheckSeverity.ERROR


def _result(passed: bool, reasons: list[str]) -> dg.AssetCheckResult:
    text = dg.MetadataValue.md("\n".join(f"- {reason}" for reason in reasons) or "nothing to object")
    return dg.AssetCheckResult(passed=passed, severity=ERROR, metadata={"reasons": text})


def _evidence(stage: Stage) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=stage.asset,
        name="evidence_verifies",
        blocking=True,
        description="Signatures, links and bytes of this stage and of everything upstream verify.",
    )
    def check(workspace: WorkspaceResource) -> dg.AssetCheckResult:
        names = (*(step.name for step in upstream(stage.name)), stage.name)
        report = runner.verify(workspace.open(), names)
        return _result(report.ok, [str(refusal) for refusal in report.refusals])

    return check


def _verdict(
    stage: str, file: str, name: str, description: str, judge: Callable[[dict[str, Any]], list[str]]
) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=BY_NAME[stage].asset, name=name, blocking=True, description=description)
    def check(workspace: WorkspaceResource) -> dg.AssetCheckResult:
        path = workspace.open().store.artifacts / stage / file
        reasons = judge(json.loads(path.read_bytes()))
        return _result(not reasons, reasons)

    return check


def _failed_expectations(report: dict[str, Any]) -> list[str]:
    reasons = [f"failed: {name}" for name in report["failedTests"]]
    return reasons if report["result"] == "PASSED" or reasons else ["validation did not pass"]


def _judge_reasons(report: dict[str, Any]) -> list[str]:
    predictions = report["predictions"]
    reasons = [f"failed: {text}" for text in predictions["failed"]]
    return reasons if predictions["result"] in ("PASSED", "WARNED") or reasons else ["predictions were not checked"]


def _gate_reasons(verdict: dict[str, Any]) -> list[str]:
    if verdict["verdict"] == "pass":
        return []
    return [f"verdict: {verdict['verdict']}", *(reason["text"] for reason in verdict["reasons"])]


def _release_reasons(release: dict[str, Any]) -> list[str]:
    return [] if release["verdict"] == "pass" else [f"the release sums up a verdict of {release['verdict']}"]


def _incident_reasons(report: dict[str, Any]) -> list[str]:
    return [f"{row['statistic']} drifted" for row in report["statistics"] if row["incident"]]


@dg.asset_check(
    asset=BY_NAME["deploy"].asset,
    name="channel_serves_verified_bytes",
    blocking=True,
    description="What the channel serves is signed, complete and unchanged.",
)
def channel_serves_verified_bytes(workspace: WorkspaceResource) -> dg.AssetCheckResult:
    """Verify the active deployment with the evidence that lies beside it."""
    opened = workspace.open()
    record = json.loads((opened.store.artifacts / "deploy" / "deployment.json").read_bytes())
    report = verify_channel(opened, record["channel"])
    return _result(report.ok, [str(refusal) for refusal in report.refusals])


@dg.asset_check(
    asset=BY_NAME["monitor"].asset,
    name="no_open_incidents",
    description="No statistic of the deployed detector's inputs or outputs drifted in the last window.",
)
def no_open_incidents(workspace: WorkspaceResource) -> dg.AssetCheckResult:
    """Show drift as a warning: it opens an incident, it does not undo a deployment."""
    path = workspace.open().store.artifacts / "monitor" / "report.json"
    reasons = _incident_reasons(json.loads(path.read_bytes()))
    return dg.AssetCheckResult(
        passed=not reasons,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"reasons": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in reasons) or "none")},
    )


CHECKS = [
    *(_evidence(stage) for stage in STAGES),
    _verdict("validate", "report.json", "expectations_hold", "Every expectation ran and held.", _failed_expectations),
    _verdict("audit_labels", "report.json", "judges_looked", "What every judge predicted holds.", _judge_reasons),
    _verdict("gate", "verdict.json", "verdict_is_pass", "The gate's verdict is pass.", _gate_reasons),
    _verdict("release", "release.json", "summary_is_passed", "The release sums up a pass.", _release_reasons),
    channel_serves_verified_bytes,
    no_open_incidents,
]
