"""Do scores mean what they say? Of detections scored 0.8, are 80 % on a person?

Detection calibration as in Küppers et al., "Multivariate confidence calibration for object detection", CVPR workshops
2020, by score alone: the confidence of a detection is compared with the share of true positives among those like it.
Detections that :class:`secpipeline.detection.matching.Matches` ignores are left out, and missed people do not show:
calibration is about what was detected.

>>> import numpy as np
>>> two_thirds_right = Matches(np.arange(3), np.full(3, 0.9), np.array([1, 1, 0]), np.ones(3, int))
>>> round(calibration_error(two_thirds_right), 3), round(brier_score(two_thirds_right), 3)
(0.233, 0.277)
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from secpipeline.detection.assignment import Floats, Ints
from secpipeline.detection.matching import IGNORED, TRUE_POSITIVE, Matches
from secpipeline.detection.metrics import Counts
from secpipeline.errors import CannotDecide, InputError

BINS = 10


def calibration_error(matches: Matches, bins: int = BINS) -> float:
    """D-ECE: the gap between mean score and precision, in the mean over bins of equal width by their detections.

    In [0, 1]. Never 0 by chance, and larger on few detections even for a calibrated detector: see
    :func:`calibration_error_by_chance`.

    Raises
    ------
    InputError
        If there is no bin, or a score lies outside [0, 1].
    CannotDecide
        If there are no detections that count.
    """
    return _decided(resampled_calibration_error(matches, _once(matches), bins))


def brier_score(matches: Matches) -> float:
    """Mean squared difference between score and outcome (1 on a person, 0 on nobody), in [0, 1].

    Brier, "Verification of forecasts expressed in terms of probability", 1950. Rewards sharp scores as well as
    calibrated ones.

    Raises
    ------
    InputError, CannotDecide
        As :func:`calibration_error`.
    """
    return _decided(resampled_brier_score(matches, _once(matches)))


def resampled_calibration_error(matches: Matches, counts: Counts, bins: int = BINS) -> Floats:
    """:func:`calibration_error` of each of R resamples (R, N); NaN where a resample holds no detections."""
    detections, scores, true = (_weigh(counts, sums) for sums in _per_image(matches, bins))
    total = detections.sum(axis=1)
    gaps = np.abs(scores - true).sum(axis=1)
    return np.where(total > 0, gaps / np.maximum(total, 1), np.nan)


def resampled_brier_score(matches: Matches, counts: Counts) -> Floats:
    """:func:`brier_score` of each of R resamples (R, N); NaN where a resample holds no detections."""
    image, score, true = _counted(matches)
    images = len(matches.people)
    squares = np.bincount(image, (score - true) ** 2, minlength=images)
    detections = np.bincount(image, minlength=images)
    total = counts @ detections
    return np.where(total > 0, (counts @ squares) / np.maximum(total, 1), np.nan)


def calibration_error_by_chance(matches: Matches, repeats: int, seed: int, bins: int = BINS) -> float:
    """The calibration error that a detector with these very scores would show in the mean if it were calibrated.

    Outcomes are drawn with the scores as their probabilities (consistency resampling; Bröcker and Smith, "Increasing
    the reliability of reliability diagrams", 2007), independently, which errors of one image are not: a lower bound of
    what chance does.

    Raises
    ------
    InputError, CannotDecide
        As :func:`calibration_error`, and if ``repeats`` is not positive.
    """
    if repeats < 1:
        raise InputError(f"repeats: {repeats} is too few; give 1 or more")
    _, score, _ = _counted(matches)
    if len(score) == 0:
        raise CannotDecide("no detections that count: calibration is undefined")
    place = _bin(score, bins)
    outcomes = np.random.default_rng(seed).uniform(size=(repeats, len(score))) < score
    gaps = [np.abs(np.bincount(place, score - outcome, minlength=bins)).sum() for outcome in outcomes]
    return float(np.mean(gaps) / len(score))


def reliability(matches: Matches, counts: Counts, bins: int = BINS) -> pd.DataFrame:
    """The reliability diagram as a table, with 95 % intervals over resamples.

    Parameters
    ----------
    matches
        Of N images.
    counts
        (1 + R, N) of :func:`secpipeline.detection.bootstrap.draw`.
    bins
        Of equal width over [0, 1]; the last holds 1.

    Returns
    -------
    DataFrame
        One row a bin: low_score, high_score, detections, score (the mean), precision, precision_low, precision_high;
        NaN where a bin is empty.

    Raises
    ------
    InputError
        As :func:`calibration_error`.
    """
    detections, scores, true = (_weigh(counts, sums) for sums in _per_image(matches, bins))
    with np.errstate(invalid="ignore"):
        precision, score = true / detections, scores[0] / detections[0]
    low, high = np.full(bins, np.nan), np.full(bins, np.nan)
    for place in np.flatnonzero(detections[0] > 0):
        low[place], high[place] = np.nanpercentile(precision[:, place], (2.5, 97.5))
    edges = np.linspace(0, 1, bins + 1)
    return pd.DataFrame(
        {
            "low_score": edges[:-1],
            "high_score": edges[1:],
            "detections": detections[0].astype(np.int64),
            "score": score,
            "precision": precision[0],
            "precision_low": low,
            "precision_high": high,
        }
    )


def _counted(matches: Matches) -> tuple[Ints, Floats, Floats]:
    """Image, score and outcome of the detections that count."""
    if len(matches.score) and not (matches.score.min() >= 0 and matches.score.max() <= 1):
        raise InputError(
            f"scores from {matches.score.min():g} to {matches.score.max():g}: calibration needs shares in [0, 1]"
        )
    counted = matches.state != IGNORED
    true = (matches.state[counted] == TRUE_POSITIVE).astype(np.float64)
    return matches.image_index[counted], matches.score[counted], true


def _per_image(matches: Matches, bins: int) -> tuple[Floats, Floats, Floats]:
    """Detections, sums of scores and true positives of each image and bin (N, bins)."""
    image, score, true = _counted(matches)
    images = len(matches.people)
    place = image * bins + _bin(score, bins)

    def summed(weights: Floats) -> Floats:
        return np.bincount(place, weights, minlength=images * bins).astype(np.float64).reshape(images, bins)

    return summed(np.ones_like(score)), summed(score), summed(true)


def _bin(score: Floats, bins: int) -> Ints:
    if bins < 1:
        raise InputError(f"bins: {bins} is too few; give 1 or more")
    return np.minimum((score * bins).astype(np.int64), bins - 1)


def _weigh(counts: Counts, per_image: Floats) -> Floats:
    weighed: Floats = counts.astype(np.float64) @ per_image
    return weighed


def _once(matches: Matches) -> Counts:
    return np.ones((1, len(matches.people)), np.int32)


def _decided(values: Floats) -> float:
    if np.isnan(values[0]):
        raise CannotDecide("no detections that count: calibration is undefined")
    return float(values[0])
