"""The label audit as a whole: tests, findings and the comparison of sources.

>>> from secpipeline.poisoning.audit import audit_labels
>>> audit = audit_labels(images, boxes, out_of_fold_predictions)        # doctest: +SKIP
>>> audit.findings.head(), audit.attribution.reasons()                  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from secpipeline.poisoning.attribution import Attribution, AttributionRule, attribute
from secpipeline.poisoning.cleanlab_scores import score_images
from secpipeline.poisoning.findings import find
from secpipeline.poisoning.label_scores import score_labels
from secpipeline.poisoning.pairs import judge


@dataclass(frozen=True)
class LabelAudit:
    """Findings, strongest first, and which sources stand out."""

    findings: pd.DataFrame
    attribution: Attribution


def audit_labels(
    images: pd.DataFrame, boxes: pd.DataFrame, predictions: pd.DataFrame, rule: AttributionRule | None = None
) -> LabelAudit:
    """Audit every label of a release.

    Parameters
    ----------
    images, boxes
        The release's tables; boxes in the same pixels as the predictions.
    predictions
        Out-of-fold: no image was judged by a detector that trained on its source
        (:func:`secpipeline.poisoning.folds.assign_folds`).
    rule
        When a source is named.

    Raises
    ------
    InputError
        If the tables do not fit each other; see :func:`secpipeline.poisoning.pairs.judge`.
    """
    judged = judge(images, boxes, predictions)
    tests = pd.concat([score_labels(judged), score_images(judged)], ignore_index=True)
    return LabelAudit(find(tests), attribute(tests, rule))
