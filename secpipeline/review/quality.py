"""What the answers of a review are worth: errors left where nobody looked, and the reviewer's consistency.

>>> low, high = share_interval(3, 3, 50, population=2000)
>>> round(low, 3), round(high, 3)
(0.013, 0.163)
"""

from __future__ import annotations

import bisect
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import beta, hypergeom

from secpipeline.datasets.geometry import overlap
from secpipeline.errors import InputError
from secpipeline.review.records import ACCEPT_LABEL, ADDED, MOVED, REMOVED, SKIP, VERDICTS, Change, Decision

CONFIDENCE = 0.95
RIGHT, WRONG, UNDECIDED = "right", "wrong", "undecided"
_SAME_BOX = 0.5


@dataclass(frozen=True)
class ResidualError:
    """The share of images with a label error among those that are accepted without anybody looking at them.

    Attributes
    ----------
    estimate
        Unbiased: the drawn images are a simple random sample of the population. None if none was answered.
    low, high
        Interval at ``confidence``.
    confidence
        At least so often the interval holds the true share.
    n, errors, undecided
        How many drawn images of the population were shown, were found wrong, were skipped.
    population
        How many images the estimate is about.
    """

    estimate: float | None
    low: float
    high: float
    confidence: float
    n: int
    errors: int
    undecided: int
    population: int

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record."""
        return asdict(self)


@dataclass(frozen=True)
class Agreement:
    """How often a reviewer answered the same when the same was shown again.

    Attributes
    ----------
    pairs, agreed
        How many items were answered twice, and how many of these alike: right, wrong or undecided.
    share, low, high
        ``agreed / pairs`` with its exact 95 % interval (Clopper and Pearson, Biometrika 1934); None without pairs.
    kappa
        Cohen's kappa (Educational and Psychological Measurement 1960): agreement beyond chance, 1 at best. None where
        it is undefined, as when every answer is the same.
    """

    pairs: int
    agreed: int
    share: float | None
    low: float
    high: float
    kappa: float | None

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record."""
        return asdict(self)


def residual_error(decisions: Sequence[Decision], population: int, confidence: float = CONFIDENCE) -> ResidualError:
    """Estimate how many errors are left where nobody looked.

    Drawn images were mixed into the others in random order, so the answered ones are a random sample even if the
    review was stopped early. Skipped images are left out of the estimate, and the interval takes them for right at its
    low end and for wrong at its high end, so it holds whatever they are. It trusts the reviewer's eyes.

    Parameters
    ----------
    decisions
        Of one review.
    population
        :attr:`secpipeline.review.budget.Plan.population`.
    confidence
        Of the interval, in (0, 1).
    """
    answers = [outcome(decision) for decision in decisions if decision.item.counted and not decision.item.repeats]
    wrong, undecided = answers.count(WRONG), answers.count(UNDECIDED)
    judged = len(answers) - undecided
    low, high = share_interval(wrong, wrong + undecided, len(answers), population, confidence)
    estimate = wrong / judged if judged else None
    return ResidualError(estimate, low, high, confidence, len(answers), wrong, undecided, population)


def share_interval(
    at_least: int, at_most: int, n: int, population: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Exact interval for a share of a finite population from a simple random sample without replacement.

    The tails of the hypergeometric law, inverted as Clopper and Pearson do for the binomial one, whose interval this
    becomes for a large population (Buonaccorsi, The American Statistician 1987). It holds the true share at least as
    often as ``confidence`` says, for every sample size.

    Parameters
    ----------
    at_least, at_most
        How many of the sample have the property; two numbers if some are unknown.
    n, population
        Sizes of sample and population.
    confidence
        In (0, 1).
    """
    if not 0 <= at_least <= at_most <= n <= population:
        raise InputError(f"{at_least} to {at_most} of {n} drawn from {population} is no sample")
    if not population:
        return 0.0, 0.0
    tail = (1 - confidence) / 2
    counts = range(population + 1)
    fewest = bisect.bisect_left(counts, True, key=lambda m: bool(hypergeom.sf(at_least - 1, population, m, n) > tail))
    too_many = bisect.bisect_left(counts, True, key=lambda m: bool(hypergeom.cdf(at_most, population, m, n) <= tail))
    return fewest / population, (too_many - 1) / population


def agreement(decisions: Sequence[Decision]) -> Agreement:
    """Compare the answers to items that were shown twice."""
    first = {decision.item.item_id: decision for decision in decisions}
    pairs = [
        (outcome(first[decision.item.repeats]), outcome(decision))
        for decision in decisions
        if decision.item.repeats in first
    ]
    n, agreed = len(pairs), sum(a == b for a, b in pairs)
    if not n:
        return Agreement(0, 0, None, 0.0, 1.0, None)
    low = float(beta.ppf((1 - CONFIDENCE) / 2, agreed, n - agreed + 1)) if agreed else 0.0
    high = float(beta.ppf((1 + CONFIDENCE) / 2, agreed + 1, n - agreed)) if agreed < n else 1.0
    return Agreement(n, agreed, agreed / n, low, high, _kappa(pairs))


def _kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    n = len(pairs)
    observed = sum(a == b for a, b in pairs) / n
    by_chance = sum(
        sum(a == answer for a, _ in pairs) * sum(b == answer for _, b in pairs) / n**2
        for answer in (RIGHT, WRONG, UNDECIDED)
    )
    return (observed - by_chance) / (1 - by_chance) if by_chance < 1 else None


def summary(decisions: Sequence[Decision], population: int) -> dict[str, Any]:
    """What a review came to, as JSON-able values.

    Returns
    -------
    dict
        decided; verdicts, changes (counts by name); seconds (median of an answer, None without any); residual_error and
        agreement.
    """
    seconds = [decision.seconds for decision in decisions]
    verdicts = Counter(decision.verdict for decision in decisions)
    changes = Counter(c.kind for decision in decisions if not decision.item.repeats for c in decision.changes)
    return {
        "decided": len(decisions),
        "verdicts": {verdict: verdicts[verdict] for verdict in VERDICTS},
        "changes": {kind: changes[kind] for kind in (REMOVED, ADDED, MOVED)},
        "seconds": statistics.median(seconds) if seconds else None,
        "residual_error": residual_error(decisions, population).to_json(),
        "agreement": agreement(decisions).to_json(),
    }


def outcome(decision: Decision) -> str:
    """What a decision says of the labels: ``right``, ``wrong`` or ``undecided``."""
    if decision.verdict == SKIP:
        return UNDECIDED
    return RIGHT if decision.verdict == ACCEPT_LABEL else WRONG


def same_answer(first: Decision, second: Decision) -> bool:
    """Whether two answers to one item lead to the same labels: the same boxes changed, to nearly the same place."""
    if outcome(first) != outcome(second) or len(first.changes) != len(second.changes):
        return False
    left = list(second.changes)
    for change in first.changes:
        match = next((other for other in left if _alike(change, other)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _alike(a: Change, b: Change) -> bool:
    if a.box_id != b.box_id or a.kind != b.kind:
        return False
    if a.new is None or b.new is None:
        return True
    return bool(overlap(np.array(a.new, np.float64), np.array(b.new, np.float64)) >= _SAME_BOX)
