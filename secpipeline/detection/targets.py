"""Targets of a batch as tensors whose first axis is the image."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorTargets:
    """A :class:`secpipeline.detection.interface.Encoded` whose every field is a tensor (B, …)."""

    def to(self, device: torch.device) -> Self:
        """The same targets on another device."""
        return type(self)(*(getattr(self, field.name).to(device) for field in fields(self)))

    def __getitem__(self, index: Tensor) -> Self:
        """The targets of some images."""
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))
