"""Train: from curated tables to weights and an operating threshold.

Under ``torchrun`` the first process runs the stage; the others :func:`follow <led>` it into the training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from secpipeline.assurance.pictures import Layer, Tile, contact_sheet, line_chart
from secpipeline.datasets.loading import Pixels, load
from secpipeline.datasets.releases import Release
from secpipeline.defended_training import check, teacher_of, train_recipe
from secpipeline.detection import distributed, metrics, weights
from secpipeline.detection.inference import predict
from secpipeline.detection.interface import Detector
from secpipeline.detection.matching import ALL, Matches, match
from secpipeline.detection.recipes import Recipe, load_recipe
from secpipeline.detection.training_record import TrainingRecord
from secpipeline.errors import CannotDecide, InputError
from secpipeline.stages.context import StageContext, StageResult
from secpipeline.store import write_atomic

REPORTS_NOBODY = 1.0


@dataclass(frozen=True)
class Job:
    """What every process of a distributed training must know; paths that all of them see.

    Attributes
    ----------
    recipe
        The recipe's file.
    tables, shards
        The release to train on, see :class:`secpipeline.datasets.releases.Release`.
    resume
        Where checkpoints lie.
    epochs_limit, images_limit
        For a trial: at most so many epochs, and only the first so many images; None for all.
    """

    recipe: str
    tables: str
    shards: str
    resume: str
    epochs_limit: int | None = None
    images_limit: int | None = None

    def read_recipe(self) -> Recipe:
        """The recipe within the limits."""
        recipe = load_recipe(Path(self.recipe))
        return recipe if self.epochs_limit is None else replace(recipe, epochs=min(recipe.epochs, self.epochs_limit))


def run(context: StageContext) -> StageResult:
    """Train the recipe on the train split and set the threshold on the calibration split."""
    settings = context.params["train"]
    path = context.root / "recipes" / f"{settings['recipe']}.yaml"
    job = Job(str(path), str(context.inputs["curate"]), str(context.inputs["ingest"]), str(context.resume))
    distributed.current().told(asdict(job))
    detector, record = fit(job)
    weights.save(detector, context.out / "detector.safetensors")
    context.write_json("training.json", record.to_json())
    recipe = load_recipe(path)
    calibration = load_split(_release(job), "calibration", recipe)
    predictions = predict(detector.to(distributed.default_device()), calibration.images, calibration.image_ids)
    detector.to("cpu")
    matches = match(calibration.boxes, predictions, calibration.image_ids, ALL)
    threshold, undecided = operating_point(matches, settings["max_fppi"])
    card = {
        "name": detector.name,
        "recipe": recipe.name,
        "input_size": list(recipe.input_size),
        "threshold": threshold,
        "nms_iou": detector.nms_iou,
        **({"entry_point": recipe.detector} if ":" in recipe.detector else {}),
    }
    context.write_json("detector.json", card)
    _draw(context.out, record, calibration, predictions, threshold)
    summary = {
        "recipe": recipe.name,
        "detector": detector.name,
        "parameters": sum(parameter.numel() for parameter in detector.parameters()),
        "training images": record.training_images,
        "calibration AP50": metrics.average_precision(matches) if matches.people.sum() else None,
        "threshold": threshold,
        "training seconds": record.seconds,
        **({"threshold undecided": undecided} if undecided else {}),
    }
    sources = {f"weights/{Path(name).name}": digest for name, digest in detector.weight_sources().items()}
    return StageResult(
        summary,
        details={"recipe": recipe.to_json()},
        materials=sources,
        seeds={"training": recipe.seed},
        pictures=("predictions.png", "curve.png"),
    )


@contextlib.contextmanager
def led() -> Iterator[bool]:
    """Join the processes that ``torchrun`` started; whether this one leads.

    The others do their share of every training of the leading one, and their block begins when it is done.
    """
    with distributed.joined() as world:
        if not world.leads:
            while (told := world.told(None)) is not None:
                fit(Job(**told))
        yield world.leads
        if world.leads:
            world.told(None)


def fit(job: Job) -> tuple[Detector, TrainingRecord]:
    """Train on the train split, and before that the teacher, if the recipe has one."""
    recipe = job.read_recipe()
    check(recipe)
    teacher = _teacher(recipe, job)
    release = _release(job)
    data = load_split(release, "train", recipe, job.images_limit)
    calibration = load_split(release, "calibration", recipe) if recipe.early_stopping else None
    return train_recipe(recipe, data, calibration, teacher, Path(job.resume))


def _teacher(recipe: Recipe, job: Job) -> Detector | None:
    name = teacher_of(recipe)
    if name is None:
        return None
    theirs = replace(job, recipe=str(Path(job.recipe).with_name(f"{name}.yaml")), resume=str(Path(job.resume) / name))
    if teacher_of(theirs.read_recipe()) is not None:
        raise InputError(f"recipe {recipe.name}: its teacher {name} has a teacher itself; name one that has none")
    return fit(theirs)[0]


def _release(job: Job) -> Release:
    return Release(Path(job.tables), Path(job.shards))


def load_split(release: Release, split: str, recipe: Recipe, limit: int | None = None) -> Pixels:
    """The images of one split in the detector's frame, at most the first ``limit``."""
    chosen = release.images.loc[release.images["split"] == split, "image_id"].tolist()
    return load(release, chosen[:limit], recipe.input_size)


def operating_point(matches: Matches, max_fppi: float) -> tuple[float, str]:
    """The deployed threshold, and why calibration data could not set it ("" if they could).

    A detector that is too weak or was measured on too little gets the threshold that reports nobody, so that the chain
    runs on to a gate that refuses it with all its reasons, instead of ending here with one.
    """
    try:
        return metrics.operating_threshold(matches, max_fppi), ""
    except CannotDecide as undecided:
        return REPORTS_NOBODY, str(undecided)


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
