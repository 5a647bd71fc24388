"""The stages that a deployment rests on, as their verified evidence tells them.

>>> steps = deployment_steps(evidence, digests, links)                   # doctest: +SKIP
>>> steps["train"].main                                                  # doctest: +SKIP
('train/detector.safetensors', '8939a465...')
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from secpipeline.errors import AttestationError
from secpipeline.provenance.bill_of_materials.lookup import CODE, Payloads, find, get, one_clear_error
from secpipeline.provenance.bill_of_materials.references import File, attestation, first_part

INGEST, VALIDATE, AUDIT, CURATE, TRAIN = "ingest", "validate", "audit_labels", "curate", "train"
EXPORT, ATTACK, GATE, RELEASE, DEPLOY = "export", "attack", "gate", "release", "deploy"
# The stages that every deployment rests on.
STAGES = (INGEST, VALIDATE, AUDIT, CURATE, TRAIN, EXPORT, ATTACK, GATE, RELEASE, DEPLOY)
# The file that stands for all that a stage made; the others are its parts.
_MAIN_FILES = ("dataset.sha256", "detector.onnx", "detector.safetensors", "report.json", "verdict.json", "release.json")


@dataclass(frozen=True)
class Step:
    """One stage as its verified evidence tells it.

    Attributes
    ----------
    name
        Of the stage.
    attestation
        SHA-256 of the envelope of its Statement.
    products
        SHA-256 by artifact name of what it made.
    inputs
        The stages whose files it read.
    sources
        What else it read.
    command
        What was run.
    started, finished
        RFC 3339 times, or "" where its predicate has none.
    revision
        ``gitCommit`` and ``dirty`` of the project, or empty where its predicate has none.
    """

    name: str
    attestation: str
    products: Mapping[str, str]
    inputs: tuple[str, ...]
    sources: tuple[File, ...]
    command: str
    started: str
    finished: str
    revision: Mapping[str, str]

    @property
    def main(self) -> File:
        """The file that stands for all it made."""
        named = (f"{self.name}/{file}" for file in _MAIN_FILES)
        name = next((name for name in named if name in self.products), min(self.products))
        return name, self.products[name]


@one_clear_error()
def covered(evidence: Payloads, digests: Mapping[str, str], links: Payloads) -> frozenset[File]:
    """Every file that verified evidence speaks of up to the deployment, the attestations among them.

    Parameters and errors are those of :func:`deployment_steps`.
    """
    return files_of(deployment_steps(evidence, digests, links))


def files_of(steps: Mapping[str, Step]) -> frozenset[File]:
    """Every file that these steps made or read, and their attestations."""
    return frozenset(
        file
        for name, step in steps.items()
        for file in (*step.products.items(), *step.sources, (attestation(name), step.attestation))
    )


def deployment_steps(evidence: Payloads, digests: Mapping[str, str], links: Payloads) -> dict[str, Step]:
    """The deployment's step and every step whose files it rests on, each after those whose files it read.

    Parameters
    ----------
    evidence
        The *verified* payload of each stage's Statement.
    digests
        SHA-256 of the envelope of each Statement, by stage.
    links
        The *verified* payload of a Link of each stage; where several roles signed one, any of them.

    Raises
    ------
    AttestationError
        With code ``bill-of-materials``: a stage is missing, or evidence does not fit together.
    """
    found: dict[str, Step] = {}
    waiting = [DEPLOY]
    while waiting:
        stage = waiting.pop()
        if stage not in found:
            found[stage] = _step(stage, evidence, digests, links)
            waiting += found[stage].inputs
    if missing := sorted(set(STAGES) - found.keys()):
        raise AttestationError(CODE, f"{missing[0]}: no verified evidence that the deployment rests on it")
    order = TopologicalSorter({stage: step.inputs for stage, step in found.items()})
    try:
        return {stage: found[stage] for stage in order.static_order()}
    except CycleError as error:
        raise AttestationError(CODE, f"{', '.join(error.args[1])}: each read what the next one made") from error


def _step(stage: str, evidence: Payloads, digests: Mapping[str, str], links: Payloads) -> Step:
    where = f"the evidence of {stage}"
    statement, link = get(evidence, "the statements", stage), get(links, "the links", stage)
    predicate = get(statement, where, "predicate")
    entries = find(predicate, "buildDefinition.resolvedDependencies", find(predicate, "configuration", ()))
    resolved = {entry.get("name"): entry for entry in entries}
    files = {name: entry["digest"] for name, entry in resolved.items() if "sha256" in entry.get("digest", ())}
    materials = _digests({**files, **get(link, where, "materials")}, where)
    makers = {name: first_part(name) for name in materials if first_part(name) in evidence}
    for name, maker in makers.items():
        if get(links, "the links", maker, "products").get(name) != {"sha256": materials[name]}:
            raise AttestationError(CODE, f"{stage} read another {name} than {maker} made; run `secpipeline run`")
    commit = find(resolved, "source.digest.gitCommit")
    return Step(
        name=stage,
        attestation=get(digests, "the digests", stage),
        products=_products(stage, statement, digests[stage], link),
        inputs=tuple(sorted(set(makers.values()))),
        sources=tuple(file for file in materials.items() if file[0] not in makers),
        command=" ".join(get(link, where, "command")),
        started=_time(predicate, "runDetails.metadata.startedOn", "startedOn"),
        finished=_time(predicate, "runDetails.metadata.finishedOn", "finishedOn", "timeVerified"),
        revision={"gitCommit": commit, **find(resolved, "source.annotations", {})} if commit else {},
    )


def _products(stage: str, statement: Mapping[str, Any], digest: str, link: Mapping[str, Any]) -> dict[str, str]:
    """What the stage made, if its statement and its link agree."""
    where = f"the evidence of {stage}"
    products = _digests(get(link, where, "products"), where)
    if products.pop(attestation(stage), "") != digest:
        raise AttestationError(CODE, f"{stage}: its link is not about its statement")
    named = {get(entry, where, "name"): get(entry, where, "digest") for entry in get(statement, where, "subject")}
    subjects = {name: digest for name, digest in named.items() if first_part(name) == stage}  # the rest it judges
    if not products or _digests(subjects, where) != products:
        raise AttestationError(CODE, f"{stage}: its link and its statement are not about the same files")
    return products


def _digests(files: Mapping[str, Mapping[str, str]], where: str) -> dict[str, str]:
    return {name: str(get(digest, f"{where}: {name}", "sha256")) for name, digest in sorted(files.items())}


def _time(predicate: Mapping[str, Any], *places: str) -> str:
    """A time; each predicate type has it in a place of its own, test-result nowhere."""
    return str(next((time for place in places if (time := find(predicate, place))), ""))
