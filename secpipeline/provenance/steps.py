"""One step's Statement and Link, read literally: is each of them what the chain says it must be?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secpipeline.digests import check_name, sha256_bytes
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance.evidence import SignedEvidence
from secpipeline.provenance.layout import StepSpec
from secpipeline.provenance.statements import STATEMENT_TYPE, resource_uri

_SHA256 = re.compile(r"\A[0-9a-f]{64}\Z")
_LINK_FIELDS = {"_type", "name", "command", "materials", "products", "byproducts", "environment"}


@dataclass(frozen=True)
class Step:
    """What a step's evidence says once it was checked.

    Attributes
    ----------
    subjects, materials
        SHA-256 by name of what it made and of what it read.
    passed
        Whether its Statement is a test result or a verification summary that says so.
    """

    subjects: Mapping[str, str]
    materials: Mapping[str, str]
    passed: bool


def check_statement(spec: StepSpec, statement: Mapping[str, Any]) -> dict[str, str]:
    """The files that a Statement of this step is about, its own and those it judges.

    Raises
    ------
    AttestationError
        If it is no Statement of this step.
    """
    if statement.get("_type") != STATEMENT_TYPE or set(statement) != {"_type", "subject", "predicateType", "predicate"}:
        raise AttestationError("statement-type", "not an in-toto Statement v1")
    if statement["predicateType"] != spec.predicate_type:
        raise AttestationError("predicate-type", f"says {statement['predicateType']}, expected {spec.predicate_type}")
    subjects: dict[str, str] = {}
    for entry in statement["subject"]:
        name, digest = entry["name"], _only_sha256(entry["name"], entry["digest"])
        if set(entry) != {"name", "digest"}:
            raise AttestationError("subject", f"{name}: has a name and a digest and nothing else")
        if name in subjects or not (name.startswith(f"{spec.name}/") or name in spec.about):
            raise AttestationError("subject", f"{name}: named twice, or not a product of {spec.name}")
        _require_plain_name(name, "subject")
        subjects[name] = digest
    if subjects.keys() <= set(spec.about) or not subjects.keys() >= set(spec.about):
        raise AttestationError("subject", f"the Statement is not about what {spec.name} made and judged")
    return subjects


def check_link(
    spec: StepSpec, link: Mapping[str, Any], subjects: Mapping[str, str], evidence: SignedEvidence
) -> dict[str, str]:
    """What a link of this step says was read; raises :class:`AttestationError` if it does not fit the Statement."""
    if link.get("_type") != "link" or set(link) != _LINK_FIELDS:
        raise AttestationError("link-type", "not an in-toto link")
    if link["name"] != spec.name:
        raise AttestationError("link-name", f"the link belongs to the step {link['name']!r}")
    if link["command"] != spec.command:
        raise AttestationError("link-command", f"the command was {link['command']}, expected {spec.command}")
    returned = link["byproducts"]["return-value"]
    if type(returned) is not int or returned != 0:  # 0.0 and false equal 0
        raise AttestationError("link-return-value", f"the command returned {returned!r}")
    products = {name: _only_sha256(name, digest) for name, digest in link["products"].items()}
    own = {name: digest for name, digest in subjects.items() if name not in spec.about}
    if products != {**own, spec.attestation: sha256_bytes(evidence.statement)}:
        raise AttestationError("link-products", "the link and the Statement are not about the same files")
    for name in link["materials"]:
        _require_plain_name(name, "undeclared-material")
    materials = {name: _only_sha256(name, digest) for name, digest in link["materials"].items()}
    for name in spec.about:
        if materials.get(name) != subjects[name]:
            raise AttestationError("subject", f"{name}: the Statement is about other bytes than {spec.name} read")
    return materials


def says_passed(statement: Mapping[str, Any]) -> bool:
    """Whether a test result or a verification summary says that what it is about passed."""
    predicate = statement["predicate"]
    return "PASSED" in (predicate.get("result"), predicate.get("verificationResult"))


def check_summary(statement: Mapping[str, Any], earlier: Mapping[str, str]) -> None:
    """Hold a verification summary to the attestations that it must rest on.

    Parameters
    ----------
    statement
        Of a verification summary.
    earlier
        SHA-256 of the current Statement of every step before it, by its name in the chain.

    Raises
    ------
    AttestationError
        With code ``stale`` if it lists other attestations than these.
    """
    named = statement["predicate"]["inputAttestations"]
    listed = {entry["uri"]: _only_sha256(entry["uri"], entry["digest"]) for entry in named}
    expected = {resource_uri(name): digest for name, digest in earlier.items()}
    for uri in sorted(listed.keys() | expected.keys()):
        if listed.get(uri) != expected.get(uri):
            raise AttestationError("stale", f"the summary does not rest on the current {uri}; run it again")


def _require_plain_name(name: str, code: str) -> None:
    """Refuse a name that two readers could take for two files; patterns and prefixes would let it through."""
    try:
        check_name(name)
    except InputError as error:
        raise AttestationError(code, str(error)) from error


def _only_sha256(name: str, digests: Mapping[str, str]) -> str:
    if set(digests) != {"sha256"} or not _SHA256.match(digests["sha256"]):
        raise AttestationError("digest", f"{name}: needs one sha256 digest and no other, has {sorted(digests)}")
    return digests["sha256"]
