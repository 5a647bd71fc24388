"""The bill of materials of one deployment: CycloneDX 1.6, made from verified evidence and from nothing else.

It names the detector with its model card, the raw and the curated release, every configuration that was read, the
packages that trained it, and how each came from the others. The specification is
https://cyclonedx.org/docs/1.6/json/ (ECMA-424). Whatever has bytes has the reference ``<artifact>@<12 hex digits of its
SHA-256>``, so that a bill can be held against evidence again (:func:`check`). Equal evidence gives equal bytes, so that
whoever holds the reports can also make the bill again and compare.

>>> facts = read(evidence, digests, links, Path("build/artifacts"))      # doctest: +SKIP
>>> bill = build(facts)                                                  # doctest: +SKIP
>>> check(bill, covered(evidence, digests, links))                       # doctest: +SKIP
[]
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import Any

from cyclonedx.exception import CycloneDxException
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.errors import AttestationError
from secpipeline.provenance import envelopes

CODE = "bill-of-materials"
INGEST, VALIDATE, AUDIT, CURATE, TRAIN = "ingest", "validate", "audit_labels", "curate", "train"
EXPORT, ATTACK, GATE, RELEASE, DEPLOY = "export", "attack", "gate", "release", "deploy"
# The stages that every deployment rests on, and what CycloneDX calls the work of each.
_TASK_TYPES = {
    **{INGEST: "copy", VALIDATE: "test", AUDIT: "scan", CURATE: "clean", TRAIN: "build"},
    **{EXPORT: "build", ATTACK: "test", GATE: "test", RELEASE: "release", DEPLOY: "deploy"},
}
_MODELS = (TRAIN, EXPORT, DEPLOY)
_RELEASES = {INGEST: "raw release", CURATE: "curated release"}
_ABOUT_THE_DETECTOR = (TRAIN, EXPORT, ATTACK, GATE, RELEASE, DEPLOY)
# The file that stands for all that a stage made; the others are its parts.
_MAIN_FILES = ("dataset.sha256", "detector.onnx", "detector.safetensors", "report.json", "verdict.json", "release.json")
# What CycloneDX calls data that no stage made, by the first part of its name; configuration if it is not here.
_SOURCES = {"delivery": "dataset", "code": "source-code"}
_CARD, _DEPLOYMENT, _REPORT = f"{DEPLOY}/detector.json", f"{DEPLOY}/deployment.json", f"{ATTACK}/report.json"
_VERDICT, _TRAINING, _RATES = f"{GATE}/verdict.json", f"{TRAIN}/summary.json", f"{AUDIT}/sources.json"
_RAW, _CURATED = f"{INGEST}/summary.json", f"{CURATE}/summary.json"
# The reports that a bill is read from; whoever has these beside the evidence can make it again.
DOCUMENTS = (_CARD, _DEPLOYMENT, _REPORT, _VERDICT, _TRAINING, _RATES, _RAW, _CURATED)
_MEASURES = {"ap50": "AP50", "mr2": "MR-2", "miss_rate": "miss rate", "fppi": "FPPI"}
_ATTACK_FACTS = ("objective", "epsilon", "step_size", "steps", "random_start")
_GPU = ("accelerator", "cuda", "cudnn", "gpu", "gpu-count", "nvidia-driver")
_NO_PACKAGES = (*_GPU, "platform", "python", "secpipeline")
_DATASET = "predicate.buildDefinition.externalParameters.data.dataset"
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_HAS_BYTES = ("file", "data", "machine-learning-model")
# Every field of CycloneDX 1.6 whose string, or list of strings, points at another element.
_REFERENCES = {
    *("ref", "dependsOn", "provides", "assemblies", "dependencies", "vulnerabilities", "subjects", "tools", "assessor"),
    *("requirement", "requirements", "claims", "counterClaims", "mitigationStrategies", "target", "evidence", "parent"),
    *("counterEvidence", "signatureAlgorithmRef", "subjectPublicKeyRef", "algorithmRef", "algorithms"),
}

File = tuple[str, str]  # artifact name and SHA-256
Payloads = Mapping[str, Mapping[str, Any]]  # by stage
Elements = Sequence[tuple[str, Mapping[str, Any]]]


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


@dataclass(frozen=True)
class Facts:
    """Everything that a bill says.

    Attributes
    ----------
    steps
        By name the stages that the deployment rests on, each after those whose files it read.
    environment
        What the detector was trained with: versions of Python packages and of the platform, by name.
    synthetic
        Whether the images are rendered scenes.
    documents
        Reports by artifact name, read from files whose SHA-256 the evidence gives.
    """

    steps: Mapping[str, Step]
    environment: Mapping[str, str]
    synthetic: bool
    documents: Payloads

    def of(self, document: str, *path: str) -> Any:
        """What a document says under a path of keys."""
        return _get(self.documents[document], document, *path)

    def reference(self, stage: str) -> str:
        """The bom-ref of what a stage made."""
        return _reference(self.steps[stage].main)


@contextlib.contextmanager
def _one_clear_error() -> Iterator[None]:
    """Evidence and reports that are signed but of an unknown shape are a refusal, never a traceback."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, CycloneDxException) as error:
        reason = f"{type(error).__name__}: {error}"
        raise AttestationError(CODE, f"evidence or a report has an unknown shape ({reason}); run the chain") from error


