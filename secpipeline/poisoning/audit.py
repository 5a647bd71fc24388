"""The label audit as a whole: tests, findings and the comparison of sources.

>>> from secpipeline.poisoning.audit import audit_labels
>>> audit = audit_labels(images, boxes, out_of_fold_predictions, seed=23)   # doctest: +SKIP
>>> audit.findings.head(), audit.attribution.reasons()                      # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from secpipeline.datasets.tables import CORNERS
from secpipeline.poisoning.attribution import Attribution, AttributionRule, attribute
from secpipeline.poisoning.canaries import Canaries, canary_evidence
from secpipeline.poisoning.cleanlab_scores import Collected, score_images
from secpipeline.poisoning.error_model import ErrorModel, count_evidence
from secpipeline.poisoning.findings import find
from secpipeline.poisoning.label_scores import MIN_EVIDENCE, Learned, Tally, score_labels
from secpipeline.poisoning.pairs import match_one_to_one
from secpipeline.poisoning.parts import MemoryParts, Part, Parts

_COMPARED = ["kind", "image_id", "source", "scene", "evidence", *CORNERS, *(f"p{c}" for c in CORNERS)]


@dataclass(frozen=True)
class LabelAudit:
    """What an audit found.

    Attributes
    ----------
    findings
        Strongest first; see :func:`secpipeline.poisoning.findings.find`.
    attribution
        Which sources stand out.
    seen
        By kind, the share of canaries with evidence enough to become a finding: what part of such errors the judges
        can see at all.
    tests
        What sources were compared by, for :func:`secpipeline.poisoning.yardsticks.mark`.
    """

    findings: pd.DataFrame
    attribution: Attribution
    seen: Mapping[str, float]
    tests: pd.DataFrame


def audit_labels(
    images: pd.DataFrame,
    boxes: pd.DataFrame,
    predictions: pd.DataFrame,
    rule: AttributionRule | None = None,
    seed: int = 0,
) -> LabelAudit:
    """Audit every label of a release.

    Parameters
    ----------
    images, boxes
        The release's tables; boxes in the same pixels as the predictions.
    predictions
        Out-of-fold: no image was judged by a detector that trained on its source
        (:func:`secpipeline.poisoning.folds.assign_folds`). With a column ``judge`` if there are several a fold.
    rule
        When a source is named.
    seed
        Of the canaries.

    Raises
    ------
    InputError
        If the tables do not fit each other; see :func:`secpipeline.poisoning.pairs.judge`.
    """
    return audit_parts(MemoryParts([Part(images, boxes, predictions)]), rule, seed)


def audit_parts(parts: Parts, rule: AttributionRule | None = None, seed: int = 0) -> LabelAudit:
    """Audit a release part by part, in two passes; the result does not depend on how it is cut.

    Parameters
    ----------
    parts
        Every image in exactly one part.
    rule, seed
        As for :func:`audit_labels`.

    Raises
    ------
    InputError
        As :func:`audit_labels`.
    """
    judges = parts.judges
    tallies, collected = [], []
    for part in parts:
        judged = part.judged(judges)
        tallies.append(Tally.of(judged, match_one_to_one(judged)))
        collected.append(Collected.of(judged))
    tally, whole = Tally.total(tallies), Collected.total(collected)
    learned, canaries = Learned.of(tally), Canaries.for_labels(tally.labels)
    strong, compared, counts, planted = [], [], [], []
    for part in parts:
        judged = part.judged(judges)
        tests = pd.concat([score_labels(judged, learned), score_images(judged, whole)], ignore_index=True)
        strong.append(tests[tests["evidence"] >= MIN_EVIDENCE])
        compared.append(tests[_COMPARED])
        counts.append(count_evidence(tests))
        planted.append(canary_evidence(judged, learned, canaries, seed))
    evidence = pd.concat(planted, ignore_index=True)
    cells = pd.concat(counts)
    model = ErrorModel.fit(
        cells.groupby(level=list(range(cells.index.nlevels))).sum(), count_evidence(evidence[evidence["found"]])
    )
    seen = (evidence["evidence"] >= MIN_EVIDENCE).groupby(evidence["kind"]).mean()
    comparable = pd.concat(compared, ignore_index=True)
    compared.clear()  # the largest tables there are, not needed twice
    return LabelAudit(
        find(pd.concat(strong, ignore_index=True), model),
        attribute(comparable, rule),
        {str(kind): float(share) for kind, share in seen.items()},
        comparable,
    )
