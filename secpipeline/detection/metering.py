"""What a training costs: wall time, memory, and energy where the accelerator tells it.

>>> with Meter(torch.device("cpu")) as meter:
...     pass
>>> meter.seconds < 1, meter.energy_joules
(True, None)
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import torch

_PERIOD_SECONDS = 0.5
_PATIENCE_SECONDS = 10


class Meter:
    """Measures from the beginning of a ``with`` block to its end.

    Attributes
    ----------
    seconds
        Wall time.
    energy_joules
        What the accelerator drew, by its driver's reading of the power every half second; None on the processor, or
        where ``nvidia-smi`` cannot tell.
    peak_memory_bytes
        The most that torch held on the accelerator; on the processor the most that this process has ever held.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = 0.0
        self.energy_joules: float | None = None
        self.peak_memory_bytes = 0

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._power = PowerReader(power_command(self._device)) if self._device.type == "cuda" else None
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.monotonic() - self._started
        if self._power is not None:
            watts = self._power.stop()
            self.energy_joules = watts * self.seconds if watts is not None else None
            self.peak_memory_bytes = torch.cuda.max_memory_allocated(self._device)
        else:
            unit = 1 if sys.platform == "darwin" else 1024
            self.peak_memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class PowerReader:
    """Averages the numbers that a program prints, a line a reading, from its start to :meth:`stop`.

    Parameters
    ----------
    command
        Runs until it is killed; see :func:`power_command`.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._watts: list[float] = []
        self._process: subprocess.Popen[str] | None = None
        with contextlib.suppress(OSError):  # not installed here
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        lines = self._process.stdout if self._process else None
        for line in lines or ():
            with contextlib.suppress(ValueError):  # "[N/A]" where the device has no sensor
                self._watts.append(float(line))

    def stop(self) -> float | None:
        """The mean of the readings, or None if there were none."""
        if self._process is not None:
            self._process.kill()  # a process that Dagster started in the background may be deaf to SIGTERM
            self._process.wait(_PATIENCE_SECONDS)
        self._thread.join(_PATIENCE_SECONDS)
        return sum(self._watts) / len(self._watts) if self._watts else None


def power_command(device: torch.device) -> tuple[str, ...]:
    """A command that prints a CUDA device's power in watts every half second."""
    identity = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    query = ("--query-gpu=power.draw", "--format=csv,noheader,nounits", f"--loop-ms={round(_PERIOD_SECONDS * 1000)}")
    return ("nvidia-smi", f"--id={identity}", *query)
