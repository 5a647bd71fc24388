"""A recipe with all its defences, trained: where the detector, the attacks on it and the training loop meet.

>>> detector, record = train_recipe(recipe, training, calibration)                          # doctest: +SKIP
>>> record.recipe                                                                           # doctest: +SKIP
'composite'
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from secpipeline.datasets.loading import Pixels
from secpipeline.detection import defences, distillation, registry
from secpipeline.detection.interface import Detector
from secpipeline.detection.preprocessing import Preprocessed
from secpipeline.detection.recipes import Recipe
from secpipeline.detection.seen import SeenBatch
from secpipeline.detection.training import check_trainable, train
from secpipeline.detection.training_record import TrainingRecord
from secpipeline.errors import InputError
from secpipeline.robustness.adversaries import adversary
from secpipeline.robustness.probes import validation


def teacher_of(recipe: Recipe) -> str | None:
    """The recipe that must be trained first, or None."""
    found = defences.read(recipe.defences, f"recipe {recipe.name}")
    return found.distillation.teacher if found.distillation else None


def build(recipe: Recipe) -> Detector:
    """A recipe's detector, untrained, behind its filter if it has one."""
    found = defences.read(recipe.defences, f"recipe {recipe.name}")
    if found.preprocessing is None:
        return registry.build(recipe.detector, dict(recipe.config), seed=recipe.seed)
    config = {"inner": recipe.detector, "config": dict(recipe.config), **asdict(found.preprocessing)}
    return registry.build(Preprocessed.name, config, seed=recipe.seed)


def check(recipe: Recipe) -> None:
    """Refuse a recipe whose detector cannot be built or trained; to be asked before its data are read.

    Raises
    ------
    InputError
        As :func:`secpipeline.detection.registry.build` and :func:`secpipeline.detection.training.check_trainable`.
    """
    check_trainable(build(recipe), recipe)


def train_recipe(
    recipe: Recipe,
    data: Pixels,
    calibration: Pixels | None = None,
    teacher: Detector | None = None,
    checkpoint_dir: Path | None = None,
    device: torch.device | None = None,
) -> tuple[Detector, TrainingRecord]:
    """Train a recipe's detector.

    Parameters
    ----------
    recipe
        How.
    data
        The training images, in the recipe's frame.
    calibration
        Images that early stopping looks at.
    teacher
        The trained detector of :func:`teacher_of`.
    checkpoint_dir, device
        As for :func:`secpipeline.detection.training.train`.

    Returns
    -------
    Detector, TrainingRecord
        The detector, in evaluation mode on the processor, and what happened.

    Raises
    ------
    InputError
        If the recipe's defences contradict each other, or a teacher or calibration images are missing.
    CannotDecide
        As :func:`secpipeline.detection.training.train`.
    """
    found = defences.read(recipe.defences, f"recipe {recipe.name}")
    if (found.distillation is None) != (teacher is None):
        raise InputError(f"recipe {recipe.name}: defences.distillation and a trained teacher belong together")
    seen = SeenBatch()
    detector = build(recipe)
    record = train(
        detector,
        data.images,
        data.truth,
        recipe,
        augment=defences.augmentation(found, seen),
        perturb=adversary(recipe, found, seen),
        penalty=distillation.penalty(found.distillation, teacher, seen) if found.distillation and teacher else None,
        validate=validation(recipe, found, calibration),
        checkpoint_dir=checkpoint_dir,
        device=device,
    )
    return detector, record
