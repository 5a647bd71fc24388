"""Weights that somebody else trained: read only if they are the very bytes that the recipe names.

A recipe names a local file and its SHA-256; nothing is downloaded. The digest is checked on the bytes that are then
decoded, and only safetensors are: a pickle such as a ``.pth`` is to be converted where it is trusted.

>>> source = WeightSource.of("csp_resnet18", "backbone", {"path": "resnet18.safetensors", "sha256": 64 * "0"})
>>> source.path
'resnet18.safetensors'
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import safetensors
from safetensors.torch import load as decode
from torch import Tensor, nn

from secpipeline.detection import states
from secpipeline.errors import InputError, IntegrityError

_SHA256 = re.compile(r"[0-9a-f]{64}")
# Counts batches during training; files of frozen networks lack it.
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class WeightSource:
    """A file of weights: its path, absolute or from the current directory, and its SHA-256 in hex."""

    path: str
    sha256: str

    @classmethod
    def of(cls, name: str, key: str, value: Any) -> Self:
        """The source in a detector's config.

        Raises
        ------
        InputError
            If it is not a path and a SHA-256.
        """
        if not isinstance(value, Mapping) or value.keys() != {"path", "sha256"} or not isinstance(value["path"], str):
            raise InputError(f"{name}: config key {key!r} must be {{path: FILE, sha256: 64 hex digits}}, not {value!r}")
        if not isinstance(value["sha256"], str) or not _SHA256.fullmatch(value["sha256"]):
            raise InputError(f"{name}: config key {key!r}: {value['sha256']!r} is no SHA-256 (64 lowercase hex digits)")
        return cls(value["path"], value["sha256"])

    def content(self) -> bytes:
        """The file's bytes.

        Raises
        ------
        InputError
            If there is no such file.
        IntegrityError
            If they are not those that the digest names.
        """
        try:
            data = Path(self.path).read_bytes()
        except OSError as error:
            raise InputError(f"{self.path}: weights cannot be read ({error.strerror})") from error
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise IntegrityError(self.path, self.sha256, found, "get the file again, or name the digest you trust")
        return data

    def tensors(self) -> dict[str, Tensor]:
        """The tensors in the file, by name.

        Raises
        ------
        InputError
            If it cannot be read, or is no safetensors file.
        IntegrityError
            As :meth:`content`.
        """
        data = self.content()
        try:
            tensors: dict[str, Tensor] = decode(data)
        except safetensors.SafetensorError as error:
            raise InputError(
                f"{self.path}: no safetensors file; no pickle such as a .pth is read, convert it where you trust it"
            ) from error
        return tensors


def load_into(module: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    """Copy published tensors into a network, which keeps its own counts of batches.

    Raises
    ------
    InputError
        As :func:`secpipeline.detection.states.fill`.
    """
    counters = {name: tensor for name, tensor in module.state_dict().items() if name.endswith(_COUNTER)}
    weights = {name: tensor for name, tensor in state.items() if not name.endswith(_COUNTER)}
    states.fill(module, {**weights, **counters}, path)
