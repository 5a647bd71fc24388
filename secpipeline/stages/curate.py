"""Curate: hold what the audit found, keep the rest, and say why for every image."""

from __future__ import annotations

import json

import pandas as pd

from secpipeline.datasets.releases import Release, write_tables
from secpipeline.poisoning.quarantine import curate, decide
from secpipeline.stages.context import StageContext, StageResult


def run(context: StageContext) -> StageResult:
    """Turn findings and attribution into decisions and publish the tables without what is held.

    A release that failed validation is not curated: everything is refused here, by name, rather than trained on.
    """
    raw, audit, validation = (context.inputs[name] for name in ("ingest", "audit_labels", "validate"))
    release = Release(raw, raw)
    findings = pd.read_parquet(audit / "findings.parquet")
    sources = json.loads((audit / "sources.json").read_bytes())
    decisions = decide(release.images, release.boxes, findings, sources, context.params["quarantine"])
    images, boxes = curate(release.images, release.boxes, decisions)
    write_tables(context.out, images, boxes)
    decisions.to_parquet(context.out / "decisions.parquet", index=False)
    counts = decisions["decision"].value_counts()
    summary = {
        "images": len(images),
        "boxes": len(boxes),
        "held images": int(counts.get("hold", 0)),
        "rejected images": int(counts.get("reject", 0)),
        "held sources": sorted(source["source"] for source in sources if source["named"]),
    }
    failed = json.loads((validation / "report.json").read_bytes())["failedTests"]
    refusal = tuple(f"validation failed: {name}" for name in failed)
    return StageResult(summary, details={"decisions": {str(k): int(v) for k, v in counts.items()}}, refusal=refusal)
