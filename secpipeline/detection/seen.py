"""What goes on between the batches of a training: the memory of a batch, and its repetition.

A detector's targets are its own affair, so an attack that dresses people and a teacher that looks at clean images must
remember the batch as augmentation left it. The last augmentation of a recipe is this memory.

>>> seen = SeenBatch()
>>> images, _ = seen(torch.zeros(1, 3, 16, 16), [Truth(np.zeros((2, 4)), np.zeros((0, 4)))], None, None)
>>> len(seen.find(images).truth[0].boxes)
2
"""

from __future__ import annotations

import collections
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secpipeline.datasets.loading import Truth
from secpipeline.errors import InputError

# More than a training loop prepares ahead of the step that it is at.
_KEPT = 16


@dataclass(frozen=True)
class Seen:
    """A batch before any attack: images (B, 3, H, W) and their people."""

    images: Tensor
    truth: list[Truth]


class SeenBatch:
    """Remembers the latest batches that passed through it."""

    def __init__(self) -> None:
        self._kept: collections.deque[Seen] = collections.deque(maxlen=_KEPT)
        self._current: Seen | None = None

    def __call__(self, images: Tensor, truth: list[Truth], order: Any, generator: Any) -> tuple[Tensor, list[Truth]]:  # noqa: ARG002 - the interface of augmentations
        """Pass a batch on unchanged."""
        if images.device.type != "cpu":
            # The layout that training asks for; another one would be copied, and the copy not be found again.
            images = images.contiguous(memory_format=torch.channels_last)
        self._kept.append(Seen(images, list(truth)))
        self._current = None  # what was found for the last batch is no answer for this one
        return images, truth

    def find(self, images: Tensor) -> Seen:
        """The batch that these images are, or, if an attack has changed them since, the batch that was found last.

        Batches may be prepared ahead, so the latest is not always the one that is asked for.

        Raises
        ------
        InputError
            If no batch of this size was seen.
        """
        for seen in self._kept:
            if seen.images.data_ptr() == images.data_ptr() and seen.images.shape == images.shape:
                self._current = seen
        if self._current is None or self._current.images.shape != images.shape:
            raise InputError(
                f"a defence was given {len(images)} images that its memory has not seen; "
                "pass the recipe's augmentation to train() together with its attack and penalty"
            )
        return self._current


class Replay:
    """Shows each batch several times in a row, in the place of the batches after it.

    Free adversarial training learns from a batch again and again while its perturbation grows (Shafahi et al.,
    "Adversarial training for free!", NeurIPS 2019). An epoch sees only one of ``replays`` images, so it costs no more
    than any other; which ones is another draw in every epoch.
    """

    def __init__(self, replays: int) -> None:
        self.replays = replays
        self._epoch: Any = None
        self._left = 0
        self._batch: tuple[Tensor, list[Truth]] = (torch.zeros(0), [])

    def __call__(self, images: Tensor, truth: list[Truth], order: Any, generator: Any) -> tuple[Tensor, list[Truth]]:  # noqa: ARG002 - the interface of augmentations
        """The batch, or the one before it that is being repeated."""
        # Each epoch brings a new generator and begins anew, so that a resumed training ends as an unbroken one.
        if self._epoch is not order or self._left == 0:
            self._epoch, self._left, self._batch = order, self.replays, (images, list(truth))
        self._left -= 1
        return self._batch
