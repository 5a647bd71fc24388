"""How long each detector takes to detect and for one step of an attack, beside torchvision's own SSDLite.

OMP_NUM_THREADS=1 python benchmarks/detectors.py                                   # all detectors, a few minutes
OMP_NUM_THREADS=1 python benchmarks/detectors.py csp_tiny csp_resnet18 --size 240 320

Detecting is pixels to boxes after the suppression of overlapping ones; a step is one gradient of the summed losses with
respect to the pixels, with the targets ready and the weights frozen. Random weights, random pixels, two people in each
image. The peer is torchvision's ``ssdlite320_mobilenet_v3_large`` as it comes, kept from resizing: its forward in
evaluation; in training, with batch normalisation frozen and its targets made anew, forward and backward. Times are CPU
seconds of this process, all threads together, for one image; runs are interleaved, so that load meets all alike, and
medians are shown.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from secpipeline.datasets.loading import Truth
from secpipeline.detection import registry

PEER = "torchvision's SSDLite"
# What an attack or a training on processors would take; the default of 2000 is for accelerators.
CONFIG = {name: {"training_proposals": 100} for name in registry.DETECTORS if name.startswith("fasterrcnn")}
CONFIG["preprocessed"] = {"inner": "csp_tiny", "config": {}, "kind": "jpeg", "strength": 75}

Work = dict[str, Callable[[], object]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("detectors", nargs="*", help="names of the registry; all by default")
    parser.add_argument("--images", type=int, default=2, help="in a batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=2, default=(144, 192), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    if unknown := sorted(set(options.detectors) - registry.DETECTORS.keys()):
        parser.error(f"{unknown[0]}: no such detector; there are {', '.join(registry.DETECTORS)}")
    torch.manual_seed(0)
    height, width = options.size
    images = torch.rand(options.images, 3, height, width)
    people = two_people(height, width)
    work: dict[str, Work] = {PEER: torchvision_ssd(images, people)}
    parameters = {}
    for name in options.detectors or registry.DETECTORS:
        detector = registry.build(name, CONFIG.get(name, {}), seed=0).eval().requires_grad_(False)
        parameters[name] = sum(weight.numel() for weight in detector.parameters())
        work[name] = ours(detector, images, people)
    report(measure(work, options.repeats), parameters, options)


def two_people(height: int, width: int) -> np.ndarray:
    """Boxes (2, 4): half of the image's height, upright."""
    tall = height / 2
    lefts = np.array([width / 4, width / 2])
    boxes = np.stack([lefts, np.full(2, tall / 2), lefts + 0.41 * tall, np.full(2, 1.5 * tall)], axis=1)
    return boxes.astype(np.float32)


def ours(detector, images: torch.Tensor, people: np.ndarray) -> Work:
    truth = [Truth(people, np.zeros((0, 4), np.float32))] * len(images)
    encoded = detector.encode(truth, *images.shape[-2:])

    def step() -> None:
        pixels = images.clone().requires_grad_()
        torch.autograd.grad(sum(detector.losses(pixels, encoded).values()).sum(), pixels)

    return {"detect": lambda: detector.detect(images), "step": step}


def torchvision_ssd(images: torch.Tensor, people: np.ndarray) -> Work:
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2).requires_grad_(False)
    model.transform.fixed_size = None
    model.transform.min_size, model.transform.max_size = (min(images.shape[-2:]),), max(images.shape[-2:])
    targets = [{"boxes": torch.from_numpy(people), "labels": torch.ones(len(people), dtype=torch.int64)}] * len(images)

    @torch.no_grad()
    def detect() -> None:
        model.eval()(list(images))

    def step() -> None:
        # Only training mode gives losses; statistics of one image's smallest features do not exist.
        for layer in model.train().modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.eval()
        pixels = images.clone().requires_grad_()
        torch.autograd.grad(sum(model(list(pixels), targets).values()), pixels)

    return {"detect": detect, "step": step}


def measure(work: dict[str, Work], repeats: int) -> dict[str, dict[str, float]]:
    """The median CPU seconds of each piece of work, after one run that is not counted."""
    seconds: dict[str, dict[str, list[float]]] = {name: {key: [] for key in pieces} for name, pieces in work.items()}
    for turn in range(repeats + 1):
        for name, pieces in work.items():
            for key, run in pieces.items():
                started = time.process_time()
                run()
                if turn:
                    seconds[name][key].append(time.process_time() - started)
    return {name: {key: statistics.median(runs) for key, runs in kept.items()} for name, kept in seconds.items()}


def report(seconds: dict[str, dict[str, float]], parameters: dict[str, int], options: argparse.Namespace) -> None:
    height, width = options.size
    print(f"{height} × {width} pixels, batches of {options.images}, torch {torch.__version__},"
          f" {torch.get_num_threads()} threads; CPU milliseconds an image")  # fmt: skip
    print("| detector | parameters | detect, ms | beside the peer | attack step, ms | beside the peer |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, found in seconds.items():
        cells = [f"{1000 * found[key] / options.images:.0f} | {found[key] / seconds[PEER][key]:.2f}" for key in found]
        count = f"{parameters[name]:,}" if name in parameters else ""
        print(f"| {name} | {count} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
