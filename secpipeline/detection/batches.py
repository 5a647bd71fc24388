"""Batches: which images a step sees, how they are changed, and what is to be found in them.

Everything is drawn from the seed and the epoch, so that any epoch can be the first, and drawn for the whole batch
before it is shared out, so that the processes of a distributed training see together what one process would see alone.
For an accelerator a thread prepares batches ahead, on a stream of its own.

>>> batches = Batches(detector, images, truth, recipe, torch.device("cpu"))                  # doctest: +SKIP
>>> for batch in batches.epoch(0):                                                           # doctest: +SKIP
...     detector.losses(batch.images, batch.encoded)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secpipeline.datasets.loading import Truth
from secpipeline.detection import augment as augmentation
from secpipeline.detection.distributed import ALONE, World
from secpipeline.detection.hooks import Augment
from secpipeline.detection.image_sources import Images, place
from secpipeline.detection.interface import Detector, Encoded
from secpipeline.detection.prefetching import prefetch_on
from secpipeline.detection.recipes import Recipe

_SEEDS_AN_EPOCH = 100_003
_NOISE, _HOOK = 1, 2


@dataclass(frozen=True)
class Share:
    """One process's part of a batch, mirrored, zoomed and lit.

    Attributes
    ----------
    indices
        (B,) int64, which of the training images they are.
    images
        (B, 3, H, W) float32 in [0, 1] on the device.
    truth
        What is to be found in each.
    weight
        What the mean loss of this share counts in the mean over all processes' shares; 1 if all are equally large.
    """

    indices: NDArray[np.int64]
    images: Tensor
    truth: list[Truth]
    weight: float


@dataclass(frozen=True)
class Batch:
    """A :class:`Share` as the loss takes it: ``encoded`` is what is to be found, on the device."""

    indices: NDArray[np.int64]
    images: Tensor
    encoded: Encoded
    weight: float


class Batches:
    """The batches of a training.

    Parameters
    ----------
    detector
        Encodes the targets.
    images, truth
        N images and what is to be found in each.
    recipe
        Seed, size of a batch and zoom.
    device
        Where the batches are needed.
    world
        Who shares them.
    augment
        Changes each batch further, after mirroring, zoom and light; it is given this process's share, with generators
        of its own.
    """

    def __init__(
        self,
        detector: Detector,
        images: Images,
        truth: Sequence[Truth],
        recipe: Recipe,
        device: torch.device,
        world: World = ALONE,
        augment: Augment | None = None,
    ) -> None:
        self.detector, self.truth, self.recipe, self.device = detector, truth, recipe, device
        self.world, self.augment = world, augment
        self.source = place(images, device)

    def epoch(self, number: int) -> Iterator[Batch]:
        """One pass over the images in a new order."""
        shares = self._shares(number)
        if self.device.type != "cuda":
            return self._encoded(shares, number)
        # What ``augment`` remembers must be of the batch that is learned from next, so it cannot run ahead.
        if self.augment is None:
            return prefetch_on(self.device, self._encoded(shares, number))
        return self._encoded(prefetch_on(self.device, shares), number)

    def generator(self, number: int, purpose: int = 0, *, own: bool = True) -> torch.Generator:
        """A generator of the device for one epoch and purpose; each process has its ``own`` unless told otherwise."""
        rank = self.world.rank if own else 0
        seed = self.recipe.seed * _SEEDS_AN_EPOCH + number
        return torch.Generator(self.device).manual_seed(seed + ((rank * 3 + purpose) << 40))

    def _shares(self, number: int) -> Iterator[Share]:
        recipe = self.recipe
        frame = None if self.device.type == "cuda" else recipe.input_size
        order = np.random.default_rng([recipe.seed, number])
        noise = self.generator(number, _NOISE, own=False)
        shuffled = order.permutation(len(self.truth))
        for start in range(0, len(shuffled), recipe.batch_size):
            whole = shuffled[start : start + recipe.batch_size]
            changes = augmentation.draw(order, len(whole), recipe.zoom, frame)
            rows = self.world.share(len(whole))
            count = rows.stop - rows.start
            # A process without an image of its own must still take part in the step: its gradient counts nothing.
            rows = rows if count else slice(0, 1)
            pixels, truth = self._changed(whole[rows], changes[rows], noise)
            yield Share(whole[rows], pixels, truth, count * self.world.size / len(whole))

    def _encoded(self, shares: Iterator[Share], number: int) -> Iterator[Batch]:
        order = np.random.default_rng([self.recipe.seed, number, 1 + self.world.rank])
        generator = self.generator(number, _HOOK)
        for share in shares:
            pixels, truth = share.images, share.truth
            if self.augment is not None:
                pixels, truth = self.augment(pixels, truth, order, generator)
            encoded = self.detector.encode(truth, *self.recipe.input_size).to(self.device)
            yield Batch(share.indices, pixels, encoded, share.weight)

    def _changed(
        self, indices: NDArray[np.int64], changes: augmentation.Changes, noise: torch.Generator
    ) -> tuple[Tensor, list[Truth]]:
        images = self.source.take(indices)
        truth = augmentation.change_truth([self.truth[index] for index in indices], changes, *self.recipe.input_size)
        if self.device.type != "cuda":
            return torch.from_numpy(augmentation.change(images.numpy(), changes)), truth
        changed = augmentation.change_on_device(images, changes, noise)
        return changed.contiguous(memory_format=torch.channels_last), truth
