"""What a judge's score is worth: the probability that a label answers a prediction of that score.

Detectors differ in how high they score, so thresholds on raw scores fit one of them only. Platt scaling
("Probabilistic outputs for support vector machines", 1999) with its smoothed targets puts every judge on one
scale and keeps the order.

>>> confidence = calibrated_confidence(judged, match_one_to_one(judged))          # doctest: +SKIP
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from secpipeline.poisoning.pairs import Floats, Ints, Judged

_ANSWERED_IOU = 0.5


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
        float64 in (0, 1), one per row of ``judged.predictions``, never falling as the score rises.
    """
    score = judged.predictions["score"].to_numpy(dtype="float64")
    answered = np.zeros(len(score), dtype=bool)
    answered[judged.prediction[matched][judged.iou[matched] >= _ANSWERED_IOU]] = True
    log_odds = logit(score.clip(1e-6, 1 - 1e-6))
    yes, no = int(answered.sum()), int((~answered).sum())
    target = np.where(answered, (yes + 1) / (yes + 2), 1 / (no + 2))

    def loss(parameters: Floats) -> tuple[float, Floats]:
        z = parameters[0] * log_odds + parameters[1]
        error = expit(z) - target
        cross_entropy = float((np.logaddexp(0, z) - target * z).sum())
        return cross_entropy, np.array([float((error * log_odds).sum()), float(error.sum())])

    fit = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)])
    confidence: Floats = expit(fit.x[0] * log_odds + fit.x[1])
    return confidence
