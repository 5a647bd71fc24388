"""Curate: hold what the audit found, mend what a person decided, keep the rest, and say why for every image."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from secpipeline.datasets.releases import write_tables
from secpipeline.digests import sha256_bytes
from secpipeline.errors import IntegrityError
from secpipeline.poisoning.quarantine import curate, decide_boxes, decide_sources
from secpipeline.review import quality
from secpipeline.review.attestation import open_review
from secpipeline.review.data import ReviewData
from secpipeline.review.decisions import CHANGE_COLUMNS, Reviewed, apply
from secpipeline.stages.context import StageContext, StageResult, read_report
from secpipeline.stages.source_manifests import write_source_manifests
from secpipeline.stages.table import REVIEW


def run(context: StageContext) -> StageResult:
    """Turn findings, attribution and reviews into decisions and publish the tables without what is held.

    A release that failed validation, or whose label audit could conclude nothing, is refused here, by the names of what
    failed, rather than trained on as if it were clean.
    """
    raw, audit = context.inputs["ingest"], context.inputs["audit_labels"]
    score = context.params["quarantine"]["image_score"]
    data = ReviewData.read(raw, audit, image_score=score)
    reviewed, reviewers = _reviewed(context, data)
    images, boxes = curate(reviewed.images, reviewed.boxes, reviewed.quarantine)
    write_tables(context.out, images, boxes)
    write_source_manifests(context.out, images)
    findings, named = pd.read_parquet(audit / "findings.parquet"), read_report(audit / "sources.json")["named"]
    of_boxes = decide_boxes(reviewed.boxes, findings, reviewed.quarantine, image_score=score)
    of_sources = decide_sources(reviewed.images, named, reviewed.quarantine)
    reviewed.quarantine.to_parquet(context.out / "decisions.parquet", index=False)
    of_boxes.to_parquet(context.out / "box_decisions.parquet", index=False)
    of_sources.to_parquet(context.out / "source_decisions.parquet", index=False)
    reviewed.changes.to_parquet(context.out / "changes.parquet", index=False)
    counts = reviewed.quarantine["decision"].value_counts()
    summary = {
        "images": len(images),
        "boxes": len(boxes),
        "held images": int(counts.get("hold", 0)),
        "rejected images": int(counts.get("reject", 0)),
        "held sources": sorted(named),
        **({"reviewers": reviewers, "changed boxes": len(reviewed.changes)} if reviewers else {}),
    }
    return StageResult(summary, refusal=_refusal(context.inputs["validate"], audit))


def _refusal(validation: Path, audit: Path) -> tuple[str, ...]:
    failed = [f"validation failed: {name}" for name in read_report(validation / "report.json")["failedTests"]]
    unjudged = read_report(audit / "report.json")["predictions"]["failed"]
    return (*failed, *(f"label audit: {text}" for text in unjudged))


def _reviewed(context: StageContext, data: ReviewData) -> tuple[Reviewed, list[str]]:
    """The release after the signed review, if there is one, and who reviewed it."""
    release = data.release
    if context.review is None:
        nothing = pd.DataFrame(columns=list(CHANGE_COLUMNS))
        return Reviewed(release.images, release.boxes, data.quarantine.table, nothing), []
    decisions, envelope = (_bound(context, context.review / name, name) for name in REVIEW)
    review = open_review(envelope, decisions, context.review_keys, data.digests)
    context.write_json("review.json", quality.summary(review.decisions, review.header.population))
    done = apply(release.images, release.boxes, review.decisions, data.quarantine)
    return done, sorted({decision.reviewer for decision in review.decisions})


def _bound(context: StageContext, path: Path, name: str) -> bytes:
    """A file of the review, if it is still the one that the run is bound to."""
    data = path.read_bytes() if path.is_file() else b""
    expected, found = context.files.get(name, ""), sha256_bytes(data)
    if found != expected:
        raise IntegrityError(str(path), expected, found, "it changed while the stage ran; run curate again")
    return data
