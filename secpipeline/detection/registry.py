"""Detectors by name, and detectors that a user brings as ``package.module:function``.

>>> build("csp_tiny", seed=0).name
'csp_tiny'
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

import torch

from secpipeline.detection.csp import CspTiny
from secpipeline.detection.csp_resnet import CspResNet18, CspResNet50
from secpipeline.detection.interface import Detector
from secpipeline.detection.preprocessing import Preprocessed
from secpipeline.detection.torchvision_one_stage import Fcos, RetinaNet, SsdLite
from secpipeline.detection.torchvision_two_stage import FasterRcnnMobileNet, FasterRcnnResNet50
from secpipeline.errors import InputError

_KINDS: tuple[type[Detector], ...] = (
    CspTiny,
    CspResNet18,
    CspResNet50,
    FasterRcnnMobileNet,
    FasterRcnnResNet50,
    RetinaNet,
    Fcos,
    SsdLite,
    Preprocessed,
)
DETECTORS: dict[str, type[Detector]] = {kind.name: kind for kind in _KINDS}

_ENTRY_POINT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def build(name: str, config: dict[str, Any] | None = None, seed: int | None = None) -> Detector:
    """A new detector; with ``seed`` its initial weights are reproducible.

    Parameters
    ----------
    name
        A name of :data:`DETECTORS`, or ``package.module:function``: code of the user's, which is imported and run.
        Take it from a recipe, never from a file of weights.
    config
        Arguments of the detector; passed to the function as its one argument.
    seed
        Of the initial weights.

    Raises
    ------
    InputError
        If there is no detector of this name, or the function cannot be imported, or returns no detector.
    """
    builder = entry_point(name) if ":" in name else named(name)
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        detector = builder(config or {})
    if not isinstance(detector, Detector):
        raise InputError(f"{name}: returned {type(detector).__name__}, not a secpipeline.detection.interface.Detector")
    return detector


def named(name: str) -> type[Detector]:
    """The shipped detector of this name.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in DETECTORS:
        raise InputError(f"{name}: no such detector; there are {', '.join(DETECTORS)}, or give package.module:function")
    return DETECTORS[name]


def entry_point(name: str) -> Callable[[dict[str, Any]], Any]:
    """The function that ``package.module:function`` names; its module is imported.

    Raises
    ------
    InputError
        If it is not written so, or there is no such module or function.
    """
    if not _ENTRY_POINT.fullmatch(name):
        raise InputError(f"{name!r}: not an entry point; write package.module:function")
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{name}: cannot be imported ({error}); is it installed, or on PYTHONPATH?") from error
    if not callable(found):
        raise InputError(f"{name}: is a {type(found).__name__}; give a function that returns a detector")
    builder: Callable[[dict[str, Any]], Any] = found
    return builder
