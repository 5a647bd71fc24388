"""Run a suite so that a check which did not run counts as a failed one.

Great Expectations passes an empty suite and an empty table, and drops what it cannot load. Here a result
passes only if every declared expectation was evaluated on at least one row and held on every row.

>>> validate(load_suite(Path("expectations/images.json")), images).passed        # doctest: +SKIP
True
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import great_expectations as gx
import pandas as pd

import secpipeline.validation.box_expectation  # noqa: F401 - registers expect_box_inside_image
from secpipeline.errors import InputError
from secpipeline.validation.results import ExpectationResult, SuiteResult
from secpipeline.validation.suites import Expectation, Suite

MAX_EXAMPLES = 10
_NUMBER = "declared_number"


def validate(suite: Suite, frame: pd.DataFrame) -> SuiteResult:
    """Run every check of ``suite`` on ``frame``.

    Raises
    ------
    InputError
        If Great Expectations refuses an argument's value (a bound that is not a number, say).
    """
    if frame.empty:
        return SuiteResult(
            suite.name, suite.sha256, False, (), ("the table has no rows",), len(suite.expectations), 0, 0
        )
    outcomes = _run(suite, frame)
    results = tuple(_result(suite, suite.expectations[number], outcomes[number]) for number in sorted(outcomes))
    problems = []
    if len(results) != len(suite.expectations):
        problems.append(f"only {len(results)} of {len(suite.expectations)} declared checks ran")
    passed = not problems and all(result.passed for result in results)
    return SuiteResult(
        suite.name,
        suite.sha256,
        passed,
        results,
        tuple(problems),
        len(suite.expectations),
        len(results),
        len(frame),
    )


@functools.cache
def _context() -> Any:
    """One in-memory context a process, because each leaves a temporary directory until the process ends."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    return context


def _run(suite: Suite, frame: pd.DataFrame) -> dict[int, dict[str, Any]]:
    """Great Expectations' outcome by the number of the expectation; one that was dropped is absent."""
    batch = _context().data_sources.pandas_default.read_dataframe(frame)
    # The number travels in meta: results come back in another order and without arguments that are defaults.
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
    """Why a check could not run; Great Expectations nests the message under the metric that raised."""
    for entry in (info, *info.values()):
        if isinstance(entry, Mapping) and entry.get("exception_message"):
            return f"could not run: {entry['exception_message']}"
    return "could not run" if info.get("raised_exception") else ""
