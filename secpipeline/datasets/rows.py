"""One row of an annotation file, whose fields are asked for by type and refused by name.

>>> row = Row("instances.json: annotations[3]", {"bbox": [1, 2, 3, 4], "iscrowd": 0})
>>> row.numbers("bbox", 4), row.flag("iscrowd")
((1.0, 2.0, 3.0, 4.0), False)
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from secpipeline.errors import InputError

MAX_SIDE = 65_535
_MAX_TEXT = 200
# Tools keep identifiers in 64 bits; a larger one would be another one there.
_MAX_IDENTIFIER = 2**63
_NUMBER = re.compile(r"[+-]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})([eE][+-]?\d{1,3})?\Z", re.ASCII)


@dataclass(frozen=True)
class Row:
    """A JSON object, a line, or a MATLAB struct, and where it stands, such as ``instances.json: annotations[3]``."""

    where: str
    values: Mapping[str, Any]

    def refuse(self, reason: str) -> NoReturn:
        """Raise an InputError about this row."""
        known = self.values.get("id")
        name = f" (id {shown(known)})" if isinstance(known, (int, str)) else ""
        raise InputError(f"{self.where}{name}: {reason}")

    def get(self, key: str) -> Any:
        """The value of a key, whatever it is."""
        if key not in self.values:
            self.refuse(f"has no {key}")
        return self.values[key]

    def identifier(self, key: str) -> str:
        """A whole number or a text, as text: ``7`` and ``"7"`` are the same identifier."""
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            return self.text(key)
        if not -_MAX_IDENTIFIER <= value < _MAX_IDENTIFIER:
            self.refuse(f"{key} is a whole number of more than 64 bits; number the rows anew")
        return str(value)

    def text(self, key: str, default: str | None = None) -> str:
        """A short printable text; ``default`` where the key is absent."""
        value = self.get(key) if default is None else self.values.get(key, default)
        return check_text(self, key, value, least=0 if default == "" else 1)

    def whole(self, key: str, least: int, most: int) -> int:
        """A whole number from ``least`` to ``most``."""
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.refuse(f"{key} must be a whole number from {least} to {most}, not {shown(value)}")
        return value

    def size(self, key: str) -> int:
        """A number of pixels."""
        return check_size(self, key, self.get(key))

    def number(self, key: str) -> float:
        """A finite number."""
        value = self.get(key)
        if not is_finite(value):
            self.refuse(f"{key} must be a finite number, not {shown(value)}")
        return float(value)

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """A list of ``count`` finite numbers."""
        value = self.get(key)
        if not isinstance(value, list) or len(value) != count or not all(is_finite(item) for item in value):
            self.refuse(f"{key} must be {count} finite numbers, not {shown(value)}")
        return tuple(float(item) for item in value)

    def flag(self, key: str) -> bool:
        """True, false, 0 or 1; absent means false."""
        value = self.values.get(key, False)
        if not isinstance(value, int) or value not in (0, 1):
            self.refuse(f"{key} must be true or false, not {shown(value)}")
        return bool(value)

    def share(self, key: str) -> float:
        """A number in [0, 1]; NaN where it is absent or null."""
        value = self.values.get(key)
        if value is None:
            return math.nan
        if not is_finite(value) or not 0 <= value <= 1:
            self.refuse(f"{key} must be a number from 0 to 1, not {shown(value)}")
        return float(value)

    def rows(self, key: str) -> list[Row]:
        """The objects of a list."""
        value = self.get(key)
        if not isinstance(value, list):
            self.refuse(f"{key!r} must be a list, not {shown(value)}")
        found = [Row(f"{self.where}: {key}[{index}]", item) for index, item in enumerate(value)]
        for row in found:
            if not isinstance(row.values, dict):
                raise InputError(f"{row.where}: must be an object, not {shown(row.values)}")
        return found


def check_text(row: Row, key: str, value: Any, *, least: int = 1, most: int = _MAX_TEXT) -> str:
    """``value``, if it is a short printable text."""
    if not isinstance(value, str) or not least <= len(value) <= most:
        row.refuse(f"{key} must be a text of {least} to {most} characters, not {shown(value)!r}")
    if any(unicodedata.category(character).startswith("C") for character in value):
        row.refuse(f"{key} {value[:80]!r} holds control characters")
    return value


def check_size(row: Row, key: str, value: Any) -> int:
    """``value``, if it is a possible number of pixels."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SIDE:
        row.refuse(f"{key} must be a whole number from 1 to {MAX_SIDE}, not {shown(value)}")
    return value


def parse_number(row: Row, key: str, text: str) -> float:
    """The number that a word of a text file says, in plain or exponential notation."""
    word = text.strip()
    value = float(word) if _NUMBER.match(word) else math.nan
    if not math.isfinite(value):
        row.refuse(f"{key} must be a finite number, not {shown(word)!r}")
    return value


def parse_whole(row: Row, key: str, text: str, least: int, most: int) -> int:
    """The whole number from ``least`` to ``most`` that a word of a text file says, as ``7`` or ``7.0``."""
    value = parse_number(row, key, text)
    if not value.is_integer() or not least <= value <= most:
        row.refuse(f"{key} must be a whole number from {least} to {most}, not {shown(text.strip())!r}")
    return int(value)


def shown(value: Any) -> str:
    """The beginning of a value, without characters that would act on a terminal or forge a line."""
    if isinstance(value, int) and abs(value) >= 10**80:
        return f"a number of {value.bit_length()} bits"  # Python refuses to print a very long one
    try:
        text = str(value)[:80]
    except (ValueError, RecursionError):  # a long number, or endless nesting, inside a list
        return f"a {type(value).__name__}"
    return text if text.isprintable() else repr(text)


def is_finite(value: Any) -> bool:
    """Whether a JSON value is a number that fits a double."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


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
            row.refuse(f"{what} {value} was already used by {first[value].where.rpartition(': ')[2]}")
        first[value] = row


def parse_json(data: bytes, where: str) -> Row:
    """A JSON file whose top is an object, with every key unique: readers disagree which of two equal keys counts.

    Raises
    ------
    InputError
        Naming the file.
    """
    try:
        document = json.loads(data, object_pairs_hook=_unique_keys)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not a JSON file ({str(error)[:120]})") from error
    if not isinstance(document, dict):
        raise InputError(f"{where}: holds a {type(document).__name__}, not a JSON object")
    return Row(where, document)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise InputError(f"the key {repeated[:60]!r} appears twice in one object")
    return values
