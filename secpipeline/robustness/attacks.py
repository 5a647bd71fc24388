"""Gradient attacks within an L∞ ball around the image, and the controls they are compared with.

One step is FGSM (Goodfellow et al., "Explaining and harnessing adversarial examples", ICLR 2015), several are
PGD (Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018). Pixels are in
[0, 1] at the detector's own input size: behind a resize the bound would not hold.

>>> pgd = AttackSpec("pgd", "detection_loss", epsilon=4 / 255, step_size=1 / 255, steps=10, random_start=True)
>>> attacked = perturb(detector, images, encoded, pgd, torch.Generator().manual_seed(0))     # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secpipeline.datasets.loading import Truth
from secpipeline.detection.interface import Detector, Encoded
from secpipeline.detection.ranges import check_choice
from secpipeline.errors import CannotDecide, InputError
from secpipeline.robustness.objectives import OBJECTIVES

Images = NDArray[np.uint8]

_GREY = 128
# A torso's centre, as a share of the body height from the top of the head.
TORSO = 0.38


@dataclass(frozen=True)
class AttackSpec:
    """One attack.

    Attributes
    ----------
    name
        How reports call it.
    objective
        A key of :data:`secpipeline.robustness.objectives.OBJECTIVES`.
    epsilon
        Largest change of any pixel, on a scale where black is 0 and white 1.
    step_size
        Change per step, same scale.
    steps
        1 or more; 1 without random start is FGSM.
    random_start
        Begin at a uniform draw from the ball instead of its centre.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    name: str
    objective: str
    epsilon: float
    step_size: float
    steps: int
    random_start: bool

    def __post_init__(self) -> None:
        check_choice(f"attack {self.name}: objective", self.objective, OBJECTIVES)
        if not 0 < self.epsilon <= 1:
            raise InputError(f"attack {self.name}: epsilon {self.epsilon} is not in (0, 1]; 4/255 is {4 / 255:.4f}")
        if not 0 < self.step_size <= 2 * self.epsilon:
            raise InputError(f"attack {self.name}: step_size {self.step_size} is not in (0, 2 × epsilon]")
        if self.steps < 1:
            raise InputError(f"attack {self.name}: steps {self.steps} must be 1 or more")


@dataclass(frozen=True)
class Crafted:
    """Attacked images and whether the attack had anything to go by; B images.

    Attributes
    ----------
    images
        (B, 3, H, W) in [0, 1], within epsilon of the originals.
    zero_gradient
        (B,) bool, whether the gradient was all zero at any step.
    non_finite
        (B,) bool, whether the gradient held NaN or infinity at any step; such a step moved nothing.
    """

    images: Tensor
    zero_gradient: Tensor
    non_finite: Tensor


def perturb(
    detector: Detector, images: Tensor, encoded: Encoded, spec: AttackSpec, generator: torch.Generator
) -> Tensor:
    """Attack a batch.

    The detector's mode, weights and gradients are left as they were.

    Parameters
    ----------
    detector
        Whom to fool; its weights are known to the attacker.
    images
        (B, 3, H, W) float in [0, 1].
    encoded
        Their dense targets.
    spec
        The attack.
    generator
        Source of the random start.

    Returns
    -------
    Tensor
        (B, 3, H, W) in [0, 1], within ``spec.epsilon`` of ``images``.

    Raises
    ------
    CannotDecide
        If a gradient is NaN or infinite.
    """
    crafted = craft(detector, images, encoded, spec, generator)
    if bool(crafted.non_finite.any()):
        broken = crafted.non_finite.nonzero().flatten().tolist()
        raise CannotDecide(
            f"attack {spec.name}: the gradient of images {broken} of the batch is not finite; "
            "the detector's weights or losses have overflowed"
        )
    return crafted.images


