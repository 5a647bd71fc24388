"""Bounds of the numbers that a defence may be given.

>>> check_range("cutmix", "probability", 0.5, 0, 1)
>>> check_choice("patch", "composition", "joint", ("mixed", "joint"))
"""

from __future__ import annotations

from collections.abc import Sequence

from secpipeline.errors import InputError


def check_range(owner: str, key: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside [low, high].

    Raises
    ------
    InputError
        Naming the owner and the key.
    """
    if not low <= value <= high:
        raise InputError(f"{owner}.{key} {value} is not from {low:g} to {high:g}")


def check_choice(owner: str, key: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word that is not among the choices.

    Raises
    ------
    InputError
        Naming the owner and the key.
    """
    if value not in choices:
        raise InputError(f"{owner}.{key} {value!r} is not one of {', '.join(choices)}")
