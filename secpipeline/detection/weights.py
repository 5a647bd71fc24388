"""Weights on disk: safetensors and nothing else, because reading a pickle runs whatever it says.

>>> save(detector, Path("detector.safetensors"))                          # doctest: +SKIP
>>> load(Path("detector.safetensors")).name                               # doctest: +SKIP
'csp_tiny'
"""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from secpipeline.detection import states
from secpipeline.detection.interface import Detector
from secpipeline.detection.registry import build, named
from secpipeline.errors import InputError
from secpipeline.store import write_atomic

_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


def save(detector: Detector, path: Path) -> None:
    """Write a detector's weights, with its name and configuration in the header; equal weights give equal bytes."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in detector.state_dict().items()}
    header = {"detector": detector.name, "config": json.dumps(detector.config, sort_keys=True)}
    write_atomic(path, _sorted_header(safetensors.torch.save(state, header)))


def _sorted_header(data: bytes) -> bytes:
    """The same file with its header sorted, because safetensors writes metadata in random order."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def load(path: Path, entry_point: str | None = None) -> Detector:
    """Read a detector, in evaluation mode on the processor.

    Parameters
    ----------
    path
        A file that :func:`save` wrote.
    entry_point
        ``package.module:function`` that builds the detector, for one that a user brought, as the recipe says. Left
        out, only shipped detectors are built: a file of weights does not choose which code runs.

    Raises
    ------
    InputError
        If the file is missing, a pickle, no safetensors, or does not hold just the weights that its header announces.
    """
    state, header = read_tensors(path)
    try:
        if entry_point is None:
            named(header["detector"])
        detector = build(entry_point or header["detector"], json.loads(header["config"]))
    except (InputError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path}: its header does not say which detector it holds ({error})") from error
    states.fill(detector, state, str(path))
    return detector.eval()


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the header of a safetensors file.

    Raises
    ------
    InputError
        If the file is missing, a pickle, or no safetensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(_PICKLES):
        raise InputError(f"{path}: a pickle; only safetensors are read, convert it where you trust it")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: no safetensors file ({error})") from error
