"""The components of a bill: what each stage made, what else it read, and the packages, in the library's words."""

from __future__ import annotations

from collections.abc import Mapping

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.component import Component, ComponentType
from packageurl import PackageURL

from secpipeline.provenance.bill_of_materials import environment
from secpipeline.provenance.bill_of_materials.chain import ATTACK, DEPLOY, EXPORT, GATE, RELEASE, TRAIN, Step
from secpipeline.provenance.bill_of_materials.component_data import RELEASES
from secpipeline.provenance.bill_of_materials.facts import CARD, Facts
from secpipeline.provenance.bill_of_materials.references import File, attestation, reference

MODELS = (TRAIN, EXPORT, DEPLOY)
_ABOUT_THE_DETECTOR = (TRAIN, EXPORT, ATTACK, GATE, RELEASE, DEPLOY)


def made_by(step: Step, facts: Facts) -> Component:
    """What a stage made: its main file, with the others as parts."""
    model = step.name in MODELS
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL if model else ComponentType.DATA,
        name=str(facts.of(CARD, "name")) if model else RELEASES.get(step.name, f"{step.name} report"),
        version=step.main[1][:12],
        description=f"{step.main[0]} and what else the stage {step.name} made",
        bom_ref=facts.reference(step.name),
        hashes=[_hash(step.main[1])],
        external_references=[
            _attested(facts.steps[stage]) for stage in (_ABOUT_THE_DETECTOR if step.name == DEPLOY else (step.name,))
        ],
        components=[_file(ComponentType.FILE, file) for file in step.products.items() if file != step.main],
    )


def source(file: File) -> Component:
    """A file that no stage made."""
    return _file(ComponentType.DATA, file)


def packages(versions: Mapping[str, str]) -> list[Component]:
    """The packages and the interpreter of an environment."""
    python = versions["python"]
    found = [Component(type=ComponentType.PLATFORM, name="python", version=python, bom_ref=f"python@{python}")]
    for name, version in environment.packages(versions).items():
        purl = PackageURL("pypi", name=name, version=version)
        kind = ComponentType.LIBRARY
        found.append(Component(type=kind, name=name, version=version, purl=purl, bom_ref=purl.to_string()))
    return found


def _file(kind: ComponentType, file: File) -> Component:
    name, digest = file
    return Component(type=kind, name=name, version=digest[:12], bom_ref=reference(file), hashes=[_hash(digest)])


def _hash(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def _attested(step: Step) -> ExternalReference:
    url = XsUri(attestation(step.name))
    return ExternalReference(type=ExternalReferenceType.ATTESTATION, url=url, hashes=[_hash(step.attestation)])