@_one_clear_error()
def read(evidence: Payloads, digests: Mapping[str, str], links: Payloads, artifacts: Path) -> Facts:
    """Gather the facts of the current deployment.

    Parameters
    ----------
    evidence
        The *verified* payload of each stage's Statement.
    digests
        SHA-256 of the envelope of each Statement, by stage.
    links
        The *verified* payload of a Link of each stage; where several roles signed one, any of them.
    artifacts
        The directory that holds ``<stage>/…``. A file is read only if its bytes have the SHA-256 that the stage's
        Statement gives.

    Raises
    ------
    AttestationError
        With code ``bill-of-materials``: a stage is missing, evidence does not fit together or has an unknown shape, a
        file is missing or changed, or nothing was deployed.
    """
    steps = _steps(evidence, digests, links)
    products = {name: digest for step in steps.values() for name, digest in step.products.items()}
    deployment = _document(artifacts, _DEPLOYMENT, products)
    if _get(deployment, _DEPLOYMENT, "outcome") != "deployed":
        raise AttestationError(CODE, f"{_DEPLOYMENT}: nothing was deployed, so there is nothing to list")
    for name in ("detector.onnx", "detector.json"):
        if products.get(f"{DEPLOY}/{name}", "") != products.get(f"{EXPORT}/{name}"):
            raise AttestationError(CODE, f"{DEPLOY}/{name}: is not the file that was attacked, {EXPORT}/{name}")
    return Facts(
        steps=steps,
        environment=environment(evidence[TRAIN]),
        synthetic=_find(evidence[INGEST], _DATASET) == "synthetic",
        documents={name: _document(artifacts, name, products) for name in DOCUMENTS},
    )


@_one_clear_error()
def covered(evidence: Payloads, digests: Mapping[str, str], links: Payloads) -> frozenset[File]:
    """Every file that verified evidence speaks of up to the deployment, the attestations among them.

    Parameters and errors are those of :func:`read`; no artifact is needed.
    """
    return _covered(_steps(evidence, digests, links))


def _covered(steps: Mapping[str, Step]) -> frozenset[File]:
    return frozenset(
        file
        for name, step in steps.items()
        for file in (*step.products.items(), *step.sources, (_attestation(name), step.attestation))
    )


def environment(train: Mapping[str, Any]) -> dict[str, str]:
    """What the trainer's Statement says it ran on, versions by name.

    Wherever in the predicate it is, it is the one mapping that gives versions of ``python`` and ``torch``. What users
    may choose, ``externalParameters``, is not looked at.

    Raises
    ------
    AttestationError
        If there is not exactly one such mapping, or a version in it is no text.
    """
    places = ("predicate.runDetails", "predicate.buildDefinition.internalParameters")
    mappings = [mapping for place in places for _, mapping in _walk(_find(train, place))]
    found = [mapping for mapping in mappings if {"python", "torch"} <= mapping.keys()]
    if len(found) != 1 or not all(isinstance(version, str) for version in found[0].values()):
        raise AttestationError(CODE, f"the statement of {TRAIN} does not say which python and torch it ran on")
    return dict(sorted(found[0].items()))


def _steps(evidence: Payloads, digests: Mapping[str, str], links: Payloads) -> dict[str, Step]:
    """The deployment's step and, before it, every step whose files it rests on."""
    found: dict[str, Step] = {}
    waiting = [DEPLOY]
    while waiting:
        stage = waiting.pop()
        if stage not in found:
            found[stage] = _step(stage, evidence, digests, links)
            waiting += found[stage].inputs
    if missing := sorted(_TASK_TYPES.keys() - found.keys()):
        raise AttestationError(CODE, f"{missing[0]}: no verified evidence that the deployment rests on it")
    order = TopologicalSorter({stage: step.inputs for stage, step in found.items()})
    try:
        return {stage: found[stage] for stage in order.static_order()}
    except CycleError as error:
        raise AttestationError(CODE, f"{', '.join(error.args[1])}: each read what the next one made") from error


