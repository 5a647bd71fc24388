"""What the robustness report has no room for, as a JSON object: the detector on clean images, and who it then loses.

``drawn``, ``resamples``, ``seed``, ``threshold``, ``subset``
    How it was measured. Scenes are drawn, so that intervals say how sure a number is of other scenes; those of the
    robustness report are over images. ``subset`` is whom calibration, exchanges and the rates at the threshold are
    about; sizes are in pixels of the detector's frame.
``why``
    Why nothing could be measured, as on fewer than five scenes; then ``clean`` and ``calibration`` are null, ``groups``
    and ``exchanges`` empty. Else null.
``clean``
    :func:`secpipeline.detection.evaluation.evaluate`.
``groups``
    The rows of :func:`secpipeline.detection.breakdown.breakdown`.
``calibration``
    ``detections`` that count, calibration ``error``, the ``error_by_chance`` of a calibrated detector with these
    scores, and the rows of the ``reliability`` table.
``exchanges``
    One entry an attack or control: ``condition``, ``kind``, the numbers of people ``found`` on the clean images,
    ``disappeared``, ``recovered`` and ``hallucinated``, and ``disappearance_rate`` and ``hallucination_rate``.

Measures are ``{"value", "low", "high", "why"}`` with 95 % intervals; where one cannot be decided the numbers are null
and ``why`` says why.

>>> report = evaluation_report(outcome.predictions, kinds, boxes, images, VISIBLE, 0.4, 500, seed=0)    # doctest: +SKIP
>>> report["exchanges"][1]["disappearance_rate"]["value"]                                             # doctest: +SKIP
0.31
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pandas as pd

from secpipeline.detection import calibration
from secpipeline.detection.assignment import Floats
from secpipeline.detection.bootstrap import draw, interval
from secpipeline.detection.breakdown import breakdown
from secpipeline.detection.evaluation import evaluate
from secpipeline.detection.exchanges import (
    disappearance_rate,
    exchanges,
    hallucination_rate,
    resampled_disappearance_rate,
    resampled_hallucination_rate,
)
from secpipeline.detection.matching import Matches, Subset, match
from secpipeline.detection.metrics import Counts
from secpipeline.errors import CannotDecide

CLEAN = "clean"
_SCENES = "scene"


def evaluation_report(
    predictions: Mapping[str, pd.DataFrame],
    kinds: Mapping[str, str],
    boxes: pd.DataFrame,
    images: pd.DataFrame,
    subset: Subset,
    threshold: float,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Evaluate a detector by what it predicted in a suite.

    Parameters
    ----------
    predictions
        By condition, :attr:`secpipeline.robustness.suite.SuiteOutcome.predictions`; ``clean`` is one of them.
    kinds
        The kind of each condition.
    boxes
        The people, in the detector's frame.
    images
        The N images: image_id, scene, time_of_day, source.
    subset
        Whom the suite is about.
    threshold
        The deployed score threshold.
    resamples, seed
        Of the bootstrap.

    Raises
    ------
    InputError
        If a table is unusable or ``resamples`` too few.
    """
    facts = {
        "drawn": _SCENES,
        "resamples": resamples,
        "seed": seed,
        "threshold": threshold,
        "subset": {"name": subset.name, "bounds": subset.bounds},
    }
    try:
        counts = draw(len(images), resamples, seed, images[_SCENES].tolist())
    except CannotDecide as error:
        return {**facts, "why": str(error), "clean": None, "groups": [], "calibration": None, "exchanges": []}
    ids = images["image_id"].tolist()
    clean = predictions[CLEAN]
    return {
        **facts,
        "why": None,
        "clean": evaluate(
            boxes, clean, images, threshold, subset=subset, resamples=resamples, seed=seed, clusters=_SCENES
        ),
        "groups": _rows(breakdown(boxes, clean, images, threshold, counts)),
        "calibration": _calibration(match(boxes, clean, ids, subset), counts, seed),
        "exchanges": [
            {
                "condition": name,
                "kind": kinds[name],
                **_exchanged(boxes, clean, changed, ids, threshold, subset, counts),
            }
            for name, changed in predictions.items()
            if name != CLEAN
        ],
    }


def _calibration(matches: Matches, counts: Counts, seed: int) -> dict[str, Any]:
    table = calibration.reliability(matches, counts)
    on_all, resampled = calibration.calibration_error, calibration.resampled_calibration_error
    error = _measure(partial(on_all, matches), partial(resampled, matches), counts)
    decided, repeats = error["value"] is not None, len(counts) - 1
    return {
        "detections": int(table["detections"].sum()),
        "error": error,
        "error_by_chance": calibration.calibration_error_by_chance(matches, repeats, seed) if decided else None,
        "reliability": _rows(table),
    }


def _exchanged(
    boxes: pd.DataFrame,
    clean: pd.DataFrame,
    changed: pd.DataFrame,
    image_ids: list[str],
    threshold: float,
    subset: Subset,
    counts: Counts,
) -> dict[str, Any]:
    seen = exchanges(boxes, clean, changed, image_ids, threshold, subset)
    return {
        "found": int(seen.found.sum()),
        "disappeared": int(seen.disappeared.sum()),
        "recovered": int(seen.recovered.sum()),
        "hallucinated": int(seen.hallucinated.sum()),
        "disappearance_rate": _measure(
            partial(disappearance_rate, seen), partial(resampled_disappearance_rate, seen), counts
        ),
        "hallucination_rate": _measure(
            partial(hallucination_rate, seen), partial(resampled_hallucination_rate, seen), counts
        ),
    }


def _measure(on_all: Callable[[], float], resampled: Callable[[Counts], Floats], counts: Counts) -> dict[str, Any]:
    """A measure with its interval, or why there is none."""
    try:
        on_all()  # says in the measure's own words why it is undefined
        return {**interval(resampled(counts)).to_json(), "why": None}
    except CannotDecide as error:
        return {"value": None, "low": None, "high": None, "why": str(error)}


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as JSON can hold them."""
    return [
        {str(name): None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]
