"""What a recipe does for robustness besides the attack in its loop: its ``defences`` mapping, read strictly.

Defences compose: augmentations run one after the other, attacks share a batch, penalties are added.
``docs/defences.md`` says where each comes from, what it costs and what it does not do.

>>> found = read({"cutmix": {"probability": 0.5}, "patch": {"fraction": "9/20"}}, "recipe.yaml")
>>> found.cutmix.probability, found.patch.objective, found.distillation
(0.5, 'detection_loss', None)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secpipeline.datasets.loading import Truth
from secpipeline.detection.corrupting import AugMix
from secpipeline.detection.distillation import Distillation
from secpipeline.detection.hooks import Augment
from secpipeline.detection.mixing import CutMix, Mosaic
from secpipeline.detection.preprocessing import Preprocessing
from secpipeline.detection.ranges import check_choice, check_range
from secpipeline.detection.seen import Replay, SeenBatch
from secpipeline.detection.settings import build
from secpipeline.errors import InputError

_COMPOSITIONS = ("mixed", "joint", "alternating")


@dataclass(frozen=True)
class Free:
    """Adversarial training at the cost of training: one backward pass moves the weights and the perturbation.

    How far pixels may change is the recipe's ``adversarial.epsilon``.

    Attributes
    ----------
    replays
        How often a batch is learned from in a row, 2 to 32.
    """

    replays: int = 4

    def __post_init__(self) -> None:
        check_range("free.replays", self.replays, 2, 32)


@dataclass(frozen=True)
class Patch:
    """Patches on torsos, which every batch moves by as many steps as the recipe's ``adversarial`` has.

    With ``adversarial.epsilon`` 0 they are the only attack, else one of two.

    Attributes
    ----------
    fraction
        Side of the square as a share of the person's height.
    texels
        Side of the learned square in its own pixels.
    patches
        How many different ones are about.
    step_size
        Of a signed gradient step, on a scale where black is 0 and white 1.
    share
        Of the images whose people wear one.
    decoys
        Whether as many squares lie about where nobody wears them, so that a square alone gives no person away.
    objective
        What the patches are learned for: ``detection_loss``, ``vanish`` or ``fabricate``.
    composition
        With an L∞ attack: ``joint`` (both in one image), ``mixed`` (an image meets one or the other) or ``alternating``
        (a batch does).
    """

    fraction: float
    texels: int = 16
    patches: int = 6
    step_size: float = 0.06
    share: float = 0.5
    decoys: bool = True
    objective: str = "detection_loss"
    composition: str = "mixed"

    def __post_init__(self) -> None:
        check_range("patch.fraction", self.fraction, 0.01, 1)
        check_range("patch.texels", self.texels, 2, 256)
        check_range("patch.patches", self.patches, 1, 1024)
        check_range("patch.step_size", self.step_size, 0.001, 1)
        check_range("patch.share", self.share, 0, 1)
        check_choice("patch.objective", self.objective, ("detection_loss", "vanish", "fabricate"))
        check_choice("patch.composition", self.composition, _COMPOSITIONS)


@dataclass(frozen=True)
class Defences:
    """The defences of a recipe; None where it has none of a kind."""

    augmix: AugMix | None = None
    cutmix: CutMix | None = None
    distillation: Distillation | None = None
    free: Free | None = None
    mosaic: Mosaic | None = None
    patch: Patch | None = None
    preprocessing: Preprocessing | None = None


KINDS: Mapping[str, type[Any]] = {
    "augmix": AugMix,
    "cutmix": CutMix,
    "distillation": Distillation,
    "free": Free,
    "mosaic": Mosaic,
    "patch": Patch,
    "preprocessing": Preprocessing,
}


def read(mapping: Any, where: str) -> Defences:
    """Read a recipe's ``defences``; ``where`` names the file in errors. Numbers may be fractions such as 4/255.

    Raises
    ------
    InputError
        If a defence or key is unknown, a key without a default is missing, or a value is of the wrong type or out of
        its range; names the file and the key.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(f"{where}: defences must hold a mapping of {', '.join(KINDS)}; {{}} for none")
    for name in mapping:
        if name not in KINDS:
            raise InputError(f"{where}: unknown defence {name!r}; there are {', '.join(KINDS)}")
    return Defences(
        **{name: build(KINDS[name], mapping[name], f"{where}: defences.{name}", defaults=True) for name in mapping}
    )


def check(mapping: Any, path: Path) -> None:
    """Refuse a ``defences`` mapping that :func:`read` would.

    Raises
    ------
    InputError
        As :func:`read`; or if free training, which has no gradient to spare, stands beside patches.
    """
    found = read(mapping, str(path))
    if found.free and found.patch:
        raise InputError(f"{path}: defences.free moves no patches; give free or patch")


def augmentation(defences: Defences, seen: SeenBatch) -> Augment | None:
    """The augmentations of a recipe in one, ending in the memory ``seen``; none if the recipe needs neither."""
    last = Replay(defences.free.replays) if defences.free else None
    chain: list[Augment] = []
    chain += [part for part in (defences.mosaic, defences.cutmix, defences.augmix, last) if part is not None]
    if not chain and not defences.patch and not defences.distillation:
        return None
    chain.append(seen)

    def augment(
        images: Tensor, truth: list[Truth], order: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, list[Truth]]:
        for part in chain:
            images, truth = part(images, truth, order, generator)
        return images, truth

    return augment
