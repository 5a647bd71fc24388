"""Ingest: from delivered images and annotations to an immutable release."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from secpipeline.assurance.pictures import Layer, Tile, contact_sheet
from secpipeline.datasets import formats
from secpipeline.datasets.annotations import Annotations
from secpipeline.datasets.decoding import REFUSE
from secpipeline.datasets.deliveries import deliver
from secpipeline.datasets.releases import Release, write_release
from secpipeline.datasets.splits import assign_splits
from secpipeline.datasets.synthetic import SceneSpec
from secpipeline.digests import StrPath, map_files, sha256_file, tree_digest
from secpipeline.errors import InputError
from secpipeline.poisoning.planters import PoisonPlan
from secpipeline.stages.context import StageContext, StageResult
from secpipeline.stages.source_manifests import write_source_manifests
from secpipeline.store import write_atomic

SYNTHETIC = "synthetic"


def outside_files(params: Mapping[str, Any]) -> dict[str, str]:
    """Digests of a delivery that lies outside the workspace, so that a changed image is a new computation."""
    dataset = params["data"]["dataset"]
    if dataset == SYNTHETIC:
        return {}
    annotations = _read(Path(dataset), params["data"])
    names = [*annotations.images["file_name"], *(rejection.file_name for rejection in annotations.rejected)]
    digests = map_files(_image_digest, [annotations.root / name for name in names])
    return {**_annotation_digests(annotations), "delivery/images": tree_digest(dict(zip(names, digests, strict=True)))}


def _read(path: Path, data: Mapping[str, Any]) -> Annotations:
    return formats.read(path, data.get("format", formats.AUTO), images=data.get("images"), clip=data["clip_boxes"])


def _annotation_digests(annotations: Annotations) -> dict[str, str]:
    """SHA-256 of the one annotation file, or of the manifest of all of them."""
    files = annotations.files
    if len(files) == 1:
        return {f"delivery/{name}": digest for name, digest in files.items()}
    return {"delivery/annotations": tree_digest(files)}


def _image_digest(path: StrPath) -> str:
    """SHA-256 of an image, or nothing where it cannot be read: the run will reject it and say why."""
    try:
        return sha256_file(path)
    except InputError:
        return ""


def run(context: StageContext) -> StageResult:
    """Read the delivery, decode and check every image, assign splits, write the release."""
    data = context.params["data"]
    annotations = _without(_read(_delivery(context, data), data), context.revoked_sources)
    splits = context.params["splits"]
    assigned = assign_splits(
        annotations.images,
        calibration=splits["calibration"],
        test=splits["test"],
        holdout_sources=tuple(name for name in splits["holdout_sources"] if name not in context.revoked_sources),
        seed=splits["seed"],
    )
    written = write_release(
        context.out,
        annotations,
        assigned,
        turn=data.get("orientation", REFUSE),
        max_rejected=data.get("max_rejected", 0.0),
        previous=context.previous,
    )
    context.write_json("rejected.json", [asdict(rejection) for rejection in written.rejected])
    release = Release(context.out, context.out)
    write_source_manifests(context.out, release.images)
    write_atomic(context.out / "preview.png", contact_sheet(_preview(release), columns=4))
    counts = release.images["split"].value_counts()
    summary = {
        "images": len(release.images),
        "boxes": len(release.boxes),
        "sources": int(release.images["source"].nunique()),
        "scenes": int(release.images[["source", "scene"]].drop_duplicates().shape[0]),
        "rejected": len(written.rejected),
        "shards": written.shards,
        "release": written.digest,
        **{f"{split} images": int(counts.get(split, 0)) for split in ("train", "calibration", "test")},
    }
    return StageResult(
        summary, materials=_annotation_digests(annotations), seeds=_seeds(context.params), pictures=("preview.png",)
    )


def _seeds(params: Mapping[str, Any]) -> dict[str, int]:
    data, seeds = params["data"], {"splits": params["splits"]["seed"]}
    if data["dataset"] == SYNTHETIC:
        seeds["synthetic"] = data["synthetic"]["seed"]
        if data["poison"]:
            seeds["poison"] = data["poison"]["seed"]
    return seeds


def _without(annotations: Annotations, revoked: Mapping[str, str]) -> Annotations:
    """The delivery as if the revoked sources had delivered nothing."""
    images = annotations.images[~annotations.images["source"].isin(revoked)].reset_index(drop=True)
    rejected = tuple(rejection for rejection in annotations.rejected if rejection.source not in revoked)
    if images.empty and rejected:
        raise InputError(f"{annotations.root}: no image can be used, such as {rejected[0].reason}")
    if images.empty:
        raise InputError(f"{annotations.root}: the owners revoked every source of this delivery; nothing is left")
    boxes = annotations.boxes[annotations.boxes["image_id"].isin(images["image_id"])].reset_index(drop=True)
    return replace(annotations, images=images, boxes=boxes, rejected=rejected)


def _delivery(context: StageContext, data: Mapping[str, Any]) -> Path:
    if data["dataset"] != SYNTHETIC:
        return Path(data["dataset"])
    plan = PoisonPlan(**data["poison"]) if data["poison"] else None
    delivery = deliver(context.resume / "delivery", SceneSpec(**data["synthetic"]), plan)
    if delivery.planted is not None:
        # What was planted is kept for scoring the audit; no later stage reads it.
        write_atomic(context.out / "planted.json", delivery.planted.read_bytes())
    return delivery.instances


def _preview(release: Release) -> list[Tile]:
    """Two images of each source, at most sixteen, with their labels."""
    chosen = release.images.groupby("source", sort=True).nth([0, -1]).head(16)
    tiles = []
    for row in chosen.itertuples():
        image_id = str(row.image_id)
        mine = release.boxes[release.boxes["image_id"] == image_id]
        layers = tuple(
            Layer(mine.loc[mine["ignore"] == ignored, ["x1", "y1", "x2", "y2"]].to_numpy(float), kind)
            for ignored, kind in ((False, "label"), (True, "ignore"))
        )
        tiles.append(Tile(release.decode(image_id), layers, f"{row.source!s} {row.time_of_day!s}".strip()))
    return tiles


def planted(directory: Path) -> list[dict[str, Any]]:
    """The planted poison of the embedded data, one row each; empty for anybody else's data."""
    path = directory / "planted.json"
    rows: list[dict[str, Any]] = json.loads(path.read_bytes()) if path.is_file() else []
    return rows
