"""Training: one loop for every detector and every defence.

>>> record = train(detector, images, truth, recipe, checkpoint_dir=Path("resume"))      # doctest: +SKIP
>>> record.losses[-1] < record.losses[0]                                                # doctest: +SKIP
True

On the processor the weights depend on the seed and the data alone, however often the training was killed and resumed.
There is one exception: depthwise convolutions in bfloat16 (SSDLite) differ from run to run; train these in float32. On
an accelerator weights also depend on the order in which it adds. Under ``torchrun`` every process calls :func:`train`
with the same arguments, see :mod:`secpipeline.detection.distributed`.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from secpipeline.datasets.loading import Truth
from secpipeline.detection import checkpoints, distributed, schedules
from secpipeline.detection.acceleration import accelerated, mixed_precision
from secpipeline.detection.batches import Batch, Batches
from secpipeline.detection.ema import MovingAverage
from secpipeline.detection.hooks import Augment, Penalty, Perturb, Validate
from secpipeline.detection.image_sources import Images, data_digest
from secpipeline.detection.interface import Detector, Encoded
from secpipeline.detection.metering import Meter
from secpipeline.detection.recipes import Recipe
from secpipeline.detection.stopping import best_epoch, is_over
from secpipeline.detection.training_record import TrainingRecord, costs
from secpipeline.errors import CannotDecide, InputError

_CHECKPOINT = "checkpoint.safetensors"
# An accelerator works through a queue; asking for the latest loss would empty it.
_LAG = 2


def train(
    detector: Detector,
    images: Images,
    truth: Sequence[Truth],
    recipe: Recipe,
    *,
    augment: Augment | None = None,
    perturb: Perturb | None = None,
    penalty: Penalty | None = None,
    validate: Validate | None = None,
    checkpoint_dir: Path | None = None,
    device: torch.device | None = None,
) -> TrainingRecord:
    """Train a detector in place; it comes back in evaluation mode on the processor.

    Parameters
    ----------
    detector
        The network.
    images
        (N, 3, H, W) uint8 in the recipe's frame, or as many JPEG files.
    truth
        The people of each image.
    recipe
        How.
    augment
        Changes a batch (B, 3, H, W) in [0, 1], on the device, and its truth, before it is encoded; draws from the
        generators it is given and from nothing else.
    perturb
        Attacks each batch after the recipe's clean epochs; required exactly if the recipe is adversarial.
    penalty
        A scalar that is added to the loss.
    validate
        A score of the detector after each epoch, by data that it does not train on; required if the recipe stops early.
        The detector is in evaluation mode and has the weights that would be kept.
    checkpoint_dir
        Where to leave a checkpoint after each epoch and to go on from one with the same recipe and data.
    device
        Default: this process's CUDA device, else the processor.

    Raises
    ------
    InputError
        As :func:`check_trainable`; if there are no images or not of the recipe's size, or the recipe asks for what is
        not given.
    CannotDecide
        If the loss is no longer finite; names the images of the batch. If a score is not finite.
    """
    check_trainable(detector, recipe)
    _check(images, truth, recipe, perturb, validate)
    device = device or distributed.default_device()
    with Meter(device) as meter, accelerated(detector.to(device), recipe.compile, device):
        trainer = _Trainer(detector, images, truth, recipe, (augment, perturb, penalty), device)
        first = trainer.resume(checkpoint_dir) if checkpoint_dir else 0
        trainer.run(first, validate, checkpoint_dir)
    detector.to("cpu").eval()
    return trainer.record(meter, first)


def check_trainable(detector: Detector, recipe: Recipe) -> None:
    """Refuse a detector that has no weights to move.

    Raises
    ------
    InputError
        Naming the recipe and what to do.
    """
    if not any(parameter.requires_grad for parameter in detector.parameters()):
        raise InputError(
            f"recipe {recipe.name}: detector {recipe.detector} is a black box: it cannot be trained; "
            "evaluate it, or bring it as a white box"
        )


def _check(
    images: Images, truth: Sequence[Truth], recipe: Recipe, perturb: Perturb | None, validate: Validate | None
) -> None:
    if len(images) == 0 or len(images) != len(truth):
        raise InputError(
            f"{len(images)} training images and {len(truth)} truths; equally many, at least one, are needed"
        )
    if tuple(images.shape[2:]) != tuple(recipe.input_size):
        raise InputError(f"recipe {recipe.name}: images of {images.shape[2:]} pixels, not of {recipe.input_size}")
    if (perturb is None) != (recipe.adversarial is None):
        raise InputError(f"recipe {recipe.name}: an adversarial recipe and an attack belong together")
    if recipe.early_stopping is not None and validate is None:
        raise InputError(f"recipe {recipe.name}: it stops early, so it needs a score on calibration data")


class _Objective(nn.Module):
    """The mean loss of a batch as a module's forward pass, so that torch can average its gradients over processes."""

    def __init__(self, detector: Detector, penalty: Penalty | None) -> None:
        super().__init__()
        self.detector, self.penalty = detector, penalty

    def forward(self, images: Tensor, encoded: Encoded) -> Tensor:
        loss = torch.stack(list(self.detector.losses(images, encoded).values())).sum(0).mean()
        return loss if self.penalty is None else loss + self.penalty(self.detector, images, encoded)


