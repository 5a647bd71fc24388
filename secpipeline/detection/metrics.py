"""Average precision, log-average miss rate, and the two rates that matter on the street.

Each metric exists twice: for the images as they are (``average_precision``) and for many resamples of the
images at once (``resampled_average_precision``), which is what a bootstrap needs; the first is the second on
one resample that holds every image once.

>>> import numpy as np
>>> found_one_of_two = Matches(np.array([0]), np.array([0.9]), np.array([1]), np.array([2, 0]))
>>> miss_rate(found_one_of_two, threshold=0.5), false_positives_per_image(found_one_of_two, threshold=0.5)
(0.5, 0.0)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from secpipeline.detection.assignment import Floats, Ints
from secpipeline.detection.matching import (
    ALL,
    BARE,
    COCO_IOUS,
    EVERYBODY,
    FALSE_POSITIVE,
    HEAVY,
    HEAVY_FROM_ZERO,
    IGNORED,
    PARTIAL,
    REASONABLE,
    SMALL,
    SUBSETS,
    TRUE_POSITIVE,
    Matches,
    Subset,
    match,
    match_coco,
)
from secpipeline.errors import CannotDecide, InputError

__all__ = [
    "ALL",
    "BARE",
    "COCO_IOUS",
    "EVERYBODY",
    "FALSE_POSITIVE",
    "HEAVY",
    "HEAVY_FROM_ZERO",
    "IGNORED",
    "PARTIAL",
    "REASONABLE",
    "SMALL",
    "SUBSETS",
    "TRUE_POSITIVE",
    "Counts",
    "Matches",
    "Subset",
    "average_precision",
    "false_positives_per_image",
    "log_average_miss_rate",
    "match",
    "match_coco",
    "mean_average_precision",
    "miss_rate",
    "operating_threshold",
    "resampled_average_precision",
    "resampled_false_positives_per_image",
    "resampled_log_average_miss_rate",
    "resampled_miss_rate",
]

# (R, N): how often each of N images occurs in each of R resamples.
Counts = NDArray[np.int32]

_RECALLS = np.linspace(0, 1, 101)
_FPPI_POINTS = np.logspace(-2, 0, 9)
_LOG_FLOOR = 1e-10


def average_precision(matches: Matches) -> float:
    """Area under the precision-recall curve in [0, 1], sampled at 101 recalls as COCO does.

    Lin et al., "Microsoft COCO: common objects in context", ECCV 2014. COCO's own number, AP50 or AP75, on
    what :func:`match_coco` found at that threshold.

    Raises
    ------
    CannotDecide
        If there are no people to be found.
    """
    return _on_every_image(resampled_average_precision, matches)


def mean_average_precision(matches: Sequence[Matches]) -> float:
    """AP50:95: :func:`average_precision` in the mean over the thresholds of :func:`match_coco`, in [0, 1].

    Raises
    ------
    CannotDecide
        If there are no people to be found.
    """
    return float(np.mean([average_precision(one) for one in matches]))


def log_average_miss_rate(matches: Matches) -> float:
    """MR⁻²: the geometric mean of the miss rate at nine false positives per image from 0.01 to 1, in [1e-10, 1].

    Dollár et al., "Pedestrian detection: an evaluation of the state of the art", PAMI 2012. Where the
    detector has no operating point with so few false positives the miss rate is 1, as in the Caltech code;
    CityPersons' code reads the *end* of the curve there and reports too low a number on fewer than 100 images
    whose most confident detection is false. A miss rate of 0 counts as 1e-10, as in the Caltech code.

    Raises
    ------
    CannotDecide
        If there are no people to be found.
    """
    return _on_every_image(resampled_log_average_miss_rate, matches)


def miss_rate(matches: Matches, threshold: float) -> float:
    """Share of people without a detection of at least ``threshold``.

    Raises
    ------
    CannotDecide
        If there are no people to be found.
    """
    return _on_every_image(lambda m, counts: resampled_miss_rate(m, counts, threshold), matches)


def false_positives_per_image(matches: Matches, threshold: float) -> float:
    """Detections of at least ``threshold`` on nobody, per image (images without people included).

    Raises
    ------
    CannotDecide
        If there are no images.
    """
    return _on_every_image(lambda m, counts: resampled_false_positives_per_image(m, counts, threshold), matches)


def operating_threshold(matches: Matches, max_fppi: float) -> float:
    """The lowest score that, as a threshold, lets through at most ``max_fppi`` false positives per image.

    Never below the lowest score seen: what a lower threshold would let through was not measured.

    Raises
    ------
    InputError
        If ``max_fppi`` is negative or not finite.
    CannotDecide
        If there are no images or no detections, or even the most confident detections are too many false
        ones.
    """
    if not 0 <= max_fppi < np.inf:
        raise InputError(f"max_fppi: {max_fppi} is not a number of false positives per image; give 0 or more")
    if len(matches.people) == 0 or len(matches.score) == 0:
        raise CannotDecide(
            f"{len(matches.score)} detections on {len(matches.people)} images: "
            "an operating threshold needs both; train longer or add calibration images"
        )
    false = np.cumsum(matches.state == FALSE_POSITIVE)
    # Detections of one score pass or fail together.
    last_of_score = np.append(matches.score[1:] != matches.score[:-1], True)
    fits = np.flatnonzero(last_of_score & (false <= max_fppi * len(matches.people)))
    if len(fits) == 0:
        raise CannotDecide(
            f"no threshold keeps to {max_fppi} false positives per image: the highest score, "
            f"{matches.score[0]:.3f}, is already given to too many; train longer or allow more"
        )
    return float(matches.score[fits[-1]])


def resampled_average_precision(matches: Matches, counts: Counts) -> Floats:
    """:func:`average_precision` of each of R resamples; NaN where a resample holds no people.

    Parameters
    ----------
    matches
        Of N images.
    counts
        (R, N) how often each image occurs in each resample.

    Returns
    -------
    ndarray
        (R,).
    """
    result = np.full(len(counts), np.nan)
    for row, (true, false, people) in enumerate(_curves(matches, counts)):
        if people == 0:
            continue
        at = np.searchsorted(true / people, _RECALLS, side="left")
        reached = at[at < len(true)]
        result[row] = 0.0
        if len(reached):
            precision = true / np.maximum(true + false, 1)
            # The best precision at each recall or beyond: of each stretch to the next recall, then of what follows.
            stretches = np.maximum.reduceat(precision, reached)
            result[row] = np.maximum.accumulate(stretches[::-1]).sum() / len(_RECALLS)
    return result


def resampled_log_average_miss_rate(matches: Matches, counts: Counts) -> Floats:
    """:func:`log_average_miss_rate` of each of R resamples; NaN where a resample holds no people.

    Parameters
    ----------
    matches
        Of N images.
    counts
        (R, N) how often each image occurs in each resample.

    Returns
    -------
    ndarray
        (R,).
    """
    images = counts.sum(axis=1)
    result = np.full(len(counts), np.nan)
    for row, (true, false, people) in enumerate(_curves(matches, counts)):
        if people == 0:
            continue
        at = np.searchsorted(false / images[row], _FPPI_POINTS, side="right")
        missed = 1 - np.append(0, true)[at] / people
        result[row] = np.exp(np.log(np.maximum(missed, _LOG_FLOOR)).mean())
    return result


def resampled_miss_rate(matches: Matches, counts: Counts, threshold: float) -> Floats:
    """:func:`miss_rate` of each of R resamples (R, N); NaN where a resample holds no people."""
    people = counts @ matches.people
    found = counts @ _per_image(matches, TRUE_POSITIVE, threshold)
    return np.where(people > 0, 1 - found / np.maximum(people, 1), np.nan)


def resampled_false_positives_per_image(matches: Matches, counts: Counts, threshold: float) -> Floats:
    """:func:`false_positives_per_image` of each of R resamples (R, N); NaN where a resample is empty."""
    images = counts.sum(axis=1)
    false = counts @ _per_image(matches, FALSE_POSITIVE, threshold)
    return np.where(images > 0, false / np.maximum(images, 1), np.nan)


def _per_image(matches: Matches, state: int, threshold: float) -> Ints:
    chosen = (matches.state == state) & (matches.score >= threshold)
    return np.bincount(matches.image_index[chosen], minlength=len(matches.people)).astype(np.int64)


def _curves(matches: Matches, counts: Counts) -> Iterator[tuple[Counts, Counts, int]]:
    """Of each resample, numbers of true and false positives down to each true positive (T,), and of people.

    Between two true positives only false ones come, so precision falls and recall stays: the curve's corners,
    which are all that both metrics look at, are at the true positives. One resample at a time, because its counts
    then stay in the processor's nearest cache.
    """
    corner = np.flatnonzero(matches.state == TRUE_POSITIVE)
    wrong = np.flatnonzero(matches.state == FALSE_POSITIVE)
    before = np.searchsorted(wrong, corner)
    wrong = wrong[: before[-1] if len(before) else 0]
    image_of_true, image_of_false = matches.image_index[corner], matches.image_index[wrong]
    false = np.zeros(len(wrong) + 1, np.int32)
    for weights, people in zip(counts, counts @ matches.people, strict=True):
        true = np.cumsum(weights[image_of_true], dtype=np.int32)
        np.cumsum(weights[image_of_false], out=false[1:])
        yield true, false[before], int(people)


def _on_every_image(statistic: Callable[[Matches, Counts], Floats], matches: Matches) -> float:
    value = float(statistic(matches, np.ones((1, len(matches.people)), np.int32))[0])
    if np.isnan(value):
        raise CannotDecide(f"no people among the {len(matches.people)} images: the metric is undefined")
    return value
