"""The vendors of the synthetic data: each has a camera of its own, and its pictures look a little different."""

from __future__ import annotations

from dataclasses import dataclass

from secpipeline.datasets.synthetic.photography import Lens


@dataclass(frozen=True)
class Vendor:
    """Where a vendor puts its camera, and what the camera is like.

    Attributes
    ----------
    eye
        Height of the camera in metres.
    focal
        Focal length as a share of the image's width.
    on_road
        On a vehicle; otherwise somebody on the pavement carries it.
    horizon
        Where the horizon lies, as a share of the image's height.
    lens
        The camera's faults.
    """

    eye: float
    focal: float
    on_road: bool
    horizon: float
    lens: Lens


VENDORS = {
    "vendor-a": Vendor(1.45, 0.90, True, 0.46, Lens((1.00, 1.00, 1.00), 2.0, 0.00, 0.10)),
    "vendor-b": Vendor(1.60, 0.95, False, 0.47, Lens((1.04, 1.00, 0.95), 3.0, 0.40, 0.16)),
    "vendor-c": Vendor(1.90, 0.85, True, 0.43, Lens((0.97, 1.00, 1.04), 2.5, 0.00, 0.12)),
    "vendor-d": Vendor(1.50, 0.95, False, 0.47, Lens((1.02, 1.02, 0.97), 3.0, 0.30, 0.18)),
    "vendor-e": Vendor(2.50, 0.95, False, 0.38, Lens((0.98, 1.01, 1.00), 2.0, 0.45, 0.08)),
    "vendor-f": Vendor(1.50, 1.05, True, 0.46, Lens((1.00, 0.98, 1.05), 3.5, 0.00, 0.22)),
    "vendor-g": Vendor(1.70, 0.90, False, 0.45, Lens((1.05, 1.00, 0.96), 2.0, 0.50, 0.14)),
    "vendor-h": Vendor(2.10, 1.00, True, 0.42, Lens((0.98, 1.02, 0.98), 3.0, 0.40, 0.12)),
}
