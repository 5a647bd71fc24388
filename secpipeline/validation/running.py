"""Run a suite so that a check which did not run counts as a failed one.

Great Expectations passes an empty suite and an empty table, and drops what it cannot load. Here a result
passes only if every declared expectation was evaluated on every part of the table and there was at least one row.

A table may come in parts, such as the batches of :class:`secpipeline.validation.parts.ParquetTable`; the result is
that of the whole table, and memory is bounded by a part plus eight bytes a row for each check of unique values.

>>> validate(load_suite(Path("expectations/images.json")), images).passed        # doctest: +SKIP
True
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import great_expectations as gx
import pandas as pd

import secpipeline.validation.box_expectation  # noqa: F401 - registers expect_box_inside_image
from secpipeline.errors import InputError
from secpipeline.validation.repeats import Repeats
from secpipeline.validation.results import ExpectationResult, SuiteResult
from secpipeline.validation.suites import UNIQUE, Expectation, Suite

MAX_EXAMPLES = 10
_NUMBER = "declared_number"
_Outcomes = Mapping[int, Mapping[str, Any]]


@dataclass
class _Tally:
    """What the parts of a table said about one expectation."""

    parts: int = 0
    ran: bool = True
    passed: bool = True
    count: int = 0
    examples: list[Mapping[str, str]] = field(default_factory=list)
    detail: str = ""

    def add(self, suite: Suite, outcome: Mapping[str, Any]) -> None:
        found = outcome["result"]
        exception = _exception(outcome["exception_info"])
        self.parts += 1
        self.count += int(found.get("unexpected_count") or 0)
        self.ran &= not exception
        self.passed &= outcome["success"] is True and not exception
        if outcome["success"] is not True or exception:
            observed = found.get("details") or found.get("observed_value")
            self.detail = self.detail or exception or f"observed {observed}"
        rows = (found.get("unexpected_index_list") or [])[: MAX_EXAMPLES - len(self.examples)]
        self.examples += [
            {key: _printable(row[key]) for key in sorted(row, key=lambda k: (k not in suite.row_id, k))} for row in rows
        ]

    def result(self, expectation: Expectation) -> ExpectationResult:
        detail = f"{self.count} unexpected rows" if self.ran and self.count else self.detail
        return ExpectationResult(
            type=expectation.type,
            column=", ".join(expectation.columns),
            reason=expectation.reason,
            severity=expectation.severity,
            ran=self.ran,
            passed=self.passed,
            unexpected_count=self.count,
            examples=tuple(self.examples),
            detail=detail,
        )


def validate(suite: Suite, table: pd.DataFrame | Iterable[pd.DataFrame]) -> SuiteResult:
    """Run every check of ``suite`` on a table.

    Parameters
    ----------
    suite
        From :func:`secpipeline.validation.suites.load_suite`.
    table
        Whole, or in parts that have the same columns. Parts must be there to be gone through again, as those of a
        list are and those of a generator are not.

    Raises
    ------
    InputError
        If Great Expectations refuses an argument's value (a bound that is not a number, say).
    """
    parts = [table] if isinstance(table, pd.DataFrame) else table
    tallies = {number: _Tally() for number in range(len(suite.expectations))}
    repeats = {n: Repeats(e.columns, suite.row_id) for n, e in enumerate(suite.expectations) if e.type in UNIQUE}
    rows = seen = 0
    for part in parts:
        if part.empty:
            continue
        rows, seen = rows + len(part), seen + 1
        for check in repeats.values():
            check.see(part)
        numbers = [number for number in tallies if number not in repeats]
        _add(suite, tallies, _run(suite, numbers, part))
    for number, check in repeats.items() if rows else ():
        outcomes = _run(suite, [number], check.suspects(parts))
        _add(suite, tallies, outcomes)
    expected = {number: 1 if number in repeats else seen for number in tallies}
    return _summed_up(suite, tallies, expected, rows)


def _add(suite: Suite, tallies: Mapping[int, _Tally], outcomes: _Outcomes) -> None:
    for number, outcome in outcomes.items():
        tallies[number].add(suite, outcome)


def _summed_up(suite: Suite, tallies: Mapping[int, _Tally], expected: Mapping[int, int], rows: int) -> SuiteResult:
    declared = len(suite.expectations)
    results = tuple(
        tally.result(suite.expectations[number])
        for number, tally in tallies.items()
        if rows and tally.parts == expected[number]
    )
    problems: tuple[str, ...] = ()
    if not rows:
        problems = ("the table has no rows",)
    elif len(results) != declared:
        problems = (f"only {len(results)} of {declared} declared checks ran",)
    passed = not problems and not any(result.failed for result in results)
    return SuiteResult(suite.name, suite.sha256, passed, results, problems, declared, len(results), rows)


@functools.cache
def _context() -> Any:
    """One in-memory context a process, because each leaves a temporary directory until the process ends."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    return context


def _run(suite: Suite, numbers: Sequence[int], frame: pd.DataFrame) -> dict[int, dict[str, Any]]:
    """Great Expectations' outcome by the number of the expectation; one that was dropped is absent."""
    if not numbers:
        return {}
    batch = _context().data_sources.pandas_default.read_dataframe(frame)
    # The number travels in meta: results come back in another order and without arguments that are defaults.
    chosen = [(number, suite.expectations[number]) for number in numbers]
    declared = [{"type": e.type, "kwargs": dict(e.kwargs), "meta": {_NUMBER: n}} for n, e in chosen]
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


def _printable(value: Any) -> str:
    """A value on one line: what does not print, such as a newline at its end, is shown escaped."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if text.isprintable() else repr(text)


def _exception(info: Mapping[str, Any]) -> str:
    """Why a check could not run; Great Expectations nests the message under the metric that raised."""
    for entry in (info, *info.values()):
        if isinstance(entry, Mapping) and entry.get("exception_message"):
            return f"could not run: {entry['exception_message']}"
    return "could not run" if info.get("raised_exception") else ""
