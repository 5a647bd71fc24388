"""Attack: white-box on the detector, black-box again on the exported artifact."""

from __future__ import annotations

import numpy as np
import pandas as pd

from secpipeline.assurance.pictures import Layer, Tile, bar_chart, contact_sheet
from secpipeline.datasets.loading import Pixels, load
from secpipeline.datasets.releases import Release
from secpipeline.detection import weights
from secpipeline.detection.onnx_detector import OnnxDetector
from secpipeline.robustness.suite import load_suite, run_suite
from secpipeline.stages.context import StageContext, StageResult
from secpipeline.stages.gate import read_report
from secpipeline.store import write_atomic

SUITE = "policies/attacks.yaml"


def run(context: StageContext) -> StageResult:
    """Measure the detector clean, attacked and corrupted on held-out scenes and sources."""
    settings = context.params["attack"]
    card = read_report(context.inputs["export"] / "detector.json")
    size = (card["input_size"][0], card["input_size"][1])
    data = test_images(Release(context.inputs["curate"], context.inputs["ingest"]), size, settings)
    detector = weights.load(context.inputs["train"] / "detector.safetensors")
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
    write_atomic(context.out / "conditions.png", _chart(outcome.report, card["recipe"]))
    write_atomic(context.out / "gallery.png", contact_sheet(_gallery(outcome, card["threshold"]), columns=4))
    return StageResult(_summary(outcome.report), details=outcome.report, pictures=("gallery.png", "conditions.png"))


def test_images(release: Release, size: tuple[int, int], settings: dict[str, int]) -> Pixels:
    """A seeded draw of test images in the detector's frame, in the order of their names."""
    names = release.images.loc[release.images["split"] == "test", "image_id"].to_numpy(str)
    order = np.random.default_rng(settings["seed"]).permutation(len(names))[: settings["images"]]
    return load(release, sorted(names[order].tolist()), size)
