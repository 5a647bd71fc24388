"""What a study found: one table, and pictures of what is bought with what.

>>> write_report(study, results, Path("build/studies/small"))                               # doctest: +SKIP
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secpipeline.detection.bootstrap import difference, interval
from secpipeline.store import write_atomic
from secpipeline.study.plan import Study

MEASURES = ("clean_ap50", "clean_mr2", "linf_ap50", "patch_ap50", "corrupted_ap50")
_PARETO = (
    ("clean_ap50", "linf_ap50", "clean AP50", "AP50 under L∞"),
    ("clean_ap50", "patch_ap50", "clean AP50", "AP50 under a learned patch"),
    ("linf_ap50", "patch_ap50", "AP50 under L∞", "AP50 under a learned patch"),
    ("training_cost", "linf_ap50", "training cost × the first recipe's", "AP50 under L∞"),
)


def summarise(study: Study, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record a recipe: means over its seeds.

    Intervals are over test scenes, drawn alike for every cell, of the mean over seeds; ``seeds`` says how far single
    seeds lie apart. ``against_first`` is the paired difference from the first recipe.
    """
    by_recipe = {recipe.name: [r for r in results if r["recipe"] == recipe.name] for recipe in study.recipes}
    reference = by_recipe[study.recipes[0].name]
    rows = []
    for name, cells in by_recipe.items():
        row: dict[str, Any] = {"recipe": name, "seeds": [cell["seed"] for cell in cells]}
        for measure in MEASURES:
            mean, first = _mean(cells, measure), _mean(reference, measure)
            row[measure] = {
                **interval(mean).to_json(),
                "by_seed": [cell["measures"][measure]["value"] for cell in cells],
                "against_first": difference(first, mean).to_json(),
            }
        row["worst"] = sorted({attack for cell in cells for attack in cell["worst"].values()})
        row["training_cost"] = _ratio(cells, reference, _training_seconds)
        row["latency"] = _ratio(cells, reference, lambda cell: float(cell["latency_ms"]))
        row["peak_memory_mib"] = float(np.mean([cell["training"]["peak_memory_bytes"] for cell in cells])) / 2**20
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The records as a Markdown table."""
    head = (
        "| recipe | clean AP50 | Δ clean AP50 | clean MR⁻² | AP50 under L∞ | AP50 under a learned patch "
        "| corrupted AP50 | training × | inference × | peak MiB |\n|---|---|---|---|---|---|---|---|---|---|\n"
    )
    lines = []
    for row in rows:
        change = row["clean_ap50"]["against_first"]
        found = [_cell(row[measure]) for measure in MEASURES]
        found.insert(1, f"{change['value']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]")
        costs = f"{row['training_cost']:.2f} | {row['latency']:.2f} | {row['peak_memory_mib']:.0f}"
        lines.append(f"| {row['recipe']} | {' | '.join(found)} | {costs} |")
    return head + "\n".join(lines) + "\n"


def write_report(study: Study, results: Sequence[dict[str, Any]], out: Path) -> str:
    """Write ``results.json``, ``results.md`` and the pictures into ``out``; the table as text."""
    rows = summarise(study, results)
    device = sorted({cell["training"]["device"] for cell in results})
    record = {
        "study": study.name,
        "device": device,
        "recipes": rows,
        "cells": [_without_replicates(c) for c in results],
    }
    text = f"# Study {study.name}\n\n{table(rows)}\n{_legend(study, device)}"
    write_atomic(out / "results.json", json.dumps(record, indent=1).encode())
    write_atomic(out / "results.md", text.encode())
    for x, y, x_label, y_label in _PARETO:
        write_atomic(out / f"{x}-{y}.png", pareto_chart(rows, (x, y), (x_label, y_label)))
    return text


def pareto_chart(rows: Sequence[dict[str, Any]], keys: tuple[str, str], labels: tuple[str, str]) -> bytes:
    """Every seed as a dot, every recipe's mean with its interval, and the front of those that no other beats; PNG."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    figure = Figure(figsize=(6.4, 4.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    points = [(_point(row[keys[0]]), _point(row[keys[1]])) for row in rows]
    middle = (min(x for x, _ in points) + max(x for x, _ in points)) / 2
    for index, (row, (x, y)) in enumerate(zip(rows, points, strict=True)):
        colour = f"C{index}"
        axes.errorbar(x, y, xerr=_reach(row[keys[0]]), yerr=_reach(row[keys[1]]), fmt="o", color=colour, capsize=2)
        if isinstance(row[keys[0]], dict):
            axes.plot(row[keys[0]]["by_seed"], row[keys[1]]["by_seed"], ".", color=colour, alpha=0.45)
        side, room = ("right", -7) if x > middle else ("left", 7)
        axes.annotate(row["recipe"], (x, y), xytext=(room, 5), textcoords="offset points", color=colour, ha=side)
    best = front(points, cheaper_is_better=keys[0] == "training_cost")
    axes.plot(*zip(*(points[index] for index in best), strict=True), color="0.6", linestyle="--", zorder=0)
    axes.set(xlabel=labels[0], ylabel=labels[1], ylim=(0, 1))
    axes.margins(x=0.12)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def front(points: Sequence[tuple[float, float]], cheaper_is_better: bool) -> list[int]:
    """Indices of the points that no other beats on both axes, from left to right; y is better higher."""
    sign = -1 if cheaper_is_better else 1

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return sign * one[0] >= sign * other[0] and one[1] >= other[1] and one != other

    kept = [index for index, point in enumerate(points) if not any(beats(other, point) for other in points)]
    return sorted(kept, key=lambda index: points[index])


