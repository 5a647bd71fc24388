"""Canaries: label errors planted into copies of the labels, to see what evidence real ones would leave.

Only the copies are spoiled, never the labels or the images, and no judge is trained again: the judges of an image
never saw its labels, so they would have predicted the same. Labels are removed, shifted, or added where nobody is
(the box of a labelled person, moved sideways on the same ground). Which, and how, follows from a keyed hash of the
box's name, so parts of a release get the canaries that the whole would.

>>> evidence = canary_evidence(judged, learned, Canaries.for_labels(9600), seed=23)                # doctest: +SKIP
>>> evidence.groupby("kind")["found"].mean()                                                     # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from secpipeline.datasets.geometry import overlap
from secpipeline.datasets.tables import CORNERS
from secpipeline.poisoning.label_scores import Evidence, Learned, strength, weigh
from secpipeline.poisoning.pairs import Bools, Floats, Ints, Judged, corners, match_one_to_one, same_image

_WANTED = 1500
_MAX_SHARE = 0.04
_MAX_COPIES = 4
_ATTEMPTS = 6
_APART = 0.05
_SAME_PERSON = 0.5
# How far a label is shifted, in its own widths and heights, and how much it is scaled.
_ASIDE, _UP, _SCALE = (0.25, 0.8), (0.0, 0.35), (0.85, 1.18)


@dataclass(frozen=True)
class Canaries:
    """How many canaries.

    Attributes
    ----------
    share
        Share of the labels that becomes a canary of each kind in each copy.
    copies
        Copies of the labels.
    """

    share: float
    copies: int

    @classmethod
    def for_labels(cls, labels: int) -> Canaries:
        """About 1500 of each kind where there are labels enough, few enough in a copy not to meet each other."""
        share = min(_MAX_SHARE, _WANTED / max(labels, 1))
        return cls(share, int(np.clip(np.ceil(_WANTED / max(share * labels, 1)), 1, _MAX_COPIES)))


def canary_evidence(judged: Judged, learned: Learned, canaries: Canaries, seed: int) -> pd.DataFrame:
    """Plant canaries and weigh them.

    Parameters
    ----------
    judged
        Some or all images of a release.
    learned
        What the whole release teaches.
    canaries
        How many; from the number of labels of the whole release.
    seed
        Another seed, other victims.

    Returns
    -------
    DataFrame
        One row a canary: kind (missing, ghost, location); source; stratum; evidence and strength in [0, 1]; found,
        whether there is a test of that kind about it at all: no judge may see a person whose label was removed.
    """
    parts = [_one_copy(judged, learned, canaries.share, seed * _MAX_COPIES + copy) for copy in range(canaries.copies)]
    return pd.concat(parts, ignore_index=True)


def _one_copy(judged: Judged, learned: Learned, share: float, key: int) -> pd.DataFrame:
    labels = judged.labels
    chance = _uniforms(labels, key, 4 + _ATTEMPTS)
    fate = np.floor(chance[:, 0] / share).astype(np.int64)
    gone, moved, anchor = (np.flatnonzero(fate == kind) for kind in range(3))
    image = labels["image"].to_numpy(dtype="int64")
    boxes = corners(labels).copy()
    removed, removed_image = boxes[gone], image[gone]
    boxes[moved] = _shifted(boxes[moved], chance[moved, 1:4])
    ghosts, settled = _elsewhere(judged, anchor, chance[anchor, 4:], learned.extents)
    kept = np.setdiff1d(np.arange(len(labels)), gone)
    rows = np.concatenate([kept, anchor[settled]])
    placed = np.concatenate([boxes[kept], ghosts])
    kind = np.concatenate([np.isin(kept, moved).astype(np.int64), np.full(len(ghosts), 2)])
    order = np.argsort(image[rows], kind="stable")
    altered = _relabelled(judged, labels.iloc[rows[order]], placed[order])
    evidence = weigh(altered, match_one_to_one(altered), learned)
    is_moved, is_ghost = (np.flatnonzero(kind[order] == number) for number in (1, 2))
    return pd.concat(
        [
            _missing_canaries(altered, evidence, removed, removed_image),
            _label_canaries("location", altered, evidence.location, evidence, is_moved),
            _label_canaries("ghost", altered, evidence.ghost, evidence, is_ghost),
        ]
    )


def _relabelled(judged: Judged, labels: pd.DataFrame, boxes: Floats) -> Judged:
    """The same images and predictions with other labels (sorted by image)."""
    labels = labels.reset_index(drop=True).assign(**{c: boxes[:, n] for n, c in enumerate(CORNERS)})
    label, prediction = same_image(
        labels["image"].to_numpy(), judged.predictions["image"].to_numpy(), len(judged.images)
    )
    iou = overlap(boxes[label], corners(judged.predictions)[prediction])
    return dataclasses.replace(judged, labels=labels, label=label, prediction=prediction, iou=iou)


def _shifted(boxes: Floats, chance: Floats) -> Floats:
    size = boxes[:, 2:] - boxes[:, :2]
    toward = np.where(chance[:, :2] < 0.5, -1, 1)
    amount = np.abs(chance[:, :2] * 2 - 1)
    low, high = np.array([_ASIDE[0], _UP[0]]), np.array([_ASIDE[1], _UP[1]])
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + toward * (low + amount * (high - low)) * size
    half = size / 2 * (_SCALE[0] + chance[:, 2:3] * (_SCALE[1] - _SCALE[0]))
    return np.concatenate([centre - half, centre + half], axis=1)


def _elsewhere(judged: Judged, anchor: Ints, chance: Floats, extents: pd.DataFrame) -> tuple[Floats, Bools]:
    """The anchors' boxes moved sideways to where no label is, and which of them found a place."""
    image = judged.labels["image"].to_numpy(dtype="int64")
    everyone = corners(judged.labels)
    boxes = everyone[anchor]
    sources = judged.images["source"].astype(str).to_numpy()[image[anchor]]
    bounds = extents.reindex(sources).to_numpy(dtype="float64")
    width = boxes[:, 2] - boxes[:, 0]
    settled = np.zeros(len(anchor), dtype=bool)
    here, other = same_image(image[anchor], image, len(judged.images))
    for attempt in range(_ATTEMPTS):
        left = bounds[:, 0] + chance[:, attempt] * (bounds[:, 1] - width - bounds[:, 0])
        tried = np.stack([left, boxes[:, 1], left + width, boxes[:, 3]], axis=1)
        meets = overlap(tried[here], everyone[other]) > _APART
        free = ~settled
        free[here[meets]] = False
        boxes[free] = tried[free]
        settled |= free
    return boxes[settled], settled


