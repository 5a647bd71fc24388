"""What a detector takes from a recipe's ``config``.

>>> read("csp_tiny", {"channels": [8, 16, 16]}, {"channels": [32, 48, 64]})
{'channels': [8, 16, 16]}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secpipeline.errors import InputError


def read(name: str, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with what it leaves out filled in.

    Parameters
    ----------
    name
        The detector, as errors call it.
    config
        What the user gave.
    defaults
        Every key that there is, with its default.

    Raises
    ------
    InputError
        If a key is unknown; names it and those that there are.
    """
    if unknown := sorted(str(key) for key in config.keys() - defaults.keys()):
        known = ", ".join(sorted(defaults)) or "none"
        raise InputError(f"{name}: unknown config key {unknown[0]!r}; there is {known}")
    return {**defaults, **config}


def whole(name: str, key: str, value: Any, low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``.

    Raises
    ------
    InputError
        If it is something else.
    """
    if type(value) is not int or not low <= value <= high:
        raise InputError(f"{name}: config key {key!r} is {value!r}; give a whole number from {low} to {high}")
    return value
