"""Export: from weights to the ONNX artifact that is really deployed."""

from __future__ import annotations

import shutil

from secpipeline.datasets.loading import load
from secpipeline.datasets.releases import Release
from secpipeline.detection import export, weights
from secpipeline.detection.inference import predict
from secpipeline.detection.onnx_detector import OnnxDetector
from secpipeline.digests import sha256_file
from secpipeline.stages.context import StageContext, StageResult, read_report

_COMPARED_IMAGES = 32


def run(context: StageContext) -> StageResult:
    """Export and measure how far the artifact's predictions are from the detector's, on calibration images."""
    trained = context.inputs["train"]
    card = read_report(trained / "detector.json")
    detector = weights.load(trained / "detector.safetensors", card.get("entry_point"))
    size = (card["input_size"][0], card["input_size"][1])
    target = context.out / "detector.onnx"
    export.to_onnx(detector, target, size)
    shutil.copyfile(trained / "detector.json", context.out / "detector.json")
    release = Release(context.inputs["curate"], context.inputs["ingest"])
    calibration = release.images.loc[release.images["split"] == "calibration", "image_id"].tolist()
    compared = load(release, calibration[:_COMPARED_IMAGES], size)
    served = OnnxDetector(target.read_bytes(), size, card["nms_iou"]).predict(compared.images, compared.image_ids)
    agreement = export.agreement(predict(detector, compared.images, compared.image_ids), served)
    context.write_json("agreement.json", agreement)
    summary = {"onnx": sha256_file(target), "kilobytes": round(target.stat().st_size / 1024), **agreement}
    return StageResult(summary, details=agreement)
