"""How it was made: one workflow, in which each stage is a task."""

from __future__ import annotations

from typing import Any

from secpipeline.provenance.bill_of_materials.chain import (
    ATTACK,
    AUDIT,
    CURATE,
    DEPLOY,
    EXPORT,
    GATE,
    INGEST,
    RELEASE,
    TRAIN,
    VALIDATE,
    Step,
)
from secpipeline.provenance.bill_of_materials.environment import platform
from secpipeline.provenance.bill_of_materials.facts import Facts
from secpipeline.provenance.bill_of_materials.properties import properties
from secpipeline.provenance.bill_of_materials.references import attestation, reference

# What CycloneDX calls the work of each stage.
_TASK_TYPES = {
    **{INGEST: "copy", VALIDATE: "test", AUDIT: "scan", CURATE: "clean", TRAIN: "build"},
    **{EXPORT: "build", ATTACK: "test", GATE: "test", RELEASE: "release", DEPLOY: "deploy"},
}


def formulation(facts: Facts) -> dict[str, Any]:
    """A formula of CycloneDX with one workflow."""
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
    used = [*map(facts.reference, step.inputs), *map(reference, step.sources)]
    hashes = [{"alg": "SHA-256", "content": step.attestation}]
    signed = {"type": "attestation", "url": attestation(step.name), "hashes": hashes}
    times = {"timeStart": step.started, "timeEnd": step.finished}
    ran_on = platform(facts.environment) if step.name == TRAIN else {}
    return {
        "bom-ref": f"task/{step.name}",
        "uid": step.attestation,
        "name": step.name,
        "taskTypes": [_TASK_TYPES.get(step.name, "other")],
        "steps": [{"commands": [{"executed": step.command}]}],
        "inputs": [{"resource": {"ref": name}} for name in used],
        "outputs": [
            {"type": "artifact", "resource": {"ref": facts.reference(step.name)}},
            {"type": "attestation", "resource": {"externalReference": signed}},
        ],
        **{key: time for key, time in times.items() if time},
        "properties": properties({**step.revision, **ran_on}, "ran-on:"),
    }
