"""Which sources have more label errors than their peers.

Errors are counted by each source's own yardstick (:mod:`secpipeline.poisoning.yardsticks`), so that a source whose
honest pictures are harder for the judges is not named for that. For each source and kind, the number of events is
compared with what the other sources' rate predicts. Honest sources differ too, and the errors of one scene come
together (a post that the judge takes for a person stands in all its frames), so the count is judged by a negative
binomial (Gamma-Poisson) law with room for both. A source is named when, without its worst scene, the excess is
significant after Benjamini-Hochberg over all sources and kinds *and* the rate is at least twice that of its peers.
That says "more missing boxes than its peers" and nothing of why.

For every source and kind there is also the *detectable share*: the smallest share of its labels that, had they been
spoiled, would have been named with probability .95. Where nothing is named, that is all that has been shown.

>>> attribution = attribute(tests)                                      # doctest: +SKIP
>>> attribution.named, attribution.reasons()                            # doctest: +SKIP
>>> attribution.limits()["vendor-a"]                                    # doctest: +SKIP
'vendor-a: nothing named; a share of 4 % missing boxes, or of 9 % ghost boxes, would have been'
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import beta, false_discovery_control, gamma, nbinom

from secpipeline.poisoning.label_scores import LABEL_KINDS
from secpipeline.poisoning.pairs import Floats
from secpipeline.poisoning.yardsticks import mark

MIN_SOURCES = 3
ATTRIBUTION_COLUMNS = (
    "source",
    "kind",
    "events",
    "exposure",
    "expected",
    "rate_ratio",
    "lower_bound",
    "p_value",
    "detectable_share",
    "q_value",
    "named",
)
WORDS = {"missing": "missing boxes", "ghost": "ghost boxes", "location": "badly placed boxes"}

# Mild tests added on both sides, so that a source with hardly any is not scaled by chance.
_MILD_PRIOR = 3.0


@dataclass(frozen=True)
class AttributionRule:
    """When a source is named.

    Attributes
    ----------
    false_discovery_rate
        Of the Benjamini-Hochberg procedure over all sources and kinds.
    min_rate_ratio
        Rate of the source over that of its peers.
    unevenness
        Standard deviation, relative to the mean, by which honest sources may differ from each other anyway.
    power
        Probability of being named on which the detectable share rests.
    """

    false_discovery_rate: float = 0.05
    min_rate_ratio: float = 2.0
    unevenness: float = 0.3
    power: float = 0.95


@dataclass(frozen=True)
class Attribution:
    """The comparison of sources.

    Attributes
    ----------
    table
        One row per source and kind: source, kind; events and exposure (tests by the source's own yardstick), both
        without the source's own worst scene; expected (events at the peers' rate), rate_ratio, lower_bound (of the
        ratio, one-sided 95 %), p_value; detectable_share of its labels in (0, 1], NaN if not even all would be
        named; q_value (adjusted), named (bool).
    named
        Sources with at least one named row, sorted.
    undecided
        Why nothing could be decided; "" if it could.
    """

    table: pd.DataFrame
    named: tuple[str, ...]
    undecided: str

    def reasons(self) -> dict[str, str]:
        """Why each named source is named, in words, for :func:`secpipeline.poisoning.quarantine.decide`."""
        reasons: dict[str, list[str]] = {source: [] for source in self.named}
        for row in self.table[self.table["named"]].to_dict("records"):
            reasons[row["source"]].append(
                f"more {WORDS[row['kind']]} than its peers ({row['events']:.0f} in {row['exposure']:.0f}"
                f" where {row['expected']:.1f} would be expected,"
                f" rate ratio {row['rate_ratio']:.1f}, q = {row['q_value']:.1g})"
            )
        return {source: f"{source} has {'; '.join(parts)}" for source, parts in reasons.items()}

    def limits(self) -> dict[str, str]:
        """What could have been seen in each source that is not named, in words."""
        words = {}
        for source, rows in self.table[~self.table["source"].isin(self.named)].groupby("source"):
            seen = rows[rows["detectable_share"].notna()].sort_values("detectable_share")
            shares = [
                f"{math.ceil(100 * float(share))} % {WORDS[kind]}"
                for kind, share in zip(seen["kind"], seen["detectable_share"], strict=True)
            ]
            blind = [WORDS[kind] for kind in rows.loc[rows["detectable_share"].isna(), "kind"]]
            told = [f"a share of {', or of '.join(shares)}, would have been"] if shares else []
            parts = ["nothing named", *told, *(f"no share of {kind} would be" for kind in blind)]
            words[str(source)] = f"{source}: {'; '.join(parts)}"
        return words

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record: ``named`` (reason by source), ``limits``, ``undecided`` and ``rows``."""
        rows = [
            row | {"detectable_share": None if np.isnan(row["detectable_share"]) else row["detectable_share"]}
            for row in self.table.to_dict("records")
        ]
        return {"named": self.reasons(), "limits": self.limits(), "undecided": self.undecided, "rows": rows}


