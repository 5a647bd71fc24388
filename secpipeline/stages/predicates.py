"""What each stage's attestation says, by predicate type; ``docs/predicates/`` explains it to readers.

>>> facts = Facts(stage_named("train"), params, materials, attestations, ...)   # doctest: +SKIP
>>> build(facts, stage_result)["buildDefinition"]["buildType"]                   # doctest: +SKIP
'https://github.com/secpipeline/stages/train/v1'
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.provenance import statements
from secpipeline.provenance.statements import VERIFICATION_SUMMARY
from secpipeline.stages.context import StageResult
from secpipeline.stages.table import (
    LABEL_AUDIT,
    PROVENANCE,
    ROBUSTNESS,
    TEST_RESULT,
    Stage,
)


def _new_invocation() -> str:
    return f"urn:uuid:{uuid.uuid4()}"


@dataclass(frozen=True)
class Facts:
    """What the runner knows about one computation, whatever the stage.

    Attributes
    ----------
    stage, params, materials
        What was run, with which parameters, on which bytes: SHA-256 by name of the inputs, the project's files, the
        stage's code and its parameters.
    attestations
        SHA-256 of the statement of each earlier stage.
    environment, source, lock
        Versions, git revision and lock file digest, from :mod:`secpipeline.environment`.
    started, finished
        Seconds since the epoch.
    invocation
        Names this computation and no other.
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
    invocation: str = field(default_factory=_new_invocation)


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, to the second."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def build(facts: Facts, result: StageResult) -> dict[str, Any]:
    """The predicate of the stage's Statement.

    Raises
    ------
    AttestationError
        With code ``predicate`` if the stage's result contradicts itself.
    InputError
        If a number is NaN or infinite.
    """
    return _BUILDERS[facts.stage.predicate](facts, result)


def _provenance(facts: Facts, result: StageResult) -> dict[str, Any]:
    return statements.slsa_provenance(
        stage=facts.stage.name,
        external=facts.params,
        internal={"environment": facts.environment, "seeds": result.seeds},
        dependencies=_materials(facts, result),
        platform=_platform(facts),
        invocation=facts.invocation,
        started=timestamp(facts.started),
        finished=timestamp(facts.finished),
    )


def _test_result(facts: Facts, result: StageResult) -> dict[str, Any]:
    details = result.details
    return statements.test_result(
        result=details["result"],
        configuration=_materials(facts, result, carry=True),
        passed=details["passedTests"],
        warned=details.get("warnedTests", []),
        failed=details["failedTests"],
    )


def _summary(facts: Facts, result: StageResult) -> dict[str, Any]:
    artifact, policy = result.details["artifact"], result.details["policy"]
    return statements.verification_summary(
        passed=result.details["verdict"] == "pass",
        artifact=(artifact["name"], artifact["sha256"]),
        policy=(policy["name"], policy["sha256"]),
        attestations={f"attestations/{stage}.dsse.json": digest for stage, digest in facts.attestations.items()},
        verified=timestamp(facts.finished),
        platform=_platform(facts),
    )


def _own(facts: Facts, result: StageResult) -> dict[str, Any]:
    return {
        "configuration": _materials(facts, result),
        "parameters": statements.text_numbers(facts.params),
        "environment": dict(facts.environment),
        "seeds": statements.text_numbers(result.seeds),
        "startedOn": timestamp(facts.started),
        "finishedOn": timestamp(facts.finished),
        "result": statements.text_numbers(result.details),
    }


def _materials(facts: Facts, result: StageResult, *, carry: bool = False) -> list[dict[str, Any]]:
    """Everything the result depends on; ``carry`` puts in what the predicate has no field of its own for."""
    name = facts.stage.name
    documents = {
        f"params/{name}.json": canonical_json(facts.params),
        f"environment/{name}.json": canonical_json(facts.environment),
        f"seeds/{name}.json": canonical_json(statements.text_numbers(result.seeds)),
    }
    digests = {document: sha256_bytes(data) for document, data in documents.items()}
    files = {**facts.materials, **result.materials, **facts.lock, **digests}
    return statements.resources(files, documents if carry else None) + statements.revision(facts.source)


def _platform(facts: Facts) -> dict[str, str]:
    """The components that run a stage and sign what it says; the rest of the environment is the stage's."""
    return {name: version for name, version in facts.environment.items() if name in _PLATFORM}


_PLATFORM = ("secpipeline", "python", "in-toto", "securesystemslib", "cryptography")
_BUILDERS: Mapping[str, Callable[[Facts, StageResult], dict[str, Any]]] = {
    PROVENANCE: _provenance,
    TEST_RESULT: _test_result,
    VERIFICATION_SUMMARY: _summary,
    LABEL_AUDIT: _own,
    ROBUSTNESS: _own,
}
