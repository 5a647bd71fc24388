"""Gate: the policy's verdict over the reports."""

from __future__ import annotations

from secpipeline.robustness.gate import decide
from secpipeline.robustness.policy import load_policy
from secpipeline.stages.context import StageContext, StageResult, read_report

POLICY = "policies/default.yaml"
_REPORTS = {
    "validation": ("validate", "report.json"),
    "label_audit": ("audit_labels", "report.json"),
    "robustness": ("attack", "report.json"),
    "export": ("export", "agreement.json"),
}


def run(context: StageContext) -> StageResult:
    """Decide, and record the verdict whatever it is; a refusal is carried on to release and deployment."""
    reports = {name: read_report(context.inputs[stage] / file) for name, (stage, file) in _REPORTS.items()}
    verdict = decide(load_policy(context.root / POLICY), reports)
    context.write_json("verdict.json", verdict.to_json())
    reasons = [reason.text for reason in verdict.reasons]
    summary = {
        "verdict": verdict.verdict,
        "reasons": reasons,
        "policy": context.files[POLICY],
        "detector": read_report(context.inputs["export"] / "summary.json")["onnx"],
    }
    refusal = () if verdict.verdict == "pass" else tuple(f"gate {verdict.verdict}: {text}" for text in reasons)
    result = "PASSED" if verdict.verdict == "pass" else "FAILED"
    passed = [check.code for check in verdict.checks if check.outcome == "pass"]
    details = {"result": result, "passedTests": passed, "failedTests": [reason.code for reason in verdict.reasons]}
    return StageResult(summary, details=details, refusal=refusal)
