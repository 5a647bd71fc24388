"""How robust a detector is while it trains: a small attack on calibration images after each epoch.

Fast and free adversarial training can collapse within an epoch: the detector learns to fool the one step that it is
attacked with, and stands open to any other ("catastrophic overfitting"; Wong, Rice and Kolter, "Fast is better than
free", ICLR 2020), while its training loss falls on. So the probe is PGD with ten steps, whatever the training uses;
with patches, one that is learned anew and judged on other images. A recipe that stops early on ``robust`` keeps the
epoch that the probe found strongest (Rice, Wong and Kolter, "Overfitting in adversarially robust deep learning", ICML
2020).

>>> validate = validation(recipe, defences.read(recipe.defences, recipe.name), calibration)    # doctest: +SKIP
>>> validate(detector, 0)                                                                   # doctest: +SKIP
0.61
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secpipeline.datasets.loading import Pixels
from secpipeline.detection import metrics
from secpipeline.detection.defences import Defences, Patch
from secpipeline.detection.hooks import Validate
from secpipeline.detection.inference import predict
from secpipeline.detection.interface import Detector
from secpipeline.detection.matching import ALL, match
from secpipeline.detection.recipes import Recipe
from secpipeline.errors import InputError
from secpipeline.robustness.attacks import AttackSpec, Images
from secpipeline.robustness.health import attack_soundly
from secpipeline.robustness.patches import PatchSpec, learn, wear

_IMAGES = 64
_STEPS = 10
_PATCH_STEPS, _PATCH_RATE = 40, 0.1
_BATCH = 32


def validation(recipe: Recipe, found: Defences, calibration: Pixels | None) -> Validate | None:
    """The score that a recipe stops early on, or None if it does not.

    ``clean`` is AP50 on all calibration images, ``robust`` the lowest AP50 that the recipe's own threats (L∞ within its
    epsilon, patches of its fraction) leave on at most 64 of them.

    Raises
    ------
    InputError
        If calibration images are missing, or a recipe without an attack is to be probed with one.
    """
    stopping = recipe.early_stopping
    if stopping is None:
        return None
    if calibration is None or not len(calibration.image_ids):
        raise InputError(f"recipe {recipe.name}: early_stopping needs calibration images, and there are none")
    if stopping.metric == "clean":
        return lambda detector, _: _precision(detector, calibration.images, calibration)
    if recipe.adversarial is None:
        raise InputError(f"recipe {recipe.name}: early_stopping on robust needs adversarial, which says against what")
    epsilon, part = recipe.adversarial.epsilon, _spread(calibration)

    def validate(detector: Detector, epoch: int) -> float:
        scores = [_under_pgd(detector, part, epsilon, epoch)] if epsilon else []
        scores += [_under_patch(detector, part, found.patch, epoch)] if found.patch else []
        return min(scores)

    return validate


def _spread(calibration: Pixels) -> Pixels:
    """At most 64 images from the whole of the table, in which sources and scenes follow one another."""
    count = len(calibration.image_ids)
    return _part(calibration, np.linspace(0, count - 1, min(_IMAGES, count)).round().astype(int).tolist())


def _under_pgd(detector: Detector, data: Pixels, epsilon: float, seed: int) -> float:
    spec = AttackSpec("probe", "detection_loss", epsilon, epsilon / 4, _STEPS, random_start=True)
    return _precision(detector, attack_soundly(detector, data.images, data.truth, spec, _BATCH, seed), data)


def _under_patch(detector: Detector, data: Pixels, settings: Patch, seed: int) -> float:
    """A patch is learned on every second image and worn on the others."""
    count = len(data.image_ids)
    learned, judged = _part(data, range(0, count, 2)), _part(data, range(1, count, 2))
    spec = PatchSpec("probe", settings.objective, settings.fraction, settings.texels, _PATCH_STEPS, _PATCH_RATE)
    patch = learn(detector, learned.images, learned.truth, spec, _BATCH, seed)
    return _precision(detector, wear(judged.images, judged.truth, patch, settings.fraction), judged)


def _precision(detector: Detector, images: Images, data: Pixels) -> float:
    return metrics.average_precision(match(data.boxes, predict(detector, images, data.image_ids), data.image_ids, ALL))


def _part(data: Pixels, chosen: Sequence[int]) -> Pixels:
    index = np.asarray(chosen, np.int64)
    ids = [data.image_ids[i] for i in index]
    return Pixels(
        data.images[index],
        [data.truth[i] for i in index],
        ids,
        data.boxes[data.boxes["image_id"].isin(ids)],
        [data.placements[i] for i in index],
    )
