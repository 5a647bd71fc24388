"""Which sources have more label errors than their peers.

For each source and kind, the number of tests with strong evidence is compared with what the other sources'
rate predicts. Honest sources differ too, and the errors of one scene come together (a post that the judge
takes for a person stands in all its frames), so the count is judged by a negative binomial (Gamma-Poisson)
law with room for both. A source is named when, without its worst scene, the excess is significant after
Benjamini-Hochberg over all sources and kinds *and* the rate is at least twice that of its peers. That says
"more missing boxes than its peers", never "malicious": a source whose honest images are more than twice as
hard for the judges can be named too.

>>> attribution = attribute(tests)                                      # doctest: +SKIP
>>> attribution.named, attribution.reasons()                          # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import beta, false_discovery_control, nbinom

from secpipeline.poisoning.label_scores import LABEL_KINDS
from secpipeline.poisoning.pairs import Floats

MIN_SOURCES = 3

_WORDS = {"missing": "missing boxes", "ghost": "ghost boxes", "location": "badly placed boxes"}


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
    strong_share
        A test is a strong one above the level that this share of a typical source's tests exceeds.
    min_evidence
        The lowest level that counts as strong.
    """

    false_discovery_rate: float = 0.05
    min_rate_ratio: float = 2.0
    unevenness: float = 0.3
    strong_share: float = 0.02
    min_evidence: float = 0.3


@dataclass(frozen=True)
class Attribution:
    """The comparison of sources.

    Attributes
    ----------
    table
        One row per source and kind: source, kind; events (strong tests) and exposure (tests), both without
        the source's own worst scene; expected (events at the peers' rate), rate_ratio, lower_bound (of the
        ratio, one-sided 95 %), p_value, level (the evidence that counts as strong), q_value (adjusted), named
        (bool).
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
                f"more {_WORDS[row['kind']]} than its peers ({row['events']:.0f} in {row['exposure']:.0f}"
                f" where {row['expected']:.1f} would be expected,"
                f" rate ratio {row['rate_ratio']:.1f}, q = {row['q_value']:.1g})"
            )
        return {source: f"{source} has {'; '.join(parts)}" for source, parts in reasons.items()}

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record: ``named`` (reason by source), ``undecided`` and ``rows``."""
        return {"named": self.reasons(), "undecided": self.undecided, "rows": self.table.to_dict("records")}


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
    rule = rule or AttributionRule()
    sources = sorted(tests["source"].unique())
    if len(sources) < MIN_SOURCES:
        return Attribution(
            _empty_table(),
            (),
            f"{len(sources)} sources cannot be compared; at least {MIN_SOURCES} are needed",
        )
    parts = [_compare(rows, str(kind), rule) for kind, rows in tests.groupby("kind") if kind in LABEL_KINDS]
    if not parts:
        return Attribution(_empty_table(), (), "nothing was tested; the release has neither labels nor predictions")
    table = pd.concat(parts, ignore_index=True)
    table["q_value"] = false_discovery_control(table["p_value"].to_numpy(), method="bh")
    table["named"] = (
        (table["q_value"] <= rule.false_discovery_rate)
        & (table["rate_ratio"] >= rule.min_rate_ratio)
        & (table["lower_bound"] > 1)
    )
    return Attribution(table, tuple(sorted(table.loc[table["named"], "source"].unique())), "")


def _empty_table() -> pd.DataFrame:
    columns = (
        "source",
        "kind",
        "events",
        "exposure",
        "expected",
        "rate_ratio",
        "lower_bound",
        "p_value",
        "level",
    )
    return pd.DataFrame(columns=[*columns, "q_value", "named"])


def _compare(tests: pd.DataFrame, kind: str, rule: AttributionRule) -> pd.DataFrame:
    level = strong_level(tests, rule)
    scenes = (
        tests.assign(event=tests["evidence"] >= level)
        .groupby(["source", "scene"])
        .agg(events=("event", "sum"), exposure=("event", "size"))
        .reset_index()
    )
    sources = pd.DataFrame({source: _summary(own) for source, own in scenes.groupby("source")}).T
    rows = []
    for source, own in sources.iterrows():
        row = _against_peers(own, sources.drop(index=source), rule.unevenness)
        rows.append({"source": source, "kind": kind, **row, "level": level})
    return pd.DataFrame(rows)