def craft(
    detector: Detector, images: Tensor, encoded: Encoded, spec: AttackSpec, generator: torch.Generator
) -> Crafted:
    """As :func:`perturb`, but report images without a usable gradient instead of raising."""
    objective = OBJECTIVES[spec.objective]
    original = images.detach()
    low = (original - spec.epsilon).clamp(min=0)
    high = (original + spec.epsilon).clamp(max=1)
    current = original.clone()
    if spec.random_start:
        start = torch.empty(original.shape, device=generator.device)
        start.uniform_(-spec.epsilon, spec.epsilon, generator=generator)
        current = torch.clamp(original + start.to(original), low, high)
    zero = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    non_finite = zero.clone()
    with frozen(detector):
        for _ in range(spec.steps):
            current.requires_grad_(True)
            # Images do not influence each other, so the sum's gradient is each image's own.
            (gradient,) = torch.autograd.grad(objective(detector, current, encoded).sum(), current)
            broken = ~gradient.isfinite().flatten(1).all(dim=1)
            gradient = gradient.masked_fill(broken[:, None, None, None], 0)
            zero |= ~broken & (gradient == 0).flatten(1).all(dim=1)
            non_finite |= broken
            current = torch.clamp(current.detach() + spec.step_size * gradient.sign(), low, high)
    return Crafted(current, zero, non_finite)


@contextlib.contextmanager
def frozen(detector: Detector) -> Iterator[None]:
    """Ask no gradients of the weights, which is faster, and let an attack on a detector in training not be seen.

    In evaluation mode images do not influence each other through a batch's statistics, and looking at attacked images
    leaves no trace in them.
    """
    asked = [(parameter, parameter.requires_grad) for parameter in detector.parameters()]
    was_training = detector.training
    try:
        detector.eval()
        for parameter, _ in asked:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        detector.train(was_training)
        for parameter, required in asked:
            parameter.requires_grad_(required)


def to_8_bit(attacked: Tensor, original: Images, epsilon: float) -> Images:
    """Round attacked images to what a camera or a file can hold, still within epsilon of the original.

    Parameters
    ----------
    attacked
        (B, 3, H, W) in [0, 1].
    original
        (B, 3, H, W) uint8.
    epsilon
        The attack's bound.
    """
    reach = int(np.floor(epsilon * 255 + 1e-6))
    levels = np.rint(attacked.detach().cpu().numpy() * 255).astype(np.int16)
    centre = original.astype(np.int16)
    nearest = np.clip(levels, np.maximum(centre - reach, 0), np.minimum(centre + reach, 255))
    rounded: Images = nearest.astype(np.uint8)
    return rounded


def sign_noise(images: Images, epsilon: float, seed: int) -> Images:
    """The control without intent: every pixel moves by epsilon, up or down at random.

    An attack that hurts no more than this has not been one.
    """
    reach = int(np.floor(epsilon * 255 + 1e-6))
    up = np.random.default_rng(seed).integers(0, 2, images.shape, dtype=np.uint8).astype(bool)
    moved = images.astype(np.int16) + np.where(up, np.int16(reach), np.int16(-reach))
    noisy: Images = np.clip(moved, 0, 255).astype(np.uint8)
    return noisy


def grey_patch(images: Images, truth: Sequence[Truth], fraction: float) -> Images:
    """The control for worn patches: a grey square on every torso, which hides but does not deceive.

    Parameters
    ----------
    images
        (N, 3, H, W) uint8.
    truth
        The people of each image.
    fraction
        Side of the square as a share of the person's height, in (0, 1].

    Raises
    ------
    InputError
        If the fraction is out of range or images and truth differ in number.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"grey patch: the fraction {fraction} is not in (0, 1]")
    if len(images) != len(truth):
        raise InputError(f"grey patch: {len(images)} images but truth for {len(truth)}")
    patched = images.copy()
    height, width = images.shape[2:]
    for index, people in enumerate(truth):
        for x1, y1, x2, y2 in np.asarray(people.boxes, np.float64):
            half = fraction * (y2 - y1) / 2
            x, y = (x1 + x2) / 2, y1 + TORSO * (y2 - y1)
            left, right = np.clip(np.rint((x - half, x + half)).astype(int), 0, width)
            top, bottom = np.clip(np.rint((y - half, y + half)).astype(int), 0, height)
            patched[index, :, top:bottom, left:right] = _GREY
    return patched
