"""Detectors by name.

>>> build("csp_tiny", seed=0).name
'csp_tiny'
"""

from __future__ import annotations

from typing import Any

import torch

from secpipeline.detection.csp import CspTiny
from secpipeline.detection.interface import Detector
from secpipeline.detection.torchvision_models import FasterRcnnMobileNet
from secpipeline.errors import InputError

DETECTORS: dict[str, type[Detector]] = {kind.name: kind for kind in (CspTiny, FasterRcnnMobileNet)}


def build(name: str, config: dict[str, Any] | None = None, seed: int | None = None) -> Detector:
    """A new detector; with ``seed`` its initial weights are reproducible.

    Raises
    ------
    InputError
        If there is no detector of this name.
    """
    if name not in DETECTORS:
        raise InputError(f"{name}: no such detector; there are {', '.join(DETECTORS)}")
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        return DETECTORS[name](config or {})
