"""Training on several devices: one process a device, started by ``torchrun``, on one machine or many.

Every process runs the same program and trains on its share of each batch; gradients are averaged, so all hold the same
weights after every step. The first process leads: only it writes.

>>> with joined() as world:                                               # under torchrun
...     world.share(8)                                                    # doctest: +SKIP
slice(0, 4, None)
>>> ALONE.share(8)
slice(0, 8, None)
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

# The others wait while the first process loads, evaluates and writes; a process that dies ends all of them at once.
_PATIENCE = datetime.timedelta(hours=4)


@dataclass(frozen=True)
class World:
    """The processes that train together.

    Attributes
    ----------
    rank
        This process, from 0; process 0 leads.
    size
        How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of ``count`` images of a batch are this process's; empty if there are too few for everybody."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def total(self, value: float) -> float:
        """The sum of everybody's value."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def largest(self, value: float) -> float:
        """The largest of everybody's values."""
        return self._reduced(value, dist.ReduceOp.MAX)

    def _reduced(self, value: float, operation: Any) -> float:
        if self.size == 1:
            return value
        held = torch.tensor([value], dtype=torch.float64, device=_device())
        dist.all_reduce(held, operation)
        return float(held.item())

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by the mean of everybody's."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)
                tensor.div_(self.size)

    def averaging(self, module: nn.Module) -> nn.Module:
        """The module, whose backward pass leaves everybody with the mean of all gradients."""
        if self.size == 1:
            return module
        with warnings.catch_warnings():
            # Newer releases of torch call this argument forward_sync_buffers; older ones know only this.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(module, broadcast_buffers=False)

    def told(self, value: Any) -> Any:
        """What the leading process says, as JSON; the others' ``value`` is not looked at."""
        if self.size == 1:
            return value
        data = json.dumps(value).encode() if self.leads else b""
        length = torch.tensor([len(data)], device=_device())
        dist.broadcast(length, 0)
        held = torch.zeros(int(length.item()), dtype=torch.uint8, device=_device())
        if self.leads:
            held.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(held, 0)
        return json.loads(bytes(held.cpu().tolist()))


ALONE = World()


def current() -> World:
    """The world that this process has joined, or :data:`ALONE`."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return ALONE


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """Join the processes that ``torchrun`` started, and leave them at the end; without ``torchrun`` be alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or current().size > 1:
        yield current()
        return
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_cuda else "gloo", timeout=_PATIENCE)
    try:
        yield current()
    finally:
        dist.destroy_process_group()


def default_device() -> torch.device:
    """The CUDA device of this process, or the processor."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def _device() -> torch.device:
    return default_device() if dist.get_backend() == "nccl" else torch.device("cpu")