def _missing_canaries(altered: Judged, of: Evidence, removed: Floats, image: Ints) -> pd.DataFrame:
    """For each removed label the strongest test about a prediction that overlaps it by at least .5."""
    a, b = same_image(image, altered.predictions["image"].to_numpy(), len(altered.images))
    there = overlap(removed[a], corners(altered.predictions)[b]) >= _SAME_PERSON
    a, b = a[there], b[there]
    strongest_last = np.argsort(of.missing[b], kind="stable")
    best = np.full(len(removed), -1, dtype=np.int64)
    best[a[strongest_last]] = b[strongest_last]
    seen = (best >= 0) & (of.missing[best] > 0) if len(of.missing) else np.zeros(len(removed), dtype=bool)
    evidence, stratum = np.zeros(len(removed)), np.zeros(len(removed), dtype=np.int64)
    evidence[seen], stratum[seen] = of.missing[best[seen]], of.prediction_stratum[best[seen]]
    return _canary_rows("missing", altered, image).assign(
        stratum=stratum, evidence=evidence, strength=evidence, found=seen
    )


def _label_canaries(kind: str, altered: Judged, evidence: Floats, of: Evidence, rows: Ints) -> pd.DataFrame:
    image = altered.labels["image"].to_numpy(dtype="int64")[rows]
    return _canary_rows(kind, altered, image).assign(
        stratum=of.label_stratum[rows], evidence=evidence[rows], strength=strength(kind, of)[rows], found=True
    )


def _canary_rows(kind: str, altered: Judged, image: Ints) -> pd.DataFrame:
    return pd.DataFrame({"kind": kind, "source": altered.images["source"].astype(str).to_numpy()[image]})


def _uniforms(labels: pd.DataFrame, key: int, count: int) -> Floats:
    """Independent uniform numbers in [0, 1) for each label, from its name and the key (SplitMix64)."""
    names = labels[["image_id", "box_id"]].astype(str)
    base = pd.util.hash_pandas_object(names, index=False).to_numpy(dtype="uint64")
    stream = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(count * key)
    state: NDArray[np.uint64] = base[:, None] + stream * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    uniforms: Floats = (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniforms
