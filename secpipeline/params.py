"""Parameters: `params.yaml`, the overrides of one run, and the project files that stages name.

>>> from secpipeline.params import select
>>> select({"train": {"recipe": "standard", "max_fppi": 0.3}}, ("train.recipe",))
{'train.recipe': 'standard'}
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secpipeline import yaml_files
from secpipeline.errors import InputError


def load(path: Path, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read ``params.yaml`` and apply dotted-key ``overrides``.

    Raises
    ------
    InputError
        If the file is missing or not a mapping, or an override names a key that the file does not have.
    """
    params = yaml_files.read(path, "not found; run from the project's directory or pass --project")
    if not isinstance(params, dict):
        raise InputError(f"{path}: must hold a mapping of sections")
    params = copy.deepcopy(params)
    for key, value in (overrides or {}).items():
        *sections, last = key.split(".")
        section = lookup(params, ".".join(sections)) if sections else params
        if not isinstance(section, dict) or last not in section:
            raise InputError(f"{key}: no such parameter in {path.name}")
        section[last] = value
    return params


def lookup(params: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key.

    Raises
    ------
    InputError
        If there is none.
    """
    value: Any = params
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise InputError(f"params.yaml: {key} is missing; add it (the shipped file has every key)")
        value = value[part]
    return value


def select(params: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The parameters that a stage declares, by dotted key."""
    return {key: lookup(params, key) for key in keys}
