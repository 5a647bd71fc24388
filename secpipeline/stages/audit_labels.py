"""Audit labels: what detectors that never saw a source think of its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from secpipeline.assurance.pictures import Layer, Tile, contact_sheet
from secpipeline.datasets.duplicates import find_duplicates
from secpipeline.datasets.loading import Pixels, load
from secpipeline.datasets.releases import Release
from secpipeline.datasets.tables import CORNERS
from secpipeline.detection.recipes import load_recipe
from secpipeline.errors import InputError
from secpipeline.judging import out_of_fold
from secpipeline.poisoning import folds
from secpipeline.poisoning.audit import audit_labels
from secpipeline.poisoning.concentration import concentrate, sentences
from secpipeline.poisoning.duplicates import duplicate_findings
from secpipeline.poisoning.findings import FINDING_COLUMNS
from secpipeline.poisoning.fusion import fuse, judges_of
from secpipeline.poisoning.hidden_triggers import hidden_findings
from secpipeline.poisoning.triggers import TriggerCluster, TriggerSearch, find_triggers
from secpipeline.poisoning.yardsticks import mark
from secpipeline.stages.context import StageContext, StageResult
from secpipeline.store import write_atomic
from secpipeline.validation.predictions import validate_predictions
from secpipeline.validation.results import SuiteResult, test_result

# At this score no more than half of what is found so strongly is expected to be honest.
STRONG = 0.5
# Weaker opinions are not counted as disputes about a label when triggers are searched.
TELLING_SCORE = 0.2
PREDICTED = tuple(f"p{corner}" for corner in CORNERS)


def run(context: StageContext) -> StageResult:
    """Train judges for each fold, score every label out of fold, and compare the sources with each other.

    Nothing is concluded from predictions that fail a check of their suites: the audit is refused by its name.
    """
    settings = context.params["audit"]
    name = f"recipes/{settings['recipe']}.yaml"
    if name not in context.files:
        known = ", ".join(file for file in context.files if file.startswith("recipes/"))
        raise InputError(f"audit.recipe: {name} is not a recipe of judges; use {known}")
    recipe = load_recipe(context.root / name)
    release = Release(context.inputs["ingest"], context.inputs["ingest"])
    data = load(release, release.images["image_id"].tolist(), recipe.input_size)
    # Where whole sources are left out, a picture that two of them delivered says nothing about either's labels.
    whole = folds.leaves_sources_out(release.images, settings["folds"])
    twins = None if whole else find_duplicates(release.images, release.boxes)
    assigned = folds.assign_folds(release.images, settings["folds"], settings["seed"], twins)
    judged = out_of_fold(data, assigned.to_numpy(), recipe, context.resume, settings["judges"])
    predictions = native(judged, data, CORNERS)
    predictions.to_parquet(context.out / "predictions.parquet", index=False)
    checked = check_judges(
        predictions, release.images, assigned.to_numpy(), settings["judges"], context.root / "expectations"
    )
    seeds = {"folds": settings["seed"], "judges": recipe.seed}
    facts = {"judges": len(checked), "out_of_fold_predictions": len(predictions)}
    if any(not result.passed for results in checked.values() for result in results):
        return _refused(context, checked, facts, seeds)
    audit = audit_labels(release.images, data.boxes, judged, seed=settings["seed"])
    sources = audit.attribution
    search = search_triggers(release, predictions)
    found = pd.concat(
        [
            native(native(audit.findings, data, CORNERS), data, PREDICTED),
            *(part for part in _beside_labels(release, search, recipe.input_size) if len(part)),
        ],
        ignore_index=True,
    ).sort_values(["score", "evidence"], ascending=False, kind="stable", ignore_index=True)
    found.to_parquet(context.out / "findings.parquet", index=False)
    crowded = concentrate(mark(audit.tests), recipe.input_size, search.findings)
    context.write_json("sources.json", {**sources.to_json(), "concentrated": sentences(crowded)})
    strong = found.loc[found["score"] >= STRONG, "kind"].value_counts()
    kinds = {str(kind): int(count) for kind, count in strong.items()}
    report = {
        **facts,
        "findings": len(found),
        "strong_findings": kinds,
        "named_sources": list(sources.named),
        "attribution": sources.undecided or "decided",
    }
    beside = {
        "predictions": _outcome(checked),
        "canaries_seen": dict(audit.seen),
        "trigger_search": search.undecided or "decided",
        "triggers": [_described(cluster) for cluster in search.clusters],
    }
    context.write_json("report.json", {**report, **beside})
    pictures = (*_draw(context.out, release, found), *_draw_triggers(context.out, release, search))
    summary = {
        "findings": len(found),
        "strong findings": int(strong.sum()),
        **{f"strong: {kind}": count for kind, count in kinds.items()},
        "triggers": len(search.clusters),
        "trigger search": beside["trigger_search"],
        "named sources": list(sources.named),
        "reasons": list(sources.reasons().values()),
        "attribution": report["attribution"],
    }
    return StageResult(summary, details=report, seeds=seeds, pictures=pictures)


def check_judges(
    predictions: pd.DataFrame, images: pd.DataFrame, assigned: np.ndarray, judges: int, expectations: Path
) -> dict[str, tuple[SuiteResult, ...]]:
    """Validate what each judge of each fold says; what it says of no image of the release is every judge's fault."""
    checked = {}
    for judge in range(judges):
        own = predictions[predictions["judge"] == str(judge)]
        for fold in sorted(set(assigned.tolist())):
            elsewhere = own["image_id"].isin(images.loc[assigned != fold, "image_id"])
            here = images[assigned == fold]
            checked[f"judge {judge} of fold {fold}"] = validate_predictions(own[~elsewhere], here, expectations)
    return checked


