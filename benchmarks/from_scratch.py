"""How good a detector gets from nothing on 20,000 synthetic scenes, and how long one accelerator trains it.

python benchmarks/from_scratch.py                       # on one GPU; the scenes are drawn first, on all processors
python benchmarks/from_scratch.py --smoke               # a few scenes, anywhere: only whether it runs

One frame of each scene. Seven sources are trained on; the test has further scenes of these seven and scenes of an
eighth that was never trained on. Nothing is chosen by the test: the last epoch's weights count. Intervals are over
scenes.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from secpipeline.datasets.loading import Pixels, Placement, Truth
from secpipeline.datasets.synthetic import SceneSpec
from secpipeline.defended_training import train_recipe
from secpipeline.detection import weights
from secpipeline.detection.bootstrap import draw, interval
from secpipeline.detection.distributed import default_device
from secpipeline.detection.inference import predict
from secpipeline.detection.matching import ALL, REASONABLE, VISIBLE, match
from secpipeline.detection.metrics import resampled_average_precision, resampled_log_average_miss_rate
from secpipeline.detection.recipes import Recipe
from secpipeline.study.drawing import DrawnFrame, draw_scenes

HELD_OUT = "vendor-h"
COLUMNS = ("x1", "y1", "x2", "y2", "ignore", "visibility")
BOOTSTRAP_SEED = 0


def main() -> None:
    options = read_options()
    height, width = options.size
    spec = SceneSpec(width, height, scenes_per_source=1, frames_per_scene=1, seed=options.data_seed)
    seen = [source for source in spec.source_names if source != HELD_OUT]
    count, test = options.scenes // len(seen), options.test // 2 // len(seen)
    started = time.perf_counter()
    training = drawn(spec, [(source, number) for source in seen for number in range(count)])
    tests = {
        "new scenes of its sources": drawn(spec, [(s, count + n) for s in seen for n in range(test)]),
        f"{HELD_OUT}, never trained on": drawn(spec, [(HELD_OUT, number) for number in range(options.test // 2)]),
    }
    print(f"{len(training.image_ids)} scenes to train on, drawn in {time.perf_counter() - started:.0f} s", flush=True)
    recipe = Recipe(
        "from scratch", options.detector, {"channels": options.channels} if options.channels else {}, options.size,
        options.epochs, options.batch, options.learning_rate, 1e-4, options.seed, None,
        ema=0.998, compile=options.compile,
    )  # fmt: skip
    detector, record = train_recipe(recipe, training)
    device = default_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    print(
        f"{options.detector} on {name}: {record.seconds / 60:.2f} minutes, "
        f"{record.images_per_second:.0f} images a second"
    )
    print(f"losses {', '.join(f'{loss:.2f}' for loss in record.losses)}")
    if options.save:
        weights.save(detector, options.save)
    report(detector.to(device), tests)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detector", default="csp_resnet18", help="a name of secpipeline.detection.registry")
    parser.add_argument("--channels", type=int, help="its config's channels; default: its own")
    parser.add_argument("--scenes", type=int, default=20_000, help="to train on")
    parser.add_argument("--test", type=int, default=1_400, help="scenes, half of them of the held-out source")
    parser.add_argument("--size", type=int, nargs=2, default=(240, 320), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=0.002)
    parser.add_argument("--seed", type=int, default=1, help="of the training")
    parser.add_argument("--data-seed", type=int, default=50)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--save", type=Path, help="where to leave the weights")
    parser.add_argument("--smoke", action="store_true", help="a few small scenes: only whether it runs")
    options = parser.parse_args()
    options.size = tuple(options.size)
    if options.smoke:
        options.scenes, options.test, options.size, options.epochs, options.batch = 28, 28, (96, 128), 2, 7
    return options


def drawn(spec: SceneSpec, scenes: Sequence[tuple[str, int]]) -> Pixels:
    """One frame of each scene, drawn on all processors."""
    jobs = len(os.sched_getaffinity(0))
    frames = [frame for scene in tqdm(draw_scenes(spec, scenes, jobs), "draw", len(scenes)) for frame in scene]
    return Pixels(
        np.stack([frame.pixels for frame in frames]),
        [truth(frame) for frame in frames],
        [frame.image_id for frame in frames],
        boxes(frames),
        [Placement(1.0, 0.0, 0.0)] * len(frames),
    )


def truth(frame: DrawnFrame) -> Truth:
    rows = np.array(frame.boxes, np.float64).reshape(-1, len(COLUMNS))
    ignored = rows[:, COLUMNS.index("ignore")] > 0
    corners = rows[:, :4].astype(np.float32)
    return Truth(corners[~ignored], corners[ignored])


def boxes(frames: Sequence[DrawnFrame]) -> pd.DataFrame:
    rows = [(frame.image_id, *box) for frame in frames for box in frame.boxes]
    return pd.DataFrame(rows, columns=["image_id", *COLUMNS]).astype({"ignore": bool})


def report(detector: torch.nn.Module, tests: dict[str, Pixels]) -> None:
    print("| test | scenes | people | AP50 | MR⁻² |\n|---|---|---|---|---|")
    for name, data in tests.items():
        found = predict(detector, data.images, data.image_ids)
        counts = draw(len(data.image_ids), 1000, BOOTSTRAP_SEED)
        for subset in (REASONABLE, VISIBLE, ALL):
            matches = match(data.boxes, found, data.image_ids, subset)
            precision = interval(resampled_average_precision(matches, counts))
            missed = interval(resampled_log_average_miss_rate(matches, counts))
            print(
                f"| {name} | {len(data.image_ids)} | {subset}: {int(matches.people.sum())} "
                f"| {precision.value:.3f} [{precision.low:.3f}, {precision.high:.3f}] "
                f"| {missed.value:.3f} [{missed.low:.3f}, {missed.high:.3f}] |"
            )


if __name__ == "__main__":
    main()
