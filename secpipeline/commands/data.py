"""For those who answer for the data: review findings, compare releases."""

from __future__ import annotations

import argparse
from pathlib import Path

from secpipeline.commands import Add, open_workspace
from secpipeline.store import write_atomic


def add_commands(add: Add) -> None:
    """Register the commands."""
    review = add("review", _review, "answer the label audit's findings on a local page; what you decide is signed")
    review.add_argument("--reviewer", required=True, help="who answers; recorded with every answer")
    review.add_argument("--items", type=int, help="how many questions a new review has; default: 100")
    review.add_argument("--seed", type=int, help="of a new review's plan; default: unpredictable")
    review.add_argument("--port", type=int, default=0, help="on 127.0.0.1; default: any that is free")
    release = add("release", _release, "what one release has that another has not: images and boxes, source by source")
    release.add_argument("what", choices=["diff"])
    release.add_argument("old", type=Path, help="a release: a folder with images.parquet and boxes.parquet")
    release.add_argument("new", type=Path)


def _review(options: argparse.Namespace) -> int:
    from secpipeline import params, runner
    from secpipeline.review.app import serve
    from secpipeline.review.attestation import ROLE, sign
    from secpipeline.review.budget import BudgetRule
    from secpipeline.review.data import ReviewData
    from secpipeline.review.session import Session
    from secpipeline.stages.table import REVIEW

    workspace = open_workspace(options)
    runner.verify(workspace, ("ingest", "audit_labels")).require()
    score = params.load(workspace.root / "params.yaml")["quarantine"]["image_score"]
    artifacts = workspace.store.artifacts
    data = ReviewData.read(artifacts / "ingest", artifacts / "audit_labels", image_score=score)
    journal, envelope = (workspace.home / name for name in REVIEW)
    journal.parent.mkdir(parents=True, exist_ok=True)
    rule = None if options.items is None else BudgetRule(items=options.items)
    with Session.open(journal, data, options.reviewer, rule, options.seed) as session:
        finished = serve(session, options.port, lambda address: print(f"review on {address}", flush=True))
    write_atomic(envelope, sign(journal.read_bytes(), workspace.ring().signer(ROLE)))
    print(f"signed {envelope}; `secpipeline run` makes the next curated release of it")
    if not finished:
        print("not everything is answered; run the same command to go on")
    return 0


def _release(options: argparse.Namespace) -> int:
    from secpipeline.datasets.differences import release_diff

    print(release_diff(options.old, options.new).text(), end="")
    return 0
