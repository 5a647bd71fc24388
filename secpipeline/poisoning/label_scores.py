"""Evidence against single labels, from one-to-one matching with out-of-fold predictions.

Every label and every prediction is one *test* with evidence in [0, 1]:

- ``missing``: the confidence of a prediction that no label answers × (1 − overlap with the nearest label);
- ``ghost``: how surely labels of this size are found in other sources × how little supports this one;
- ``location``: the confidence of the matched prediction × (1 − overlap with it).

Confidence is the calibrated one of :mod:`secpipeline.poisoning.confidence`, so it means the same for any
judge.

Tests without evidence stay in the table: they are the exposure against which a source's errors are counted.

>>> tests = score_labels(judge(images, boxes, predictions))             # doctest: +SKIP
>>> tests.groupby("kind")["evidence"].max()                             # doctest: +SKIP
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from secpipeline.datasets.tables import CORNERS
from secpipeline.poisoning.confidence import calibrated_confidence
from secpipeline.poisoning.pairs import (
    Floats,
    Ints,
    Judged,
    corners,
    match_one_to_one,
    overlap,
    same_image,
)

TEST_COLUMNS = (
    "kind",
    "image_id",
    "source",
    "scene",
    "box_id",
    "evidence",
    *CORNERS,
    *(f"p{c}" for c in CORNERS),
    "detail",
)
LABEL_KINDS = ("missing", "ghost", "location")

# Predictions below this confidence do not say that somebody is there, so they are not exposed to the test.
_STATED = 0.3
_HEIGHT_BINS = 8
_CROWDED_IOU = 0.2


def score_labels(judged: Judged) -> pd.DataFrame:
    """Test every label and every prediction that says something.

    Parameters
    ----------
    judged
        From :func:`secpipeline.poisoning.pairs.judge`; the predictions must come from judges that never
        trained on the source of the image (:mod:`secpipeline.poisoning.folds`).

    Returns
    -------
    DataFrame
        One row per test with the columns ``TEST_COLUMNS``: kind; image_id, source, scene; box_id ("" for
        missing); evidence in [0, 1]; x1 … y2 of the label and px1 … py2 of the prediction in pixels (NaN
        where there is none); detail, the numbers behind the evidence in words ("" where there is no
        evidence).
    """
    matched = match_one_to_one(judged)
    confidence = calibrated_confidence(judged, matched)
    parts = [kind(judged, matched, confidence) for kind in (_missing, _ghost, _location)]
    return pd.concat(parts, ignore_index=True)


def _missing(judged: Judged, matched: Ints, confidence: Floats) -> pd.DataFrame:
    predictions = judged.predictions
    nearest = np.zeros(len(predictions))
    np.maximum.at(nearest, judged.prediction, judged.iou)
    answered = np.zeros(len(predictions), dtype=bool)
    answered[judged.prediction[matched]] = True
    evidence = np.where(answered, 0.0, confidence * (1 - nearest))
    detail = [
        f"a judge that never saw this source is {c:.2f} sure of a person here (nearest label: IoU {n:.2f})" if e else ""
        for e, c, n in zip(evidence, confidence, nearest, strict=True)
    ]
    table = _tests("missing", judged, predictions["image"].to_numpy(), evidence, detail)
    table[[f"p{c}" for c in CORNERS]] = corners(predictions)
    return table[confidence >= _STATED]


def _ghost(judged: Judged, matched: Ints, confidence: Floats) -> pd.DataFrame:
    support = np.zeros(len(judged.labels))
    support[judged.label[matched]] = confidence[judged.prediction[matched]]
    usual = _usual_support(judged, support)
    evidence = usual * (1 - support)
    detail = [
        f"elsewhere labels of this size are found with confidence {u:.2f} on average, this one with {s:.2f}"
        for u, s in zip(usual, support, strict=True)
    ]
    return _label_tests("ghost", judged, evidence, detail)


def _location(judged: Judged, matched: Ints, confidence: Floats) -> pd.DataFrame:
    labels, predictions = judged.label[matched], judged.prediction[matched]
    support, iou = np.zeros(len(judged.labels)), np.ones(len(judged.labels))
    support[labels] = confidence[predictions]
    iou[labels] = judged.iou[matched]
    detail = [
        f"the judge's box (confidence {s:.2f}) overlaps this label by only {u:.2f}" if s else ""
        for s, u in zip(support, iou, strict=True)
    ]
    table = _label_tests("location", judged, support * (1 - iou), detail)
    detected = np.full((len(judged.labels), 4), np.nan)
    detected[labels] = corners(judged.predictions)[predictions]
    table[[f"p{c}" for c in CORNERS]] = detected
    return table


def _usual_support(judged: Judged, support: Floats) -> Floats:
    """The mean support of labels alike (height, crowding) in the other sources, per label.

    The recorded visibility is not used: whoever plants a ghost also writes its visibility.
    """
    height = corners(judged.labels)[:, 3] - corners(judged.labels)[:, 1]
    edges = np.quantile(height, np.linspace(0, 1, _HEIGHT_BINS + 1)[1:-1]) if len(height) else np.zeros(0)
    stratum = np.digitize(height, edges) * 2 + _crowded(judged)
    source_of_image, _ = pd.factorize(judged.images["source"])
    source = source_of_image[judged.labels["image"].to_numpy(dtype="int64")]
    shape = (int(source_of_image.max(initial=0)) + 1, 2 * _HEIGHT_BINS)
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (source, stratum), support)
    np.add.at(count, (source, stratum), 1)
    others, seen = total.sum(axis=0) - total, count.sum(axis=0) - count
    # One more label without support: a stratum nobody else has is evidence of nothing.
    usual: Floats = (others / (seen + 1))[source, stratum]
    return usual


def _crowded(judged: Judged) -> Ints:
    """1 where another label overlaps so much that a detector may rightly report one of the two."""
    image = judged.labels["image"].to_numpy(dtype="int64")
    a, b = same_image(image, image, len(judged.images))
    xyxy = corners(judged.labels)
    close = (a != b) & (overlap(xyxy[a], xyxy[b]) > _CROWDED_IOU)
    crowded = np.zeros(len(image), dtype=np.int64)
    crowded[a[close]] = 1
    return crowded


def _label_tests(kind: str, judged: Judged, evidence: Floats, detail: list[str]) -> pd.DataFrame:
    table = _tests(kind, judged, judged.labels["image"].to_numpy(), evidence, detail)
    table["box_id"] = judged.labels["box_id"].to_numpy()
    table[list(CORNERS)] = corners(judged.labels)
    return table


def _tests(kind: str, judged: Judged, image: Ints, evidence: Floats, detail: list[str]) -> pd.DataFrame:
    table = judged.images.iloc[image].reset_index(drop=True)
    table["kind"], table["box_id"], table["evidence"], table["detail"] = kind, "", evidence, detail
    for column in (*CORNERS, *(f"p{c}" for c in CORNERS)):
        table[column] = np.nan
    return table[list(TEST_COLUMNS)]
