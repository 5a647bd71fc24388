"""What makes training faster without changing what it computes: precision, compilation, cuDNN's trials, more devices.

>>> with mixed_precision("float32", torch.device("cpu")):
...     torch.is_autocast_enabled("cpu")
False
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from multiprocessing.sharedctypes import Synchronized

import torch

from secpipeline.detection.interface import Detector


def take_turn(turn: Synchronized[int]) -> None:
    """In one of several processes that work side by side: default to the next of this machine's CUDA devices.

    Parameters
    ----------
    turn
        Counts the processes that have had theirs; shared by all of them.
    """
    with turn.get_lock():
        number = turn.value
        turn.value += 1
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def mixed_precision(precision: str, device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 as a recipe's ``precision`` says.

    ``auto`` is where the hardware computes in it: on accelerators, and on processors with AVX-512 BF16.
    """
    # A private name of torch's; a release without it computes in float32.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    native = device.type == "cuda" or (supported is not None and supported())
    wanted = {"auto": native, "bfloat16": True, "float32": False}[precision]
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


@contextlib.contextmanager
def accelerated(detector: Detector, compiles: bool, device: torch.device) -> Iterator[None]:
    """Prepare a detector on its device for many steps of equal shape, and leave it as it was at the end.

    Parameters
    ----------
    detector
        On an accelerator its weights stay laid out channels last.
    compiles
        Whether torch compiles the losses; batch and attack then go through the same compiled code.
    device
        On an accelerator cuDNN chooses its algorithms by trying them.
    """
    with contextlib.ExitStack() as stack:
        if device.type == "cuda":
            detector.to(memory_format=torch.channels_last)
            stack.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
            torch.backends.cudnn.benchmark = True
        if compiles:
            vars(detector)["losses"] = torch.compile(detector.losses, dynamic=False)
            stack.callback(vars(detector).pop, "losses")
        yield