def _step(stage: str, evidence: Payloads, digests: Mapping[str, str], links: Payloads) -> Step:
    where = f"the evidence of {stage}"
    statement, link = _get(evidence, "the statements", stage), _get(links, "the links", stage)
    predicate = _get(statement, where, "predicate")
    entries = _find(predicate, "buildDefinition.resolvedDependencies", _find(predicate, "configuration", ()))
    resolved = {entry.get("name"): entry for entry in entries}
    files = {name: entry["digest"] for name, entry in resolved.items() if "sha256" in entry.get("digest", ())}
    materials = _digests({**files, **_get(link, where, "materials")}, where)
    makers = {name: _first_part(name) for name in materials if _first_part(name) in evidence}
    for name, maker in makers.items():
        if _get(links, "the links", maker, "products").get(name) != {"sha256": materials[name]}:
            raise AttestationError(CODE, f"{stage} read another {name} than {maker} made; run `secpipeline run`")
    commit = _find(resolved, "source.digest.gitCommit")
    return Step(
        name=stage,
        attestation=_get(digests, "the digests", stage),
        products=_products(stage, statement, digests[stage], link),
        inputs=tuple(sorted(set(makers.values()))),
        sources=tuple(file for file in materials.items() if file[0] not in makers),
        command=" ".join(_get(link, where, "command")),
        started=_time(predicate, "runDetails.metadata.startedOn", "startedOn"),
        finished=_time(predicate, "runDetails.metadata.finishedOn", "finishedOn", "timeVerified"),
        revision={"gitCommit": commit, **_find(resolved, "source.annotations", {})} if commit else {},
    )


def _products(stage: str, statement: Mapping[str, Any], digest: str, link: Mapping[str, Any]) -> dict[str, str]:
    """What the stage made, if its statement and its link agree."""
    where = f"the evidence of {stage}"
    products = _digests(_get(link, where, "products"), where)
    if products.pop(_attestation(stage), "") != digest:
        raise AttestationError(CODE, f"{stage}: its link is not about its statement")
    named = {_get(entry, where, "name"): _get(entry, where, "digest") for entry in _get(statement, where, "subject")}
    subjects = {name: digest for name, digest in named.items() if _first_part(name) == stage}  # the rest it judges
    if not products or _digests(subjects, where) != products:
        raise AttestationError(CODE, f"{stage}: its link and its statement are not about the same files")
    return products


def _digests(files: Mapping[str, Mapping[str, str]], where: str) -> dict[str, str]:
    return {name: str(_get(digest, f"{where}: {name}", "sha256")) for name, digest in sorted(files.items())}


def _time(predicate: Mapping[str, Any], *places: str) -> str:
    """A time; each predicate type has it in a place of its own, test-result nowhere."""
    return str(next((time for place in places if (time := _find(predicate, place))), ""))


def _document(artifacts: Path, name: str, products: Mapping[str, str]) -> dict[str, Any]:
    """A JSON object, from the very bytes that were signed."""
    path, expected = artifacts / name, products.get(name)
    if expected is None:
        raise AttestationError(CODE, f"{name}: no evidence covers this file, and the bill needs it")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AttestationError(CODE, f"{path}: cannot be read ({error.strerror}); run its stage again") from error
    if (found := sha256_bytes(data)) != expected:
        raise AttestationError(CODE, f"{path}: expected sha256 {expected}, found {found}; run its stage again")
    try:
        return envelopes.parse_object(data)
    except AttestationError as error:
        raise AttestationError(CODE, f"{path}: {error.message}") from error


def _get(value: Any, where: str, *path: str) -> Any:
    """What lies under a path of keys; ``where`` names the document in the error."""
    for depth, key in enumerate(path, 1):
        if not isinstance(value, Mapping) or key not in value:
            raise AttestationError(CODE, f"{where}: has no {'.'.join(path[:depth])}; run the chain again")
        value = value[key]
    return value


def _find(value: Any, path: str, default: Any = None) -> Any:
    """What lies under a dotted path of keys, or the default."""
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return default
        value = value[key]
    return value


def _first_part(name: str) -> str:
    return name.partition("/")[0]


