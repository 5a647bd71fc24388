"""Curate: hold what the audit found, keep the rest, and say why for every image."""

from __future__ import annotations

import pandas as pd

from secpipeline.datasets.releases import Release, write_tables
from secpipeline.poisoning.quarantine import curate, decide
from secpipeline.stages.context import StageContext, StageResult, read_report
from secpipeline.stages.source_manifests import write_source_manifests


def run(context: StageContext) -> StageResult:
    """Turn findings and attribution into decisions and publish the tables without what is held.

    A release that failed validation is refused here, by the names of what failed, rather than trained on.
    """
    raw, audit = context.inputs["ingest"], context.inputs["audit_labels"]
    release = Release(raw, raw)
    findings = pd.read_parquet(audit / "findings.parquet")
    named = read_report(audit / "sources.json")["named"]
    score = context.params["quarantine"]["image_score"]
    decisions = decide(release.images, findings, named, image_score=score)
    images, boxes = curate(release.images, release.boxes, decisions)
    write_tables(context.out, images, boxes)
    write_source_manifests(context.out, images)
    decisions.to_parquet(context.out / "decisions.parquet", index=False)
    counts = decisions["decision"].value_counts()
    summary = {
        "images": len(images),
        "boxes": len(boxes),
        "held images": int(counts.get("hold", 0)),
        "rejected images": int(counts.get("reject", 0)),
        "held sources": sorted(named),
    }
    failed = read_report(context.inputs["validate"] / "report.json")["failedTests"]
    return StageResult(summary, refusal=tuple(f"validation failed: {name}" for name in failed))
