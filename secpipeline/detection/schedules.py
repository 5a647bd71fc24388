"""Learning rate schedules, moved once a step.

``onecycle``: up to the peak over the first 15 % of the steps, then down to nothing by a cosine, with AdamW's first
momentum moving the other way (Smith and Topin, "Super-convergence", 2018). ``cosine``: linear warm-up over the first
5 %, then down to 0 by a cosine (Loshchilov and Hutter, "SGDR", ICLR 2017). ``constant``: the peak throughout.

>>> optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
>>> schedule = build("cosine", optimizer, peak=1.0, steps=100)
>>> schedule.get_last_lr()
[0.2]
"""

from __future__ import annotations

import functools
import math
import warnings

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

_RISE = 0.15
_WARM_UP = 0.05


def build(name: str, optimizer: torch.optim.Optimizer, peak: float, steps: int) -> LRScheduler:
    """The schedule of this name for ``steps`` steps, whose highest rate is ``peak``."""
    if name == "onecycle":
        return OneCycleLR(optimizer, peak, total_steps=steps, pct_start=_RISE)
    if name == "cosine":
        return LambdaLR(optimizer, functools.partial(_cosine, steps=steps))
    return LambdaLR(optimizer, lambda _step: 1.0)


def forward(schedule: LRScheduler, steps: int) -> None:
    """Move a new schedule to where it is after ``steps`` steps of an earlier process."""
    with warnings.catch_warnings():
        # torch warns that the schedule moves before the optimizer; the optimizer moved in that process.
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(steps):
            schedule.step()


def _cosine(step: int, steps: int) -> float:
    """The share of the peak at a step."""
    rise = max(1, round(_WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise)))) / 2
