"""A network's state put into it from a file: just its tensors, all of them, finite, or nothing is copied.

>>> fill(torch.nn.Linear(2, 1), {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, "linear.safetensors")
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secpipeline.errors import InputError


def fill(module: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    """Copy tensors into a network; ``path`` names their file in errors.

    Raises
    ------
    InputError
        If one is missing, unknown, of another shape or not finite; nothing is copied then.
    """
    wanted = module.state_dict()
    for name in sorted(wanted.keys() ^ state.keys()):
        verb = "lacks" if name in wanted else "holds an unknown"
        raise InputError(f"{path}: {verb} tensor {name}; these are weights of another network")
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape or not bool(torch.isfinite(tensor.float()).all()):
            raise InputError(f"{path}: {name} has the wrong shape, or values that are not finite")
    module.load_state_dict(state)
