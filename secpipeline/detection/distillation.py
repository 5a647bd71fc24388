"""A teacher's opinion as a second target, on the person logits that every detector has.

``plain``: the student follows the teacher on what it sees (Hinton et al., "Distilling the knowledge in a neural
network", 2015). ``defensive``: both logits are softened by a temperature (Papernot et al., "Distillation as a defense",
S&P 2016); it hides gradients and was broken (Carlini and Wagner, S&P 2017). ``robust``: on attacked images the student
follows what the teacher says of the clean ones (Goldblum et al., "Adversarially robust distillation", AAAI 2020).

>>> agree = penalty(Distillation("standard", "plain"), teacher, SeenBatch())                # doctest: +SKIP
>>> float(agree(student, images, encoded)) >= 0                                             # doctest: +SKIP
True
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from secpipeline.detection.hooks import Penalty
from secpipeline.detection.interface import Detector, Encoded
from secpipeline.detection.ranges import check_choice, check_range
from secpipeline.detection.seen import SeenBatch
from secpipeline.errors import InputError

KINDS = ("plain", "defensive", "robust")


@dataclass(frozen=True)
class Distillation:
    """Who teaches, and how.

    Attributes
    ----------
    teacher
        The name of a recipe beside this one; it is trained first, on the same data.
    kind
        ``plain``, ``defensive`` or ``robust``.
    temperature
        By which both sides' logits are divided; 1 leaves them.
    weight
        Of the penalty beside the detector's own loss.
    """

    teacher: str
    kind: str = "plain"
    temperature: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_choice("distillation.kind", self.kind, KINDS)
        check_range("distillation.temperature", self.temperature, 0.1, 100)
        check_range("distillation.weight", self.weight, 0, 1000)
        if self.kind == "defensive" and self.temperature <= 1:
            raise InputError(f"distillation.temperature {self.temperature} does not soften; give more than 1")


def divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the student's person probabilities from the teacher's, per person seen.

    Parameters
    ----------
    teacher, student
        Logits (B, K) of the same places.
    temperature
        Divides both; the result is multiplied by its square, so that gradients keep their size.

    Returns
    -------
    Tensor
        (B,): summed over places and divided by how many people the teacher sees, at least 1; 0 where they agree.
    """
    soft = teacher / temperature
    wanted = soft.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(soft, wanted, reduction="none")
    cross = F.binary_cross_entropy_with_logits(student / temperature, wanted, reduction="none")
    people = teacher.sigmoid().sum(1).clamp(min=1)
    return temperature**2 * (cross - entropy).sum(1) / people


def penalty(settings: Distillation, teacher: Detector, seen: SeenBatch) -> Penalty:
    """The penalty of a student of ``teacher``; ``robust`` asks ``seen`` for the images before the attack.

    The teacher moves to the student's device and is frozen.
    """
    teacher.eval().requires_grad_(False)

    def disagreement(detector: Detector, images: Tensor, encoded: Encoded) -> Tensor:  # noqa: ARG001 - the interface
        shown = seen.find(images).images if settings.kind == "robust" else images
        teacher.to(images.device)
        with torch.no_grad():
            target = teacher.logits(shown).float()
        answer = detector.logits(images).float()
        if answer.shape != target.shape:
            raise InputError(
                f"distillation: {teacher.name} looks at {target.shape[1]} places and {detector.name} at "
                f"{answer.shape[1]}; a teacher needs its student's map"
            )
        return settings.weight * divergence(target, answer, settings.temperature).mean()

    return disagreement
