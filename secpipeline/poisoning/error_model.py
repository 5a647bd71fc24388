"""From evidence to a score that can be read as a probability.

Canaries show how much evidence label errors leave, all labels together how much is usual. In each stratum of like
labels (kind, height, crowding) their ratio says how many times more frequent some evidence is among wrong labels. That
ratio is the test statistic (Neyman and Pearson): it never falls as evidence rises (isotonic regression), and where a
stratum has few canaries or labels it is drawn towards that of all strata.

How often right labels have so high a statistic is read off the other sources: if peers would have 3 labels that look
this bad and this source has 30, at most a tenth of them are the judges' mistakes. That share is the Benjamini-Hochberg
adjusted conformal p-value of the label among its source's labels, with the other sources as the calibration set (Bates,
Candès, Lei, Romano, Sesia, "Testing for outliers with conformal p-values", Annals of Statistics 2023). The score is one
minus it.

Peers have errors too, and what all sources have in common must not pass as usual. Right labels become rarer as
evidence rises. Where labels become more frequent instead, as canaries do, the surplus is taken to be wrong (the rate
``shared``) and is taken out of the peers. For ghosts this cannot be done: to the judges, a label where nobody is looks
like one of a person whom they overlook.

>>> model = ErrorModel.fit(count_evidence(tests), count_evidence(canaries))                 # doctest: +SKIP
>>> model.probability(tests)                                                                # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from secpipeline.poisoning.label_scores import LABEL_KINDS, STRATA
from secpipeline.poisoning.pairs import Floats, Ints

_LEVELS = 20
_CELL = ["kind", "source", "stratum", "level"]
_SHRINKAGE = 40.0
_MIN_CANARIES = 30
# How sure a surplus must be, in standard errors, and from which evidence on right labels must become rarer.
_SURELY = 2.0
_RARER_FROM = 0.4
# Of what peers have, this share is right at least.
_AT_LEAST_RIGHT = 0.1


def levels(evidence: Floats) -> Ints:
    """Evidence in [0, 1] as one of 20 levels."""
    return np.minimum((evidence * _LEVELS).astype(np.int64), _LEVELS - 1)


def count_evidence(tests: pd.DataFrame) -> pd.Series[int]:
    """Count tests, or canaries, by kind, source, stratum and level of evidence.

    Parameters
    ----------
    tests
        kind, source, stratum, evidence and strength are read; kinds other than ``LABEL_KINDS``, and missing-box tests
        without any evidence, are left out: an answered prediction is not in question.
    """
    asked = tests["kind"].isin(LABEL_KINDS) & ((tests["kind"] != "missing") | (tests["evidence"] > 0))
    kept = tests.loc[asked, ["kind", "source", "stratum"]]
    return kept.assign(level=levels(tests.loc[asked, "strength"].to_numpy(dtype="float64"))).groupby(_CELL).size()


@dataclass(frozen=True)
class ErrorModel:
    """The fitted model.

    Attributes
    ----------
    table
        The score by (kind, source), shape (``STRATA``, levels); what is not in it has score 0.
    odds
        The statistic by kind, shape (``STRATA``, levels).
    shared
        The share of wrong labels (of unanswered predictions for ``missing``) in all sources alike, by kind.
    """

    table: Mapping[tuple[str, ...], Floats]
    odds: Mapping[str, Floats]
    shared: Mapping[str, float]

    @classmethod
    def fit(cls, tests: pd.Series[int], canaries: pd.Series[int]) -> ErrorModel:
        """Fit from the counts of :func:`count_evidence`."""
        table: dict[tuple[str, ...], Floats] = {}
        odds: dict[str, Floats] = {}
        shared: dict[str, float] = {}
        for kind in LABEL_KINDS:
            own = _by_source(tests, kind)
            planted = sum(_by_source(canaries, kind).values(), np.zeros((STRATA, _LEVELS)))
            if not own or planted.sum() < _MIN_CANARIES:
                continue
            everyone = sum(own.values(), np.zeros((STRATA, _LEVELS)))
            odds[kind] = _monotone_odds(planted, everyone)
            unlike_people = kind != "ghost"
            shared[kind] = _shared_rate(_ordinary(own), planted.sum(axis=0)) if unlike_people else 0.0
            for source, counts in own.items():
                peers = everyone - counts if len(own) > 1 else everyone
                table[kind, source] = 1 - _honest_share(counts, peers, planted, odds[kind], shared[kind])
        return cls(table, odds, shared)

    def probability(self, tests: pd.DataFrame) -> Floats:
        """The score of each test, in [0, 1]; kind, source, stratum, evidence and strength are read."""
        return self._looked_up(tests, ["kind", "source"], self.table)

    def statistic(self, tests: pd.DataFrame) -> Floats:
        """How many times more frequent such tests are among canaries; 0 for kinds that are not in the model."""
        return self._looked_up(tests, ["kind"], {(kind,): odds for kind, odds in self.odds.items()})

    @staticmethod
    def _looked_up(tests: pd.DataFrame, keys: list[str], tables: Mapping[tuple[str, ...], Floats]) -> Floats:
        rows = tests.reset_index(drop=True)
        level, stratum = levels(rows["strength"].to_numpy(dtype="float64")), rows["stratum"].to_numpy(dtype="int64")
        values = np.zeros(len(rows))
        for key, own in rows.groupby(keys).indices.items():
            name = key if isinstance(key, tuple) else (key,)
            if name in tables:
                values[own] = tables[name][stratum[own], level[own]]
        return np.where(rows["evidence"].to_numpy(dtype="float64") > 0, values, 0.0)


def _by_source(counts: pd.Series[int], kind: str) -> dict[str, Floats]:
    table = counts.rename("count").reset_index()
    found = {}
    for source, rows in table[table["kind"] == kind].groupby("source"):
        cells = np.zeros((STRATA, _LEVELS))
        cells[rows["stratum"].to_numpy("int64"), rows["level"].to_numpy("int64")] = rows["count"].to_numpy("float64")
        found[str(source)] = cells
    return found


def _shrunk(counts: Floats) -> Floats:
    """Frequencies of the levels in each stratum, drawn towards those in all of them; one label more than was seen."""
    everywhere = counts.sum(axis=0) + 1 / _LEVELS
    everywhere = everywhere / everywhere.sum()
    shrunk: Floats = (counts + _SHRINKAGE * everywhere) / (counts.sum(axis=1, keepdims=True) + _SHRINKAGE)
    return shrunk


def _monotone_odds(planted: Floats, everyone: Floats) -> Floats:
    """How many times more frequent each level is among canaries, never falling as evidence rises."""
    logs = np.log(_shrunk(planted) / _shrunk(everyone))
    weights = planted.sum(axis=0) + everyone.sum(axis=0) + 1
    return np.exp(np.stack([isotonic_regression(row, weights=weights).x for row in logs]))


def _honest_share(own: Floats, peers: Floats, planted: Floats, odds: Floats, shared: float) -> Floats:
    """Expected over observed count of labels with at least this statistic, for each stratum and level."""
    order = np.argsort(-odds, axis=None, kind="stable")
    ranked = odds.ravel()[order]
    last_of_equals = np.searchsorted(-ranked, -ranked, side="right") - 1
    counts, usual, wrong = (np.cumsum(table.ravel()[order])[last_of_equals] for table in (own, peers, planted))
    among_peers = (1 + usual) / (1 + peers.sum())
    right = (among_peers - shared * wrong / planted.sum()) / (1 - shared)
    right = np.maximum(right, among_peers * _AT_LEAST_RIGHT)
    share = np.minimum(right * own.sum() / np.maximum(counts, 1e-9), 1.0)
    # No weaker statistic may have a smaller share than a stronger one has, so each takes the best of the weaker ones.
    share = np.minimum.accumulate(share[::-1])[::-1]
    honest = np.empty(odds.size)
    honest[order] = share
    return honest.reshape(odds.shape)


def _ordinary(own: Mapping[str, Floats]) -> Floats:
    """Counts by level without the quarter of the sources, at least one of several, with most evidence: those may be
    poisoned, and their errors are not everybody's.
    """
    by_level = [counts.sum(axis=0) for counts in own.values()]
    strong = [counts[int(_RARER_FROM * _LEVELS) :].sum() / max(counts.sum(), 1.0) for counts in by_level]
    kept = np.argsort(strong, kind="stable")[: max(1, len(by_level) - max(1, len(by_level) // 4))]
    ordinary: Floats = np.sum([by_level[index] for index in kept], axis=0)
    return ordinary


def _shared_rate(seen: Floats, planted: Floats) -> float:
    """The smallest share of canaries among all labels without which labels become rarer as evidence rises.

    The mean count of a level in the strongest ones is compared with that of three times as many below them.
    """
    best = 0.0
    for width in range(1, int((1 - _RARER_FROM) * _LEVELS) // 4 + 1):
        top, below = slice(_LEVELS - width, _LEVELS), slice(_LEVELS - 4 * width, _LEVELS - width)
        many, few = seen[top].mean(), seen[below].mean()
        error = np.sqrt(many / width + few / (3 * width))
        rise = (planted[top].mean() - planted[below].mean()) / planted.sum()
        if rise > 0:
            best = max(best, (many - few - _SURELY * error) / (rise * max(seen.sum(), 1.0)))
    return float(min(best, 0.5))
