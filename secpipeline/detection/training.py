"""Training: one loop for every detector and every defence.

>>> record = train(detector, images, truth, recipe, checkpoint_dir=Path("resume"))      # doctest: +SKIP
>>> record.losses[-1] < record.losses[0]                                                # doctest: +SKIP
True
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from secpipeline.datasets.loading import Truth
from secpipeline.detection.augment import Augmentation
from secpipeline.detection.interface import Detector, Encoded
from secpipeline.detection.recipes import Recipe
from secpipeline.detection.weights import read_tensors
from secpipeline.errors import CannotDecide, InputError
from secpipeline.store import write_atomic

Perturb = Callable[[Detector, Tensor, Encoded, torch.Generator], Tensor]

_CHECKPOINT = "checkpoint.safetensors"
_CLIP_NORM = 5.0
_WARM_UP = 0.15


@dataclass(frozen=True)
class TrainingRecord:
    """What happened.

    Attributes
    ----------
    recipe
        Its name.
    losses
        Mean loss of each epoch.
    images
        Images seen.
    seconds
        Wall time of this process; a resumed training counts from where it resumed.
    resumed_at
        The epoch it went on from, 0 if it ran in one go.
    device
        ``cpu`` or the accelerator's name.
    """

    recipe: str
    losses: tuple[float, ...]
    images: int
    seconds: float
    resumed_at: int
    device: str

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON-able dictionary."""
        return asdict(self)


def train(
    detector: Detector,
    images: NDArray[np.uint8],
    truth: Sequence[Truth],
    recipe: Recipe,
    *,
    perturb: Perturb | None = None,
    checkpoint_dir: Path | None = None,
    device: torch.device | None = None,
) -> TrainingRecord:
    """Train a detector in place; it comes back in evaluation mode on the processor.

    Parameters
    ----------
    detector
        The network.
    images
        (N, 3, H, W) uint8 in the recipe's frame.
    truth
        The people of each image.
    recipe
        How.
    perturb
        Attacks each batch after the recipe's clean epochs; required exactly if the recipe is adversarial.
    checkpoint_dir
        Where to leave a checkpoint after each epoch and to go on from one. On the processor, a training that was killed
        and resumed ends with the same weights as one that was not.
    device
        Default: the first CUDA device, else the processor.

    Raises
    ------
    InputError
        If there are no images, or the recipe and ``perturb`` disagree.
    CannotDecide
        If the loss is no longer finite; names the images of the batch.
    """
    if len(images) == 0 or len(images) != len(truth):
        raise InputError(
            f"{len(images)} training images and {len(truth)} truths; equally many, at least one, are needed"
        )
    if (perturb is None) != (recipe.adversarial is None):
        raise InputError(f"recipe {recipe.name}: an adversarial recipe and an attack belong together")
    started = time.monotonic()
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = _Trainer(detector.to(device), images, truth, recipe, perturb, device)
    first = trainer.resume(checkpoint_dir) if checkpoint_dir else 0
    for epoch in tqdm(range(first, recipe.epochs), f"train {recipe.name}", unit="epoch", disable=None):
        trainer.epoch(epoch)
        if checkpoint_dir:
            trainer.save(checkpoint_dir, epoch + 1)
    detector.to("cpu").eval()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    seen = (recipe.epochs - first) * len(images)
    return TrainingRecord(recipe.name, tuple(trainer.losses), seen, time.monotonic() - started, first, name)


