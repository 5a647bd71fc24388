"""A verdict and the checks it rests on.

>>> decided = Verdict("default", (Check("clean-ap50", "fail", "clean AP50 0.40 is below 0.70", 0.4, 0.7),))
>>> decided.verdict, decided.reasons[0].code
('fail', 'clean-ap50')
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Outcome = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Check:
    """One thing that the policy asks.

    Attributes
    ----------
    code
        Stable and kebab-case.
    outcome
        ``pass``, ``fail`` or ``inconclusive``.
    text
        One sentence with the numbers in it.
    measured, bound
        What was found and what the policy asks; none where nothing was found.
    """

    code: str
    outcome: Outcome
    text: str
    measured: float | str | None
    bound: float | str | None


@dataclass(frozen=True)
class Verdict:
    """The gate's decision.

    Attributes
    ----------
    policy
        The policy's name.
    checks
        Everything that was asked, in the policy's order.
    """

    policy: str
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> Outcome:
        """``fail`` if any check failed, else ``inconclusive`` unless all of at least one passed."""
        outcomes = {check.outcome for check in self.checks}
        if "fail" in outcomes:
            return "fail"
        return "pass" if outcomes == {"pass"} else "inconclusive"

    @property
    def reasons(self) -> tuple[Check, ...]:
        """The checks that stand in the way of a pass, failures first."""
        failed = tuple(check for check in self.checks if check.outcome == "fail")
        return failed + tuple(check for check in self.checks if check.outcome == "inconclusive")

    def to_json(self) -> dict[str, Any]:
        """``{"policy", "verdict", "reasons", "checks"}``."""
        return {
            "policy": self.policy,
            "verdict": self.verdict,
            "reasons": [asdict(check) for check in self.reasons],
            "checks": [asdict(check) for check in self.checks],
        }
