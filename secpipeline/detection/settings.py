"""Strict YAML: what a policy, an attack suite, a study or a defence may say is exactly what its dataclass declares.

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
from collections.abc import Collection, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from secpipeline import yaml_files
from secpipeline.errors import InputError

T = TypeVar("T")

# A fraction, or an exponent without a point, which YAML takes for text. Bounded, because a Fraction of 1e999999999 is
# computed to its last digit.
_NUMBER = re.compile(r"[0-9]{1,20}/[0-9]{1,20}|[0-9.]{1,20}e[+-]?[0-9]{1,3}", re.IGNORECASE)


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


def build(kind: type[T], values: Any, where: str, *, defaults: bool = False) -> T:
    """Make a dataclass from parsed YAML.

    Parameters
    ----------
    kind
        Its fields may be ``bool``, ``int``, ``float`` (see :func:`number`), ``str``, a tuple of one of these, or a
        dataclass or a tuple of dataclasses.
    values
        What the file holds.
    where
        Names the file; in messages the key is put behind it.
    defaults
        Whether a field that has a default may be left out; else a file says everything.

    Raises
    ------
    InputError
        If a key is unknown or missing, or a value is of the wrong type, not finite, or refused by the dataclass.
    """
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(typing.cast("Any", kind))
    free = {field.name for field in fields if defaults and field.default is not dataclasses.MISSING}
    check_keys(values, hints, free, where)
    separator = "." if ":" in where else ": "
    found = {key: _convert(hints[key], values[key], f"{where}{separator}{key}", defaults) for key in values}
    try:
        return kind(**found)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def check_keys(values: Any, known: Collection[str], free: Collection[str], where: str) -> None:
    """Refuse what is no mapping of the ``known`` keys, of which those that are ``free`` may be left out.

    Raises
    ------
    InputError
        Naming the first key that is unknown or missing.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: must hold a mapping with keys of {', '.join(known)}")
    for key in values:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; there are {', '.join(known)}")
    for key in known:
        if key not in values and key not in free:
            raise InputError(f"{where}: the key {key!r} is missing")


def number(value: Any, where: str) -> float:
    """A number, which may be written as a fraction such as ``4/255`` or with an exponent.

    Raises
    ------
    InputError
        If it is something else, or not finite.
    """
    try:
        written = Fraction(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value
        found = float(written) if type(written) in (int, float, Fraction) else math.nan
    except (ValueError, ZeroDivisionError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"{where}: {value!r} must be a finite number, or a fraction such as 4/255")
    return found


def _convert(hint: Any, value: Any, where: str, defaults: bool) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(typing.cast("type[Any]", hint), value, where, defaults=defaults)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list) or not value:
            raise InputError(f"{where}: must be a list with at least one entry")
        kind = typing.get_args(hint)[0]
        return tuple(_convert(kind, item, f"{where}[{i}]", defaults) for i, item in enumerate(value))
    if hint is float:
        return number(value, where)
    if type(value) is not hint:
        raise InputError(f"{where}: {value!r} must be of type {hint.__name__}")
    return value
