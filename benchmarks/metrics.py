"""How long a bootstrap of the pedestrian metrics takes, beside a plain loop over resamples and faster-coco-eval.

OMP_NUM_THREADS=1 python benchmarks/metrics.py

Detections and people are simulated. All peers compute the same numbers, which is checked first; times are CPU seconds
of this process, all threads together, medians of interleaved runs. The plain loop joins the detections of the images
drawn, sorts them and walks the curve, in numpy, once a resample; few of its resamples are run and the time of all is
inferred.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faster_coco_eval
import numpy as np
import pandas as pd

from secpipeline.detection import metrics
from secpipeline.detection.bootstrap import draw
from secpipeline.detection.breakdown import sampled_precisions

LIMIT_SECONDS = 10


@dataclass(frozen=True)
class Data:
    boxes: pd.DataFrame
    predictions: pd.DataFrame
    ids: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--resamples", type=int, default=1_000)
    parser.add_argument("--naive-resamples", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    data = simulate(options.images, seed=0)
    counts = draw(options.images, options.resamples, seed=0)
    found = metrics.match(data.boxes, data.predictions, data.ids, metrics.ALL)
    few = counts[: options.naive_resamples]
    coco = coco_tables(data)
    if not np.allclose(ours(found, few), naive(found, few), rtol=0, atol=1e-12):
        sys.exit("the plain loop disagrees")
    if abs(single_precision(data) - coco_precision(*coco)) > 1e-9:
        sys.exit("faster-coco-eval disagrees")
    seconds = measure(
        {
            "matching": lambda: metrics.match(data.boxes, data.predictions, data.ids, metrics.ALL),
            "ours": lambda: ours(found, counts),
            "plain loop": lambda: naive(found, few),
            "AP50:95 once": lambda: single_precision(data),
            "faster-coco-eval": lambda: coco_precision(*coco),
            "AP50:95": lambda: all_precisions(data, counts),
        },
        options.repeats,
    )
    report(data, options, seconds)


def report(data: Data, options: argparse.Namespace, seconds: dict[str, float]) -> None:
    total = seconds["matching"] + seconds["ours"]
    loop = seconds["plain loop"] / options.naive_resamples * (options.resamples + 1)
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(
        f"{options.images} images, {len(data.boxes)} people, {len(data.predictions)} detections, "
        f"{options.resamples} resamples; medians of {options.repeats} runs, {load}"
    )
    print(f"{'MR-2 and AP50: matching':<44} {seconds['matching']:8.2f} s")
    print(f"{'MR-2 and AP50: all resamples':<44} {seconds['ours']:8.2f} s")
    print(f"{'the same in a plain loop (inferred)':<44} {loop:8.2f} s")
    print(f"{'AP50, AP75, AP50:95: matching and resamples':<44} {seconds['AP50:95']:8.2f} s")
    print(f"{'AP50:95 once, matching included':<44} {seconds['AP50:95 once']:8.2f} s")
    print(f"{'AP50:95 once, faster-coco-eval':<44} {seconds['faster-coco-eval']:8.2f} s")
    print(f"plain loop / ours {loop / seconds['ours']:.1f}")
    print(f"faster-coco-eval / ours, once {seconds['faster-coco-eval'] / seconds['AP50:95 once']:.2f}")
    print(f"MR-2 and AP50 at most {LIMIT_SECONDS} s: {'holds' if total <= LIMIT_SECONDS else 'MISSED'}")


def simulate(images: int, seed: int) -> Data:
    """Four people an image, seven in ten found, and eight detections on nobody."""
    rng = np.random.default_rng(seed)
    ids = [f"{number:06d}" for number in range(images)]
    owner = np.repeat(np.arange(images), rng.poisson(4, images))
    people = street_boxes(rng, len(owner))
    seen = rng.random(len(owner)) < 0.7
    noise = rng.normal(0, 0.05, (int(seen.sum()), 4)) * (people[seen, 3:] - people[seen, 1:2])
    stray = np.repeat(np.arange(images), rng.poisson(8, images))
    boxes = table(ids, owner, people)
    boxes["ignore"], boxes["visibility"] = rng.random(len(owner)) < 0.1, rng.uniform(0.1, 1, len(owner))
    found = np.concatenate([people[seen] + noise, street_boxes(rng, len(stray))])
    predictions = table(ids, np.concatenate([owner[seen], stray]), found)
    predictions["score"] = np.concatenate([rng.beta(4, 2, len(noise)), rng.beta(1, 5, len(stray))])
    return Data(boxes, predictions, ids)


def street_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    height = rng.lognormal(4.2, 0.5, count)
    corner = np.stack([rng.uniform(0, 1800, count), rng.uniform(300, 600, count)], axis=1)
    return np.concatenate([corner, corner + np.stack([0.41 * height, height], axis=1)], axis=1)


def table(ids: list[str], owner: np.ndarray, boxes: np.ndarray) -> pd.DataFrame:
    frame = pd.DataFrame(boxes, columns=["x1", "y1", "x2", "y2"])
    frame.insert(0, "image_id", np.array(ids)[owner])
    return frame


def ours(found: metrics.Matches, counts: np.ndarray) -> np.ndarray:
    return np.stack(
        [
            metrics.resampled_log_average_miss_rate(found, counts),
            metrics.resampled_average_precision(found, counts),
        ]
    )


def naive(found: metrics.Matches, counts: np.ndarray) -> np.ndarray:
    """One resample at a time, its images written out."""
    order = np.argsort(found.image_index, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(found.image_index, minlength=len(found.people)))[:-1])
    values = []
    for weights in counts:
        images = np.repeat(np.arange(len(weights)), weights)
        rows = np.concatenate([parts[image] for image in images])
        rows = rows[found.state[rows] >= 0]
        state = found.state[rows[np.argsort(-found.score[rows], kind="stable")]]
        true, false = np.cumsum(state), np.cumsum(1 - state)
        values.append(from_curve(true, false, found.people[images].sum(), len(images)))
    return np.array(values).T


def from_curve(true: np.ndarray, false: np.ndarray, people: int, images: int) -> tuple[float, float]:
    recall, precision = true / people, np.append(true / (true + false), 0)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    average = precision[np.searchsorted(recall, np.linspace(0, 1, 101))].mean()
    at = np.searchsorted(false / images, np.logspace(-2, 0, 9), side="right")
    missed = 1 - np.append(0, recall)[at]
    return float(np.exp(np.log(np.maximum(missed, 1e-10)).mean())), float(average)


def single_precision(data: Data) -> float:
    return metrics.mean_average_precision(metrics.match_coco(data.boxes, data.predictions, data.ids))


def all_precisions(data: Data, counts: np.ndarray) -> dict[str, Any]:
    return sampled_precisions(metrics.match_coco(data.boxes, data.predictions, data.ids), counts)


def coco_tables(data: Data) -> tuple[Any, Any]:
    """Loaded beforehand: reading is not what is compared."""
    number = {name: place for place, name in enumerate(data.ids, start=1)}
    annotations = [
        {
            "id": place,
            "image_id": number[row.image_id],
            "category_id": 1,
            "iscrowd": int(row.ignore),
            "bbox": [row.x1, row.y1, row.x2 - row.x1, row.y2 - row.y1],
            "area": (row.x2 - row.x1) * (row.y2 - row.y1),
        }
        for place, row in enumerate(data.boxes.itertuples(), start=1)
    ]
    results = [
        {
            "image_id": number[row.image_id],
            "category_id": 1,
            "bbox": [row.x1, row.y1, row.x2 - row.x1, row.y2 - row.y1],
            "score": row.score,
        }
        for row in data.predictions.itertuples()
    ]
    images = [{"id": place, "width": 2048, "height": 1024} for place in number.values()]
    truth = faster_coco_eval.COCO(
        {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]},
        print_function=lambda *_: None,
    )
    return truth, truth.loadRes(results)


def coco_precision(truth: Any, results: Any) -> float:
    evaluation = faster_coco_eval.COCOeval_faster(truth, results, "bbox", print_function=lambda *_: None)
    evaluation.params.maxDets = [1000]
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    return float(evaluation.eval["precision"].mean())


def measure(peers: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each peer."""
    spent: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(repeats):
        for name, run in peers.items():
            started = time.process_time()
            run()
            spent[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in spent.items()}


if __name__ == "__main__":
    main()
