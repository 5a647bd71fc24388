"""One row of an annotation file, whose fields are asked for by type and refused by name."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from secpipeline.errors import InputError

_MAX_TEXT = 200
_MAX_SIDE = 65_535


@dataclass(frozen=True)
class Row:
    """A JSON object and where it stands, such as ``instances.json: annotations[3]``."""

    where: str
    values: Mapping[str, Any]

    def refuse(self, reason: str) -> NoReturn:
        """Raise an InputError about this row."""
        known = self.values.get("id")
        name = f" (id {_shown(known)})" if isinstance(known, (int, str)) else ""
        raise InputError(f"{self.where}{name}: {reason}")

    def _get(self, key: str) -> Any:
        if key not in self.values:
            self.refuse(f"has no {key}")
        return self.values[key]

    def identifier(self, key: str) -> str:
        """A whole number or a text, as text: ``7`` and ``"7"`` are the same identifier."""
        value = self._get(key)
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else self.text(key)

    def text(self, key: str, default: str | None = None) -> str:
        """A short printable text; ``default`` where the key is absent."""
        value = self._get(key) if default is None else self.values.get(key, default)
        if not isinstance(value, str) or len(value) > _MAX_TEXT or (not value and default != ""):
            self.refuse(f"{key} must be a text of 1 to {_MAX_TEXT} characters, not {str(value)[:60]!r}")
        if any(unicodedata.category(character).startswith("C") for character in value):
            self.refuse(f"{key} {value!r} holds control characters")
        return value

    def size(self, key: str) -> int:
        """A number of pixels."""
        value = self._get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_SIDE:
            self.refuse(f"{key} must be a whole number from 1 to {_MAX_SIDE}, not {_shown(value)}")
        return value

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """A list of ``count`` finite numbers."""
        value = self._get(key)
        if not isinstance(value, list) or len(value) != count or not all(is_finite(item) for item in value):
            self.refuse(f"{key} must be {count} finite numbers, not {_shown(value)}")
        return tuple(float(item) for item in value)

    def flag(self, key: str) -> bool:
        """True, false, 0 or 1; absent means false."""
        value = self.values.get(key, False)
        if value not in (0, 1) or not isinstance(value, int):
            self.refuse(f"{key} must be true or false, not {_shown(value)}")
        return bool(value)

    def share(self, key: str) -> float:
        """A number in [0, 1]; NaN where it is absent or null."""
        value = self.values.get(key)
        if value is None:
            return math.nan
        if not is_finite(value) or not 0 <= value <= 1:
            self.refuse(f"{key} must be a number from 0 to 1, not {_shown(value)}")
        return float(value)


def _shown(value: Any) -> str:
    """The beginning of a value, without characters that would act on a terminal or forge a line."""
    text = str(value)[:80]
    return text if text.isprintable() else repr(text)


def is_finite(value: Any) -> bool:
    """Whether a JSON value is a number that fits a double."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def rows(path: Path, document: Mapping[str, Any], key: str) -> list[Row]:
    """The rows of one list of a document.

    Raises
    ------
    InputError
        If the key is missing, or is not a list of objects.
    """
    if key not in document:
        raise InputError(f"{path}: has no {key!r}; a COCO file has images, annotations and categories")
    if not isinstance(document[key], list):
        raise InputError(f"{path}: {key!r} must be a list")
    found = [Row(f"{path}: {key}[{index}]", values) for index, values in enumerate(document[key])]
    for row in found:
        if not isinstance(row.values, dict):
            raise InputError(f"{row.where}: must be an object, not {_shown(row.values)}")
    return found


def refuse_repeats(found: Sequence[Row], values: Sequence[Hashable], what: str) -> None:
    """Refuse a value that two rows share.

    Raises
    ------
    InputError
        Naming both rows.
    """
    first: dict[Hashable, Row] = {}
    for row, value in zip(found, values, strict=True):
        if value in first:
            row.refuse(f"{what} {value} was already used by {first[value].where.rpartition(' ')[2]}")
        first[value] = row


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object whose keys are unique; readers disagree about which of two equal keys counts.

    Raises
    ------
    InputError
        Naming the key.
    """
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise InputError(f"the key {repeated!r} appears twice in one object")
    return values
