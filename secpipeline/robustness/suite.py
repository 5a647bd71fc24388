"""The suite: a detector measured clean, attacked, under controls and corruptions, white-box and as deployed.

Attacks see the detector's weights and gradients. What they make is rounded to 8 bits, as a camera or a file
would, and the same images then go through the artifact that is really deployed.

>>> suite = load_suite(Path("policies/attacks.yaml"))                                      # doctest: +SKIP
>>> outcome = run_suite(detector, images, truth, boxes, image_ids, 0.4, suite, seed=0)     # doctest: +SKIP
>>> outcome.report["conditions"]["pgd"]["ap50"]["value"]                                   # doctest: +SKIP
0.52
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from secpipeline.datasets.loading import Truth
from secpipeline.detection.inference import predict
from secpipeline.detection.interface import Detector
from secpipeline.detection.matching import SUBSETS
from secpipeline.errors import InputError
from secpipeline.robustness.attacks import Images, grey_patch, sign_noise
from secpipeline.robustness.config import SuiteConfig, load_suite
from secpipeline.robustness.corruptions import corrupt
from secpipeline.robustness.health import attack_all, attack_health, doubling_check, sanity_check
from secpipeline.robustness.measures import Measured, Yardstick
from secpipeline.robustness.report import Condition, assemble

__all__ = ["Example", "SuiteConfig", "SuiteOutcome", "load_suite", "run_suite"]

BlackBox = Callable[[Images, list[str]], pd.DataFrame]


@dataclass(frozen=True)
class Example:
    """One image under several conditions, to be looked at.

    Attributes
    ----------
    image_id
        Which image.
    truth
        Its people.
    pictures
        By condition, (3, H, W) uint8.
    detections
        By condition, (n, 4) boxes at the deployed threshold.
    """

    image_id: str
    truth: Truth
    pictures: dict[str, Images] = field(default_factory=dict)
    detections: dict[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True)
class SuiteOutcome:
    """What a suite found.

    Attributes
    ----------
    report
        JSON-able; :mod:`secpipeline.robustness.report` describes it.
    gallery
        A few images clean, attacked and with controls.
    predictions
        By condition, what the detector predicted on the clean, controlled and attacked images: image_id, x1, y1, x2,
        y2, score. Corruptions are left out.
    """

    report: dict[str, Any]
    gallery: tuple[Example, ...]
    predictions: Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class _Bench:
    """The detector on the bench, with its images."""

    detector: Detector
    images: Images
    truth: Sequence[Truth]
    image_ids: list[str]
    suite: SuiteConfig
    seed: int


def run_suite(
    detector: Detector,
    images: Images,
    truth: Sequence[Truth],
    boxes: pd.DataFrame,
    image_ids: Sequence[str],
    threshold: float,
    suite: SuiteConfig,
    seed: int,
    black_box: BlackBox | None = None,
) -> SuiteOutcome:
    """Measure a detector under every condition of a suite.

    Parameters
    ----------
    detector
        The trained detector.
    images
        (N, 3, H, W) uint8 in the detector's frame.
    truth
        The people of each image, for the attacks.
    boxes
        The people of all images as a table in the detector's frame, for the metrics.
    image_ids
        The N names.
    threshold
        The deployed score threshold.
    suite
        What to do.
    seed
        Of the attacks' random starts, the corruptions and the bootstrap.
    black_box
        The exported artifact, as images and their names to a predictions table; none leaves it out of the
        report, which a gate will not pass.

    Raises
    ------
    InputError
        If there are no images, or images, truth and names differ in number or kind.
    """
    _check(images, truth, image_ids)
    bench = _Bench(detector, images, truth, list(image_ids), suite, seed)
    yardstick = Yardstick(boxes, tuple(image_ids), SUBSETS[suite.subset], threshold, suite.resamples, seed)
    with_people = np.flatnonzero(yardstick.people()).tolist()
    gallery = [Example(bench.image_ids[i], truth[i]) for i in _spread(with_people, suite.gallery)]
    conditions: list[Condition] = []
    kept: dict[str, pd.DataFrame] = {}
    was_training = detector.training
    detector.eval()
    try:
        for name, kind, facts, changed in _progress(bench):
            predictions = predict(detector, changed, bench.image_ids)
            conditions.append(
                Condition(
                    name,
                    kind,
                    facts,
                    yardstick.measure(predictions),
                    _again(black_box, changed, bench, yardstick),
                )
            )
            if kind != "corruption":
                kept[name] = predictions
                _keep(gallery, bench, name, changed, predictions, threshold)
        health = _health(bench, yardstick, _spread(with_people, suite.health.images), kept[suite.strongest.name])
    finally:
        detector.train(was_training)
    return SuiteOutcome(assemble(yardstick, conditions, health), tuple(gallery), kept)


def _check(images: Images, truth: Sequence[Truth], image_ids: Sequence[str]) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise InputError(f"images: {images.dtype} {images.shape} must be uint8 (N, 3, H, W) with at least one image")
    if not len(images) == len(truth) == len(image_ids):
        raise InputError(
            f"{len(images)} images, truth for {len(truth)} and {len(image_ids)} names must be equally many"
        )


def _spread(indices: list[int], count: int) -> list[int]:
    """``count`` of ``indices``, evenly spaced, so that sources and scenes are mixed."""
    if len(indices) <= count:
        return indices
    return [indices[place] for place in np.linspace(0, len(indices) - 1, count).round().astype(int)]


def _progress(bench: _Bench) -> Iterator[tuple[str, str, dict[str, Any], Images]]:
    """Every condition as name, kind, facts about it, and the images under it."""
    names = bench.suite.condition_names()
    with tqdm(total=len(names), disable=None, desc="robustness suite", unit="condition") as bar:
        for condition in _conditions(bench):
            bar.set_postfix_str(condition[0])
            yield condition
            bar.update()


def _conditions(bench: _Bench) -> Iterator[tuple[str, str, dict[str, Any], Images]]:
    suite = bench.suite
    yield "clean", "clean", {}, bench.images
    noisy = sign_noise(bench.images, suite.noise_epsilon, bench.seed)
    yield "noise", "control", {"epsilon": suite.noise_epsilon}, noisy
    yield (
        "grey_patch",
        "control",
        {"fraction": suite.grey_patch},
        grey_patch(bench.images, bench.truth, suite.grey_patch),
    )
    for spec in suite.attacks:
        attacked = attack_all(bench.detector, bench.images, bench.truth, spec, suite.batch_size, bench.seed)
        yield spec.name, "attack", attack_health(spec, attacked), attacked.images
    for name in suite.corruptions:
        for severity in suite.severities:
            changed = corrupt(bench.images, name, severity, bench.seed)
            yield f"{name}-{severity}", "corruption", {"corruption": name, "severity": severity}, changed


def _again(black_box: BlackBox | None, images: Images, bench: _Bench, yardstick: Yardstick) -> Measured | None:
    return None if black_box is None else yardstick.measure(black_box(images, bench.image_ids))


def _keep(
    gallery: list[Example],
    bench: _Bench,
    name: str,
    images: Images,
    predictions: pd.DataFrame,
    threshold: float,
) -> None:
    sure = predictions[predictions["score"] >= threshold]
    for example in gallery:
        mine = sure[sure["image_id"] == example.image_id]
        example.pictures[name] = images[bench.image_ids.index(example.image_id)].copy()
        example.detections[name] = mine[["x1", "y1", "x2", "y2"]].to_numpy(np.float64)


def _health(
    bench: _Bench, yardstick: Yardstick, chosen: list[int], strongest: pd.DataFrame
) -> dict[str, float | int | None]:
    """The two checks that attack again, on a part of the images."""
    suite = bench.suite
    ids = [bench.image_ids[i] for i in chosen]
    if not chosen:
        return {"images": 0, "sanity_ap50": None, "doubling_gain": None}

    def precision_under(spec: Any) -> float | None:
        truth = [bench.truth[i] for i in chosen]
        attacked = attack_all(bench.detector, bench.images[chosen], truth, spec, suite.batch_size, bench.seed)
        return yardstick.average_precision(predict(bench.detector, attacked.images, ids), ids)

    before = yardstick.average_precision(strongest, ids)
    after = precision_under(doubling_check(suite.strongest))
    return {
        "images": len(chosen),
        "sanity_epsilon": suite.health.sanity_epsilon,
        "sanity_ap50": precision_under(sanity_check(suite.strongest, suite.health.sanity_epsilon)),
        "doubling_gain": None if before is None or after is None else before - after,
    }
