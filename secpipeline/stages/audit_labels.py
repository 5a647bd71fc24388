"""Audit labels: what detectors that never saw a source think of its labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from secpipeline.assurance.pictures import Layer, Tile, contact_sheet
from secpipeline.datasets.loading import Pixels, load
from secpipeline.datasets.releases import Release
from secpipeline.datasets.tables import CORNERS
from secpipeline.detection import registry
from secpipeline.detection.inference import predict
from secpipeline.detection.recipes import Recipe, load_recipe
from secpipeline.detection.training import train
from secpipeline.errors import InputError
from secpipeline.poisoning import folds
from secpipeline.poisoning.audit import audit_labels
from secpipeline.stages.context import StageContext, StageResult
from secpipeline.store import write_atomic

# At this score no more than half of what is found so strongly is expected to be honest.
STRONG = 0.5
PREDICTED = tuple(f"p{corner}" for corner in CORNERS)


def run(context: StageContext) -> StageResult:
    """Train one judge a fold, score every label out of fold, and compare the sources with each other."""
    settings = context.params["audit"]
    name = f"recipes/{settings['recipe']}.yaml"
    if name not in context.files:
        raise InputError(f"audit.recipe: {name} is not a recipe of judges; use {', '.join(context.files)}")
    recipe = load_recipe(context.root / name)
    release = Release(context.inputs["ingest"], context.inputs["ingest"])
    data = load(release, release.images["image_id"].tolist(), recipe.input_size)
    assigned = folds.assign_folds(release.images, settings["folds"], settings["seed"])
    predictions = out_of_fold(data, assigned.to_numpy(), recipe, context.resume)
    audit = audit_labels(release.images, data.boxes, predictions)
    found, sources = audit.findings, audit.attribution
    native(predictions, data, CORNERS).to_parquet(context.out / "predictions.parquet", index=False)
    native(native(found, data, CORNERS), data, PREDICTED).to_parquet(context.out / "findings.parquet", index=False)
    context.write_json("sources.json", sources.to_json())
    strong = found.loc[found["score"] >= STRONG, "kind"].value_counts()
    kinds = {str(kind): int(count) for kind, count in strong.items()}
    report = {
        "judges": settings["folds"],
        "out_of_fold_predictions": len(predictions),
        "findings": len(found),
        "strong_findings": kinds,
        "named_sources": list(sources.named),
        "attribution": sources.undecided or "decided",
    }
    context.write_json("report.json", report)
    pictures = _draw(context.out, release, data, found)
    summary = {
        "findings": len(found),
        "strong findings": int(strong.sum()),
        **{f"strong: {kind}": count for kind, count in kinds.items()},
        "named sources": list(sources.named),
        "reasons": list(sources.reasons().values()),
        "attribution": report["attribution"],
    }
    seeds = {"folds": settings["seed"], "judges": recipe.seed}
    return StageResult(summary, details=report, seeds=seeds, pictures=pictures)


def out_of_fold(data: Pixels, assigned: np.ndarray, recipe: Recipe, resume: Path) -> pd.DataFrame:
    """Predictions for every image by the judge of its fold, which was trained on the other folds only."""
    parts = []
    for fold in sorted(set(assigned.tolist())):
        inside = np.flatnonzero(assigned == fold)
        outside = np.flatnonzero(assigned != fold)
        judge = registry.build(recipe.detector, dict(recipe.config), seed=recipe.seed + int(fold))
        truth = [data.truth[index] for index in outside]
        train(judge, data.images[outside], truth, recipe, checkpoint_dir=resume / f"fold-{fold}")
        parts.append(predict(judge, data.images[inside], [data.image_ids[index] for index in inside]))
    return pd.concat(parts, ignore_index=True)


def native(table: pd.DataFrame, data: Pixels, corners: tuple[str, ...]) -> pd.DataFrame:
    """The same boxes in the pixels of their images instead of the judges' frame."""
    placements = dict(zip(data.image_ids, data.placements, strict=True))
    places = np.array([(p.scale, p.left, p.top) for p in map(placements.__getitem__, table["image_id"])]).reshape(-1, 3)
    boxes = (table[list(corners)].to_numpy(np.float64) - places[:, [1, 2, 1, 2]]) / places[:, :1]
    return table.assign(**dict(zip(corners, boxes.T, strict=True)))


def _draw(out: Path, release: Release, data: Pixels, found: pd.DataFrame) -> tuple[str, ...]:
    """The strongest finding of each of sixteen images: label blue, judge's opinion yellow."""
    strongest = found.sort_values("score", ascending=False).drop_duplicates("image_id").head(16)
    if strongest.empty:
        return ()
    position = {image_id: index for index, image_id in enumerate(data.image_ids)}
    source = dict(zip(release.images["image_id"], release.images["source"], strict=True))
    tiles = []
    for row in strongest.itertuples():
        image_id = str(row.image_id)
        index = position[image_id]
        layers = (
            Layer(data.truth[index].boxes, "label"),
            Layer(np.array([[row.px1, row.py1, row.px2, row.py2]]), "prediction"),
            Layer(np.array([[row.x1, row.y1, row.x2, row.y2]]), "finding"),
        )
        kept = tuple(layer for layer in layers if np.isfinite(layer.boxes).all())
        caption = f"{source[image_id]} {row.kind} {row.score:.2f}"
        tiles.append(Tile(data.images[index].transpose(1, 2, 0), kept, caption))
    write_atomic(out / "findings.png", contact_sheet(tiles, columns=4))
    return ("findings.png",)
