"""Load and run Great Expectations suites so that a check which did not run counts as a failed one.

Great Expectations fails open: it drops an expectation whose type is misspelled, passes an empty suite and an empty
table, and skips missing values. Here a suite is refused when it could hide something, and a result passes only if
every declared expectation was evaluated on at least one row and held on every row.

>>> suite = load_suite(Path("expectations/images.json"))             # doctest: +SKIP
>>> validate(suite, images).passed                                   # doctest: +SKIP
True
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd

import secpipeline.validation.box_expectation  # noqa: F401 - registers expect_box_inside_image
from secpipeline.digests import sha256_bytes
from secpipeline.errors import InputError

MAX_EXAMPLES = 10
_NUMBER = "declared_number"

_BOUNDS = frozenset({"min_value", "max_value", "strict_min", "strict_max"})
# Neither `mostly` nor `row_condition` is here: each lets rows pass unchecked.
_ALLOWED: Mapping[str, frozenset[str]] = {
    "expect_box_inside_image": frozenset({"column_list", "min_side", "ignore_row_if"}),
    "expect_column_mean_to_be_between": _BOUNDS | {"column"},
    "expect_column_pair_values_a_to_be_greater_than_b": frozenset({"column_A", "column_B", "or_equal"}),
    "expect_column_unique_value_count_to_be_between": _BOUNDS | {"column"},
    "expect_column_values_to_be_between": _BOUNDS | {"column"},
    "expect_column_values_to_be_in_set": frozenset({"column", "value_set"}),
    "expect_column_values_to_be_in_type_list": frozenset({"column", "type_list"}),
    "expect_column_values_to_be_unique": frozenset({"column"}),
    "expect_column_values_to_match_regex": frozenset({"column", "regex"}),
    "expect_column_values_to_not_be_null": frozenset({"column"}),
    "expect_compound_columns_to_be_unique": frozenset({"column_list"}),
    "expect_table_columns_to_match_ordered_list": frozenset({"column_list"}),
    "expect_table_columns_to_match_set": frozenset({"column_set", "exact_match"}),
    "expect_table_row_count_to_be_between": frozenset({"min_value", "max_value"}),
}
_COUNT_MISSING_AS_BAD = frozenset({"expect_box_inside_image", "expect_column_values_to_not_be_null"})


@dataclass(frozen=True)
class Expectation:
    """One declared check: its Great Expectations type, its arguments, and the reason it is there."""

    type: str
    kwargs: Mapping[str, Any]
    reason: str

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


@dataclass(frozen=True)
class ExpectationResult:
    """The outcome of one check.

    Attributes
    ----------
    type, column, reason
        What was checked (``column`` joins several with commas, "" for the whole table) and why.
    passed
        Whether it ran and held on every row.
    unexpected_count
        Rows that broke it; 0 for a check of the whole table.
    examples
        At most ten of those rows, ``{column: value}`` with the identifying columns first.
    detail
        What was observed instead, or why the check could not run; "" if it passed.
    """

    type: str
    column: str
    reason: str
    passed: bool
    unexpected_count: int
    examples: tuple[Mapping[str, str], ...]
    detail: str

    @property
    def label(self) -> str:
        """A name that is unique enough for a report: type and columns."""
        return f"{self.type}({self.column})"


@dataclass(frozen=True)
class SuiteResult:
    """The outcome of a suite on one table.

    Attributes
    ----------
    name, suite_sha256
        Which suite, and exactly which version of it.
    passed
        Every declared check ran and held, on at least one row.
    results
        One entry per evaluated check.
    problems
        Reasons why the run as a whole does not count, such as an empty table.
    declared, evaluated
        How many checks the file declares and how many ran.
    rows
        Rows of the table.
    """

    name: str
    suite_sha256: str
    passed: bool
    results: tuple[ExpectationResult, ...]
    problems: tuple[str, ...]
    declared: int
    evaluated: int
    rows: int

    def failures(self) -> Iterator[str]:
        """One sentence for each thing that is wrong, naming up to three rows."""
        for problem in self.problems:
            yield f"{self.name}: {problem}"
        for result in self.results:
            if not result.passed:
                rows = "; ".join(", ".join(f"{k}={v}" for k, v in row.items()) for row in result.examples[:3])
                found = f"{result.unexpected_count} rows, such as {rows}" if rows else result.detail
                yield f"{self.name}: {result.label}: {found}"

    def to_json(self) -> dict[str, Any]:
        """Everything, as a JSON-able record."""
        return asdict(self)


def load_suite(path: Path) -> Suite:
    """Read a suite and refuse whatever Great Expectations would silently drop or weaken.

    Raises
    ------
    InputError
        If the file is missing, not JSON, repeats a key, declares nothing, names a type or an argument that is not
        allowed, has a regular expression not between ``\\A`` and ``\\Z``, or checks a column whose missing values
        would be skipped (no not-null check beside it and no ``"missing": "allowed"`` in its ``meta``).
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
    if kind not in _ALLOWED:
        raise InputError(f"{where}: {kind!r} is not an allowed type; the allowed ones are {', '.join(_ALLOWED)}")
    if unknown := set(kwargs) - _ALLOWED[kind]:
        raise InputError(f"{where}: {kind} does not take {', '.join(sorted(unknown))}; remove it or fix the spelling")
    if set(meta) - {"reason", "missing"} or meta.get("missing", "allowed") != "allowed":
        raise InputError(f'{where}: "meta" takes "reason" and "missing": "allowed" only')
    regex = kwargs.get("regex")
    if regex is not None and not (regex.startswith(r"\A") and regex.endswith(r"\Z")):
        raise InputError(rf"{where}: {regex!r} must begin with \A and end with \Z: ^ and $ let a newline through")
    return Expectation(kind, kwargs, str(meta.get("reason", "")))