def _mean(cells: Sequence[dict[str, Any]], measure: str) -> NDArray[np.float64]:
    return np.asarray(np.mean([cell["replicates"][measure] for cell in cells], axis=0), np.float64)


def _training_seconds(cell: dict[str, Any]) -> float:
    """Of the processor if that is what trained: cells side by side would take each other's wall time."""
    training = cell["training"]
    spent = float(training["cpu_seconds"] if training["device"] == "cpu" else training["seconds"])
    epochs = len(training["losses"])  # a resumed training counts from where it resumed
    return spent * epochs / max(1, epochs - int(training["resumed_at"]))


def _ratio(cells: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]], of: Any) -> float:
    return float(np.mean([of(cell) for cell in cells]) / np.mean([of(cell) for cell in reference]))


def _cell(found: dict[str, Any]) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _point(found: Any) -> float:
    return float(found["value"] if isinstance(found, dict) else found)


def _reach(found: Any) -> list[list[float]] | None:
    if not isinstance(found, dict):
        return None
    return [[found["value"] - found["low"]], [found["high"] - found["value"]]]


def _without_replicates(cell: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in cell.items() if key != "replicates"}


def _legend(study: Study, device: Sequence[str]) -> str:
    chosen = study.evaluation
    linf, patch = chosen.linf, chosen.patch
    epsilon, corruptions = round(linf.epsilon * 255, 2), len(chosen.corruptions) * len(chosen.severities)
    return (
        f"Means over {_many(len(study.seeds), 'seed')} with 95 % intervals over test scenes (paired bootstrap, "
        f"{chosen.resamples} resamples); Δ is paired with {study.recipes[0].name}. L∞: PGD-{linf.steps} at "
        f"{epsilon:g}/255, {_many(linf.restarts, 'random start')}, the worst of {', '.join(linf.objectives)}. Patch: "
        f"on every torso, {patch.fraction:.0%} of the person's height, learned anew for each detector on its "
        f"training images, the worst of {', '.join(patch.objectives)} with {_many(len(patch.seeds), 'seed')} each. "
        f"Corrupted: the mean over {corruptions}. People: {chosen.subset}. Trained on {', '.join(device)}; "
        "training × is processor time there if that is the processor, else wall time, of which cells that share an "
        "accelerator take from each other: for costs, run one job an accelerator; a resumed training's is scaled "
        "up, and a student's is without its teacher's. Peak MiB: of the training; on "
        "the processor of the process so far, so that with one job later cells show no less than earlier ones.\n"
    )


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