class _Trainer:
    def __init__(
        self,
        detector: Detector,
        images: NDArray[np.uint8],
        truth: Sequence[Truth],
        recipe: Recipe,
        perturb: Perturb | None,
        device: torch.device,
    ) -> None:
        self.detector, self.images, self.truth, self.recipe = detector, images, truth, recipe
        self.perturb, self.device = perturb, device
        self.steps = -(-len(images) // recipe.batch_size)
        self.optimizer = torch.optim.AdamW(
            detector.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, recipe.learning_rate, total_steps=recipe.epochs * self.steps, pct_start=_WARM_UP
        )
        self.losses: list[float] = []

    def epoch(self, number: int) -> None:
        """One pass over the images. All randomness comes from the seed and the epoch, so any epoch can be the first."""
        self.detector.train()
        order = np.random.default_rng([self.recipe.seed, number])
        generator = torch.Generator(self.device).manual_seed(self.recipe.seed * 100_003 + number)
        adversarial = self.recipe.adversarial
        attack = self.perturb if adversarial and number >= adversarial.clean_epochs else None
        total = 0.0
        for indices, images, truth in self._batches(order):
            encoded = self.detector.encode(truth, *self.recipe.input_size).to(self.device)
            batch = torch.from_numpy(images).to(self.device, non_blocking=True)
            if attack is not None:
                with self._mixed_precision():
                    batch = attack(self.detector, batch, encoded, generator)
            total += self._step(batch, encoded, indices) * len(indices)
        self.losses.append(total / len(self.images))

    def _batches(
        self, order: np.random.Generator
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], list[Truth]]]:
        augmentation = Augmentation(order, self.recipe.zoom)
        shuffled = order.permutation(len(self.images))
        for start in range(0, len(shuffled), self.recipe.batch_size):
            indices = shuffled[start : start + self.recipe.batch_size]
            truth = [self.truth[index] for index in indices]
            yield (indices, *augmentation.apply(self.images[indices], truth))

    def _mixed_precision(self) -> torch.autocast:
        """bfloat16 where the hardware computes in it: on accelerators, and on processors with AVX-512 BF16."""
        # A private name of torch's; a release without it computes in float32.
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        native = self.device.type == "cuda" or (supported is not None and supported())
        return torch.autocast(self.device.type, torch.bfloat16, enabled=native)

    def _step(self, images: Tensor, encoded: Encoded, indices: NDArray[np.int64]) -> float:
        with self._mixed_precision():
            terms = self.detector.losses(images, encoded)
        loss = torch.stack(list(terms.values())).sum(0).mean()
        if not bool(torch.isfinite(loss)):
            raise CannotDecide(
                f"recipe {self.recipe.name}: the loss is {loss.item()} on images {indices.tolist()}; "
                "lower the learning rate or look at these images"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call] # torch does not annotate it
        torch.nn.utils.clip_grad_norm_(self.detector.parameters(), _CLIP_NORM)
        self.optimizer.step()
        self.schedule.step()
        return float(loss.item())

    def save(self, directory: Path, epoch: int) -> None:
        """Leave everything that the next epoch depends on."""
        tensors = {f"model.{name}": tensor.contiguous() for name, tensor in self.detector.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor.contiguous() for name, tensor in state.items()}
        header = {"recipe": json.dumps(self.recipe.to_json(), sort_keys=True), "epoch": str(epoch)}
        header["losses"] = json.dumps(self.losses)
        write_atomic(directory / _CHECKPOINT, safetensors.torch.save(tensors, header))

    def resume(self, directory: Path) -> int:
        """Go on from a checkpoint of the same recipe, if there is one; the epoch to start with."""
        path = directory / _CHECKPOINT
        if not path.is_file():
            return 0
        tensors, header = read_tensors(path)
        if header.get("recipe") != json.dumps(self.recipe.to_json(), sort_keys=True):
            return 0
        model = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
        self.detector.load_state_dict(model)
        packed = self.optimizer.state_dict()
        packed["state"] = self._moments(tensors)
        self.optimizer.load_state_dict(packed)
        epoch = int(header["epoch"])
        with warnings.catch_warnings():
            # torch warns that the schedule moves before the optimizer; the optimizer moved in an earlier process.
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(epoch * self.steps):
                self.schedule.step()
        self.losses = json.loads(header["losses"])
        return epoch

    def _moments(self, tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """The optimizer's state by parameter, laid out in memory as its parameter is: the fused step requires it."""
        parameters = list(self.detector.parameters())
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                like = parameters[int(index)]
                same = tensor.shape == like.shape
                kept = torch.empty_like(like, device=tensor.device).copy_(tensor) if same else tensor
                state.setdefault(int(index), {})[key] = kept.detach()
        return state
