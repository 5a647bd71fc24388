"""Exponential moving average of a network's weights (Polyak and Juditsky, 1992; Tarvainen and Valpola, NeurIPS 2017).

>>> average = MovingAverage(torch.nn.Linear(2, 1), decay=0.999)
>>> average.update()
>>> sorted(average.weights)
['bias', 'weight']
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """The average of a network's floating point weights and statistics; counters are as they are.

    Early on the decay is lower, (1 + n) / (10 + n) after n updates, so that the random start is forgotten however short
    the training is.

    Parameters
    ----------
    module
        The network, on the device where it stays.
    decay
        In [0, 1); 0 is no average at all.

    Attributes
    ----------
    weights
        The average by the names of ``module.state_dict()``.
    updates
        How often it was updated.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.updates = module, decay, 0
        self._live = {name: tensor.detach() for name, tensor in module.state_dict().items()}
        self.weights = {name: tensor.clone() for name, tensor in self._live.items()}
        self._floating = [name for name, tensor in self._live.items() if tensor.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take the network's present weights into the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        floating = [self.weights[name] for name in self._floating]
        blend = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call] # torch does not annotate it
        blend(floating, [self._live[name] for name in self._floating], self.updates)
        for name in self._live.keys() - self._floating:
            self.weights[name].copy_(self._live[name])

    def restore(self, weights: dict[str, Tensor], updates: int) -> None:
        """Go on from the average of an earlier process."""
        self.updates = updates
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the network have the average as its weights for a while."""
        kept = {name: tensor.clone() for name, tensor in self._live.items()}
        self.module.load_state_dict(self.weights)
        try:
            yield
        finally:
            self.module.load_state_dict(kept)
