"""Checkpoints: everything that the next epoch depends on, in one safetensors file.

>>> write(Path("checkpoint.safetensors"), {"model": model.state_dict()}, {"epoch": 3})      # doctest: +SKIP
>>> groups, facts = read(Path("checkpoint.safetensors"))                                    # doctest: +SKIP
>>> facts["epoch"]                                                                          # doctest: +SKIP
3
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from secpipeline.detection.weights import read_tensors
from secpipeline.errors import InputError
from secpipeline.store import write_atomic

_FACTS = "facts"


def write(path: Path, groups: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
    """Write named groups of tensors and JSON-able facts; a crash leaves the old file or the new one.

    Group names hold no dot.
    """
    tensors = {
        f"{group}.{name}": tensor.detach().cpu().contiguous()
        for group, members in groups.items()
        for name, tensor in members.items()
    }
    write_atomic(path, safetensors.torch.save(tensors, {_FACTS: json.dumps(facts, sort_keys=True)}))


def read(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The groups and facts of a checkpoint; nothing at all if there is none.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    if not path.is_file():
        return {}, {}
    tensors, header = read_tensors(path)
    try:
        facts: dict[str, Any] = json.loads(header[_FACTS])
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: no checkpoint of a training ({error!r}); remove it to begin anew") from error
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = tensor
    return groups, facts


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state by parameter number and name."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, moments in state.items() for name, tensor in moments.items()}


def unpack_optimizer(optimizer: torch.optim.Optimizer, packed: Mapping[str, Tensor]) -> None:
    """Restore what :func:`pack_optimizer` gave.

    A moment is laid out in memory as its parameter is: the fused step requires it.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in packed.items():
        index, _, name = key.partition(".")
        like = parameters[int(index)]
        same = tensor.shape == like.shape
        kept = torch.empty_like(like, device=tensor.device).copy_(tensor) if same else tensor
        state.setdefault(int(index), {})[name] = kept.detach()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
