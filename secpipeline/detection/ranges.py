"""Bounds of what a setting may be.

>>> check_range("cutmix.probability", 0.5, 0, 1)
>>> check_choice("patch.composition", "joint", ("mixed", "joint"))
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from secpipeline.errors import InputError


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside [low, high].

    Raises
    ------
    InputError
        Naming the setting.
    """
    if not low <= value <= high:
        raise InputError(f"{name} {value} is not from {low:g} to {high:g}")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuse what is not among the choices.

    Raises
    ------
    InputError
        Naming the setting.
    """
    if value not in tuple(choices):
        raise InputError(f"{name} {value!r} is not one of {', '.join(map(str, choices))}")
