"""Findings: the tests that speak against a label, and how probably they are right.

``score`` comes from canaries and the comparison of sources (:mod:`secpipeline.poisoning.error_model`): of what one
source has at a score of at least s, no more than a share of about 1 − s is expected to be honest. cleanlab's opinions
are about whole images and are listed without a score (0).

>>> findings = find(tests, model)                                       # doctest: +SKIP
>>> findings.head(10)[["image_id", "kind", "score", "reason"]]          # doctest: +SKIP
"""

from __future__ import annotations

import pandas as pd

from secpipeline.datasets.tables import CORNERS
from secpipeline.poisoning.error_model import ErrorModel
from secpipeline.poisoning.label_scores import LABEL_KINDS, MIN_EVIDENCE

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


def find(tests: pd.DataFrame, model: ErrorModel, min_evidence: float = MIN_EVIDENCE) -> pd.DataFrame:
    """List the tests that speak against a label.

    Parameters
    ----------
    tests
        From :func:`secpipeline.poisoning.label_scores.score_labels` and, concatenated,
        :func:`secpipeline.poisoning.cleanlab_scores.score_images`.
    model
        What evidence is worth in this release.
    min_evidence
        Tests with less are not listed.

    Returns
    -------
    DataFrame
        Strongest first, with the columns ``FINDING_COLUMNS``: image_id; box_id ("" where no label is
        concerned); kind; score in [0, 1]; evidence in [0, 1]; x1 … y2 of the label and px1 … py2 of the
        prediction in pixels (NaN where there is none); reason.
    """
    if tests.empty:
        return pd.DataFrame({column: pd.Series(dtype="object") for column in FINDING_COLUMNS})
    kept = tests[tests["evidence"] >= min_evidence]
    table = kept.assign(score=model.probability(kept), odds=model.statistic(kept))
    order = ["score", "odds", "evidence", "image_id", "box_id"]
    table = table.sort_values(order, ascending=[False, False, False, True, True])
    told = table["kind"].isin(LABEL_KINDS)
    words = [
        f"{detail}; peers explain {1 - score:.0%} of {source}'s" if scored else detail
        for detail, score, source, scored in zip(table["detail"], table["score"], table["source"], told, strict=True)
    ]
    return table.assign(reason=words)[list(FINDING_COLUMNS)].reset_index(drop=True)
