"""How a measured number is held against a bound, and how it is read from a report that may be wrong.

A bound is *missed* if even the favourable end of the 95 % interval misses it, and *kept* if the value keeps
it and the unfavourable end lies no further beyond it than the margin. Anything between is inconclusive.

>>> Bound("clean-ap50", "clean AP50", 0.70, floor=True, margin=0.1).judge(Interval(0.75, 0.70, 0.80)).outcome
'pass'
>>> Bound("clean-ap50", "clean AP50", 0.70, floor=True, margin=0.1).judge(Interval(0.69, 0.64, 0.74)).outcome
'inconclusive'
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secpipeline.detection.bootstrap import Interval
from secpipeline.robustness.verdicts import Check


@dataclass(frozen=True)
class Bound:
    """A floor or a ceiling on something measured with an interval.

    Attributes
    ----------
    code, words
        How the check is called by programs and by people.
    limit
        The floor or ceiling.
    floor
        Whether it is a floor.
    margin
        How far beyond the limit the unfavourable end may lie, as a share of the limit.
    """

    code: str
    words: str
    limit: float
    floor: bool
    margin: float

    def judge(self, found: Interval | None) -> Check:
        """Hold an interval against the bound; none is inconclusive."""
        if found is None:
            text = f"{self.words} was not measured, or is not a number; run the attack stage again"
            return Check(self.code, "inconclusive", text, None, self.limit)
        kind, beyond = ("floor", "below") if self.floor else ("ceiling", "above")
        described = f"{self.words} {found.value:.3f} (95 % {found.low:.3f} to {found.high:.3f})"
        limit = f"the {kind} {self.limit:g}"
        # Turned so that larger is better and the limit is a floor.
        sign = 1 if self.floor else -1
        worst, best = sorted((sign * found.low, sign * found.high))
        if best < sign * self.limit:
            return Check(self.code, "fail", f"{described} is {beyond} {limit}", found.value, self.limit)
        if sign * found.value >= sign * self.limit and worst >= sign * self.limit - self.margin * abs(self.limit):
            return Check(self.code, "pass", f"{described} keeps {limit}", found.value, self.limit)
        text = f"{described} is too near {limit} to decide; more test images would narrow the interval"
        return Check(self.code, "inconclusive", text, found.value, self.limit)


def at_most(code: str, words: str, found: float | None, limit: float) -> Check:
    """A plain ceiling that, when broken, makes the measurement unusable rather than the detector bad."""
    if found is None:
        return Check(code, "inconclusive", f"{words} was not measured, or is not a number", None, limit)
    if found <= limit:
        return Check(code, "pass", f"{words} {found:.4g} is at most {limit:g}", found, limit)
    return Check(code, "inconclusive", f"{words} {found:.4g} is more than {limit:g}", found, limit)


def number(report: Any, *path: str) -> float | None:
    """A finite number at a path of keys, or none if there is anything else or nothing."""
    for key in path:
        if not isinstance(report, Mapping):
            return None
        report = report.get(key)
    if isinstance(report, bool) or not isinstance(report, (int, float)) or not math.isfinite(report):
        return None
    return float(report)


def section(report: Any, *path: str) -> Mapping[str, Any]:
    """The mapping at a path of keys, or an empty one if there is anything else or nothing."""
    for key in path:
        report = report.get(key) if isinstance(report, Mapping) else None
    return report if isinstance(report, Mapping) else {}


def interval_at(report: Any, *path: str, most: float = 1.0) -> Interval | None:
    """An interval at a path of keys, or none if it is incomplete, out of order, or not in [0, most]."""
    value, low, high = (number(report, *path, end) for end in ("value", "low", "high"))
    if value is None or low is None or high is None or not 0 <= low <= value <= high <= most:
        return None
    return Interval(value, low, high)


def worst_of(found: Sequence[Interval | None], floor: bool) -> Interval | None:
    """The worst value and the worst ends over several intervals; none if there are none or one is missing."""
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found):
        return None
    pick = min if floor else max
    return Interval(pick(i.value for i in known), pick(i.low for i in known), pick(i.high for i in known))