def _kind(name: str) -> str:
    return _SOURCES.get(_first_part(name), "configuration")


def _reference(file: File) -> str:
    return f"{file[0]}@{file[1][:12]}"


def _attestation(stage: str) -> str:
    return f"attestations/{stage}.dsse.json"


@_one_clear_error()
def build(facts: Facts) -> bytes:
    """The bill, canonical JSON; equal facts give equal bytes.

    Raises
    ------
    AttestationError
        With code ``bill-of-materials`` if a report has an unknown shape, or the bill does not pass :func:`check`.
    """
    bill = json.loads(JsonV1Dot6(_envelope(facts)).output_as_string())
    _inject(bill["components"], facts)
    bill["formulation"] = [_formulation(facts)]
    bill["compositions"] = [
        {"aggregate": "complete", "assemblies": sorted(map(facts.reference, facts.steps))},
        # The environment names the packages that shape the weights; requirements.lock lists all of them.
        {"aggregate": "incomplete", "dependencies": [facts.reference(TRAIN)]},
    ]
    data = canonical_json(bill)
    if problems := check(data, _covered(facts.steps)):
        raise AttestationError(CODE, "the bill does not stand: " + "; ".join(problems))
    return data


def _envelope(facts: Facts) -> Bom:
    """All that the CycloneDX library has words for."""
    deploy = facts.steps[DEPLOY]
    root = Component(
        type=ComponentType.APPLICATION,
        name=f"pedestrian detection, channel {facts.of(_DEPLOYMENT, 'channel')}",
        version=deploy.attestation[:12],
        bom_ref="deployment",
    )
    made = {name: _made_by(step, facts) for name, step in facts.steps.items()}
    sources = {file: _file(ComponentType.DATA, file) for step in facts.steps.values() for file in step.sources}
    packages = _packages(facts.environment)
    bom = Bom(
        components=[*made.values(), *sources.values(), *packages],
        serial_number=uuid.uuid5(
            uuid.NAMESPACE_URL, f"https://github.com/secpipeline/deployments/{deploy.attestation}"
        ),
        metadata=BomMetaData(component=root, timestamp=_deployed_at(deploy)),
    )
    bom.register_dependency(root, [made[DEPLOY]])
    for name, step in facts.steps.items():
        used = [made[stage] for stage in step.inputs] + [sources[file] for file in step.sources]
        bom.register_dependency(made[name], used + (packages if name == TRAIN else []))
    return bom


def _deployed_at(deploy: Step) -> dt.datetime:
    try:
        return dt.datetime.strptime(deploy.finished, _TIME).replace(tzinfo=dt.UTC)
    except ValueError as error:
        raise AttestationError(CODE, f"the statement of {DEPLOY} does not say when it finished ({error})") from error


def _made_by(step: Step, facts: Facts) -> Component:
    """What a stage made: its main file, with the others as parts."""
    model = step.name in _MODELS
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL if model else ComponentType.DATA,
        name=str(facts.of(_CARD, "name")) if model else _RELEASES.get(step.name, f"{step.name} report"),
        version=step.main[1][:12],
        description=f"{step.main[0]} and what else the stage {step.name} made",
        bom_ref=facts.reference(step.name),
        hashes=[_hash(step.main[1])],
        external_references=[
            _attested(facts.steps[stage]) for stage in (_ABOUT_THE_DETECTOR if step.name == DEPLOY else (step.name,))
        ],
        components=[_file(ComponentType.FILE, file) for file in step.products.items() if file != step.main],
    )


def _file(kind: ComponentType, file: File) -> Component:
    name, digest = file
    return Component(type=kind, name=name, version=digest[:12], bom_ref=_reference(file), hashes=[_hash(digest)])


def _packages(versions: Mapping[str, str]) -> list[Component]:
    """The packages and the interpreter."""
    python = versions["python"]
    found = [Component(type=ComponentType.PLATFORM, name="python", version=python, bom_ref=f"python@{python}")]
    for name, version in versions.items():
        if name not in _NO_PACKAGES and re.match(r"[0-9]", version):
            purl = PackageURL("pypi", name=name, version=version)
            kind = ComponentType.LIBRARY
            found.append(Component(type=kind, name=name, version=version, purl=purl, bom_ref=purl.to_string()))
    return found


