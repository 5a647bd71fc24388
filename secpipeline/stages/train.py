"""Train: from curated tables to weights and an operating threshold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from secpipeline.assurance.pictures import Layer, Tile, contact_sheet, line_chart
from secpipeline.datasets.loading import Pixels, load
from secpipeline.datasets.releases import Release
from secpipeline.detection import metrics, registry, weights
from secpipeline.detection.inference import predict
from secpipeline.detection.interface import Detector
from secpipeline.detection.matching import ALL, Matches, match
from secpipeline.detection.recipes import Recipe, load_recipe
from secpipeline.detection.training import TrainingRecord, train
from secpipeline.errors import CannotDecide
from secpipeline.robustness.attacks import AttackSpec, perturb
from secpipeline.stages.context import StageContext, StageResult
from secpipeline.store import write_atomic

REPORTS_NOBODY = 1.0


def run(context: StageContext) -> StageResult:
    """Train the recipe on the train split and set the threshold on the calibration split."""
    settings = context.params["train"]
    recipe = load_recipe(context.root / "recipes" / f"{settings['recipe']}.yaml")
    release = Release(context.inputs["curate"], context.inputs["ingest"])
    data = load_split(release, "train", recipe)
    detector = registry.build(recipe.detector, dict(recipe.config), seed=recipe.seed)
    record = train(detector, data.images, data.truth, recipe, perturb=adversary(recipe), checkpoint_dir=context.resume)
    weights.save(detector, context.out / "detector.safetensors")
    context.write_json("training.json", record.to_json())
    calibration = load_split(release, "calibration", recipe)
    predictions = predict(detector, calibration.images, calibration.image_ids)
    matches = match(calibration.boxes, predictions, calibration.image_ids, ALL)
    threshold, undecided = operating_point(matches, settings["max_fppi"])
    card = {
        "name": detector.name,
        "recipe": recipe.name,
        "input_size": list(recipe.input_size),
        "threshold": threshold,
        "nms_iou": detector.nms_iou,
    }
    context.write_json("detector.json", card)
    _draw(context.out, record, calibration, predictions, threshold)
    summary = {
        "recipe": recipe.name,
        "detector": detector.name,
        "parameters": sum(parameter.numel() for parameter in detector.parameters()),
        "training images": len(data.image_ids),
        "calibration AP50": metrics.average_precision(matches) if matches.people.sum() else None,
        "threshold": threshold,
        "training seconds": record.seconds,
        **({"threshold undecided": undecided} if undecided else {}),
    }
    seeds = {"training": recipe.seed}
    return StageResult(
        summary, details={"recipe": recipe.to_json()}, seeds=seeds, pictures=("predictions.png", "curve.png")
    )


def load_split(release: Release, split: str, recipe: Recipe) -> Pixels:
    """The images of one split in the detector's frame."""
    chosen = release.images.loc[release.images["split"] == split, "image_id"].tolist()
    return load(release, chosen, recipe.input_size)


def operating_point(matches: Matches, max_fppi: float) -> tuple[float, str]:
    """The deployed threshold, and why calibration data could not set it ("" if they could).

    A detector that is too weak or was measured on too little gets the threshold that reports nobody, so that the chain
    runs on to a gate that refuses it with all its reasons, instead of ending here with one.
    """
    try:
        return metrics.operating_threshold(matches, max_fppi), ""
    except CannotDecide as undecided:
        return REPORTS_NOBODY, str(undecided)


def adversary(recipe: Recipe) -> Callable[..., Any] | None:
    """The attack that the recipe trains against, or none."""
    if recipe.adversarial is None:
        return None
    spec = AttackSpec(
        name="in the loop",
        objective="detection_loss",
        epsilon=recipe.adversarial.epsilon,
        step_size=recipe.adversarial.step_size,
        steps=recipe.adversarial.steps,
        random_start=True,
    )

    def attack(detector: Detector, images: Any, encoded: Any, generator: Any) -> Any:
        return perturb(detector, images, encoded, spec, generator)

    return attack


def _draw(out: Path, record: TrainingRecord, data: Pixels, predictions: Any, threshold: float) -> None:
    curve = line_chart(
        {"training loss": record.losses}, range(1, len(record.losses) + 1), ("epoch", "loss"), record.recipe
    )
    write_atomic(out / "curve.png", curve)
    tiles = []
    step = max(1, len(data.image_ids) // 12)
    for index in range(0, len(data.image_ids), step):
        image_id = data.image_ids[index]
        sure = predictions[(predictions["image_id"] == image_id) & (predictions["score"] >= threshold)]
        layers = (
            Layer(data.truth[index].boxes, "label"),
            Layer(sure[["x1", "y1", "x2", "y2"]].to_numpy(float), "prediction"),
        )
        tiles.append(Tile(data.images[index].transpose(1, 2, 0), layers, image_id[-34:]))
    write_atomic(out / "predictions.png", contact_sheet(tiles[:12], columns=4))
