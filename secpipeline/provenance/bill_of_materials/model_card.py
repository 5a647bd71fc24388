"""The model card of the deployed detector: what it is, what was measured of it, and what bounds those numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secpipeline.errors import AttestationError
from secpipeline.provenance.bill_of_materials.component_data import RELEASES
from secpipeline.provenance.bill_of_materials.facts import CARD, REPORT, TRAINING, VERDICT, Facts
from secpipeline.provenance.bill_of_materials.lookup import CODE, Payloads, get
from secpipeline.provenance.bill_of_materials.properties import properties

# The measures of the robustness report, as the card calls them.
MEASURES = {"ap50": "AP50", "mr2": "MR-2", "miss_rate": "miss rate", "fppi": "FPPI"}
_ATTACK_FACTS = ("objective", "epsilon", "step_size", "steps", "random_start")


def model_card(facts: Facts) -> dict[str, Any]:
    """The ``modelCard`` of CycloneDX.

    Raises
    ------
    AttestationError
        With code ``bill-of-materials`` if a report has an unknown shape.
    """
    card = facts.documents[CARD]
    height, width = facts.of(CARD, "input_size")
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "object-detection",
            "modelArchitecture": str(facts.of(CARD, "name")),
            "datasets": [{"ref": facts.reference(stage)} for stage in RELEASES],
            "inputs": [{"format": f"float32 images (N, 3, {height}, {width}), RGB in [0, 1]"}],
            "outputs": [
                {"format": "float32 boxes (N, k, 4): x1, y1, x2, y2 in pixels of the input"},
                {"format": "float32 scores (N, k) in [0, 1]"},
            ],
        },
        "quantitativeAnalysis": {"performanceMetrics": _metrics(facts.documents[REPORT])},
        "considerations": _considerations(facts),
        "properties": [
            *properties({key: value for key, value in card.items() if key not in ("name", "input_size")}),
            *properties(facts.documents[TRAINING], "training:"),
            *properties({"verdict": facts.of(VERDICT, "verdict")}, "gate:"),
            *_attacks(facts.of(REPORT, "conditions")),
        ],
    }


def _attacks(conditions: Payloads) -> list[dict[str, str]]:
    """What the attacks that name the slices are."""
    return [
        entry
        for name, condition in sorted(conditions.items())
        if condition.get("kind") == "attack"
        for entry in properties({key: condition[key] for key in _ATTACK_FACTS if key in condition}, f"attack:{name}:")
    ]


def _metrics(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every measure under every condition, of the attacked weights, and again of the exported artifact."""
    found = []
    for suffix, part in (("", report), (" on the exported artifact", report.get("black_box"))):
        if part is None:
            continue
        for name, condition in sorted(get(part, REPORT, "conditions").items()):
            for key, words in MEASURES.items():
                found += _metric(words, get(condition, f"{REPORT}: {name}", key), name + suffix)
        found += _metric("AP50", get(part, REPORT, "corrupted_mean_ap50"), f"mean of all corruptions{suffix}")
    return found


def _metric(kind: str, measured: Any, condition: str) -> list[dict[str, Any]]:
    """One metric, or none where nothing could be measured."""
    if measured is None:
        return []
    where = f"{REPORT}: {kind} of {condition}"
    metric = {"type": kind, "slice": condition, "value": _number(get(measured, where, "value"), where)}
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
    found = {name: facts.of(REPORT, name) for name in ("images", "people", "subset", "threshold", "conditions")}
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
