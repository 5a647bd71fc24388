"""Attack: white-box on the detector, black-box again on the exported artifact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from secpipeline.assurance.pictures import Layer, Tile, bar_chart, contact_sheet, reliability_chart
from secpipeline.datasets.loading import Pixels, load
from secpipeline.datasets.releases import Release
from secpipeline.detection import weights
from secpipeline.detection.matching import SUBSETS
from secpipeline.detection.onnx_detector import OnnxDetector
from secpipeline.robustness.evaluation_report import evaluation_report
from secpipeline.robustness.suite import SuiteOutcome, load_suite, run_suite
from secpipeline.stages.context import StageContext, StageResult, read_report
from secpipeline.store import write_atomic

SUITE = "policies/attacks.yaml"


def run(context: StageContext) -> StageResult:
    """Measure the detector clean, attacked and corrupted on held-out scenes and sources."""
    settings = context.params["attack"]
    card = read_report(context.inputs["export"] / "detector.json")
    size = (card["input_size"][0], card["input_size"][1])
    release = Release(context.inputs["curate"], context.inputs["ingest"])
    data = test_images(release, size, settings)
    detector = weights.load(context.inputs["train"] / "detector.safetensors", card.get("entry_point"))
    artifact = OnnxDetector((context.inputs["export"] / "detector.onnx").read_bytes(), size, card["nms_iou"])

    def black_box(images: np.ndarray, image_ids: list[str]) -> pd.DataFrame:
        return artifact.predict(images, image_ids)

    outcome = run_suite(
        detector,
        data.images,
        data.truth,
        data.boxes,
        data.image_ids,
        card["threshold"],
        load_suite(context.root / SUITE),
        settings["seed"],
        black_box=black_box,
    )
    context.write_json("report.json", outcome.report)
    evaluation = _evaluate(outcome, release, data)
    context.write_json("evaluation.json", evaluation)
    write_atomic(context.out / "conditions.png", _chart(outcome.report, card["recipe"]))
    pictures = ["conditions.png"]
    if evaluation["calibration"] and evaluation["calibration"]["detections"]:
        bins, title = evaluation["calibration"]["reliability"], f"Scores of the {card['recipe']} detector, clean images"
        write_atomic(context.out / "reliability.png", reliability_chart(bins, card["threshold"], title))
        pictures.append("reliability.png")
    if outcome.gallery:
        columns = len(outcome.gallery[0].pictures)
        write_atomic(context.out / "gallery.png", contact_sheet(_gallery(outcome), columns))
        pictures.insert(0, "gallery.png")
    # The table repeats the conditions for people; it stays in the report.
    details = {name: found for name, found in outcome.report.items() if name != "table"}
    seeds = {"attack": settings["seed"]}
    return StageResult(_summary(outcome.report), details=details, seeds=seeds, pictures=tuple(pictures))


def test_images(release: Release, size: tuple[int, int], settings: dict[str, int]) -> Pixels:
    """A seeded draw of test images in the detector's frame, in the order of their names."""
    names = release.images.loc[release.images["split"] == "test", "image_id"].to_numpy(str)
    order = np.random.default_rng(settings["seed"]).permutation(len(names))[: settings["images"]]
    return load(release, sorted(names[order].tolist()), size)


def _evaluate(outcome: SuiteOutcome, release: Release, data: Pixels) -> dict[str, Any]:
    """The evaluation beside the report: of the same predictions, on the same people, at the same threshold."""
    report = outcome.report
    return evaluation_report(
        outcome.predictions,
        {name: found["kind"] for name, found in report["conditions"].items()},
        data.boxes,
        release.images.set_index("image_id").loc[data.image_ids].reset_index(),
        SUBSETS[report["subset"]],
        report["threshold"],
        report["resamples"],
        report["seed"],
    )


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    """The numbers that people compare; the worst of all attacks where there are several."""
    conditions = report["conditions"]
    attacks = [found for found in conditions.values() if found["kind"] == "attack"]
    clean = conditions["clean"]
    return {
        "images": report["images"],
        "people": report["people"],
        "clean AP50": _value(clean["ap50"]),
        "clean MR-2": _value(clean["mr2"]),
        "attacked AP50": _worst([found["ap50"] for found in attacks], min),
        "attacked MR-2": _worst([found["mr2"] for found in attacks], max),
        "attacked miss rate": _worst([found["miss_rate"] for found in attacks], max),
        "attacked FPPI": _worst([found["fppi"] for found in attacks], max),
        "corrupted AP50": _value(report["corrupted_mean_ap50"]),
    }


def _value(found: dict[str, float] | None) -> float | None:
    return None if found is None else found["value"]


def _worst(found: list[dict[str, float] | None], choose: Callable[[list[float]], float]) -> float | None:
    values = [entry["value"] for entry in found if entry is not None]
    return choose(values) if values else None


def _chart(report: dict[str, Any], recipe: str) -> bytes:
    measured = {name: found["ap50"] for name, found in report["conditions"].items() if found["ap50"] is not None}
    values = {name: found["value"] for name, found in measured.items()}
    intervals = {name: (found["low"], found["high"]) for name, found in measured.items()}
    return bar_chart(values, intervals, "AP50", f"{recipe} detector under every condition")


def _gallery(outcome: SuiteOutcome) -> list[Tile]:
    """One row an image: clean, then under each attack and control."""
    tiles = []
    for example in outcome.gallery:
        for name, picture in example.pictures.items():
            kind = "clean" if name == "clean" else "attacked"
            layers = (Layer(example.truth.boxes, "label"), Layer(example.detections[name], kind))
            tiles.append(Tile(picture.transpose(1, 2, 0), layers, name))
    return tiles
