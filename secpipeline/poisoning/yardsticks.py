"""Which tests speak of an error, by the source's own yardstick.

Judges find less of what is dark, small or blurred, so counting labels that they did not find names honest sources
whose pictures are harder. Here a source is measured against itself: a label is a *ghost* event if it is not found
at all though the source's own labels of its height are; a *location* event if the judges see somebody there but
place the box far worse than they usually do in this source; a *missing* event if the judges are as sure of an
unlabelled person as of the upper quarter of the labelled ones. Only *clear* labels, which no other label covers and
no edge of the image cuts, are asked about ghosts and places. What cannot be asked is no exposure, so a source whose
labels are hardly found is not named, and its detectable share says how little can be seen in it.

>>> marked = mark(tests)                                                # doctest: +SKIP
>>> marked.groupby(["kind", "source"])[["exposed", "event"]].sum()      # doctest: +SKIP
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from secpipeline.datasets.geometry import area, intersection, overlap
from secpipeline.datasets.tables import CORNERS
from secpipeline.poisoning.pairs import Bools, Floats, same_image

MARKED_COLUMNS = ("kind", "source", "scene", "exposed", "event", "mild", "telling")

_PREDICTED = tuple(f"p{corner}" for corner in CORNERS)
_COVERED = 0.1
_EDGE = 1.0
# Below this typical support the judges do not find such labels in this source, so one not found says nothing.
_FOUND = 0.2
_NOT_AT_ALL, _HARDLY = 0.03, 0.3
_FAR_OFF, _OFF = 0.5, 0.8
_SURE_SHARE, _SURE, _DOUBTFUL = 0.75, (0.5, 0.9), 0.3
# A label moved by half its width and .15 of its height is what a shift is taken to be.
_SHIFT = (0.5, 0.15)


def mark(tests: pd.DataFrame) -> pd.DataFrame:
    """Say of every test whether it was exposed to an error, and whether it speaks of one.

    Parameters
    ----------
    tests
        From :func:`secpipeline.poisoning.label_scores.score_labels`; kind, image_id, source, scene, evidence and the
        corners are read, rows of other kinds are left out.

    Returns
    -------
    DataFrame
        The rows of kind ghost, location and missing with their columns, and: exposed, event and mild (bool; mild
        tests are the judges' ordinary doubts, weaker than an event); telling, float in [0, 1]: whether an error
        planted on this label would be an event (NaN where the test has no label).
    """
    located = _labels(tests[tests["kind"] == "location"])
    missing = tests[tests["kind"] == "missing"].reset_index(drop=True)
    parts = [_ghost(located), _location(located), *_missing(missing, located)]
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def sure_level(support: pd.Series[float]) -> float:
    """The confidence of the upper quarter of the found labels, within reason."""
    found = support[support > 0]
    return float(np.clip(found.quantile(_SURE_SHARE) if len(found) else 1.0, *_SURE))


def _labels(rows: pd.DataFrame) -> pd.DataFrame:
    """Support, overlap and clearness of each label, and what is typical of its height in its source."""
    image, _ = pd.factorize(rows["image_id"])
    rows = rows.iloc[np.argsort(image, kind="stable")].reset_index(drop=True)
    label, predicted = rows[list(CORNERS)].to_numpy("float64"), rows[list(_PREDICTED)].to_numpy("float64")
    seen = np.isfinite(predicted).all(axis=1)
    iou = np.where(seen, overlap(label, np.where(seen[:, None], predicted, label)), 0.0)
    # The evidence of a location test is support × (1 − overlap); boxes that agree entirely are surely found.
    support = np.where(seen, rows["evidence"].to_numpy("float64") / np.maximum(1 - iou, 1e-9), 0.0)
    support = np.where(iou > 1 - 1e-9, 1.0, support)
    clear = ~_covered(label, np.sort(image)) & ~_at_edge(rows)
    octave = np.floor(2 * np.log2(np.maximum(label[:, 3] - label[:, 1], 1e-9) / 16)).clip(0)
    rows = rows.assign(support=support, iou=iou, seen=seen, clear=clear, octave=octave)
    like = [rows["source"], rows["octave"]]
    typical = rows["support"].where(rows["clear"]).groupby(like).transform("median").fillna(0.0)
    known = rows["clear"] & (typical >= _FOUND) & (rows["support"] >= _HARDLY * typical)
    usual = rows["iou"].where(known).groupby(like).transform("median").fillna(0.0)
    return rows.assign(typical=typical, usual=usual, exposed=rows["clear"] & (typical >= _FOUND), known=known)


def _covered(xyxy: Floats, image: np.ndarray) -> Bools:
    a, b = same_image(image, image, int(image.max(initial=-1)) + 1)
    a, b = a[a != b], b[a != b]
    covered = np.zeros(len(xyxy), dtype=bool)
    covered[a[intersection(xyxy[a], xyxy[b]) > _COVERED * area(xyxy[a])]] = True
    return covered


def _at_edge(rows: pd.DataFrame) -> Bools:
    """Labels that reach as far left, right or down as any of their source: the image's edge cuts people there."""
    by = rows.groupby("source")
    left = rows["x1"] <= by["x1"].transform("min") + _EDGE
    right = rows["x2"] >= by["x2"].transform("max") - _EDGE
    below = rows["y2"] >= by["y2"].transform("max") - _EDGE
    return (left | right | below).to_numpy(bool)


def _ghost(labels: pd.DataFrame) -> pd.DataFrame:
    lack = labels["support"] < _NOT_AT_ALL * labels["typical"]
    mild = labels["exposed"] & ~lack & (labels["support"] < _HARDLY * labels["typical"])
    telling = labels["exposed"].astype("float64")
    return labels.assign(kind="ghost", event=labels["exposed"] & lack, mild=mild, telling=telling)


def _location(labels: pd.DataFrame) -> pd.DataFrame:
    far = labels["known"] & (labels["iou"] < _FAR_OFF * labels["usual"])
    mild = labels["known"] & ~far & (labels["iou"] < _OFF * labels["usual"])
    return labels.assign(kind="location", event=far, mild=mild, telling=_shift_tells(labels))


def _shift_tells(labels: pd.DataFrame) -> Floats:
    """Whether moving the label aside would make it an event; the mean of moving it left and right."""
    label, predicted = labels[list(CORNERS)].to_numpy("float64"), labels[list(_PREDICTED)].to_numpy("float64")
    predicted = np.where(np.isfinite(predicted), predicted, label)
    width, height = label[:, 2] - label[:, 0], label[:, 3] - label[:, 1]
    told = np.zeros(len(labels))
    for side in (-1, 1):
        step = np.stack([side * _SHIFT[0] * width, _SHIFT[1] * height], axis=1)
        iou = overlap(label + np.tile(step, 2), predicted)
        told += ((iou >= 0.1) & (iou < _FAR_OFF * labels["usual"].to_numpy())) / 2
    return np.where(labels["known"], told, 0.0)


def _missing(rows: pd.DataFrame, labels: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tests themselves, and the labels that would be found missing if they were removed, as no exposure."""
    level = sure_level(labels["support"])
    evidence = rows["evidence"]
    tested = rows.assign(
        exposed=True,
        event=evidence >= level,
        mild=(evidence >= _DOUBTFUL) & (evidence < min(level, _SURE[0])),
        telling=np.nan,
    )
    removable = labels.assign(
        kind="missing", exposed=False, event=False, mild=False, telling=(labels["support"] >= level).astype("float64")
    )
    return tested, removable
