"""How many images a second train, beside torchvision's reference loop over the same detector and over its own.

python benchmarks/training.py --detector csp_resnet50                  # on one GPU
python benchmarks/training.py --detector fasterrcnn_resnet50_fpn_v2 --gpus 2
python benchmarks/training.py --device cpu --smoke                     # only whether it runs

Images come as JPEG files of 640 × 480 pixels: smooth random textures with bright upright rectangles for people. Ours is
`secpipeline.detection.training.train` as it is, first with the decoded images kept on the GPU, then decoding every
batch, with --compile also kept and compiled. The reference is written after torchvision's references/detection
(train.py, engine.py): a DataLoader whose 8 workers decode with Pillow, images and targets as lists, SGD, the loss read
after each step, in float32 and with automatic mixed precision. torchvision's own model keeps 640 × 480 (by default it
would enlarge to 1066 × 800, which would be slower), and the workers live on from epoch to epoch. Faster R-CNN has batch
normalisation in both, learning its statistics. An epoch is timed from the end of the one before; the first ones warm up
and are not counted. GPU busy: the share of the time in which a kernel ran, from torch's profiler in an extra, shorter
training.
"""

import argparse
import functools
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import fasterrcnn_resnet50_fpn_v2
from torchvision.transforms.functional import hflip, pil_to_tensor

from secpipeline.datasets.loading import Truth
from secpipeline.detection import distributed, image_sources, registry
from secpipeline.detection.recipes import Recipe
from secpipeline.detection.training import train

WARM_UP_EPOCHS = 2
CACHED_SHARE = image_sources.CACHED_SHARE
OURS_CACHED, OURS_DECODING = "ours, images kept on the GPU", "ours, decoding every batch"
OURS_COMPILED = "ours, images kept, compiled"


@dataclass(frozen=True)
class Speed:
    """Images a second in each counted epoch, and the share of the time in which the GPU worked."""

    name: str
    rates: tuple[float, ...]
    busy: float | None

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    def __str__(self) -> str:
        busy = "       " if self.busy is None else f"{self.busy:6.1%} "
        return f"{self.name:<44} {self.median:8.1f}  {min(self.rates):8.1f} … {max(self.rates):8.1f}  {busy}"


def main() -> None:
    options = read_options()
    if os.environ.get("WORLD_SIZE"):
        one_of_many(options)
        return
    if options.detector not in registry.DETECTORS:
        sys.exit(f"no detector {options.detector} here, nothing measured; there are {', '.join(registry.DETECTORS)}")
    device = torch.device(options.device)
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name(device) if device.type == 'cuda' else 'processor'}")
    height, width = options.size
    print(f"{options.detector}, {options.images} images of {width} × {height}, batches of {options.batch}")
    print(f"{'images a second':<44} {'median':>8}  {'least':>8} … {'most':>8}  GPU busy")
    files, truth = pictures(options.images, options.size)
    peers = ours(options, files, truth, device) | reference(options, files, truth, device)
    if options.compile:
        peers |= compiled(options, files, truth, device)
    speeds = {name: measure(name, run, options, device) for name, run in peers.items()}
    for theirs in (speed for name, speed in speeds.items() if not name.startswith("ours")):
        ratios = [f"{speeds[name].median / theirs.median:.2f} {name}" for name in speeds if name.startswith("ours")]
        print(f"× {theirs.name}: {'; '.join(ratios)}")
    if options.gpus > 1:
        many = on_gpus(options)
        alone = speeds[OURS_CACHED].median
        print(f"{f'ours on {options.gpus} GPUs, {options.batch} images each':<44} {many:8.1f}")
        print(f"scaling: {many / alone:.2f} of {options.gpus}")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detector", default="csp_resnet50", help="a name of secpipeline.detection.registry")
    parser.add_argument("--batch", type=int, default=16, help="images a step and GPU")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=6, help=f"the first {WARM_UP_EPOCHS} are not counted")
    parser.add_argument("--workers", type=int, default=8, help="of the reference's DataLoader")
    parser.add_argument("--gpus", type=int, default=1, help="measure ours on so many as well, through torchrun")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true", help="measure ours compiled by torch as well")
    parser.add_argument("--smoke", action="store_true", help="a few tiny images: only whether it runs")
    options = parser.parse_args()
    options.size = (480, 640)
    if options.smoke:
        options.size, options.images, options.batch, options.epochs, options.workers = (64, 96), 6, 2, 3, 1
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU here; use --device cpu --smoke to see whether it runs")
    return options