class _Trainer:
    def __init__(
        self,
        detector: Detector,
        images: Images,
        truth: Sequence[Truth],
        recipe: Recipe,
        hooks: tuple[Augment | None, Perturb | None, Penalty | None],
        device: torch.device,
    ) -> None:
        self.detector, self.recipe, self.device = detector, recipe, device
        self.world = distributed.current()
        augment, self.perturb, penalty = hooks
        self.data_sha256 = data_digest(images, [(people.boxes, people.ignore) for people in truth])
        self.batches = Batches(detector, images, truth, recipe, device, self.world, augment)
        self.objective = self.world.averaging(_Objective(detector, penalty))
        self.count = len(truth)
        self.steps = -(-self.count // recipe.batch_size)
        self.optimizer = torch.optim.AdamW(
            detector.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self.schedule = schedules.build(
            recipe.schedule, self.optimizer, recipe.learning_rate, recipe.epochs * self.steps
        )
        self.average = MovingAverage(detector, recipe.ema) if recipe.ema is not None else None
        self.best: dict[str, Tensor] = {}
        self.losses: list[float] = []
        self.scores: list[float] = []

    def run(self, first: int, validate: Validate | None, checkpoint_dir: Path | None) -> None:
        """Train from epoch ``first`` on and leave the weights that are kept in the detector."""
        rule, total = self.recipe.early_stopping, self.recipe.epochs * self.count
        hidden = None if self.world.leads else True
        bar = tqdm(desc=f"train {self.recipe.name}", total=total, initial=first * self.count, unit="im", disable=hidden)
        with bar:
            for number in range(first, self.recipe.epochs):
                if rule is not None and is_over(self.scores, rule):
                    break
                self.epoch(number, bar)
                if validate is not None:
                    self.judge(number, validate)
                if checkpoint_dir and self.world.leads:
                    self.save(checkpoint_dir)
        if kept := self.best or (self.average.weights if self.average else {}):
            self.detector.load_state_dict(kept)

    def epoch(self, number: int, bar: Any) -> None:
        """One pass over the images. All randomness comes from the seed and the epoch, so any epoch can be the first."""
        self.detector.train()
        generator = self.batches.generator(number)
        adversarial = self.recipe.adversarial
        attack = self.perturb if adversarial and number >= adversarial.clean_epochs else None
        pending: collections.deque[tuple[Tensor, Batch]] = collections.deque()
        lag = _LAG if self.device.type == "cuda" else 0
        total = 0.0
        with torch.random.fork_rng(devices=[self.device] if lag else []):
            torch.manual_seed(generator.initial_seed())  # for networks that draw by themselves
            for batch in self.batches.epoch(number):
                images = batch.images
                with mixed_precision(self.recipe.precision, self.device):
                    if attack is not None:
                        images = attack(self.detector, images, batch.encoded, generator)
                    loss = self.objective(images, batch.encoded)
                pending.append((loss.detach(), batch))
                total += self._settled(pending, lag)
                self._descend(loss * batch.weight)
                bar.update(min(self.recipe.batch_size, self.count))
        total += self._settled(pending, 0)
        self.losses.append(self.world.total(total) / self.count)
        self.world.average(self._statistics())

    def _settled(self, pending: collections.deque[tuple[Tensor, Batch]], lag: int) -> float:
        """The summed losses of all but the latest ``lag`` batches, which are checked and let go."""
        total = 0.0
        while len(pending) > lag:
            loss, batch = pending.popleft()
            value = float(loss.item())
            if not math.isfinite(value):
                raise CannotDecide(
                    f"recipe {self.recipe.name}: the loss is {value} on images {batch.indices.tolist()}; "
                    "lower the learning rate or look at these images"
                )
            total += value * (len(batch.indices) if batch.weight else 0)
        return total

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call] # torch does not annotate it
        torch.nn.utils.clip_grad_norm_(self.detector.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        if self.average is not None:
            self.average.update()

    def _statistics(self) -> list[Tensor]:
        """Running statistics, of which each process has gathered its own."""
        names = [name for name, buffer in self.detector.named_buffers() if buffer.is_floating_point()]
        groups = [self.detector.state_dict(), *([self.average.weights] if self.average else [])]
        return [group[name] for group in groups for name in names if name in group]

    def judge(self, number: int, validate: Validate) -> None:
        """Score the weights that would be kept, and keep them if they are the best so far."""
        with self.average.applied() if self.average else contextlib.nullcontext():
            self.detector.eval()
            score = self.world.told(validate(self.detector, number) if self.world.leads else None)
            if not math.isfinite(score):
                raise CannotDecide(f"recipe {self.recipe.name}: the score after epoch {number + 1} is {score}")
            self.scores.append(score)
            rule = self.recipe.early_stopping
            if rule is not None and best_epoch(self.scores, rule) == number:
                self.best = {name: tensor.clone() for name, tensor in self.detector.state_dict().items()}

    def record(self, meter: Meter, first: int) -> TrainingRecord:
        """What happened since epoch ``first``."""
        rule, images = self.recipe.early_stopping, (len(self.losses) - first) * self.count
        return TrainingRecord(
            recipe=self.recipe.name,
            seed=self.recipe.seed,
            data_sha256=self.data_sha256,
            losses=tuple(self.losses),
            scores=tuple(self.scores),
            kept_epoch=best_epoch(self.scores, rule) + 1 if rule else len(self.losses),
            training_images=self.count,
            images=images,
            images_per_second=images / meter.seconds,
            resumed_at=first,
            **costs(meter, self.device, self.world),
        )

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must have been made of to go on from it."""
        return {"recipe": json.loads(json.dumps(self.recipe.to_json())), "data": self.data_sha256}

    def save(self, directory: Path) -> None:
        """Leave everything that the next epoch depends on."""
        average = self.average
        groups = {
            "model": self.detector.state_dict(),
            "optimizer": checkpoints.pack_optimizer(self.optimizer),
            "average": average.weights if average else {},
            "best": self.best,
        }
        facts = {"losses": self.losses, "scores": self.scores, "updates": average.updates if average else 0}
        checkpoints.write(directory / _CHECKPOINT, groups, {**self._identity(), **facts})

    def resume(self, directory: Path) -> int:
        """Go on from a checkpoint of the same recipe and data, if there is one; the epoch to start with."""
        groups, facts = checkpoints.read(directory / _CHECKPOINT)
        found = self._identity().items() <= facts.items()
        if self.world.largest(found) != found:
            raise InputError(f"{directory}: not all processes see the same checkpoint; use a folder that they share")
        if not found:
            return 0
        self.detector.load_state_dict(groups["model"])
        checkpoints.unpack_optimizer(self.optimizer, groups["optimizer"])
        if self.average is not None:
            self.average.restore(groups["average"], facts["updates"])
        self.best = {name: tensor.to(self.device) for name, tensor in groups.get("best", {}).items()}
        self.losses, self.scores = facts["losses"], facts["scores"]
        schedules.forward(self.schedule, len(self.losses) * self.steps)
        return len(self.losses)
