"""Small releases with findings, for the tests of reviews."""

import datetime as dt
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from secpipeline.datasets.deliveries import deliver
from secpipeline.datasets.formats.coco import read_coco
from secpipeline.datasets.releases import write_release
from secpipeline.datasets.splits import assign_splits
from secpipeline.datasets.synthetic import SceneSpec
from secpipeline.poisoning.findings import FINDING_COLUMNS
from secpipeline.review.data import FINDINGS, RELEASE, ReviewData, native_findings, quarantined
from secpipeline.review.records import ACCEPT_LABEL, ACCEPT_SUGGESTION, REDRAW, SKIP, Change, Decision

CORNERS = ["x1", "y1", "x2", "y2"]
NOWHERE = (np.nan,) * 4
NOW = "2026-11-24T08:56:40Z"
DIGESTS = {RELEASE: "ab" * 32, FINDINGS: "cd" * 32}


def image_table(count, *, width=200, height=160, sources=4):
    rows = [
        (f"street-{number:04d}", width, height, f"vendor-{'abcdefgh'[number % sources]}") for number in range(count)
    ]
    return pd.DataFrame(rows, columns=["image_id", "width", "height", "source"])


def box_table(images, per_image=3):
    """Boxes of different heights, side by side."""
    rows = [
        (f"{image}#{number}", image, 5.0 + 30 * number, 10.0, 25.0 + 30 * number, 50.25 + 20 * number)
        for image in images["image_id"]
        for number in range(per_image)
    ]
    table = pd.DataFrame(rows, columns=["box_id", "image_id", *CORNERS])
    return table.assign(label="pedestrian", ignore=False, visibility=1.0, height=table["y2"] - table["y1"])


def finding(image_id, kind, score, *, box=None, predicted=None, evidence=0.5):
    """One row of findings; ``box`` is a row of a box table, ``predicted`` four corners."""
    box_id, corners = (box["box_id"], tuple(box[c] for c in CORNERS)) if box is not None else ("", NOWHERE)
    reason = f"{kind} of {image_id}"
    return (image_id, box_id, kind, score, evidence, *corners, *(predicted or NOWHERE), reason)


def finding_table(rows):
    table = pd.DataFrame(rows, columns=list(FINDING_COLUMNS))
    return table.sort_values("score", ascending=False, kind="stable").reset_index(drop=True)


def one_of_each(boxes, image_id, score):
    """A missing, a ghost and a location finding about one image."""
    own = boxes[boxes["image_id"] == image_id]
    moved = tuple(own.iloc[1][c] + 8.0 for c in CORNERS)
    return [
        finding(image_id, "missing", score, predicted=(120.0, 20.0, 150.0, 100.0)),
        finding(image_id, "ghost", score, box=own.iloc[0]),
        finding(image_id, "location", score, box=own.iloc[1], predicted=moved),
    ]


def tables(images, boxes, rows, *, named=(), image_score=0.8, integrity=None):
    """What a review reads, of tables alone."""
    table = finding_table(rows)
    findings = native_findings(table, images, boxes)
    named = dict.fromkeys(named, "stands out")
    held = quarantined(images, table, findings, named, image_score=image_score, integrity=integrity)
    return ReviewData(SimpleNamespace(images=images, boxes=boxes), findings, held, DIGESTS)


def decide(item, verdict, changes=(), *, reviewer="reviewer one", seconds=1.5):
    changes = item.suggestion if verdict == ACCEPT_SUGGESTION else tuple(changes)
    return Decision(item, verdict, changes, reviewer, seconds, NOW)


def answer(item, wrong, rng=None):
    """A decision that says whether the labels are wrong."""
    if not wrong:
        return decide(item, ACCEPT_LABEL)
    if item.suggestion:
        return decide(item, ACCEPT_SUGGESTION)
    return decide(item, REDRAW, [Change(item.box_id, item.label, (1.0, 1.0, 9.0, 9.0))])


def skip(item):
    return decide(item, SKIP)


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.seconds = 1000.0

    def now(self):
        return dt.datetime(2026, 11, 24, 8, 56, 40, tzinfo=dt.UTC) + dt.timedelta(seconds=self.seconds - 1000)

    def monotonic(self):
        return self.seconds


def write_artifacts(root: Path, make_rows, *, named=(), width=128, height=96):
    """A synthetic release and findings about it, from ``make_rows(images, boxes)``, as the stages leave them."""
    spec = SceneSpec(width=width, height=height, sources=3, scenes_per_source=2, frames_per_scene=2, seed=5)
    annotations = read_coco(deliver(root / "delivery", spec, processes=1).instances)
    ingest, audit = root / "ingest", root / "audit_labels"
    ingest.mkdir(parents=True)
    audit.mkdir()
    write_release(ingest, annotations, assign_splits(annotations.images))
    rows = make_rows(annotations.images, annotations.boxes)
    finding_table(rows).to_parquet(audit / "findings.parquet", index=False)
    (audit / "sources.json").write_text(json.dumps({"named": dict.fromkeys(named, "stands out")}))
    return ingest, audit
