"""Choose what people look at.

Three parts share the budget. Most of it goes to the findings whose errors would do most harm. A fifth is a simple
random sample of all images, each looked at as a whole, which tells how many errors are left in what nobody looked at
(:func:`secpipeline.review.quality.residual_error`). A twentieth is shown twice, apart and unmarked, which tells how
consistent the reviewer is.

>>> plan = choose(data, BudgetRule(items=100), seed=7)                   # doctest: +SKIP
>>> [item.kind for item in plan.items[:3]], plan.population              # doctest: +SKIP
(['missing', 'missing', 'sample'], 2032)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.errors import InputError
from secpipeline.review.data import ReviewData
from secpipeline.review.records import SAMPLE, Finding, Item

_APART = 3  # a repeated item comes at least a third of the review later
_FEW = 10
_NEVER_MORE = 100_000


@dataclass(frozen=True)
class HarmRule:
    """How much harm an error of a label does to whom the detector should protect, between 0 and 1.

    The factors are multiplied. They are judgements, not measurements; only their order matters for the ranking.

    Attributes
    ----------
    missing, ghost, location, other
        By kind. A person without a label teaches the detector that people are background, which is the error that
        kills. A ghost teaches it to brake for nothing, and hides what stands there. A badly placed box still teaches
        that somebody is there. Other kinds are about a whole image and say less.
    held_source
        For images of a source that is held as a whole. They train nobody until somebody has cleared them, so their
        errors can wait, however probable they are; without this factor they would leave room for nothing else.
    full_height
        The share of the image's height from which on a person counts fully. A person's distance is inversely
        proportional to the height in pixels, and so is the time that is left to brake: below, the weight falls
        linearly with the height. With the usual field of view of 25 to 50 degrees, a quarter of the image is a person
        7 to 15 metres away, about a second at 50 km/h.
    least_height, least_visibility
        The weights do not fall below these. Visibility is written by whoever wrote the label, so that somebody who
        plants errors in people declared invisible gains at most this factor. Unknown visibility counts as full.
    """

    missing: float = 1.0
    ghost: float = 0.7
    location: float = 0.4
    other: float = 0.5
    held_source: float = 0.5
    full_height: float = 0.25
    least_height: float = 0.2
    least_visibility: float = 0.5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value <= 1:
                raise InputError(f"harm.{name} is {value}; it must be above 0 and at most 1")

    def weigh(self, kind: str, height: float, visibility: float, held_source: bool = False) -> float:
        """The harm of one error.

        Parameters
        ----------
        kind
            Of the finding.
        height
            Of the person, as a share of the image's height; NaN where unknown, which counts fully.
        visibility
            The person's visible share; NaN where unknown.
        held_source
            Whether the image's source is held as a whole.
        """
        by_kind = {"missing": self.missing, "ghost": self.ghost, "location": self.location}.get(kind, self.other)
        tall = np.nan_to_num(height, nan=1.0) / self.full_height
        seen = np.nan_to_num(visibility, nan=1.0)
        free = self.held_source if held_source else 1.0
        return float(by_kind * free * np.clip(tall, self.least_height, 1) * np.clip(seen, self.least_visibility, 1))


@dataclass(frozen=True)
class BudgetRule:
    """How many items, and of what.

    Attributes
    ----------
    items
        How many answers are asked for, at most.
    sample_share, duplicate_share
        Of the budget, for the random sample and for repetitions.
    suggestion_score
        In a question about a whole image, findings from this score on are suggestions; at one half, no more than half
        of what is found so strongly is expected to be right as it is.
    harm
        What an error costs.
    """

    items: int = 100
    sample_share: float = 0.20
    duplicate_share: float = 0.05
    suggestion_score: float = 0.5
    harm: HarmRule = field(default_factory=HarmRule)

    def __post_init__(self) -> None:
        if not 1 <= self.items <= _NEVER_MORE:
            raise InputError(f"a review of {self.items} items cannot be planned; ask for 1 to {_NEVER_MORE}")
        for name in ("sample_share", "duplicate_share"):
            if not 0 <= getattr(self, name) <= 0.5:
                raise InputError(f"review.{name} is {getattr(self, name)}; it must be between 0 and 0.5")
        if not 0 <= self.suggestion_score <= 1:
            raise InputError(f"review.suggestion_score is {self.suggestion_score}; it must be between 0 and 1")

    @property
    def sample_size(self) -> int:
        """How many images are drawn at random, if there are so many."""
        return round(self.sample_share * self.items)

    @property
    def duplicates(self) -> int:
        """How many items are shown twice: from ten items on at least one, unless none is wanted."""
        wanted = self.duplicate_share > 0 and self.items >= _FEW
        return max(1, round(self.duplicate_share * self.items)) if wanted else 0


@dataclass(frozen=True)
class Plan:
    """What is asked, in this order.

    Attributes
    ----------
    items
        Each item once, and some twice.
    images
        How many images the sample was drawn from; each had the probability ``sampled / images``.
    sampled
        How many were drawn.
    population
        How many images would be accepted without anybody looking at them: what the residual error is about.
    """

    items: tuple[Item, ...]
    images: int
    sampled: int
    population: int

    def digest(self) -> str:
        """SHA-256 of the canonical JSON of the items: tells this plan from any other."""
        return sha256_bytes(canonical_json([item.to_json() for item in self.items]))


def choose(data: ReviewData, rule: BudgetRule, seed: int) -> Plan:
    """Choose the items of a review.

    An image is asked about as a whole if it was drawn, if its source is held (looking at one box does not clear it),
    or if a finding is about no particular box; otherwise there is one question a box. The ranking does not depend on
    what was drawn, so that the sample stays a sample: an image that is in both is asked about once, as drawn.

    Parameters
    ----------
    data
        What is reviewed.
    rule
        How many, and of what.
    seed
        The same seed gives the same plan. It should not be known to who delivers images: whoever knows it knows which
        images nobody will look at.

    Raises
    ------
    InputError
        If there is nothing to ask.
    """
    rng = np.random.default_rng(seed)
    table = data.quarantine.table
    there = table.loc[table["decision"] != "reject", "image_id"].tolist()
    ranked = _rank(data, rule, frozenset(there))[: max(0, rule.items - rule.sample_size - rule.duplicates)]
    asked = {item.image_id for item in ranked}
    unseen = {image for image in table.loc[table["decision"] == "accept", "image_id"] if image not in asked}
    drawn = [there[row] for row in rng.permutation(len(there))[: rule.sample_size]]
    sample = [Item("", image, SAMPLE, whole=True, sampled=True, counted=image in unseen) for image in drawn]
    if not sample and not ranked:
        raise InputError("there is nothing to review: no findings, and no images to draw a sample from")
    taken = set(drawn)
    items = _interleave([item for item in ranked if item.image_id not in taken], sample, rng)
    items = _repeat(items, rule.duplicates, rng)
    return Plan(tuple(items), len(there), len(drawn), len(unseen))


def _rank(data: ReviewData, rule: BudgetRule, there: frozenset[str]) -> list[Item]:
    """Items about findings, those that are most probably errors times the harm they do first."""
    weigh = _harm(data, rule.harm)
    by_image: dict[str, list[Finding]] = {}
    for finding in data.findings:
        if finding.image_id in there:
            by_image.setdefault(finding.image_id, []).append(finding)
    items: list[tuple[float, float, str, str, Item]] = []
    for image_id, findings in by_image.items():
        whole = image_id in data.quarantine.by_source or any(not finding.suggestion() for finding in findings)
        strongest = _strongest(findings, weigh)
        for own in [strongest] if whole else [[finding] for finding in strongest]:
            item = _whole_image(own, rule.suggestion_score) if whole else _one_box(own[0])
            harm = weigh(own[0])
            items.append((-own[0].score * harm, -own[0].evidence * harm, image_id, item.box_id, item))
    return [item for *_, item in sorted(items, key=lambda entry: entry[:4])]


def _strongest(findings: Sequence[Finding], weigh: Callable[[Finding], float]) -> list[Finding]:
    """Worst first, with one finding a label: a label can look like a ghost and badly placed at once."""
    kept: dict[Any, Finding] = {}
    for finding in sorted(findings, key=lambda f: (-f.score * weigh(f), -f.evidence * weigh(f))):
        kept.setdefault(finding.box_id or (finding.kind, finding.prediction), finding)
    return list(kept.values())


def _harm(data: ReviewData, rule: HarmRule) -> Callable[[Finding], float]:
    images, boxes = data.release.images, data.release.boxes
    image_height: Mapping[str, int] = dict(zip(images["image_id"], images["height"].tolist(), strict=True))
    visibility: Mapping[str, float] = dict(zip(boxes["box_id"], boxes["visibility"].tolist(), strict=True))

    def weigh(finding: Finding) -> float:
        heights = [box[3] - box[1] for box in (finding.label, finding.prediction) if box]
        height = max(heights, default=float("nan")) / image_height[finding.image_id]
        held = finding.image_id in data.quarantine.by_source
        return rule.weigh(finding.kind, height, visibility.get(finding.box_id, float("nan")), held)

    return weigh


def _one_box(finding: Finding) -> Item:
    change = finding.suggestion()
    return Item(
        "",
        finding.image_id,
        finding.kind,
        whole=False,
        box_id=finding.box_id,
        label=finding.label,
        prediction=finding.prediction,
        suggestion=(change,) if change else (),
        score=finding.score,
        reasons=(finding.reason,),
    )


def _whole_image(findings: Sequence[Finding], suggestion_score: float) -> Item:
    likely = [finding for finding in findings if finding.score >= suggestion_score]
    shown = likely or findings[:1]
    changes = [change for change in (finding.suggestion() for finding in likely) if change]
    return Item(
        "",
        findings[0].image_id,
        findings[0].kind,
        whole=True,
        suggestion=tuple(changes),
        score=findings[0].score,
        reasons=tuple(finding.reason for finding in shown),
    )


def _interleave(ranked: Sequence[Item], sample: Sequence[Item], rng: np.random.Generator) -> list[Item]:
    """The ranking in its order with the sample strewn in: whoever stops early has seen the worst and a fair sample."""
    count = len(ranked) + len(sample)
    places = set(rng.choice(count, len(sample), replace=False).tolist())
    first, second = iter(ranked), iter(sample)
    return [next(second) if place in places else next(first) for place in range(count)]


def _repeat(items: Sequence[Item], duplicates: int, rng: np.random.Generator) -> list[Item]:
    """Give every item an opaque name and strew in second showings, far from the first."""
    count = len(items)
    named = [replace(item, item_id=rng.bytes(8).hex()) for item in items]
    apart = max(1, count // _APART)
    often = min(duplicates, max(0, count - apart))
    slots: list[tuple[float, Item]] = [(float(place), item) for place, item in enumerate(named)]
    for place in rng.choice(max(1, count - apart), often, replace=False).tolist():
        again = replace(named[place], item_id=rng.bytes(8).hex(), repeats=named[place].item_id)
        slots.append((float(rng.uniform(place + apart, count)), again))
    return [item for _, item in sorted(slots, key=lambda slot: slot[0])]
