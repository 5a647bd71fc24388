"""What the detector was trained with, as the trainer's Statement says it: packages, and what they ran on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from secpipeline.errors import AttestationError
from secpipeline.provenance.bill_of_materials.chain import TRAIN
from secpipeline.provenance.bill_of_materials.lookup import CODE, find, walk

_GPU = ("accelerator", "cuda", "cudnn", "gpu", "gpu-count", "nvidia-driver")
_NO_PACKAGES = (*_GPU, "platform", "python", "secpipeline")


def training_environment(train: Mapping[str, Any]) -> dict[str, str]:
    """What the trainer's Statement says it ran on, versions by name.

    Wherever in the predicate it is, it is the one mapping that gives versions of ``python`` and ``torch``. What users
    may choose, ``externalParameters``, is not looked at.

    Raises
    ------
    AttestationError
        If there is not exactly one such mapping, or a version in it is no text.
    """
    places = ("predicate.runDetails", "predicate.buildDefinition.internalParameters")
    mappings = [mapping for place in places for _, mapping in walk(find(train, place))]
    found = [mapping for mapping in mappings if {"python", "torch"} <= mapping.keys()]
    if len(found) != 1 or not all(isinstance(version, str) for version in found[0].values()):
        raise AttestationError(CODE, f"the statement of {TRAIN} does not say which python and torch it ran on")
    return dict(sorted(found[0].items()))


def packages(environment: Mapping[str, str]) -> dict[str, str]:
    """The Python packages in it, versions by name."""
    return {
        name: version
        for name, version in environment.items()
        if name not in _NO_PACKAGES and re.match(r"[0-9]", version)
    }


def platform(environment: Mapping[str, str]) -> dict[str, str]:
    """The interpreter and the machine in it."""
    return {name: value for name, value in environment.items() if name in _NO_PACKAGES}