def attribute(tests: pd.DataFrame, rule: AttributionRule | None = None) -> Attribution:
    """Compare every source with all others, kind by kind.

    Parameters
    ----------
    tests
        From :func:`secpipeline.poisoning.label_scores.score_labels`; rows of other kinds are left out.
    rule
        When to name a source.

    Returns
    -------
    Attribution
        With ``undecided`` set, and nobody named, below three sources: of two, either could be the odd one.
    """
    sources = sorted(tests["source"].unique())
    if len(sources) < MIN_SOURCES:
        return _undecided(f"{len(sources)} sources cannot be compared; at least {MIN_SOURCES} are needed")
    if not tests["kind"].isin(LABEL_KINDS).any():
        return _undecided("nothing was tested; the release has neither labels nor predictions")
    return compare(mark(tests), rule)


def compare(marked: pd.DataFrame, rule: AttributionRule | None = None) -> Attribution:
    """Compare sources whose tests have been marked by :func:`secpipeline.poisoning.yardsticks.mark`."""
    rule = rule or AttributionRule()
    tests = marked["kind"].nunique() * marked["source"].nunique()
    parts = [_compare(rows, str(kind), rule, tests) for kind, rows in marked.groupby("kind")]
    table = pd.concat(parts, ignore_index=True)
    table["q_value"] = false_discovery_control(table["p_value"].to_numpy(), method="bh")
    table["named"] = (
        (table["q_value"] <= rule.false_discovery_rate)
        & (table["rate_ratio"] >= rule.min_rate_ratio)
        & (table["lower_bound"] > 1)
    )
    return Attribution(
        table[list(ATTRIBUTION_COLUMNS)], tuple(sorted(table.loc[table["named"], "source"].unique())), ""
    )


def _undecided(why: str) -> Attribution:
    return Attribution(pd.DataFrame(columns=list(ATTRIBUTION_COLUMNS)).astype({"named": bool}), (), why)


def _compare(marked: pd.DataFrame, kind: str, rule: AttributionRule, tests: int) -> pd.DataFrame:
    scenes = marked.groupby(["source", "scene"])[["event", "exposed"]].sum().astype("float64").reset_index()
    by = marked.groupby("source")
    scale = _own_scale(marked) if kind == "missing" else pd.Series(1.0, index=by.size().index)
    scenes["exposed"] *= scenes["source"].map(scale)
    sources = pd.DataFrame({source: _summary(own) for source, own in scenes.groupby("source")}).T
    sources["telling"] = by["telling"].sum().reindex(sources.index)
    sources["labels"] = by["telling"].count().reindex(sources.index)
    rows = []
    for source, own in sources.iterrows():
        row = _against_peers(own, sources.drop(index=source), rule, tests)
        rows.append({"source": source, "kind": kind, **row})
    return pd.DataFrame(rows)


def _own_scale(marked: pd.DataFrame) -> pd.Series[float]:
    """How many false alarms the judges' ordinary doubts in a source lead to expect, relative to all sources."""
    mild, tests = (marked.groupby("source")[column].sum().astype("float64") for column in ("mild", "exposed"))
    usual = tests * mild.sum() / max(float(tests.sum()), 1.0)
    return (mild + _MILD_PRIOR) / (usual + _MILD_PRIOR)


def _summary(scenes: pd.DataFrame) -> dict[str, float]:
    """Counts of one source's scenes, their scatter around its own rate, and the counts without the worst scene.

    One scene, with a convincing statue say, must not name a source; one or two scenes are all kept.
    """
    events, exposure = scenes["event"].to_numpy("float64"), scenes["exposed"].to_numpy("float64")
    asked = exposure > 0
    events, exposure = events[asked], exposure[asked]
    expected = exposure * events.sum() / max(float(exposure.sum()), 1e-9)
    known = bool(events.sum() > 0)
    kept = np.ones(len(events), dtype=bool)
    if len(events) > 2:
        kept[np.argmax(events)] = False
    return {
        "events": float(events.sum()),
        "exposure": float(exposure.sum()),
        "scatter": float(((events - expected) ** 2 / expected).sum()) if known else 0.0,
        "degrees": float(len(events) - 1) if known else 0.0,
        "kept_events": float(events[kept].sum()),
        "kept_exposure": float(exposure[kept].sum()),
    }


