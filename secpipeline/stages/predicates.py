"""What each stage's attestation says, by predicate type."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from secpipeline.provenance import statements
from secpipeline.stages.context import StageResult
from secpipeline.stages.table import (
    LABEL_AUDIT,
    PROVENANCE,
    ROBUSTNESS,
    TEST_RESULT,
    VERIFICATION_SUMMARY,
    Stage,
)


@dataclass(frozen=True)
class Facts:
    """What the runner knows about one computation, whatever the stage.

    Attributes
    ----------
    stage, params, materials
        What was run, with which parameters, on which bytes.
    attestations
        SHA-256 of the statement of each earlier stage.
    environment, source, lock
        Versions, git revision and lock file digest.
    started, finished
        Seconds since the epoch.
    """

    stage: Stage
    params: Mapping[str, Any]
    materials: Mapping[str, str]
    attestations: Mapping[str, str]
    environment: Mapping[str, str]
    source: Mapping[str, str]
    lock: Mapping[str, str]
    started: float
    finished: float


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, to the second."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def build(facts: Facts, result: StageResult) -> dict[str, Any]:
    """The predicate of the stage's Statement."""
    return _BUILDERS[facts.stage.predicate](facts, result)


def _provenance(facts: Facts, result: StageResult) -> dict[str, Any]:
    return statements.slsa_provenance(
        stage=facts.stage.name,
        parameters=facts.params,
        materials={**facts.materials, **result.materials, **facts.lock},
        source=facts.source,
        environment=facts.environment,
        invocation=f"{facts.stage.name}-{facts.materials[f'params/{facts.stage.name}.json'][:12]}-{int(facts.started)}",
        started=timestamp(facts.started),
        finished=timestamp(facts.finished),
    )


def _test_result(facts: Facts, result: StageResult) -> dict[str, Any]:
    details = result.details
    configuration = {name: digest for name, digest in facts.materials.items() if name.startswith(_CONFIGURATION)}
    return statements.test_result(
        result=details["result"],
        configuration=configuration,
        passed=details["passedTests"],
        warned=details.get("warnedTests", []),
        failed=details["failedTests"],
    )


def _summary(facts: Facts, result: StageResult) -> dict[str, Any]:
    details = result.details
    return statements.verification_summary(
        result="PASSED" if details["verdict"] == "pass" else "FAILED",
        resource=f"sha256:{details['artifact']['sha256']}",
        policy={details["policy"]["name"]: details["policy"]["sha256"]},
        attestations=facts.attestations,
        verified=timestamp(facts.finished),
        version=importlib.metadata.version("secpipeline"),
    )


def _own(facts: Facts, result: StageResult) -> dict[str, Any]:
    content = statements.text_numbers(result.details)
    return {
        "configuration": statements.resources(facts.materials),
        "environment": dict(facts.environment),
        "finishedOn": timestamp(facts.finished),
        "result": content,
    }


_CONFIGURATION = ("policies/", "expectations/", "params/", "code/")
_BUILDERS: Mapping[str, Callable[[Facts, StageResult], dict[str, Any]]] = {
    PROVENANCE: _provenance,
    TEST_RESULT: _test_result,
    VERIFICATION_SUMMARY: _summary,
    LABEL_AUDIT: _own,
    ROBUSTNESS: _own,
}
