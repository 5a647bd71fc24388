"""A pinhole camera above a flat street.

World coordinates are metres: X to the right of the road's middle, Y up from the ground, Z along the road away from
the camera. The camera looks along the road, so the horizon is a row of pixels and a thing's size falls with 1/Z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Camera:
    """A camera.

    Attributes
    ----------
    width, height
        Pixels of the image.
    focal
        Focal length in pixels.
    horizon
        Row of the horizon in pixels from the top.
    centre
        Column of the road's vanishing point in pixels.
    eye
        Height of the camera over the ground in metres.
    place
        X of the camera in metres.
    """

    width: int
    height: int
    focal: float
    horizon: float
    centre: float
    eye: float
    place: float

    def magnified(self, factor: int) -> Camera:
        """The same camera with ``factor`` times the pixels each way."""
        return Camera(
            self.width * factor, self.height * factor, self.focal * factor, self.horizon * factor,
            self.centre * factor, self.eye, self.place,
        )  # fmt: skip

    def scale(self, z: float) -> float:
        """Pixels a metre at distance ``z``."""
        return self.focal / z

    def point(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Pixel column and row of one point in front of the camera."""
        scale = self.focal / z
        return self.centre + (x - self.place) * scale, self.horizon + (self.eye - y) * scale

    def points(self, corners: ArrayLike) -> list[tuple[float, float]]:
        """Pixel columns and rows of world points of shape (n, 3), as a drawing wants them."""
        x, y, z = np.asarray(corners, np.float64).T
        scale = self.focal / z
        columns = self.centre + (x - self.place) * scale
        rows = self.horizon + (self.eye - y) * scale
        return list(zip(columns.tolist(), rows.tolist(), strict=True))

    def visible_x(self, z: float) -> tuple[float, float]:
        """The X in metres that the left and right image edge see at distance ``z``."""
        scale = self.focal / z
        return self.place - self.centre / scale, self.place + (self.width - self.centre) / scale

    def rows_to_distance(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Distance in metres at which the ground is seen at pixel rows below the horizon."""
        return (self.focal * self.eye / (rows - self.horizon)).astype(np.float32)
