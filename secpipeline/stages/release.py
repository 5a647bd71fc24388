"""Release: one signed summary of everything that was verified about the artifact."""

from __future__ import annotations

from secpipeline.digests import sha256_file
from secpipeline.stages.context import StageContext, StageResult, read_report
from secpipeline.stages.gate import POLICY


def run(context: StageContext) -> StageResult:
    """List every attestation under the verdict.

    The runner has verified the whole chain before this runs, so the list says what the verdict rests on. A verdict
    other than pass is summed up as FAILED and goes no further.
    """
    verdict = read_report(context.inputs["gate"] / "verdict.json")
    card = read_report(context.inputs["export"] / "detector.json")
    passed = verdict["verdict"] == "pass"
    artifact = sha256_file(context.inputs["export"] / "detector.onnx")
    content = {
        "artifact": {"name": "export/detector.onnx", "sha256": artifact},
        "detector": card,
        "policy": {"name": POLICY, "sha256": context.files[POLICY]},
        "verdict": verdict["verdict"],
        "attestations": dict(context.attestations),
    }
    context.write_json("release.json", content)
    summary = {
        "result": "PASSED" if passed else "FAILED",
        "artifact": artifact,
        "recipe": card["recipe"],
        "attestations": len(context.attestations),
    }
    reasons = tuple(f"gate {verdict['verdict']}: {reason['text']}" for reason in verdict["reasons"])
    return StageResult(summary, details=content, refusal=() if passed else reasons)
