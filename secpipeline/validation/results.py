"""What a validation found: records of checks and suites, and the attestable summary of them.

>>> test_result(results)["result"]                                      # doctest: +SKIP
'PASSED'
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from secpipeline.errors import InputError


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


def test_result(results: Sequence[SuiteResult]) -> dict[str, Any]:
    """The predicate of an in-toto test-result v0.1 attestation over all suites.

    Returns
    -------
    dict
        ``result`` ("PASSED" or "FAILED"), ``configuration`` (each suite file with its digest),
        ``passedTests`` and ``failedTests`` (``suite: type(columns)``).

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