def _refuse_skipped_missing_values(path: Path, entries: Sequence[Any], expectations: Sequence[Expectation]) -> None:
    never_null = {e.kwargs["column"] for e in expectations if e.type == "expect_column_values_to_not_be_null"}
    for number, (entry, expectation) in enumerate(zip(entries, expectations, strict=True)):
        if expectation.type in _COUNT_MISSING_AS_BAD or "missing" in entry.get("meta", {}):
            continue
        if unguarded := sorted(set(expectation.columns) - never_null):
            raise InputError(
                f"{path}: expectations[{number}] ({expectation.type}) skips missing values of {', '.join(unguarded)}; "
                'add expect_column_values_to_not_be_null, or "missing": "allowed" to its meta'
            )


def validate(suite: Suite, frame: pd.DataFrame) -> SuiteResult:
    """Run every check of ``suite`` on ``frame``.

    Raises
    ------
    InputError
        If Great Expectations refuses an argument's value (a bound that is not a number, say).
    """
    if frame.empty:
        return SuiteResult(suite.name, suite.sha256, False, (), ("the table has no rows",), len(suite.expectations), 0, 0)
    outcomes = _run(suite, frame)
    results = tuple(_result(suite, suite.expectations[number], outcomes[number]) for number in sorted(outcomes))
    problems = []
    if len(results) != len(suite.expectations):
        problems.append(f"only {len(results)} of {len(suite.expectations)} declared checks ran")
    passed = not problems and all(result.passed for result in results)
    return SuiteResult(
        suite.name, suite.sha256, passed, results, tuple(problems), len(suite.expectations), len(results), len(frame)
    )


def _run(suite: Suite, frame: pd.DataFrame) -> dict[int, dict[str, Any]]:
    """Great Expectations' outcome by the number of the expectation; one that was dropped is absent."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    batch = (
        context.data_sources.add_pandas("tables")
        .add_dataframe_asset(suite.name)
        .add_batch_definition_whole_dataframe("all")
        .get_batch({"dataframe": frame})
    )
    # The number travels in meta because results come back in another order, and without arguments that are defaults.
    declared = [
        {"type": e.type, "kwargs": dict(e.kwargs), "meta": {_NUMBER: n}} for n, e in enumerate(suite.expectations)
    ]
    try:
        loaded = gx.ExpectationSuite(name=suite.name, expectations=declared)
    except ValueError as error:
        raise InputError(f"suite {suite.name}: {error}") from error
    # Row names only where the columns exist: otherwise every check would fail for the want of a name.
    row_id = [column for column in suite.row_id if column in frame.columns]
    outcome = batch.validate(
        loaded, result_format={"result_format": "COMPLETE", "unexpected_index_column_names": row_id}
    )
    return {result.expectation_config.meta[_NUMBER]: result.to_json_dict() for result in outcome.results}


def _result(suite: Suite, expectation: Expectation, outcome: Mapping[str, Any]) -> ExpectationResult:
    found = outcome["result"]
    detail = _exception(outcome["exception_info"])
    passed = outcome["success"] is True and not detail
    count = int(found.get("unexpected_count") or 0)
    if not passed and not detail:
        observed = found.get("details") or found.get("observed_value")
        detail = f"{count} unexpected rows" if count else f"observed {observed}"
    examples = tuple(
        {key: _printable(row[key]) for key in sorted(row, key=lambda k: (k not in suite.row_id, k))}
        for row in (found.get("unexpected_index_list") or [])[:MAX_EXAMPLES]
    )
    columns = ", ".join(expectation.columns)
    return ExpectationResult(expectation.type, columns, expectation.reason, passed, count, examples, detail)


def _printable(value: Any) -> str:
    """A value on one line: what does not print, such as a newline at its end, is shown escaped."""
    text = str(value)
    return text if text.isprintable() else repr(text)


def _exception(info: Mapping[str, Any]) -> str:
    """The message of an exception inside a check; Great Expectations nests it under the metric that raised."""
    for entry in (info, *info.values()):
        if isinstance(entry, Mapping) and entry.get("exception_message"):
            return f"could not run: {entry['exception_message']}"
    return "could not run" if info.get("raised_exception") else ""


def test_result(results: Sequence[SuiteResult]) -> dict[str, Any]:
    """The predicate of an in-toto test-result v0.1 attestation over all suites.

    Returns
    -------
    dict
        ``result`` ("PASSED" or "FAILED"), ``configuration`` (each suite file with its digest), ``passedTests`` and
        ``failedTests`` (``suite: type(columns)``).

    Raises
    ------
    InputError
        If there are no results: nothing tested is not a pass.
    """
    if not results:
        raise InputError("no suite was run, so there is no test result; give at least one")
    passed = [f"{suite.name}: {r.label}" for suite in results for r in suite.results if r.passed]
    failed = [f"{suite.name}: {r.label}" for suite in results for r in suite.results if not r.passed]
    failed += [f"{suite.name}: {problem}" for suite in results for problem in suite.problems]
    return {
        "result": "PASSED" if all(suite.passed for suite in results) else "FAILED",
        "configuration": [
            {"name": f"expectations/{suite.name}.json", "digest": {"sha256": suite.suite_sha256}} for suite in results
        ],
        "passedTests": passed,
        "failedTests": failed,
    }


test_result.__test__ = False  # type: ignore[attr-defined] # else pytest collects it wherever it is imported
