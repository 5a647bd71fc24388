"""Training on mixtures of harmless changes, so that changes nobody thought of do less harm.

After AugMix (Hendrycks et al., "AugMix: a simple data processing method to improve robustness and uncertainty", ICLR
2020): a few chains of random operations are mixed with each other and with the original. Only operations that leave
boxes where they are; none is one of the corruptions that the robustness suite measures; without the paper's consistency
loss, which would triple the cost.

>>> images, truth = AugMix()(images, truth, np.random.default_rng(0), torch.Generator())    # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from secpipeline.datasets.loading import Truth
from secpipeline.detection.ranges import check_range

_DEPTH = 3
# Rec. 601 luma.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class AugMix:
    """Mix chains of random operations into some images.

    Attributes
    ----------
    probability
        Share of the images.
    severity
        From 0 (nothing) to 1.
    chains
        How many are mixed, 1 to 8.
    """

    probability: float = 0.7
    severity: float = 0.4
    chains: int = 3

    def __post_init__(self) -> None:
        check_range("augmix.probability", self.probability, 0, 1)
        check_range("augmix.severity", self.severity, 0, 1)
        check_range("augmix.chains", self.chains, 1, 8)

    def __call__(
        self, images: Tensor, truth: Sequence[Truth], order: np.random.Generator, _: torch.Generator
    ) -> tuple[Tensor, list[Truth]]:
        """Change a batch (B, 3, H, W) in [0, 1]; people stay where they are."""
        chosen = np.flatnonzero(order.random(len(images)) < self.probability)
        if len(chosen) == 0:
            return images, list(truth)
        index = torch.from_numpy(chosen).to(images.device)
        original = images[index]
        weights = order.dirichlet(np.ones(self.chains), len(chosen)).astype(np.float32)
        total = torch.zeros_like(original)
        for chain in range(self.chains):
            total += _column(weights[:, chain], images) * self._chain(original, order)
        share = _column(order.beta(1.0, 1.0, len(chosen)).astype(np.float32), images)
        changed = images.clone()
        changed[index] = ((1 - share) * original + share * total).clamp(0, 1)
        return changed, list(truth)

    def _chain(self, images: Tensor, order: np.random.Generator) -> Tensor:
        """One to three operations on each image, another sequence for each."""
        depth = order.integers(1, _DEPTH + 1, len(images))
        for step in range(_DEPTH):
            operation = order.integers(len(_OPERATIONS), size=len(images))
            strength = _column(order.uniform(-self.severity, self.severity, len(images)).astype(np.float32), images)
            result = images.clone()
            for number in np.unique(operation[depth > step]):
                rows = torch.from_numpy(np.flatnonzero((operation == number) & (depth > step))).to(images.device)
                result[rows] = _OPERATIONS[number](images[rows], strength[rows]).clamp(0, 1)
            images = result
        return images


def _column(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like).view(-1, 1, 1, 1)


def _gamma(x: Tensor, strength: Tensor) -> Tensor:
    return x.clamp(min=1e-4) ** torch.exp2(1.5 * strength)


def _stretch(x: Tensor, strength: Tensor) -> Tensor:
    """Towards the full range from black to white."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.lerp(x, (x - low) / (high - low).clamp(min=1e-3), strength.abs())


def _posterise(x: Tensor, strength: Tensor) -> Tensor:
    levels = torch.exp2(8 - 6 * strength.abs())
    return (x * levels).floor() / (levels - 1).clamp(min=1)


def _solarise(x: Tensor, strength: Tensor) -> Tensor:
    return torch.where(x > 1 - strength.abs() / 2, 1 - x, x)


def _saturate(x: Tensor, strength: Tensor) -> Tensor:
    grey = (x * torch.tensor(_LUMA).to(x).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return grey + (x - grey) * (1 + 2 * strength)


def _tint(x: Tensor, strength: Tensor) -> Tensor:
    """Towards another channel's picture: warm one way, cold the other."""
    return torch.lerp(x, x.roll(1, dims=1), strength.abs() / 2) * (1 + strength / 4)


def _sharpen(x: Tensor, strength: Tensor) -> Tensor:
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return x + 4 * strength.abs() * (x - soft)


def _slope(x: Tensor, strength: Tensor) -> Tensor:
    """Light that falls off from one side to the other."""
    ramp = torch.linspace(-1, 1, x.shape[3], device=x.device, dtype=x.dtype)
    return x * (1 + strength * ramp)


_OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    _gamma,
    _stretch,
    _posterise,
    _solarise,
    _saturate,
    _tint,
    _sharpen,
    _slope,
)