def _against_peers(own: pd.Series[float], peers: pd.DataFrame, rule: AttributionRule, tests: int) -> dict[str, float]:
    events, exposure = float(own["kept_events"]), float(own["kept_exposure"])
    total, at_risk = float(peers["events"].sum()), float(peers["exposure"].sum())
    # Half an event more, so that peers without any do not make a single event infinitely surprising.
    expected = max(exposure * (total + 0.5) / max(at_risk, 1.0), 1e-9)
    # Variance of the scenes' counts over that of independent events: how much errors crowd in scenes.
    elsewhere = float(peers["scatter"].sum()) / max(float(peers["degrees"].sum()), 1.0)
    crowding = max(1.0, elsewhere, float(own["scatter"]) / max(float(own["degrees"]), 1.0))
    spread = _spread(
        peers["events"].to_numpy("float64"), peers["exposure"].to_numpy("float64"), crowding, rule.unevenness
    )
    spread += crowding / (total + 0.5)

    counts = np.arange(math.ceil(rule.min_rate_ratio * expected), 20 * math.ceil(expected) + 200, dtype=np.float64)
    enough = _tail(counts / crowding, expected / crowding, spread) <= rule.false_discovery_rate / tests
    enough &= _ratio_lower_bound(counts, exposure, total, at_risk) > 1
    needed = int(counts[np.argmax(enough)]) if enough.any() else np.inf
    worst = float(own["events"]) - events
    # As few honest events as a lucky source has, so that the share is not understated for one.
    honest = expected * spread * float(gamma.ppf(1 - rule.power, 1 / spread))
    return {
        "events": events,
        "exposure": exposure,
        "expected": expected,
        "rate_ratio": events / expected,
        "lower_bound": float(_ratio_lower_bound(np.array(events), exposure, total, at_risk)),
        "p_value": float(_tail(np.array(events / crowding), expected / crowding, spread)),
        "detectable_share": _detectable_share(needed, worst - honest, crowding, own, rule),
    }


def _detectable_share(
    needed: float, lost: float, crowding: float, own: pd.Series[float], rule: AttributionRule
) -> float:
    """The share of labels to spoil so that, with the rule's power, at least ``needed`` events are counted.

    ``lost`` events go with the worst scene, less the honest ones. The mean of a Poisson count that reaches k with
    probability .95 is the .95 quantile of a gamma law of shape k.
    """
    told = float(own["telling"])
    if told == 0 or not np.isfinite(needed):
        return float("nan")
    mean = crowding * float(gamma.ppf(rule.power, math.ceil(needed / crowding)))
    share = (mean + lost) / told
    return share if share <= 1 else float("nan")


def _spread(events: Floats, exposure: Floats, crowding: float, unevenness: float) -> float:
    """Squared relative deviation of the peers' true rates, by moments, at least ``unevenness`` squared.

    The peer with the highest rate is left out where four remain: a second bad source would hide the first.
    """
    events, exposure = events[exposure > 0], exposure[exposure > 0]
    if len(events) > 4:
        keep = np.arange(len(events)) != int(np.argmax(events / exposure))
        events, exposure = events[keep], exposure[keep]
    expected = exposure * events.sum() / max(float(exposure.sum()), 1e-9)
    moments = (((events - expected) ** 2).sum() - crowding * expected.sum()) / max(float((expected**2).sum()), 1e-9)
    return max(float(moments), unevenness**2)


def _tail(events: Floats, expected: float, spread: float) -> Floats:
    """P(count ≥ events) for a Gamma rate of mean ``expected`` and squared relative deviation ``spread``."""
    size = 1 / spread
    tail: Floats = nbinom.sf(np.ceil(events) - 1, size, size / (size + expected))
    return tail


def _ratio_lower_bound(events: Floats, exposure: float, others: float, at_risk: float) -> Floats:
    """One-sided 95 % lower bound of a ratio of Poisson rates (Clopper and Pearson on the share of events)."""
    if exposure == 0:
        return np.zeros(np.shape(events))
    share = np.where(events > 0, beta.ppf(0.05, np.maximum(events, 1), others + 1), 0.0)
    bound: Floats = share / (1 - share) * at_risk / exposure
    return bound
