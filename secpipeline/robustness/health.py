"""Is the attack itself sound? A detector that survives a broken attack has shown nothing.

Checks after Carlini et al., "On evaluating adversarial robustness", 2019: gradients exist and are finite, the
bound is kept, twice the steps gain little, and an attack of absurd strength breaks everything.

>>> from secpipeline.robustness.attacks import AttackSpec
>>> doubling_check(AttackSpec("pgd", "detection_loss", 4 / 255, 1 / 255, 10, True)).steps
20
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from secpipeline.datasets.loading import Truth
from secpipeline.detection.interface import Detector
from secpipeline.errors import CannotDecide
from secpipeline.robustness.attacks import AttackSpec, Images, craft, to_8_bit


@dataclass(frozen=True)
class Attacked:
    """A whole set of images under one attack.

    Attributes
    ----------
    images
        (N, 3, H, W) uint8, within epsilon of the originals.
    zero_gradient, non_finite
        (N,) bool, as :class:`secpipeline.robustness.attacks.Crafted`.
    largest_change
        Of any pixel of any image before rounding, on a scale where black is 0 and white 1.
    """

    images: Images
    zero_gradient: NDArray[np.bool_]
    non_finite: NDArray[np.bool_]
    largest_change: float


def attack_all(
    detector: Detector, images: Images, truth: Sequence[Truth], spec: AttackSpec, batch_size: int, seed: int
) -> Attacked:
    """Attack (N, 3, H, W) uint8 images in batches, on whatever device the detector is."""
    device = next(detector.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    height, width = images.shape[2:]
    changed = np.empty_like(images)
    zero, broken, largest = [], [], 0.0
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        original = torch.from_numpy(images[part]).to(device).float() / 255
        encoded = detector.encode(truth[part], height, width).to(device)
        crafted = craft(detector, original, encoded, spec, generator)
        largest = max(largest, float((crafted.images - original).abs().max()))
        changed[part] = to_8_bit(crafted.images, images[part], spec.epsilon)
        zero.append(crafted.zero_gradient.cpu().numpy())
        broken.append(crafted.non_finite.cpu().numpy())
    return Attacked(changed, np.concatenate(zero), np.concatenate(broken), largest)


def attack_health(spec: AttackSpec, attacked: Attacked) -> dict[str, Any]:
    """What a report says of an attack besides its effect."""
    return {
        "objective": spec.objective,
        "epsilon": spec.epsilon,
        "step_size": spec.step_size,
        "steps": spec.steps,
        "random_start": spec.random_start,
        "zero_gradient_share": float(attacked.zero_gradient.mean()),
        "non_finite_share": float(attacked.non_finite.mean()),
        "largest_change": attacked.largest_change,
    }


def doubling_check(spec: AttackSpec) -> AttackSpec:
    """The same attack with twice the steps."""
    return dataclasses.replace(spec, name=f"{spec.name} doubled", steps=2 * spec.steps)


def sanity_check(spec: AttackSpec, epsilon: float) -> AttackSpec:
    """The same attack grown to ``epsilon``, its steps with it."""
    step_size = spec.step_size * epsilon / spec.epsilon
    return dataclasses.replace(spec, name=f"{spec.name} sanity", epsilon=epsilon, step_size=step_size)


def attack_soundly(
    detector: Detector, images: Images, truth: Sequence[Truth], spec: AttackSpec, batch_size: int, seed: int
) -> Images:
    """Attacked (N, 3, H, W) uint8 images; an attack whose gradients overflow would leave them all but clean.

    Raises
    ------
    CannotDecide
        If the gradients of an image are not finite.
    """
    found = attack_all(detector, images, truth, spec, batch_size, seed)
    if found.non_finite.any():
        count = int(found.non_finite.sum())
        raise CannotDecide(f"attack {spec.name}: gradients of {count} images are not finite; robustness is not known")
    return found.images
