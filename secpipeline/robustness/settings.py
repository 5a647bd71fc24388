"""Strict YAML: what a policy or an attack suite may say is exactly what its dataclass declares.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True)
... class Bound:
...     epsilon: float
>>> build(Bound, {"epsilon": "4/255"}, "policy.yaml").epsilon == 4 / 255
True
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from secpipeline import yaml_files
from secpipeline.errors import InputError

T = TypeVar("T")

_FRACTION = re.compile(r"\A[0-9]{1,6}/[1-9][0-9]{0,5}\Z")


def load(kind: type[T], path: Path) -> T:
    """Read a YAML file into a frozen dataclass.

    Raises
    ------
    InputError
        If the file is missing or not YAML, or a key is unknown, missing, there twice, or of the wrong type;
        the message names the file and the key.
    """
    values = yaml_files.read(path, "not found; the shipped one is in the project's policies directory")
    return build(kind, values, str(path))


def build(kind: type[T], values: Any, where: str) -> T:
    """Make a dataclass from parsed YAML; ``where`` names the file, and in messages the key is put behind it.

    Fields may be ``bool``, ``int``, ``float`` (a fraction such as ``4/255`` may be written as one), ``str``,
    a tuple of one of these, or a dataclass or a tuple of dataclasses.

    Raises
    ------
    InputError
        If a key is unknown or missing, or a value is of the wrong type or not finite.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: must hold a mapping of keys")
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise InputError(f"{where}: unknown key {key!r}; there are {', '.join(hints)}")
    for key in hints:
        if key not in values:
            raise InputError(f"{where}: the key {key!r} is missing")
    separator = "." if ":" in where else ": "
    found = {key: _convert(hint, values[key], f"{where}{separator}{key}") for key, hint in hints.items()}
    try:
        return kind(**found)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(typing.cast("type[Any]", hint), value, where)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list) or not value:
            raise InputError(f"{where}: must be a list with at least one entry")
        return tuple(_convert(typing.get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if hint is float:
        return _number(value, where)
    if type(value) is not hint:
        raise InputError(f"{where}: {value!r} must be of type {hint.__name__}")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, str) and _FRACTION.match(value):
        return float(Fraction(value))
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{where}: {value!r} must be a finite number, or a fraction such as 4/255")
    return float(value)