def _hash(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def _attested(step: Step) -> ExternalReference:
    url = XsUri(_attestation(step.name))
    return ExternalReference(type=ExternalReferenceType.ATTESTATION, url=url, hashes=[_hash(step.attestation)])


def _inject(components: Sequence[dict[str, Any]], facts: Facts) -> None:
    """Model card and data, for which the library has no words."""
    found = {component["bom-ref"]: component for component in components}
    found[facts.reference(DEPLOY)]["modelCard"] = _model_card(facts)
    for stage, step in facts.steps.items():
        if stage not in _MODELS:
            found[facts.reference(stage)]["data"] = [_data(step, facts)]
        for file in step.sources:
            found[_reference(file)]["data"] = [{"type": _kind(file[0]), "name": file[0]}]


def _data(step: Step, facts: Facts) -> dict[str, Any]:
    if step.name not in _RELEASES:
        return {"type": "other", "name": f"{step.name} report"}
    about = facts.documents[_CURATED]
    if step.name == INGEST:
        compared = sorted({str(_get(row, _RATES, "source")) for row in facts.of(_RATES, "rows")})
        about = {**facts.documents[_RAW], "synthetic": facts.synthetic, "source": compared}
    contents = {"url": step.main[0], "properties": _properties(about)}
    return {"type": "dataset", "name": _RELEASES[step.name], "contents": contents}


def _properties(values: Mapping[str, Any], prefix: str = "") -> list[dict[str, str]]:
    """Numbers and words, one property each; a list is several of one name. Pictures are for people."""
    return [
        {"name": f"secpipeline:{prefix}{key}", "value": item if isinstance(item, str) else json.dumps(item)}
        for key, value in sorted(values.items())
        for item in (value if isinstance(value, list) else [value])
        if key != "pictures"
    ]


def _model_card(facts: Facts) -> dict[str, Any]:
    card = facts.documents[_CARD]
    height, width = facts.of(_CARD, "input_size")
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "object-detection",
            "modelArchitecture": str(facts.of(_CARD, "name")),
            "datasets": [{"ref": facts.reference(stage)} for stage in _RELEASES],
            "inputs": [{"format": f"float32 images (N, 3, {height}, {width}), RGB in [0, 1]"}],
            "outputs": [
                {"format": "float32 boxes (N, k, 4): x1, y1, x2, y2 in pixels of the input"},
                {"format": "float32 scores (N, k) in [0, 1]"},
            ],
        },
        "quantitativeAnalysis": {"performanceMetrics": _metrics(facts.documents[_REPORT])},
        "considerations": _considerations(facts),
        "properties": [
            *_properties({key: value for key, value in card.items() if key not in ("name", "input_size")}),
            *_properties(facts.documents[_TRAINING], "training:"),
            *_properties({"verdict": facts.of(_VERDICT, "verdict")}, "gate:"),
            *_attacks(facts.of(_REPORT, "conditions")),
        ],
    }


def _attacks(conditions: Payloads) -> list[dict[str, str]]:
    """What the attacks that name the slices are."""
    return [
        entry
        for name, condition in sorted(conditions.items())
        if condition.get("kind") == "attack"
        for entry in _properties({key: condition[key] for key in _ATTACK_FACTS if key in condition}, f"attack:{name}:")
    ]


