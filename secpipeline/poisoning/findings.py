"""Findings: the tests whose evidence is stronger than a source's peers explain.

A judge that is wrong now and then gives evidence against honest labels too. How often is read off the other
sources: if peers would have 3 labels that look this bad and this source has 30, at most a tenth of them are
the judge's mistakes. That share is the Benjamini-Hochberg adjusted conformal p-value of the label among its
source's labels, with the other sources as the calibration set (Bates, Candès, Lei, Romano, Sesia, "Testing
for outliers with conformal p-values", Annals of Statistics 2023). ``score`` is one minus it: a score of at
least .80 means that no more than about a fifth of what is found at this strength is expected to be honest.
Errors that are equally common in every source score low.

>>> findings = find(tests)                                              # doctest: +SKIP
>>> findings.head(10)[["image_id", "kind", "score", "reason"]]          # doctest: +SKIP
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from secpipeline.datasets.tables import CORNERS
from secpipeline.poisoning.pairs import Floats

FINDING_COLUMNS = (
    "image_id",
    "box_id",
    "kind",
    "score",
    "evidence",
    *CORNERS,
    *(f"p{c}" for c in CORNERS),
    "reason",
)


def find(tests: pd.DataFrame, min_evidence: float = 0.3) -> pd.DataFrame:
    """Compare each test with those of other sources and list the ones that speak against a label.

    Parameters
    ----------
    tests
        From :func:`secpipeline.poisoning.label_scores.score_labels` and, concatenated,
        :func:`secpipeline.poisoning.cleanlab_scores.score_images`.
    min_evidence
        Tests with less are not listed, though they count as exposure.

    Returns
    -------
    DataFrame
        Strongest first, with the columns ``FINDING_COLUMNS``: image_id; box_id ("" where no label is
        concerned); kind; score in [0, 1], 0 if there is no other source to compare with; evidence in [0, 1];
        x1 … y2 of the label and px1 … py2 of the prediction in pixels (NaN where there is none); reason.
    """
    if tests.empty:
        return pd.DataFrame({column: pd.Series(dtype="object") for column in FINDING_COLUMNS})
    honest_share = np.ones(len(tests))
    for _, rows in tests.reset_index(drop=True).groupby("kind"):
        honest_share[rows.index] = _honest_share(rows)
    table = tests.assign(score=1 - honest_share)
    table = table[table["evidence"] >= min_evidence]
    table = table.sort_values(["score", "evidence", "image_id", "box_id"], ascending=[False, False, True, True])
    alone = tests["source"].nunique() < 2
    table["reason"] = [
        detail + ("; no other source to compare with" if alone else f"; peers explain {1 - score:.0%} of {source}'s")
        for detail, score, source in zip(table["detail"], table["score"], table["source"], strict=True)
    ]
    return table[list(FINDING_COLUMNS)].reset_index(drop=True)


def _honest_share(rows: pd.DataFrame) -> Floats:
    """Expected over observed count of tests at least this strong, per test of one kind; 1 without peers."""
    evidence = rows["evidence"].to_numpy(dtype="float64")
    source = rows["source"].to_numpy()
    share = np.ones(len(rows))
    for name in pd.unique(source):
        own = source == name
        if not own.all():
            share[own] = _adjusted_p_values(evidence[own], np.sort(evidence[~own]))
    return share


def _adjusted_p_values(own: Floats, peers: Floats) -> Floats:
    """Benjamini-Hochberg adjusted conformal p-values of ``own`` among ``peers`` (sorted upwards)."""
    p = (1 + len(peers) - np.searchsorted(peers, own, side="left")) / (1 + len(peers))
    weakest_first = np.argsort(own, kind="stable")
    as_strong = len(own) - np.searchsorted(np.sort(own), own[weakest_first], side="left")
    share = np.minimum.accumulate(p[weakest_first] * len(own) / as_strong)
    adjusted = np.empty(len(own))
    adjusted[weakest_first] = share.clip(max=1.0)
    return adjusted
