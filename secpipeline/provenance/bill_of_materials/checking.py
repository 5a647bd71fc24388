"""Holding a bill against the evidence: its schema, its references, and the files that it lists.

>>> check(Path("bill-of-materials.cdx.json").read_bytes(), covered(evidence, digests, links))     # doctest: +SKIP
[]
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from secpipeline.errors import AttestationError
from secpipeline.provenance import envelopes
from secpipeline.provenance.bill_of_materials.lookup import walk
from secpipeline.provenance.bill_of_materials.references import File

_HAS_BYTES = ("file", "data", "machine-learning-model")
# Every field of CycloneDX 1.6 whose string, or list of strings, points at another element.
REFERENCES = {
    *("ref", "dependsOn", "provides", "assemblies", "dependencies", "vulnerabilities", "subjects", "tools", "assessor"),
    *("requirement", "requirements", "claims", "counterClaims", "mitigationStrategies", "target", "evidence", "parent"),
    *("counterEvidence", "signatureAlgorithmRef", "subjectPublicKeyRef", "algorithmRef", "algorithms"),
}

Elements = Sequence[tuple[str, Mapping[str, Any]]]


def check(data: bytes, files: Collection[File]) -> list[str]:
    """Hold a bill against the evidence; no artifact is needed.

    A bill passes if it is strict CycloneDX 1.6, every reference in it resolves (those between tasks to tasks, all
    others to components), and the files it lists with their SHA-256 are exactly ``files``: none that no evidence
    covers, none left out, none without its digest. The CycloneDX library checks the first of these alone. Its numbers
    are those of :func:`.document.build`, which whoever holds the artifacts can call again.

    Parameters
    ----------
    data
        The bill. If a stranger may have written it, check its signature first: the schema's check of addresses takes a
        millisecond a character.
    files
        What the verified evidence covers: :func:`.chain.covered`.

    Returns
    -------
    list of str
        Every problem; empty if there is none.
    """
    try:
        bill = envelopes.parse_object(data)
    except AttestationError as error:
        return [f"not JSON that can only be read one way: {error.message}"]
    if bill.get("specVersion") != SchemaVersion.V1_6.to_version():  # which the schema itself leaves open
        return [f"not CycloneDX 1.6: specVersion is {bill.get('specVersion')!r}"]
    errors = JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode(), all_errors=True)
    if errors is not None:
        return [f"not CycloneDX 1.6: {error.data.json_path}: {error.data.message[:200]}" for error in errors]
    elements = list(walk(bill))
    return [*_reference_problems(elements), *_hash_problems(elements, frozenset(files))]


def _reference_problems(elements: Elements) -> Iterator[str]:
    declared = [(key, element["bom-ref"]) for key, element in elements if "bom-ref" in element]
    names = sorted(name for _, name in declared)
    yield from (f"{name}: two elements have this bom-ref" for name, after in pairwise(names) if name == after)
    components = {name for key, name in declared if key in ("component", "components", "services")}
    tasks = {name for key, name in declared if key == "tasks"}
    for key, element in elements:
        for field in sorted(REFERENCES & element.keys()):
            for name in element[field] if isinstance(element[field], list) else [element[field]]:
                if isinstance(name, str) and name not in (tasks if key == "taskDependencies" else components):
                    yield f"{name}: {field} under {key or 'the bill'} points at nothing in it"


def _hash_problems(elements: Elements, files: frozenset[File]) -> Iterator[str]:
    listed = set()
    for key, element in elements:
        hashes = element.get("hashes", ())
        component = key in ("component", "components")
        reference = str(element.get("bom-ref", "") if component else element.get("url", ""))
        name, _, digits = reference.rpartition("@") if component else (reference, "", "")
        if component and element["type"] in _HAS_BYTES and not hashes:
            yield f"{reference or element['name']}: has no hash"
        for entry in hashes:
            listed.add((name, entry["content"]))
            if entry["alg"] != "SHA-256" or not entry["content"].startswith(digits):
                yield f"{reference}: its hash is not the SHA-256 that its bom-ref begins"
    yield from (f"{name or '?'}: no evidence gives it the sha256 {digest}" for name, digest in sorted(listed - files))
    yield from (f"{name}: left out; evidence gives it the sha256 {digest}" for name, digest in sorted(files - listed))
