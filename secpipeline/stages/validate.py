"""Validate: the release against the suites, its sources against each other, all of it against what was accepted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secpipeline.digests import sha256_bytes, sha256_file
from secpipeline.errors import InputError, IntegrityError
from secpipeline.stages.context import StageContext, StageResult
from secpipeline.store import write_atomic
from secpipeline.validation.page import render
from secpipeline.validation.results import test_result
from secpipeline.validation.statistics import Statistics, parse
from secpipeline.validation.tables import validate_release

BASELINE = "baseline/statistics.json"


def outside_files(params: Mapping[str, Any]) -> dict[str, str]:
    """The digest of the accepted statistics, which lie outside the chain: a baseline does not move by itself."""
    path = _baseline(params)
    return {} if path is None else {BASELINE: sha256_file(path)}


def run(context: StageContext) -> StageResult:
    """Run every suite; a failed expectation is recorded with the rows that break it and refuses the release.

    Expectations whose severity is ``warning`` are recorded as warnings and refuse nothing.
    """
    validation = validate_release(
        context.inputs["ingest"],
        context.root / "expectations",
        accepted=_accepted(context),
        holdout_sources=context.params.get("splits.holdout_sources", ()),
    )
    results = validation.results
    outcome = test_result(results)
    context.write_json("report.json", {**outcome, "suites": [result.to_json() for result in results]})
    context.write_json("statistics.json", validation.statistics.to_json())
    write_atomic(context.out / "page.html", render(results, validation.peers, validation.baseline).encode())
    summary = {
        "result": outcome["result"],
        "expectations": sum(result.evaluated for result in results),
        "failed": len(outcome["failedTests"]),
        "warned": len(outcome["warnedTests"]),
        "warnings": [warning for result in results for warning in result.warnings()],
        "rows": sum(result.rows for result in results),
    }
    refusal = tuple(f"validation: {failure}" for result in results for failure in result.failures())
    return StageResult(summary, details=outcome, refusal=refusal)


def _baseline(params: Mapping[str, Any]) -> Path | None:
    named = params.get("validate.baseline")
    if named is None:
        return None
    path = Path(named) if isinstance(named, str) and named else None
    if path is None or not path.is_file():
        raise InputError(
            f"validate.baseline: {named!r} is not a file; name the statistics.json of an accepted release, or null"
        )
    return path


def _accepted(context: StageContext) -> Statistics | None:
    """The accepted statistics, if they are still those that the run is bound to."""
    path = _baseline(context.params)
    if path is None:
        return None
    data = path.read_bytes()
    expected, found = context.files.get(BASELINE, ""), sha256_bytes(data)
    if found != expected:
        raise IntegrityError(str(path), expected, found, "it changed while the stage ran; run validate again")
    return parse(data, str(path))
