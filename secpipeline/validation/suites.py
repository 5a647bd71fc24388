"""Load a suite of Great Expectations from plain JSON and refuse one that could hide something.

Great Expectations fails open: it drops an expectation whose type is misspelled and skips missing values. So
only listed types and arguments are let in, and a column whose missing values would be skipped needs a check
against them. All types are about rows, repeated values or the table's form, so that a table gives the same result
whole and in parts; what is about many rows at once, such as a mean, is a row of a table of statistics.

An expectation that does not hold fails the release, unless its ``meta`` says ``"severity": "warning"``: for what is
unusual rather than wrong.

>>> suite = load_suite(Path("expectations/images.json"))                         # doctest: +SKIP
>>> len(suite.expectations)                                                      # doctest: +SKIP
37
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secpipeline.digests import sha256_bytes
from secpipeline.errors import InputError

_BOUNDS = frozenset({"min_value", "max_value", "strict_min", "strict_max"})
# Neither `mostly` nor `row_condition` is here: each lets rows pass unchecked.
_ALLOWED: Mapping[str, frozenset[str]] = {
    "expect_box_inside_image": frozenset({"column_list", "min_side", "ignore_row_if"}),
    "expect_column_pair_values_a_to_be_greater_than_b": frozenset({"column_A", "column_B", "or_equal"}),
    "expect_column_values_to_be_between": _BOUNDS | {"column"},
    "expect_column_values_to_be_in_set": frozenset({"column", "value_set"}),
    "expect_column_values_to_be_in_type_list": frozenset({"column", "type_list"}),
    "expect_column_values_to_be_unique": frozenset({"column"}),
    "expect_column_values_to_match_regex": frozenset({"column", "regex"}),
    "expect_column_values_to_not_be_null": frozenset({"column"}),
    "expect_compound_columns_to_be_unique": frozenset({"column_list"}),
    "expect_table_columns_to_match_ordered_list": frozenset({"column_list"}),
    "expect_table_columns_to_match_set": frozenset({"column_set", "exact_match"}),
}
# Whether these hold for a row depends on other rows.
UNIQUE = frozenset({"expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique"})
ERROR, WARNING = "error", "warning"
_COUNT_MISSING_AS_BAD = frozenset({"expect_box_inside_image", "expect_column_values_to_not_be_null"})


@dataclass(frozen=True)
class Expectation:
    """One declared check: its type, its arguments, why it is there, and what it means if it does not hold."""

    type: str
    kwargs: Mapping[str, Any]
    reason: str
    severity: str = ERROR

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads; empty for a check of the table as a whole."""
        if self.type.startswith("expect_table_"):
            return ()
        kwargs = self.kwargs
        return tuple(kwargs.get("column_list", (kwargs[k] for k in ("column", "column_A", "column_B") if k in kwargs)))


@dataclass(frozen=True)
class Suite:
    """A checked suite file.

    Attributes
    ----------
    name
        What it is about; equals the file's stem.
    row_id
        The columns that name a row in a message.
    expectations
        Every declared check, at least one.
    sha256
        Of the file's bytes.
    """

    name: str
    row_id: tuple[str, ...]
    expectations: tuple[Expectation, ...]
    sha256: str


def load_suite(path: Path) -> Suite:
    r"""Read a suite and refuse whatever Great Expectations would silently drop or weaken.

    Raises
    ------
    InputError
        If the file is missing, not JSON, repeats a key, declares nothing, names a type or an argument that is
        not allowed, has a regular expression not between ``\A`` and ``\Z``, or checks a column whose
        missing values would be skipped (no not-null check beside it and no ``"missing": "allowed"`` in its
        ``meta``).
    """
    try:
        data = path.read_bytes()
        raw = json.loads(data, object_pairs_hook=lambda pairs: _without_repeats(pairs, path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); a suite of expectations belongs here") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    meta = raw.get("meta") if isinstance(raw, dict) else None
    entries = raw.get("expectations") if isinstance(raw, dict) else None
    if not isinstance(meta, dict) or not meta.get("row_id") or raw.get("name") != path.stem:
        raise InputError(f'{path}: needs "name": "{path.stem}" and "meta": {{"row_id": [columns that name a row]}}')
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: declares no expectations; an empty suite would pass anything")
    expectations = tuple(_expectation(entry, f"{path}: expectations[{n}]") for n, entry in enumerate(entries))
    _refuse_skipped_missing_values(path, entries, expectations)
    return Suite(path.stem, tuple(meta["row_id"]), expectations, sha256_bytes(data))


def _without_repeats(pairs: Sequence[tuple[str, Any]], path: Path) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise InputError(f"{path}: the key {max(keys, key=keys.count)!r} occurs twice in one object; keep one")
    return dict(pairs)


def _expectation(entry: Any, where: str) -> Expectation:
    if not isinstance(entry, dict) or set(entry) - {"type", "kwargs", "meta"} or "type" not in entry:
        raise InputError(f'{where}: must be an object with "type", "kwargs" and "meta" only')
    kind, kwargs, meta = entry["type"], entry.get("kwargs", {}), entry.get("meta", {})
    if not isinstance(kwargs, dict) or not isinstance(meta, dict):
        raise InputError(f'{where}: "kwargs" and "meta" must be objects')
    if not isinstance(kind, str) or kind not in _ALLOWED:
        raise InputError(f"{where}: {kind!r} is not an allowed type; the allowed ones are {', '.join(_ALLOWED)}")
    if unknown := set(kwargs) - _ALLOWED[kind]:
        raise InputError(f"{where}: {kind} does not take {', '.join(sorted(unknown))}; remove it or fix the spelling")
    severity = meta.get("severity", ERROR)
    if set(meta) - {"reason", "missing", "severity"} or meta.get("missing", "allowed") != "allowed":
        raise InputError(f'{where}: "meta" takes "reason", "severity" and "missing": "allowed" only')
    if severity not in (ERROR, WARNING):
        raise InputError(f'{where}: severity {severity!r} must be "{ERROR}" or "{WARNING}"')
    regex = kwargs.get("regex")
    if regex is not None and not (isinstance(regex, str) and regex.startswith(r"\A") and regex.endswith(r"\Z")):
        raise InputError(rf"{where}: {regex!r} must begin with \A and end with \Z: ^ and $ let a newline through")
    return Expectation(kind, kwargs, str(meta.get("reason", "")), severity)


def _refuse_skipped_missing_values(path: Path, entries: Sequence[Any], expectations: Sequence[Expectation]) -> None:
    never_null = {e.kwargs["column"] for e in expectations if e.type == "expect_column_values_to_not_be_null"}
    for number, (entry, expectation) in enumerate(zip(entries, expectations, strict=True)):
        if expectation.type in _COUNT_MISSING_AS_BAD or "missing" in entry.get("meta", {}):
            continue
        if unguarded := sorted(set(expectation.columns) - never_null):
            raise InputError(
                f"{path}: expectations[{number}] ({expectation.type}) skips missing values of"
                f" {', '.join(unguarded)}; "
                'add expect_column_values_to_not_be_null, or "missing": "allowed" to its meta'
            )