def _summary(scenes: pd.DataFrame) -> dict[str, float]:
    """Counts of one source's scenes, their scatter around its own rate, and the counts without the worst scene.

    One scene, with a convincing statue say, must not name a source; one or two scenes are all kept.
    """
    events, exposure = scenes["events"].to_numpy("float64"), scenes["exposure"].to_numpy("float64")
    expected = exposure * events.sum() / exposure.sum()
    known = bool(events.sum() > 0)
    kept = (np.arange(len(events)) != np.argmax(events)) | (len(events) < 3)
    return {
        "events": float(events.sum()),
        "exposure": float(exposure.sum()),
        "scatter": float(((events - expected) ** 2 / expected).sum()) if known else 0.0,
        "degrees": float(len(events) - 1) if known else 0.0,
        "kept_events": float(events[kept].sum()),
        "kept_exposure": float(exposure[kept].sum()),
    }


def _against_peers(own: pd.Series[float], peers: pd.DataFrame, unevenness: float) -> dict[str, float]:
    events, exposure = float(own["kept_events"]), float(own["kept_exposure"])
    total, at_risk = float(peers["events"].sum()), float(peers["exposure"].sum())
    # Half an event more, so that peers without any do not make a single event infinitely surprising.
    expected = exposure * (total + 0.5) / at_risk
    # Variance of the scenes' counts over that of independent events: how much errors crowd in scenes.
    crowding = max(1.0, float(peers["scatter"].sum()) / max(float(peers["degrees"].sum()), 1.0))
    counts, at_stake = peers["events"].to_numpy("float64"), peers["exposure"].to_numpy("float64")
    spread = _spread(counts, at_stake, crowding, unevenness)
    spread += crowding / (total + 0.5)
    return {
        "events": events,
        "exposure": exposure,
        "expected": expected,
        "rate_ratio": events / expected,
        "lower_bound": _ratio_lower_bound(events, exposure, total, at_risk),
        "p_value": _tail(events / crowding, expected / crowding, spread),
    }


def strong_level(tests: pd.DataFrame, rule: AttributionRule) -> float:
    """The evidence above which a test of one kind counts as strong.

    Taken from the median source, so that it fits judges of any strength and one bad source cannot move it.
    """
    quantiles = tests.groupby("source")["evidence"].quantile(1 - rule.strong_share)
    return max(float(quantiles.median()), rule.min_evidence)


def _spread(events: Floats, exposure: Floats, crowding: float, unevenness: float) -> float:
    """Squared relative deviation of the peers' true rates, by moments, at least ``unevenness`` squared.

    The peer with the highest rate is left out where four remain: a second bad source would hide the first.
    """
    if len(events) > 4:
        keep = np.arange(len(events)) != int(np.argmax(events / exposure))
        events, exposure = events[keep], exposure[keep]
    expected = exposure * events.sum() / exposure.sum()
    moments = (((events - expected) ** 2).sum() - crowding * expected.sum()) / max(float((expected**2).sum()), 1e-9)
    return max(float(moments), unevenness**2)


def _tail(events: float, expected: float, spread: float) -> float:
    """P(count ≥ events) for a Gamma rate of mean ``expected`` and squared relative deviation ``spread``."""
    size = 1 / spread
    return float(nbinom.sf(np.ceil(events) - 1, size, size / (size + expected)))


def _ratio_lower_bound(events: float, exposure: float, others: float, at_risk: float) -> float:
    """One-sided 95 % lower bound of a ratio of Poisson rates (Clopper and Pearson on the share of events)."""
    if events == 0:
        return 0.0
    share = float(beta.ppf(0.05, events, others + 1))
    return share / (1 - share) * at_risk / exposure
