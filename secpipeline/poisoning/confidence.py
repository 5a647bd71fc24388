"""What the judges' scores are worth: the probability that a label answers a prediction.

Detectors differ in how high they score, so thresholds on raw scores fit one of them only. Platt scaling
("Probabilistic outputs for support vector machines", 1999) with its smoothed targets puts every judge on one
scale and keeps the order. With several judges their log odds are stacked (Wolpert, "Stacked generalization", 1992):
one logistic regression weighs them all, none of them negatively.

The fit reads nothing but counts of rounded scores, so it is the same however a release is cut into parts.

>>> confidence = calibrated_confidence(judged, match_one_to_one(judged))          # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit, logit

from secpipeline.poisoning.fusion import OWN_SCORE
from secpipeline.poisoning.pairs import Bools, Floats, Ints, Judged

_ANSWERED_IOU = 0.5
# A judge that saw nothing, or hardly anything, is taken to have scored this.
_FLOOR = 0.01
_LEVELS_A_LOG_ODD = 8
_LEVELS = 128


@dataclass(frozen=True)
class Calibration:
    """A logistic regression of "a label answers it" on the judges' log odds.

    Attributes
    ----------
    weights
        One a judge, at least 0.
    bias
        Added to the weighted log odds.
    """

    weights: tuple[float, ...]
    bias: float

    def confidence(self, scores: Floats) -> Floats:
        """Probability that a label answers each prediction, (n,) in (0, 1), of scores (n, judges)."""
        probability: Floats = expit(_log_odds(scores) @ np.array(self.weights) + self.bias)
        return probability


def own_scores(predictions: pd.DataFrame) -> Floats:
    """The judges' own scores, float64, shape (n, judges)."""
    columns = [column for column in predictions.columns if str(column).startswith(OWN_SCORE)]
    return predictions[columns or ["score"]].to_numpy(dtype="float64")


def answered(judged: Judged, matched: Ints) -> Bools:
    """Whether a label answers each prediction: matched to it and overlapping by at least .5."""
    found = np.zeros(len(judged.predictions), dtype=bool)
    found[judged.prediction[matched[judged.iou[matched] >= _ANSWERED_IOU]]] = True
    return found


def score_codes(scores: Floats) -> Ints:
    """Scores (n, judges) rounded to eighths of a log odd and packed into one number a row."""
    levels = np.rint(_log_odds(scores) * _LEVELS_A_LOG_ODD).astype(np.int64) + _LEVELS // 2
    codes: Ints = np.asarray(np.ravel_multi_index(tuple(levels.T), (_LEVELS,) * scores.shape[1]), dtype=np.int64)
    return codes


def decoded(codes: Ints, judges: int) -> Floats:
    """The rounded scores (n, judges) behind codes."""
    levels = np.stack(np.unravel_index(codes, (_LEVELS,) * judges), axis=1)
    scores: Floats = expit((levels - _LEVELS // 2) / _LEVELS_A_LOG_ODD)
    return scores


def calibrate(scores: Floats, yes: Ints, no: Ints) -> Calibration:
    """Fit from counts.

    Parameters
    ----------
    scores
        (n, judges), each in [0, 1].
    yes, no
        How many predictions of those scores were answered and were not, shape (n,).
    """
    x = _log_odds(scores)
    total = int(yes.sum()), int(no.sum())
    high, low = (total[0] + 1) / (total[0] + 2), 1 / (total[1] + 2)
    count, hits = (yes + no).astype("float64"), yes * high + no * low

    def loss(parameters: Floats) -> tuple[float, Floats]:
        z = x @ parameters[:-1] + parameters[-1]
        error = count * expit(z) - hits
        cross_entropy = float((count * np.logaddexp(0, z) - hits * z).sum())
        return cross_entropy, np.append(error @ x, error.sum())

    start = np.append(np.full(x.shape[1], 1 / x.shape[1]), 0.0)
    bounds = [(0, None)] * x.shape[1] + [(None, None)]
    fit = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return Calibration(tuple(map(float, fit.x[:-1])), float(fit.x[-1]))


def calibrated_confidence(judged: Judged, matched: Ints) -> Floats:
    """Probability that a label answers each prediction, estimated from all labels of the release.

    Errors in the labels make the judge look a little less sure than it is, never more.

    Parameters
    ----------
    judged
        Labels and predictions.
    matched
        The one-to-one matching of :func:`secpipeline.poisoning.pairs.match_one_to_one`; a label answers a
        prediction if they are matched and overlap by at least .5.

    Returns
    -------
    ndarray
        float64 in (0, 1), one per row of ``judged.predictions``, never falling as a score rises.
    """
    scores, hit = own_scores(judged.predictions), answered(judged, matched)
    codes, row = np.unique(score_codes(scores), return_inverse=True)
    yes, no = (np.bincount(row[which], minlength=len(codes)) for which in (hit, ~hit))
    return calibrate(decoded(codes, scores.shape[1]), yes, no).confidence(scores)


def _log_odds(scores: Floats) -> Floats:
    odds: Floats = logit(scores.clip(_FLOOR, 1 - _FLOOR))
    return odds