def pictures(count: int, size: tuple[int, int]) -> tuple[list[bytes], list[Truth]]:
    """JPEG files and where the people are, one to six in each."""
    rng = np.random.default_rng(0)
    height, width = size
    files, truth = [], []
    for _ in range(count):
        coarse = rng.integers(30, 180, (height // 8, width // 8, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(smooth).astype(np.int16) + rng.integers(-8, 9, (height, width, 3))
        boxes = []
        for _ in range(rng.integers(1, 7)):
            tall = rng.uniform(0.2, 0.6) * height
            x, y = rng.uniform(0, width - 0.41 * tall), rng.uniform(0, height - tall)
            left, top, right, bottom = (int(edge) for edge in (x, y, x + 0.41 * tall, y + tall))
            pixels[top:bottom, left:right] += 70
            boxes.append((left, top, right, bottom))
        stream = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
        truth.append(Truth(np.array(boxes, np.float32), np.zeros((0, 4), np.float32)))
    return files, truth


Run = Callable[[int, int, Callable[[], None]], None]
"""Trains for a number of epochs on the first so many images and calls back after each epoch."""


def ours(options: argparse.Namespace, files: list[bytes], truth: list[Truth], device: torch.device) -> dict[str, Run]:
    def run(share: float, epochs: int, count: int, after: Callable[[], None]) -> None:
        image_sources.CACHED_SHARE = share
        train_ours(options, files[:count], truth[:count], device, False, epochs, after)

    return {OURS_CACHED: functools.partial(run, CACHED_SHARE), OURS_DECODING: functools.partial(run, 0.0)}


def compiled(
    options: argparse.Namespace, files: list[bytes], truth: list[Truth], device: torch.device
) -> dict[str, Run]:
    def run(epochs: int, count: int, after: Callable[[], None]) -> None:
        image_sources.CACHED_SHARE = CACHED_SHARE
        train_ours(options, files[:count], truth[:count], device, True, epochs, after)

    return {OURS_COMPILED: run}


def train_ours(
    options: argparse.Namespace,
    files: list[bytes],
    truth: list[Truth],
    device: torch.device,
    compiled: bool,
    epochs: int,
    after: Callable[[], None],
) -> None:
    batch = options.batch * distributed.current().size
    recipe = Recipe(
        "benchmark",
        options.detector,
        config(options.detector),
        options.size,
        epochs,
        batch,
        1e-4,
        1e-4,
        0,
        None,
        compile=compiled,
    )

    def validate(detector: nn.Module, epoch: int) -> float:  # noqa: ARG001 - the interface
        after()
        return 0.0

    images = image_sources.JpegFiles(files, options.size)
    train(
        registry.build(options.detector, config(options.detector), seed=0),
        images,
        truth,
        recipe,
        validate=validate,
        device=device,
    )


def config(detector: str) -> dict[str, str]:
    """The network that torchvision's function of the same name builds has batch normalisation."""
    return {"norm": "batch"} if detector == "fasterrcnn_resnet50_fpn_v2" else {}


class Files(Dataset):
    """Decodes an image where a worker asks for it, and mirrors every second one."""

    def __init__(self, files: list[bytes], truth: list[Truth]) -> None:
        self.files, self.truth = files, truth

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        image = pil_to_tensor(Image.open(io.BytesIO(self.files[index])).convert("RGB"))
        boxes = torch.from_numpy(self.truth[index].boxes.copy())
        if torch.rand(1) < 0.5:
            image = hflip(image)
            boxes[:, [0, 2]] = image.shape[-1] - boxes[:, [2, 0]]
        return image.float() / 255, {"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64)}


class Listed(nn.Module):
    """One of our detectors behind the interface of torchvision's: lists in, losses out."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.detector = registry.build(name, seed=0)

    def forward(self, images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        batch = torch.stack(images)
        nobody = np.zeros((0, 4), np.float32)
        truth = [Truth(target["boxes"].cpu().numpy(), nobody) for target in targets]
        encoded = self.detector.encode(truth, batch.shape[2], batch.shape[3]).to(batch.device)
        return {name: loss.mean() for name, loss in self.detector.losses(batch, encoded).items()}


def reference(
    options: argparse.Namespace, files: list[bytes], truth: list[Truth], device: torch.device
) -> dict[str, Run]:
    height, width = options.size

    def torchvision_model() -> nn.Module:
        return fasterrcnn_resnet50_fpn_v2(
            weights=None, weights_backbone=None, num_classes=2, min_size=height, max_size=width
        )

    def model() -> nn.Module:
        theirs = options.detector == "fasterrcnn_resnet50_fpn_v2"
        return torchvision_model() if theirs else Listed(options.detector)

    def run(amp: bool, epochs: int, count: int, after: Callable[[], None]) -> None:
        train_reference(options, model(), Files(files[:count], truth[:count]), device, amp, epochs, after)

    return {f"reference, {'AMP' if amp else 'fp32'}": functools.partial(run, amp) for amp in (False, True)}


def train_reference(
    options: argparse.Namespace,
    model: nn.Module,
    dataset: Files,
    device: torch.device,
    amp: bool,
    epochs: int,
    after: Callable[[], None],
) -> None:
    model.to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=amp)
    loader = DataLoader(
        dataset, batch_size=options.batch, shuffle=True, num_workers=options.workers,
        collate_fn=lambda rows: tuple(zip(*rows, strict=True)), multiprocessing_context="fork",
        persistent_workers=True,
    )  # fmt: skip
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    for _ in range(epochs):
        for pictures_read, targets_read in loader:
            images = [image.to(device) for image in pictures_read]
            targets = [{key: value.to(device) for key, value in target.items()} for target in targets_read]
            with torch.autocast(device.type, half, enabled=amp):
                loss = sum(model(images, targets).values())
            if not np.isfinite(loss.item()):
                sys.exit("the reference's loss is not finite")
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        after()


def measure(name: str, run: Run, options: argparse.Namespace, device: torch.device) -> Speed:
    """Images a second of each epoch after the warm-up, then the GPU's share in one more training of two epochs."""
    rates = timed(run, options.epochs, options.images)
    few = 16 * options.batch
    speed = Speed(name, rates, busy_share(run, few) if device.type == "cuda" else None)
    print(speed, flush=True)
    return speed


def timed(run: Run, epochs: int, images: int) -> tuple[float, ...]:
    stamps: list[float] = []

    def after() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())

    run(epochs, images, after)
    ends = stamps[WARM_UP_EPOCHS - 1 :]
    return tuple(images / (end - start) for start, end in itertools.pairwise(ends))


def busy_share(run: Run, images: int) -> float:
    """The share of the second of two epochs in which at least one kernel ran."""
    profiler = profile(activities=[ProfilerActivity.CUDA])
    spans: list[float] = []

    def after() -> None:
        torch.cuda.synchronize()
        if not spans:
            profiler.start()  # which takes a while that is not to be counted
        spans.append(time.perf_counter())
        if len(spans) == 2:
            profiler.stop()

    run(2, images, after)
    busy = sum(end - start for start, end in union(kernels(profiler)))
    return busy / 1e6 / (spans[1] - spans[0])


def kernels(profiler: profile) -> list[tuple[float, float]]:
    """Start and end of each kernel and copy in microseconds."""
    cuda = torch.autograd.DeviceType.CUDA
    return sorted((e.time_range.start, e.time_range.end) for e in profiler.events() if e.device_type == cuda)


def union(spans: list[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Sorted spans with overlapping ones joined, because streams work at the same time."""
    last: tuple[float, float] | None = None
    for start, end in spans:
        if last is None or start > last[1]:
            if last is not None:
                yield last
            last = (start, end)
        else:
            last = (last[0], max(last[1], end))
    if last is not None:
        yield last


def on_gpus(options: argparse.Namespace) -> float:
    """The median speed of ours on several GPUs together."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={options.gpus}"]
    result = subprocess.run(
        [*command, __file__, *sys.argv[1:]], stdout=subprocess.PIPE, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return float(json.loads(result.stdout.splitlines()[-1]))


def one_of_many(options: argparse.Namespace) -> None:
    with distributed.joined() as world:
        images = options.images * world.size
        files, truth = pictures(images, options.size)
        device = distributed.default_device() if options.device == "cuda" else torch.device("cpu")
        runs = ours(options, files, truth, device)
        rates = timed(runs[OURS_CACHED], options.epochs, images)
        if world.leads:
            print(json.dumps(statistics.median(rates)))


if __name__ == "__main__":
    main()
