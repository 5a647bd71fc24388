"""Validate: the release against the expectation suites."""

from __future__ import annotations

from secpipeline.datasets.releases import Release
from secpipeline.stages.context import StageContext, StageResult
from secpipeline.store import write_atomic
from secpipeline.validation.page import render
from secpipeline.validation.results import test_result
from secpipeline.validation.tables import validate_tables


def run(context: StageContext) -> StageResult:
    """Run every suite; a failed expectation is recorded with the rows that break it and refuses the release."""
    release = Release(context.inputs["ingest"], context.inputs["ingest"])
    results = validate_tables(release.images, release.boxes, context.root / "expectations")
    outcome = test_result(results)
    context.write_json("report.json", {**outcome, "suites": [result.to_json() for result in results]})
    write_atomic(context.out / "page.html", render(results).encode())
    summary = {
        "result": outcome["result"],
        "expectations": sum(result.evaluated for result in results),
        "failed": len(outcome["failedTests"]),
        "rows": sum(result.rows for result in results),
    }
    refusal = tuple(f"validation: {failure}" for result in results for failure in result.failures())
    return StageResult(summary, details=outcome, refusal=refusal)
