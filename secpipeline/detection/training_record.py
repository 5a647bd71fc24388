"""What is recorded about a training.

>>> TrainingRecord.from_json(json.loads(Path("training.json").read_bytes())).images_per_second     # doctest: +SKIP
612.4
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import torch

from secpipeline import environment
from secpipeline.detection.distributed import World
from secpipeline.detection.metering import Meter


@dataclass(frozen=True)
class TrainingRecord:
    """What happened.

    Attributes
    ----------
    recipe, seed
        Its name and its seed.
    data_sha256
        Of the images, as they were given, and their truth.
    losses
        Mean loss of each epoch.
    scores
        What ``validate`` said after each epoch; higher is better.
    kept_epoch
        The epoch whose weights were kept, counted from 1.
    training_images, images
        How many there are, and how many were seen, each as often as it was.
    seconds
        Wall time of this process; a resumed training counts from where it resumed.
    images_per_second
        Of all processes together, validation and checkpoints included.
    resumed_at
        The epoch it went on from, 0 if it ran in one go.
    device
        ``cpu`` or the accelerator's name.
    world_size
        How many processes trained together, each on a device of its own.
    gpu_hours, energy_joules
        Of all accelerators together; the energy is None where it cannot be read.
    peak_memory_bytes
        The most that any process held; see :class:`secpipeline.detection.metering.Meter`.
    environment
        Versions by name.
    """

    recipe: str
    seed: int
    data_sha256: str
    losses: tuple[float, ...]
    scores: tuple[float, ...]
    kept_epoch: int
    training_images: int
    images: int
    seconds: float
    images_per_second: float
    resumed_at: int
    device: str
    world_size: int
    gpu_hours: float
    energy_joules: float | None
    peak_memory_bytes: int
    environment: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON-able dictionary."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The record that :meth:`to_json` gave."""
        return cls(**{**values, "losses": tuple(values["losses"]), "scores": tuple(values["scores"])})


def costs(meter: Meter, device: torch.device, world: World) -> dict[str, Any]:
    """The fields of a record that tell what a training ran on and what it cost, over all processes."""
    on_cuda = device.type == "cuda"
    energy = world.total(meter.energy_joules or 0.0)
    known = world.total(meter.energy_joules is not None) == world.size
    return {
        "device": torch.cuda.get_device_name(device) if on_cuda else "cpu",
        "world_size": world.size,
        "seconds": meter.seconds,
        "gpu_hours": world.size * meter.seconds / 3600 if on_cuda else 0.0,
        "energy_joules": energy if known else None,
        "peak_memory_bytes": int(world.largest(meter.peak_memory_bytes)),
        "environment": environment.describe(),
    }
