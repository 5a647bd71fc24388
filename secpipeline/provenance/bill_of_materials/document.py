"""Writing the bill: what the CycloneDX library has words for, and then what it has none for.

>>> data = build(facts)                                                  # doctest: +SKIP
>>> json.loads(data)["specVersion"]                                      # doctest: +SKIP
'1.6'
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Sequence
from typing import Any

from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6

from secpipeline.digests import canonical_json
from secpipeline.errors import AttestationError
from secpipeline.provenance.bill_of_materials import component_data, components
from secpipeline.provenance.bill_of_materials.chain import DEPLOY, TRAIN, Step, files_of
from secpipeline.provenance.bill_of_materials.checking import check
from secpipeline.provenance.bill_of_materials.facts import DEPLOYMENT, Facts
from secpipeline.provenance.bill_of_materials.formulation import formulation
from secpipeline.provenance.bill_of_materials.lookup import CODE, one_clear_error
from secpipeline.provenance.bill_of_materials.model_card import model_card
from secpipeline.provenance.bill_of_materials.references import reference

_TIME = "%Y-%m-%dT%H:%M:%SZ"


@one_clear_error()
def build(facts: Facts) -> bytes:
    """The bill, canonical JSON; equal facts give equal bytes.

    Raises
    ------
    AttestationError
        With code ``bill-of-materials`` if a report has an unknown shape, or the bill does not pass
        :func:`.checking.check`.
    """
    bill = json.loads(JsonV1Dot6(_bom(facts)).output_as_string())
    _inject(bill["components"], facts)
    bill["formulation"] = [formulation(facts)]
    bill["compositions"] = [
        {"aggregate": "complete", "assemblies": sorted(map(facts.reference, facts.steps))},
        # The environment names the packages that shape the weights; requirements.lock lists all of them.
        {"aggregate": "incomplete", "dependencies": [facts.reference(TRAIN)]},
    ]
    data = canonical_json(bill)
    if problems := check(data, files_of(facts.steps)):
        raise AttestationError(CODE, "the bill does not stand: " + "; ".join(problems))
    return data


def _bom(facts: Facts) -> Bom:
    """All that the CycloneDX library has words for."""
    deploy = facts.steps[DEPLOY]
    root = Component(
        type=ComponentType.APPLICATION,
        name=f"pedestrian detection, channel {facts.of(DEPLOYMENT, 'channel')}",
        version=deploy.attestation[:12],
        bom_ref="deployment",
    )
    made = {name: components.made_by(step, facts) for name, step in facts.steps.items()}
    sources = {file: components.source(file) for step in facts.steps.values() for file in step.sources}
    packages = components.packages(facts.environment)
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


def _inject(written: Sequence[dict[str, Any]], facts: Facts) -> None:
    """Model card and data, for which the library has no words."""
    found = {component["bom-ref"]: component for component in written}
    found[facts.reference(DEPLOY)]["modelCard"] = model_card(facts)
    for stage, step in facts.steps.items():
        if stage not in components.MODELS:
            found[facts.reference(stage)]["data"] = [component_data.of_step(step, facts)]
        for file in step.sources:
            found[reference(file)]["data"] = [component_data.of_source(file[0])]
