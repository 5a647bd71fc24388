"""Monitor: frames replayed through the deployed detector, compared with the calibration data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from secpipeline.assurance.pictures import bar_chart
from secpipeline.datasets.loading import Pixels, load
from secpipeline.datasets.releases import Release
from secpipeline.detection.onnx_detector import OnnxDetector
from secpipeline.errors import CannotDecide
from secpipeline.monitoring.drift import compare, input_statistics, output_statistics
from secpipeline.stages.context import StageContext, StageResult, read_report
from secpipeline.store import write_atomic


def run(context: StageContext) -> StageResult:
    """Replay a window of test frames as if they came from the street, and open an incident for each drift."""
    deployment = read_report(context.inputs["deploy"] / "deployment.json")
    if deployment["outcome"] != "deployed":
        return _record(context, "inactive", [], ["nothing was deployed, so there is nothing to watch"])
    release = Release(context.inputs["curate"], context.inputs["ingest"])
    settings = context.params["monitor"]
    card = read_report(context.inputs["deploy"] / "detector.json")
    size = (card["input_size"][0], card["input_size"][1])
    served = OnnxDetector((context.inputs["deploy"] / "detector.onnx").read_bytes(), size, card["nms_iou"])
    tables = {}
    for split, count in (("calibration", len(release.images)), ("test", settings["window"])):
        data = _draw_split(release, split, count, settings["seed"], size)
        predictions = served.predict(data.images, data.image_ids)
        outputs = output_statistics(predictions, data.image_ids, card["threshold"])
        tables[split] = pd.concat([input_statistics(data.images), outputs], axis=1)
    try:
        rows = compare(tables["calibration"], tables["test"])
    except CannotDecide as undecided:
        return _record(context, "inconclusive", [], [str(undecided)])
    chart = bar_chart(
        {row["statistic"]: min(row["psi"], 2.0) for row in rows}, {}, "population stability index", "Drift",
        bound=(0.25, "incident"),
    )  # fmt: skip
    write_atomic(context.out / "drift.png", chart)
    return _record(context, "watched", rows, [], ("drift.png",))


def _draw_split(release: Release, split: str, count: int, seed: int, size: tuple[int, int]) -> Pixels:
    names = release.images.loc[release.images["split"] == split, "image_id"].to_numpy(str)
    order = np.random.default_rng(seed).permutation(len(names))[:count]
    return load(release, sorted(names[order].tolist()), size)


def _record(
    context: StageContext,
    state: str,
    rows: list[dict[str, Any]],
    notes: list[str],
    pictures: tuple[str, ...] = (),
) -> StageResult:
    incidents = [row for row in rows if row["incident"]]
    context.write_json("report.json", {"state": state, "statistics": rows, "notes": notes})
    context.write_json("incidents.json", incidents)
    summary = {"state": state, "incidents": len(incidents), "statistics": len(rows), "notes": notes}
    drifted = [row["statistic"] for row in incidents]
    details = {
        "result": "PASSED" if state == "watched" and not drifted else "WARNED",
        "passedTests": [row["statistic"] for row in rows if not row["incident"]],
        "warnedTests": drifted,
        "failedTests": [],
    }
    seeds = {} if state == "inactive" else {"window": context.params["monitor"]["seed"]}
    return StageResult(summary, details=details, seeds=seeds, pictures=pictures)