def _outcome(checked: Mapping[str, Sequence[SuiteResult]]) -> dict[str, Any]:
    """The result over all judges, and what failed and warned, by judge."""
    results = [result for of_judge in checked.values() for result in of_judge]
    named = [(judge, result) for judge, of_judge in checked.items() for result in of_judge]
    return {
        "result": test_result(results)["result"],
        "failed": [f"{judge}: {text}" for judge, result in named for text in result.failures()],
        "warned": [f"{judge}: {text}" for judge, result in named for text in result.warnings()],
    }


def _refused(
    context: StageContext,
    checked: Mapping[str, Sequence[SuiteResult]],
    facts: Mapping[str, int],
    seeds: Mapping[str, int],
) -> StageResult:
    """Record that nothing was concluded: no findings, no sources compared, and why."""
    outcome = _outcome(checked)
    why = f"nothing was concluded from judges whose predictions failed a check: {outcome['failed'][0]}"
    report = {**facts, "findings": 0, "strong_findings": {}, "named_sources": [], "attribution": why}
    pd.DataFrame(columns=list(FINDING_COLUMNS)).to_parquet(context.out / "findings.parquet", index=False)
    context.write_json("sources.json", {"named": {}, "limits": {}, "undecided": why, "rows": [], "concentrated": []})
    context.write_json("report.json", {**report, "predictions": outcome})
    summary = {"attribution": why, "reasons": outcome["failed"]}
    refusal = tuple(f"label audit: {failure}" for failure in outcome["failed"])
    return StageResult(summary, details=report, seeds=seeds, refusal=refusal)


def search_triggers(release: Release, predictions: pd.DataFrame) -> TriggerSearch:
    """Search for repeated patches by what all judges together see."""
    fused = fuse(release.images, predictions, judges_of(predictions))
    return find_triggers(release.images, release.boxes, fused[fused["score"] >= TELLING_SCORE], release.decode)


def _beside_labels(release: Release, search: TriggerSearch, size: tuple[int, int]) -> tuple[pd.DataFrame, ...]:
    """Findings that judges of labels cannot have: triggers, hidden pictures, duplicates."""
    return (
        search.held(),
        hidden_findings(release.images, release.decode, size),
        duplicate_findings(release.images, release.boxes, pixels=release.decode),
    )


def _described(cluster: TriggerCluster) -> dict[str, str | int | float]:
    facts: dict[str, str | int | float] = {
        "name": cluster.name,
        "source": cluster.source,
        "images": cluster.images,
        "scenes": cluster.scenes,
    }
    return {**facts, "disputed": cluster.disputed, "p_value": cluster.p_value}


def native(table: pd.DataFrame, data: Pixels, corners: tuple[str, ...]) -> pd.DataFrame:
    """The same boxes in the pixels of their images instead of the judges' frame; NaN where there is no such image."""
    placements = pd.DataFrame([(p.scale, p.left, p.top) for p in data.placements], index=data.image_ids)
    places = placements.reindex(table["image_id"]).to_numpy(np.float64)
    boxes = (table[list(corners)].to_numpy(np.float64) - places[:, [1, 2, 1, 2]]) / places[:, :1]
    return table.assign(**dict(zip(corners, boxes.T, strict=True)))


def _draw(out: Path, release: Release, found: pd.DataFrame) -> tuple[str, ...]:
    """The strongest findings of each kind, four images a kind: labels blue, judges' opinion yellow."""
    strongest = found.sort_values("score", ascending=False, kind="stable").drop_duplicates(["kind", "image_id"])
    strongest = strongest.groupby("kind", sort=True).head(4).sort_values("kind", kind="stable")
    if strongest.empty:
        return ()
    source = dict(zip(release.images["image_id"], release.images["source"], strict=True))
    tiles = []
    for row in strongest.itertuples():
        image_id = str(row.image_id)
        labels = release.boxes[(release.boxes["image_id"] == image_id) & ~release.boxes["ignore"]]
        layers = (
            Layer(labels[list(CORNERS)].to_numpy(float), "label"),
            Layer(np.array([[row.px1, row.py1, row.px2, row.py2]]), "prediction"),
            Layer(np.array([[row.x1, row.y1, row.x2, row.y2]]), "finding"),
        )
        kept = tuple(layer for layer in layers if np.isfinite(layer.boxes).all())
        caption = f"{source[image_id]} {row.kind} {row.score:.2f}"
        tiles.append(Tile(release.decode(image_id), kept, caption))
    write_atomic(out / "findings.png", contact_sheet(tiles, columns=4))
    return ("findings.png",)


def _draw_triggers(out: Path, release: Release, search: TriggerSearch) -> tuple[str, ...]:
    """Each trigger in four images, its patch marked."""
    tiles = []
    for cluster in search.clusters[:4]:
        for row in search.findings[search.findings["cluster"] == cluster.name].head(4).itertuples():
            place = Layer(np.array([[row.x1, row.y1, row.x2, row.y2]]), "finding")
            caption = f"{cluster.name}: {cluster.images} images of {cluster.source}"
            tiles.append(Tile(release.decode(str(row.image_id)), (place,), caption))
    if not tiles:
        return ()
    write_atomic(out / "triggers.png", contact_sheet(tiles, columns=4))
    return ("triggers.png",)