def _metrics(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every measure under every condition, of the attacked weights, and again of the exported artifact."""
    found = []
    for suffix, part in (("", report), (" on the exported artifact", report.get("black_box"))):
        if part is None:
            continue
        for name, condition in sorted(_get(part, _REPORT, "conditions").items()):
            for key, words in _MEASURES.items():
                found += _metric(words, _get(condition, f"{_REPORT}: {name}", key), name + suffix)
        found += _metric("AP50", _get(part, _REPORT, "corrupted_mean_ap50"), f"mean of all corruptions{suffix}")
    return found


def _metric(kind: str, measured: Any, condition: str) -> list[dict[str, Any]]:
    """One metric, or none where nothing could be measured."""
    if measured is None:
        return []
    where = f"{_REPORT}: {kind} of {condition}"
    metric = {"type": kind, "slice": condition, "value": _number(_get(measured, where, "value"), where)}
    if {"low", "high"} <= measured.keys():
        low, high = (_number(measured[end], where) for end in ("low", "high"))
        return [{**metric, "confidenceInterval": {"lowerBound": low, "upperBound": high}}]
    return [metric]


def _number(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise AttestationError(CODE, f"{where}: {value!r} is no number")
    return repr(value)


def _considerations(facts: Facts) -> dict[str, Any]:
    """What bounds the numbers, from the same report."""
    found = {name: facts.of(_REPORT, name) for name in ("images", "people", "subset", "threshold", "conditions")}
    kinds: dict[str, dict[str, float]] = {"clean": {}, "attack": {}, "corruption": {}}
    for name, condition in sorted(found["conditions"].items()):
        if condition.get("kind") in kinds and (measured := condition.get("ap50")) is not None:
            kinds[condition["kind"]][name] = measured["value"]
    limits = [
        f"Measured on {found['images']} held-out images with {found['people']} people of the subset "
        f"{found['subset']}, rates at the score threshold {found['threshold']}; of others nothing is known.",
        f"Attacked by {', '.join(kinds['attack']) or 'nothing'}; other attacks may do more.",
    ]
    if facts.synthetic:
        limits.append("Trained and measured on rendered scenes, not on photographs.")
    lowest = [min(values.items(), key=lambda item: item[1]) for values in kinds.values() if values]
    numbers = ", ".join(f"{name} {value:.3f}" for name, value in lowest)
    return {
        "useCases": ["pedestrian detection"],
        "technicalLimitations": limits,
        "performanceTradeoffs": [f"Lowest AP50 of each kind of condition: {numbers or 'none'}."],
    }


def _formulation(facts: Facts) -> dict[str, Any]:
    """How it was made: one task a stage."""
    workflow = {
        "bom-ref": "chain",
        "uid": facts.steps[DEPLOY].attestation,
        "name": "secpipeline",
        "taskTypes": sorted(set(_TASK_TYPES.values())),
        "tasks": [_task(step, facts) for step in facts.steps.values()],
        "taskDependencies": [
            {"ref": f"task/{name}", "dependsOn": [f"task/{stage}" for stage in step.inputs]}
            for name, step in facts.steps.items()
        ],
    }
    return {"bom-ref": "formulation", "workflows": [workflow]}


def _task(step: Step, facts: Facts) -> dict[str, Any]:
    used = [*map(facts.reference, step.inputs), *map(_reference, step.sources)]
    hashes = [{"alg": "SHA-256", "content": step.attestation}]
    signed = {"type": "attestation", "url": _attestation(step.name), "hashes": hashes}
    times = {"timeStart": step.started, "timeEnd": step.finished}
    ran_on = {name: value for name, value in facts.environment.items() if name in _NO_PACKAGES}
    return {
        "bom-ref": f"task/{step.name}",
        "uid": step.attestation,
        "name": step.name,
        "taskTypes": [_TASK_TYPES.get(step.name, "other")],
        "steps": [{"commands": [{"executed": step.command}]}],
        "inputs": [{"resource": {"ref": reference}} for reference in used],
        "outputs": [
            {"type": "artifact", "resource": {"ref": facts.reference(step.name)}},
            {"type": "attestation", "resource": {"externalReference": signed}},
        ],
        **{key: time for key, time in times.items() if time},
        "properties": _properties({**step.revision, **(ran_on if step.name == TRAIN else {})}, "ran-on:"),
    }


def check(data: bytes, files: Collection[File]) -> list[str]:
    """Hold a bill against the evidence; no artifact is needed.

    A bill passes if it is strict CycloneDX 1.6, every reference in it resolves (those between tasks to tasks, all
    others to components), and the files it lists with their SHA-256 are exactly ``files``: none that no evidence
    covers, none left out, none without its digest. The CycloneDX library checks the first of these alone. Its numbers
    are those of :func:`build`, which whoever holds the artifacts can call again.

    Parameters
    ----------
    data
        The bill. If a stranger may have written it, check its signature first: the schema's check of addresses takes a
        millisecond a character.
    files
        What the verified evidence covers: :func:`covered`.

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
    elements = list(_walk(bill))
    return [*_reference_problems(elements), *_hash_problems(elements, frozenset(files))]


def _walk(value: Any, key: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every object, with the key under which it, or the list that holds it, lies."""
    if isinstance(value, Mapping):
        yield key, value
        for name, item in value.items():
            yield from _walk(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, key)


def _reference_problems(elements: Elements) -> Iterator[str]:
    declared = [(key, element["bom-ref"]) for key, element in elements if "bom-ref" in element]
    names = sorted(name for _, name in declared)
    yield from (f"{name}: two elements have this bom-ref" for name, after in pairwise(names) if name == after)
    components = {name for key, name in declared if key in ("component", "components", "services")}
    tasks = {name for key, name in declared if key == "tasks"}
    for key, element in elements:
        for field in sorted(_REFERENCES & element.keys()):
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
