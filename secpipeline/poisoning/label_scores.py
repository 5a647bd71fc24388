"""Evidence against single labels, from one-to-one matching with out-of-fold predictions.

Every label and every prediction is one *test* with evidence in [0, 1]:

- ``missing``: the confidence of a prediction that no label answers × (1 − overlap with the nearest label);
- ``ghost``: how surely labels of this size are found in other sources × how little supports this one;
- ``location``: the confidence of the matched prediction × (1 − overlap with it).

Confidence is the calibrated one of :mod:`secpipeline.poisoning.confidence`, so it means the same for any
judge. Evidence is not yet a probability: :mod:`secpipeline.poisoning.error_model` makes it one.

Tests without evidence stay in the table: they are the exposure against which a source's errors are counted.

What is learned from the whole release is learned from counts (:class:`Tally`), which parts of a release add up to
in any order, so scores do not depend on how it is cut.

>>> tests = score_labels(judge(images, boxes, predictions))             # doctest: +SKIP
>>> tests.groupby("kind")["evidence"].max()                             # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from secpipeline.datasets.geometry import overlap
from secpipeline.datasets.tables import CORNERS
from secpipeline.poisoning.confidence import Calibration, answered, calibrate, decoded, own_scores, score_codes
from secpipeline.poisoning.pairs import (
    Bools,
    Floats,
    Ints,
    Judged,
    corners,
    match_one_to_one,
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
    "stratum",
    "strength",
)
LABEL_KINDS = ("missing", "ghost", "location")
# Tests with less evidence are exposure, no findings, and go without words.
MIN_EVIDENCE = 0.3
# Height in half octaves from 16 pixels up, times crowded or not.
STRATA = 20

# Predictions below this confidence do not say that somebody is there, so they are not exposed to the test.
_STATED = 0.3
_CROWDED_IOU = 0.2
_TOUCHING_IOU = 0.05


@dataclass(frozen=True)
class Tally:
    """Counts of one part of a release; those of two parts add up to those of both.

    Attributes
    ----------
    answers
        Predictions by code of their scores and whether a label answers them.
    supports
        Labels by source, stratum and code of the matched prediction's scores, -1 where nothing matches.
    extents
        Leftmost x1 and rightmost x2 in pixels of all labels and predictions, by source.
    judges
        How many scores a prediction has.
    """

    answers: pd.Series[int]
    supports: pd.Series[int]
    extents: pd.DataFrame
    judges: int

    @classmethod
    def of(cls, judged: Judged, matched: Ints) -> Tally:
        """Count one part."""
        scores = own_scores(judged.predictions)
        codes = score_codes(scores)
        answers = pd.DataFrame({"code": codes, "answered": answered(judged, matched)})
        support = np.full(len(judged.labels), -1, dtype=np.int64)
        support[judged.label[matched]] = codes[judged.prediction[matched]]
        labels = pd.DataFrame(
            {"source": _source(judged, judged.labels), "stratum": label_strata(judged), "code": support}
        )
        sides = [frame.assign(source=_source(judged, frame)) for frame in (judged.labels, judged.predictions)]
        extents = pd.concat([side[["source", "x1", "x2"]] for side in sides]).groupby("source")
        return cls(
            answers.groupby(["code", "answered"]).size(),
            labels.groupby(["source", "stratum", "code"]).size(),
            extents.agg({"x1": "min", "x2": "max"}).astype("float64"),
            scores.shape[1],
        )

    @classmethod
    def total(cls, tallies: Iterable[Tally]) -> Tally:
        """All parts together."""
        parts = list(tallies)
        answers = pd.concat([part.answers for part in parts])
        supports = pd.concat([part.supports for part in parts])
        extents = pd.concat([part.extents for part in parts])
        return cls(
            answers.groupby(level=[0, 1]).sum(),
            supports.groupby(level=[0, 1, 2]).sum(),
            extents.groupby(level=0).agg({"x1": "min", "x2": "max"}),
            parts[0].judges,
        )

    @property
    def labels(self) -> int:
        """How many labels were counted."""
        return int(self.supports.sum())


@dataclass(frozen=True)
class Learned:
    """What the whole release teaches about its judges.

    Attributes
    ----------
    calibration
        What their scores are worth.
    usual
        Mean support of labels in the other sources, by source and stratum.
    extents
        See :class:`Tally`.
    """

    calibration: Calibration
    usual: pd.Series[float]
    extents: pd.DataFrame

    @classmethod
    def of(cls, tally: Tally) -> Learned:
        """Learn from counts of the whole release."""
        table = tally.answers.unstack(fill_value=0).reindex(columns=[False, True], fill_value=0)
        scores = decoded(table.index.to_numpy(dtype="int64"), tally.judges)
        calibration = calibrate(scores, table[True].to_numpy(), table[False].to_numpy())
        return cls(calibration, _usual_support(tally, calibration), tally.extents)


def _usual_support(tally: Tally, calibration: Calibration) -> pd.Series[float]:
    """The mean support of labels alike (height, crowding) in the other sources.

    The recorded visibility is not used: whoever plants a ghost also writes its visibility.
    """
    cells = tally.supports.rename("count").reset_index()
    codes = cells["code"].to_numpy()
    support = np.zeros(len(cells))
    matched = codes >= 0
    support[matched] = calibration.confidence(decoded(codes[matched], tally.judges))
    cells["support"] = support * cells["count"]
    own = cells.groupby(["source", "stratum"])[["support", "count"]].sum()
    everyone = own.groupby(level="stratum").sum()
    others = everyone.reindex(own.index, level="stratum") - own
    # One more label without support: a stratum nobody else has is evidence of nothing.
    return (others["support"] / (others["count"] + 1)).clip(lower=0)


@dataclass(frozen=True)
class Evidence:
    """The numbers of all tests of some images, before they become a table.

    Attributes
    ----------
    confidence, nearest, missing, prediction_stratum
        By prediction: confidence; overlap with the nearest label; evidence; stratum.
    usual, support, iou, ghost, location, label_stratum
        By label: support that labels alike have; support and overlap of its matched prediction; evidence; stratum.
    found
        By label: the row of its matched prediction, -1 where there is none.
    """

    confidence: Floats
    nearest: Floats
    missing: Floats
    prediction_stratum: Ints
    usual: Floats
    support: Floats
    iou: Floats
    ghost: Floats
    location: Floats
    label_stratum: Ints
    found: Ints


def weigh(judged: Judged, matched: Ints, learned: Learned) -> Evidence:
    """Compute the evidence of every test."""
    confidence = learned.calibration.confidence(own_scores(judged.predictions))
    nearest = np.zeros(len(judged.predictions))
    np.maximum.at(nearest, judged.prediction, judged.iou)
    unanswered = np.ones(len(judged.predictions), dtype=bool)
    unanswered[judged.prediction[matched]] = False
    labels, predictions = judged.label[matched], judged.prediction[matched]
    found = np.full(len(judged.labels), -1, dtype=np.int64)
    found[labels] = predictions
    support, iou = np.zeros(len(found)), np.ones(len(found))
    support[labels], iou[labels] = confidence[predictions], judged.iou[matched]
    stratum = label_strata(judged)
    keys = pd.MultiIndex.from_arrays([_source(judged, judged.labels), stratum])
    usual: Floats = np.asarray(learned.usual.reindex(keys).fillna(0.0), dtype=np.float64)
    return Evidence(
        confidence=confidence,
        nearest=nearest,
        missing=np.where(unanswered, confidence * (1 - nearest), 0.0),
        prediction_stratum=_strata(corners(judged.predictions), nearest > _TOUCHING_IOU),
        usual=usual,
        support=support,
        iou=iou,
        ghost=usual * (1 - support),
        location=support * (1 - iou),
        label_stratum=stratum,
        found=found,
    )


def score_labels(judged: Judged, learned: Learned | None = None) -> pd.DataFrame:
    """Test every label and every prediction that says something.

    Parameters
    ----------
    judged
        From :func:`secpipeline.poisoning.pairs.judge`; the predictions must come from judges that never
        trained on the source of the image (:mod:`secpipeline.poisoning.folds`).
    learned
        What the whole release teaches, if these are only some of its images; learned from them by default.

    Returns
    -------
    DataFrame
        One row per test with the columns ``TEST_COLUMNS``: kind; image_id, source, scene; box_id ("" for
        missing); evidence in [0, 1]; x1 … y2 of the label and px1 … py2 of the prediction in pixels (NaN
        where there is none); detail, the numbers behind the evidence in words ("" below ``MIN_EVIDENCE``);
        stratum, in [0, ``STRATA``): labels or predictions of like height and crowding; strength in [0, 1], the
        evidence before it is weighed by what is usual in the stratum.
    """
    matched = match_one_to_one(judged)
    learned = learned or Learned.of(Tally.of(judged, matched))
    evidence = weigh(judged, matched, learned)
    parts = [kind(judged, evidence) for kind in (_missing, _ghost, _location)]
    return pd.concat(parts, ignore_index=True)


def strength(kind: str, of: Evidence) -> Floats:
    """Evidence of a kind, without the weight of what is usual in the stratum: that one follows from the stratum."""
    strengths = {"missing": of.missing, "ghost": 1 - of.support, "location": of.location}
    return strengths[kind]


def _missing(judged: Judged, of: Evidence) -> pd.DataFrame:
    stated = np.flatnonzero(of.confidence >= _STATED)
    numbers = zip(of.confidence[stated], of.nearest[stated], strict=True)
    detail = _in_words(
        of.missing[stated],
        numbers,
        lambda c, n: (
            f"judges that never saw this source are {c:.2f} sure of a person here (nearest label: IoU {n:.2f})"
        ),
    )
    predictions = judged.predictions.iloc[stated]
    table = _tests("missing", judged, predictions, of.missing[stated], detail)
    table = table.assign(stratum=of.prediction_stratum[stated], strength=strength("missing", of)[stated])
    return table.assign(**{f"p{c}": predictions[c].to_numpy(dtype="float64") for c in CORNERS})


def _ghost(judged: Judged, of: Evidence) -> pd.DataFrame:
    detail = _in_words(
        of.ghost,
        zip(of.usual, of.support, strict=True),
        lambda u, s: (
            f"elsewhere labels of this size are found with confidence {u:.2f} on average, this one with {s:.2f}"
        ),
    )
    return _label_tests("ghost", judged, of, of.ghost, detail)


def _location(judged: Judged, of: Evidence) -> pd.DataFrame:
    detail = _in_words(
        of.location,
        zip(of.support, of.iou, strict=True),
        lambda s, u: f"the judges' box (confidence {s:.2f}) overlaps this label by only {u:.2f}",
    )
    table = _label_tests("location", judged, of, of.location, detail)
    detected = np.full((len(of.found), 4), np.nan)
    seen = of.found >= 0
    detected[seen] = corners(judged.predictions)[of.found[seen]]
    return table.assign(**{f"p{c}": detected[:, n] for n, c in enumerate(CORNERS)})


def _in_words(evidence: Floats, numbers: Iterable[tuple[Any, Any]], words: Any) -> list[str]:
    """Words for the tests that may become findings; formatting all others would cost more than scoring them."""
    return [words(a, b) if e >= MIN_EVIDENCE else "" for e, (a, b) in zip(evidence, numbers, strict=True)]


def label_strata(judged: Judged) -> Ints:
    """The stratum of each label: height, and whether another label overlaps it so much that one may hide."""
    image = judged.labels["image"].to_numpy(dtype="int64")
    a, b = same_image(image, image, len(judged.images))
    xyxy = corners(judged.labels)
    close = (a != b) & (overlap(xyxy[a], xyxy[b]) > _CROWDED_IOU)
    crowded = np.zeros(len(image), dtype=bool)
    crowded[a[close]] = True
    return _strata(xyxy, crowded)


def _strata(xyxy: Floats, crowded: Bools) -> Ints:
    half_octaves = np.floor(2 * np.log2((xyxy[:, 3] - xyxy[:, 1]) / 16)).astype(np.int64)
    strata: Ints = half_octaves.clip(0, STRATA // 2 - 1) * 2 + crowded
    return strata


def _source(judged: Judged, rows: pd.DataFrame) -> Any:
    return judged.images["source"].astype(str).to_numpy()[rows["image"].to_numpy(dtype="int64")]


def _label_tests(kind: str, judged: Judged, of: Evidence, evidence: Floats, detail: list[str]) -> pd.DataFrame:
    table = _tests(kind, judged, judged.labels, evidence, detail)
    table["box_id"] = judged.labels["box_id"].to_numpy()
    table = table.assign(stratum=of.label_stratum, strength=strength(kind, of))
    return table.assign(**{c: judged.labels[c].to_numpy(dtype="float64") for c in CORNERS})


def _tests(kind: str, judged: Judged, rows: pd.DataFrame, evidence: Floats, detail: list[str]) -> pd.DataFrame:
    table = judged.images.iloc[rows["image"].to_numpy(dtype="int64")].reset_index(drop=True)
    unknown = dict.fromkeys((*CORNERS, *(f"p{c}" for c in CORNERS)), np.nan)
    return table.assign(
        kind=kind, box_id="", evidence=evidence, **unknown, detail=detail, stratum=0, strength=evidence
    )[list(TEST_COLUMNS)]
