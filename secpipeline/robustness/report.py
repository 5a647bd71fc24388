"""The robustness report, a JSON object.

``images``, ``people``, ``threshold``, ``subset``, ``resamples``, ``seed``
    What was measured on. ``people`` are those to be found.
``conditions``
    By name: ``kind`` (clean, control, attack, corruption), facts about the condition (of an attack:
    objective, epsilon, steps, shares of images without a usable gradient, largest change), and ``ap50``,
    ``mr2``, ``miss_rate``, ``fppi``, each ``{"value", "low", "high"}`` with a 95 % interval, or null where
    there were no people to find.
``corrupted_mean_ap50``
    AP50 in the mean over all corruptions.
``health``
    Of the attacks as a whole: ``sanity_ap50`` (left under an absurdly strong attack), ``doubling_gain`` (AP50
    that twice the steps take away), ``single_step_advantage``, ``noise_advantage`` (AP50 by which one step,
    or noise, hurts more than the best attack of many steps).
``black_box``
    ``conditions`` and ``corrupted_mean_ap50`` again as the exported artifact sees the same images, and
    ``agreement``; null if there was no artifact.
``table``
    One flat row per condition, for people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from secpipeline.robustness.measures import MEASURES, Measured, Yardstick, mean_precision


@dataclass(frozen=True)
class Condition:
    """One condition, measured on the detector and, if there is one, on the artifact."""

    name: str
    kind: str
    facts: dict[str, Any]
    measured: Measured
    artifact: Measured | None


def assemble(
    yardstick: Yardstick, conditions: Sequence[Condition], health: dict[str, float | int | None]
) -> dict[str, Any]:
    """Everything that was measured as one JSON-able object."""
    return {
        "images": len(yardstick.image_ids),
        "people": int(yardstick.people().sum()),
        "threshold": float(yardstick.threshold),
        "subset": yardstick.subset.name,
        "resamples": yardstick.resamples,
        "seed": yardstick.seed,
        "conditions": {c.name: {"kind": c.kind, **c.facts, **c.measured.to_json()} for c in conditions},
        "corrupted_mean_ap50": _mean([c.measured for c in conditions if c.kind == "corruption"]),
        "health": {**health, **_advantages(conditions)},
        "black_box": _black_box(conditions),
        "table": [_row(condition) for condition in conditions],
    }


def _mean(measured: Sequence[Measured]) -> dict[str, float] | None:
    found = mean_precision(measured)
    return found.to_json() if found else None


def _advantages(conditions: Sequence[Condition]) -> dict[str, float | None]:
    """By how much a single step, or noise, hurts more than many steps; not at all if the attack is sound."""
    precision = {c.name: c.measured.value("ap50") for c in conditions}
    attacks = [c for c in conditions if c.kind == "attack" and c.facts["objective"] == "detection_loss"]
    many = _lowest([precision[c.name] for c in attacks if c.facts["steps"] > 1])
    one = _lowest([precision[c.name] for c in attacks if c.facts["steps"] == 1])
    return {
        "single_step_advantage": None if many is None or one is None else many - one,
        "noise_advantage": None if many is None or precision["noise"] is None else many - precision["noise"],
    }


def _lowest(values: Sequence[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _black_box(conditions: Sequence[Condition]) -> dict[str, Any] | None:
    measured = {c.name: c.artifact for c in conditions if c.artifact is not None}
    if not measured:
        return None
    differences = {
        c.name: abs(ours - theirs)
        for c in conditions
        if c.artifact is not None
        and (ours := c.measured.value("ap50")) is not None
        and (theirs := c.artifact.value("ap50")) is not None
    }
    worst = max(differences, key=lambda name: differences[name]) if differences else None
    corrupted = [measured[c.name] for c in conditions if c.kind == "corruption" and c.name in measured]
    return {
        "conditions": {
            c.name: {"kind": c.kind, **measured[c.name].to_json()} for c in conditions if c.name in measured
        },
        "corrupted_mean_ap50": _mean(corrupted),
        "agreement": {
            "max_ap50_difference": differences[worst] if worst else None,
            "at_condition": worst,
        },
    }


def _row(condition: Condition) -> dict[str, Any]:
    row: dict[str, Any] = {"condition": condition.name, "kind": condition.kind}
    for name, words in MEASURES.items():
        row[words] = condition.measured.value(name)
    found = condition.measured.intervals["ap50"]
    row["AP50 95 %"] = f"{found.low:.3f} to {found.high:.3f}" if found else None
    row["artifact AP50"] = condition.artifact.value("ap50") if condition.artifact else None
    return row
