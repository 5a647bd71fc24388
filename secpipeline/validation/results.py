"""What a validation found: records of checks and suites, and the attestable summary of them.

>>> test_result(results)["result"]                                      # doctest: +SKIP
'PASSED'
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from secpipeline.errors import InputError
from secpipeline.validation.suites import WARNING


@dataclass(frozen=True)
class ExpectationResult:
    """The outcome of one check.

    Attributes
    ----------
    type, column, reason
        What was checked (``column`` joins several with commas, "" for the whole table) and why.
    severity
        What it means if it does not hold: ``error`` or ``warning``.
    ran
        Whether it could be evaluated. A warning that could not is an error: nobody knows what it would have said.
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
    severity: str
    ran: bool
    passed: bool
    unexpected_count: int
    examples: tuple[Mapping[str, str], ...]
    detail: str

    @property
    def label(self) -> str:
        """A name that is unique enough for a report: type and columns."""
        return f"{self.type}({self.column})"

    @property
    def warned(self) -> bool:
        """Whether it ran, did not hold, and is worth a warning only."""
        return self.ran and not self.passed and self.severity == WARNING

    @property
    def failed(self) -> bool:
        """Whether it stands in the way of a release."""
        return not self.passed and not self.warned

    @property
    def found(self) -> str:
        """What speaks against it, naming up to three rows; "" if it passed."""
        rows = "; ".join(", ".join(f"{key}={value}" for key, value in row.items()) for row in self.examples[:3])
        return f"{self.unexpected_count} rows, such as {rows}" if rows else self.detail


@dataclass(frozen=True)
class SuiteResult:
    """The outcome of a suite on one table.

    Attributes
    ----------
    name, suite_sha256
        Which suite, and exactly which version of it.
    passed
        Every declared check ran, on at least one row, and held unless its severity is warning.
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
        yield from (f"{self.name}: {problem}" for problem in self.problems)
        yield from (f"{self.name}: {result.label}: {result.found}" for result in self.results if result.failed)

    def warnings(self) -> Iterator[str]:
        """One sentence for each thing that is unusual, naming up to three rows."""
        yield from (f"{self.name}: {result.label}: {result.found}" for result in self.results if result.warned)

    def to_json(self) -> dict[str, Any]:
        """Everything, as a JSON-able record."""
        return asdict(self)


def test_result(results: Sequence[SuiteResult]) -> dict[str, Any]:
    """The predicate of an in-toto test-result v0.1 attestation over all suites.

    Returns
    -------
    dict
        ``result`` ("PASSED", "WARNED" or "FAILED"), ``configuration`` (each suite file with its digest),
        ``passedTests``, ``warnedTests`` and ``failedTests`` (``suite: type(columns)``).

    Raises
    ------
    InputError
        If there are no results: nothing tested is not a pass.
    """
    if not results:
        raise InputError("no suite was run, so there is no test result; give at least one")
    checks = [(f"{suite.name}: {result.label}", result) for suite in results for result in suite.results]
    passed = [name for name, result in checks if result.passed]
    warned = [name for name, result in checks if result.warned]
    failed = [name for name, result in checks if result.failed]
    failed += [f"{suite.name}: {problem}" for suite in results for problem in suite.problems]
    whole = all(suite.passed for suite in results) and not failed
    return {
        "result": "FAILED" if not whole else "WARNED" if warned else "PASSED",
        "configuration": [
            {"name": f"expectations/{suite.name}.json", "digest": {"sha256": suite.suite_sha256}} for suite in results
        ],
        "passedTests": passed,
        "warnedTests": warned,
        "failedTests": failed,
    }


test_result.__test__ = False  # type: ignore[attr-defined] # else pytest collects it wherever it is imported
