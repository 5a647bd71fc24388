"""in-toto Statements v1 and their predicates.

Built as plain dictionaries because the published Python bindings turn integers into floats. Specifications:
https://github.com/in-toto/attestation (Statement v1, test-result v0.1), https://slsa.dev/spec/v1.1 (provenance v1,
verification summary v1). Numbers in predicates of our own are strings, so that no reader rounds them.

>>> statement({"train/detector.safetensors": "ab" * 32}, "https://example.org/x/v1", {})["subject"][0]["name"]
'train/detector.safetensors'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
BUILD_TYPE = "https://github.com/secpipeline/stages"
BUILDER = "https://github.com/secpipeline/runner"


def statement(subjects: Mapping[str, str], predicate_type: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """A Statement about files.

    Parameters
    ----------
    subjects
        SHA-256 by artifact name.
    predicate_type, predicate
        What is said about them.
    """
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(subjects.items())],
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }


def resources(files: Mapping[str, str]) -> list[dict[str, Any]]:
    """Resource descriptors, sorted by name."""
    return [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(files.items())]


def slsa_provenance(
    stage: str,
    parameters: Mapping[str, Any],
    materials: Mapping[str, str],
    source: Mapping[str, str],
    environment: Mapping[str, str],
    invocation: str,
    started: str,
    finished: str,
) -> dict[str, Any]:
    """SLSA provenance v1.

    Parameters
    ----------
    stage
        Ends the build type.
    parameters
        What the user chose.
    materials
        SHA-256 by name of everything that was read.
    source
        ``gitCommit`` and ``dirty`` of the project, or empty.
    environment
        Versions by component.
    invocation
        Names the run.
    started, finished
        RFC 3339 times.
    """
    dependencies = resources(materials)
    if source:
        dependencies.append(
            {
                "name": "source",
                "digest": {"gitCommit": source["gitCommit"]},
                "annotations": {"dirty": source["dirty"]},
            }
        )
    return {
        "buildDefinition": {
            "buildType": f"{BUILD_TYPE}/{stage}/v1",
            "externalParameters": text_numbers(parameters),
            "internalParameters": {},
            "resolvedDependencies": dependencies,
        },
        "runDetails": {
            "builder": {"id": BUILDER, "version": dict(environment)},
            "metadata": {"invocationId": invocation, "startedOn": started, "finishedOn": finished},
        },
    }


def test_result(
    result: str,
    configuration: Mapping[str, str],
    passed: Sequence[str],
    warned: Sequence[str],
    failed: Sequence[str],
) -> dict[str, Any]:
    """test-result v0.1; ``result`` is PASSED, WARNED or FAILED."""
    return {
        "result": result,
        "configuration": resources(configuration),
        "passedTests": list(passed),
        "warnedTests": list(warned),
        "failedTests": list(failed),
    }


def verification_summary(
    result: str,
    resource: str,
    policy: Mapping[str, str],
    attestations: Mapping[str, str],
    verified: str,
    version: str,
) -> dict[str, Any]:
    """SLSA verification summary v1.

    Parameters
    ----------
    result
        PASSED or FAILED.
    resource
        URI of what was verified.
    policy
        One name and its SHA-256.
    attestations
        SHA-256 of each statement the summary rests on, by stage.
    verified
        RFC 3339 time.
    version
        Of the verifier.
    """
    (policy_name, policy_digest), *_ = policy.items()
    return {
        "verifier": {"id": BUILDER, "version": {"secpipeline": version}},
        "timeVerified": verified,
        "resourceUri": resource,
        "policy": {"uri": policy_name, "digest": {"sha256": policy_digest}},
        "inputAttestations": [
            {"uri": f"attestations/{stage}.dsse.json", "digest": {"sha256": digest}}
            for stage, digest in attestations.items()
        ],
        "verificationResult": result,
        "verifiedLevels": ["SLSA_BUILD_LEVEL_1"] if result == "PASSED" else ["SLSA_BUILD_LEVEL_0"],
        "slsaVersion": "1.1",
    }


def text_numbers(value: Any) -> Any:
    """The same value with every number as a string and every key kept."""
    if isinstance(value, Mapping):
        return {str(key): text_numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [text_numbers(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    return repr(value)
