"""in-toto Statements v1 and their predicates.

Built as plain dictionaries because the published Python bindings turn integers into floats. Specifications:
https://github.com/in-toto/attestation (Statement v1, ResourceDescriptor v1, test-result v0.1) and
https://slsa.dev/spec/v1.1 (provenance v1, verification summary v1). No predicate holds a JSON number: numbers are
strings, so that no reader rounds them. ``docs/predicates/`` says what each predicate means and holds the schemas of
our own.

>>> statement({"train/detector.safetensors": "ab" * 32}, "https://example.org/x/v1", {})["subject"][0]["name"]
'train/detector.safetensors'
>>> text_numbers({"rate": 0.1, "seeds": [1, 2], "on": True})
{'rate': '0.1', 'seeds': ['1', '2'], 'on': True}
"""

from __future__ import annotations

import base64
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from secpipeline.errors import AttestationError, InputError

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
VERIFICATION_SUMMARY = "https://slsa.dev/verification_summary/v1"
BUILD_TYPE = "https://github.com/secpipeline/stages"
BUILDER = "https://github.com/secpipeline/runner"
VERIFIER = "https://github.com/secpipeline/verifier"
RESULTS = ("PASSED", "WARNED", "FAILED")


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
        "subject": resources(subjects),
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }


def resources(files: Mapping[str, str], contents: Mapping[str, bytes] | None = None) -> list[dict[str, Any]]:
    """Resource descriptors, sorted by name.

    Parameters
    ----------
    files
        SHA-256 by name.
    contents
        The bytes of those files that are carried along, by name; small JSON documents.
    """
    descriptors: list[dict[str, Any]] = []
    for name, digest in sorted(files.items()):
        descriptor: dict[str, Any] = {"name": name, "digest": {"sha256": digest}}
        if contents and name in contents:
            descriptor |= {"content": base64.b64encode(contents[name]).decode(), "mediaType": "application/json"}
        descriptors.append(descriptor)
    return descriptors


def revision(source: Mapping[str, str]) -> list[dict[str, Any]]:
    """The resource descriptor of a checkout; none outside of one.

    Parameters
    ----------
    source
        ``gitCommit`` and ``dirty`` (``true`` or ``false``), or empty. Of a dirty checkout the commit does not name the
        bytes; the digest of the stage's code does.
    """
    if not source:
        return []
    dirty = source["dirty"] != "false"
    digest = {"gitCommit": source["gitCommit"]}
    return [{"name": "source", "digest": digest, "annotations": {"secpipeline_dirty": dirty}}]


def resource_uri(name: str, sha256: str = "") -> str:
    """A package URL (https://github.com/package-url/purl-spec) for a file of the chain.

    Where a specification asks for a URI, a relative path is none. Without its prefix it is the path within a bundle.

    >>> resource_uri("policies/default.yaml")
    'pkg:generic/policies/default.yaml'
    """
    return f"pkg:generic/{quote(name)}" + (f"?checksum=sha256:{sha256}" if sha256 else "")


def slsa_provenance(
    stage: str,
    external: Mapping[str, Any],
    internal: Mapping[str, Any],
    dependencies: Sequence[Mapping[str, Any]],
    platform: Mapping[str, str],
    invocation: str,
    started: str,
    finished: str,
) -> dict[str, Any]:
    """SLSA provenance v1 (https://slsa.dev/spec/v1.1/provenance), without extension fields.

    Parameters
    ----------
    stage
        Names the build type.
    external
        What the user chose.
    internal
        What else the outcome depends on and nobody chose for this run.
    dependencies
        Resource descriptors of everything that was read.
    platform
        Versions by component of what ran the stage and wrote this.
    invocation
        Names the run, and no other run anywhere.
    started, finished
        RFC 3339 times in UTC.
    """
    return {
        "buildDefinition": {
            "buildType": f"{BUILD_TYPE}/{stage}/v1",
            "externalParameters": text_numbers(external),
            "internalParameters": text_numbers(internal),
            "resolvedDependencies": list(dependencies),
        },
        "runDetails": {
            "builder": {"id": BUILDER, "version": dict(platform)},
            "metadata": {"invocationId": invocation, "startedOn": started, "finishedOn": finished},
        },
    }


def test_result(
    result: str,
    configuration: Sequence[Mapping[str, Any]],
    passed: Sequence[str],
    warned: Sequence[str],
    failed: Sequence[str],
) -> dict[str, Any]:
    """test-result v0.1.

    Parameters
    ----------
    result
        PASSED, WARNED or FAILED.
    configuration
        Resource descriptors of everything that the outcome depends on.
    passed, warned, failed
        Names of tests.

    Raises
    ------
    AttestationError
        With code ``predicate`` if the result is none of the three, or better than its tests.
    """
    if result not in RESULTS:
        raise AttestationError("predicate", f"a test result is one of {', '.join(RESULTS)}, not {result!r}")
    if (failed and result != "FAILED") or (warned and result == "PASSED"):
        worst = [*failed, *warned][0]
        raise AttestationError("predicate", f"the result cannot be {result}: the test {worst!r} did not pass")
    return {
        "result": result,
        "configuration": list(configuration),
        "passedTests": list(passed),
        "warnedTests": list(warned),
        "failedTests": list(failed),
    }


def verification_summary(
    passed: bool,
    artifact: tuple[str, str],
    policy: tuple[str, str],
    attestations: Mapping[str, str],
    verified: str,
    platform: Mapping[str, str],
) -> dict[str, Any]:
    """SLSA verification summary v1 (https://slsa.dev/spec/v1.1/verification_summary).

    Parameters
    ----------
    passed
        Whether the policy was met. The provenance that was verified is signed but not made by a hosted build platform,
        so the level that a pass states is 1; a failure states no level.
    artifact, policy
        Name and SHA-256 of what was verified, and against what.
    attestations
        SHA-256 of each envelope that the summary rests on, by the name of its file; all of them.
    verified
        RFC 3339 time in UTC.
    platform
        Versions by component of the verifier.
    """
    return {
        "verifier": {"id": VERIFIER, "version": dict(platform)},
        "timeVerified": verified,
        "resourceUri": resource_uri(*artifact),
        "policy": {"uri": resource_uri(policy[0]), "digest": {"sha256": policy[1]}},
        "inputAttestations": [
            {"uri": resource_uri(name), "digest": {"sha256": digest}} for name, digest in attestations.items()
        ],
        "verificationResult": "PASSED" if passed else "FAILED",
        "verifiedLevels": ["SLSA_BUILD_LEVEL_1"] if passed else ["FAILED"],
        "slsaVersion": "1.1",
    }


def text_numbers(value: Any, where: str = "$") -> Any:
    """The same value with every number as the shortest string that reads back to it.

    Parameters
    ----------
    value
        JSON-able; numbers of numpy too. Keys become strings; booleans and null stay.
    where
        How errors name it.

    Raises
    ------
    InputError
        If a number is NaN or infinite, or something is no JSON value.
    """
    if isinstance(value, Mapping):
        return {str(key): text_numbers(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [text_numbers(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return repr(float(value))
    raise InputError(f"{where}: {value!r} cannot be written into a predicate")
