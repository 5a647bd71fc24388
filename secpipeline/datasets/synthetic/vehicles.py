"""Cars and vans as boxes in space, seen along the street."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from secpipeline.datasets.synthetic.camera import Camera
from secpipeline.datasets.synthetic.pen import Colour, Point, Sprite, opaque, tint

PAINTS: tuple[Colour, ...] = (
    (196, 198, 202), (40, 42, 48), (120, 124, 130), (150, 30, 34), (36, 62, 112), (228, 228, 224), (64, 84, 70),
    (176, 142, 84),
)  # fmt: skip
_GLASS: Colour = (58, 70, 82)
_TYRE: Colour = (22, 22, 24)
_WHITE_LIGHT: Colour = (255, 246, 214)
_RED_LIGHT: Colour = (214, 34, 28)


@dataclass(frozen=True)
class Vehicle:
    """A vehicle parallel to the road.

    Attributes
    ----------
    x, z
        Middle of its near end on the ground, metres.
    speed
        Metres a second along Z; 0 is parked.
    oncoming
        Whether its front faces the camera.
    van
        Higher and longer.
    paint
        Its colour.
    """

    x: float
    z: float
    speed: float
    oncoming: bool
    van: bool
    paint: Colour

    @property
    def length(self) -> float:
        """Metres."""
        return 5.2 if self.van else 4.3


def draw_vehicle(vehicle: Vehicle, camera: Camera, lights_on: bool) -> Sprite:
    """Draw a vehicle on a canvas of the camera's size."""
    return _Body(vehicle, camera, lights_on).draw()


class _Body:
    def __init__(self, vehicle: Vehicle, camera: Camera, lights_on: bool) -> None:
        self.vehicle, self.camera, self.lights_on = vehicle, camera, lights_on
        self.half = 0.95 if vehicle.van else 0.88
        self.roof = 2.05 if vehicle.van else 1.46
        self.belt = 1.1 if vehicle.van else 0.86
        # The side that faces the camera, seen from the vehicle's middle.
        self.flank = -1 if vehicle.x > camera.place else 1
        near = camera.points(self._box(-1.05, 1.05, 0.0, self.roof, 0.0, vehicle.length))
        xs, ys = zip(*near, strict=True)
        self.left = max(0, int(min(xs)) - 1)
        self.top = max(0, int(min(ys)) - 1)
        right, bottom = min(camera.width, int(max(xs)) + 2), min(camera.height, int(max(ys)) + 2)
        self.image = Image.new("RGBA", (max(1, right - self.left), max(1, bottom - self.top)))
        self.pen = ImageDraw.Draw(self.image)
        self.glow = Image.new("RGB", self.image.size) if lights_on else None

    def _box(
        self, x1: float, x2: float, y1: float, y2: float, z1: float, z2: float
    ) -> list[tuple[float, float, float]]:
        return [
            (self.vehicle.x + x * self.half, y, self.vehicle.z + z)
            for x in (x1, x2)
            for y in (y1, y2)
            for z in (z1, z2)
        ]

    def _at(self, corners: list[tuple[float, float, float]]) -> list[Point]:
        world = [(self.vehicle.x + x * self.half, y, self.vehicle.z + z) for x, y, z in corners]
        return [(u - self.left, v - self.top) for u, v in self.camera.points(world)]

    def face(self, corners: list[tuple[float, float, float]], colour: Colour) -> None:
        """A polygon; x in half widths, y in metres, z in metres behind the near end."""
        self.pen.polygon(self._at(corners), fill=(*colour, 255))

    def wall(self, low: float, high: float, z1: float, z2: float, lean: float, colour: Colour) -> None:
        """A part of the visible flank; its upper edge leans inwards by ``lean`` half widths."""
        x, upper = float(self.flank), self.flank * (1 - lean)
        self.face([(x, low, z1), (x, low, z2), (upper, high, z2), (upper, high, z1)], colour)

    def end(
        self,
        low: float,
        high: float,
        half_low: float,
        half_high: float,
        z: float,
        back: float,
        colour: Colour,
    ) -> None:
        """A part of the near end; its upper edge lies ``back`` metres further away."""
        corners = [
            (-half_low, low, z),
            (half_low, low, z),
            (half_high, high, z + back),
            (-half_high, high, z + back),
        ]
        self.face(corners, colour)

    def draw(self) -> Sprite:
        paint, length = self.vehicle.paint, self.vehicle.length
        bonnet = 0.15 if self.vehicle.van else (1.0 if self.vehicle.oncoming else 0.55)
        boot = 0.1 if self.vehicle.van else (0.55 if self.vehicle.oncoming else 1.0)
        self.wall(0.2, self.belt, 0.0, length, 0.0, tint(paint, 0.72))
        for z in (0.85, length - 0.8):
            self.wheel(z)
        self.face([(-0.98, self.belt, 0), (0.98, self.belt, 0), (0.98, self.belt, length), (-0.98, self.belt, length)],
                  tint(paint, 1.08))  # fmt: skip
        self.wall(self.belt, self.roof, bonnet, length - boot, 0.14, tint(paint, 0.66))
        self.wall(self.belt + 0.06, self.roof - 0.1, bonnet + 0.35, length - boot - 0.35, 0.12, tint(_GLASS, 0.85))
        top = [(-0.84, self.roof, bonnet + 0.3), (0.84, self.roof, bonnet + 0.3), (0.84, self.roof, length - boot),
               (-0.84, self.roof, length - boot)]  # fmt: skip
        self.face(top, tint(paint, 1.15))
        self.end(self.belt, self.roof, 0.95, 0.8, bonnet, 0.3, tint(paint, 0.9))
        self.end(self.belt + 0.05, self.roof - 0.09, 0.88, 0.74, bonnet + 0.02, 0.26, _GLASS)
        self.bumper(paint)
        return Sprite(self.image.convert("RGB"), opaque(self.image), self.left, self.top, self.glow)

    def wheel(self, z: float) -> None:
        """A wheel as the polygon that a circle becomes in perspective."""
        turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        for radius, colour in ((0.33, _TYRE), (0.19, (130, 132, 136))):
            rim = [(self.flank * 1.0, 0.33 + radius * float(np.sin(t)), z + radius * float(np.cos(t))) for t in turn]
            self.face(rim, colour)

    def bumper(self, paint: Colour) -> None:
        for side in (-0.8, 0.8):
            low, high = side - 0.14, side + 0.14
            self.face([(low, 0.0, 0.1), (high, 0.0, 0.1), (high, 0.4, 0.1), (low, 0.4, 0.1)], _TYRE)
        self.end(0.2, self.belt, 1.0, 0.98, 0.0, 0.0, paint)
        self.end(0.2, 0.36, 1.0, 1.0, -0.01, 0.0, tint(paint, 0.55))
        self.end(0.4, 0.53, 0.3, 0.3, -0.01, 0.0, (226, 226, 214))
        if self.vehicle.oncoming:
            self.end(0.58, 0.7, 0.42, 0.42, -0.01, 0.0, (34, 34, 38))
        for side in (-0.76, 0.76):
            self.light(side)

    def light(self, side: float) -> None:
        front = self.vehicle.oncoming
        colour = _WHITE_LIGHT if front else _RED_LIGHT
        (x, y), (edge, _) = self._at([(side, 0.66, -0.02), (side + 0.17, 0.66, -0.02)])
        wide = max(1.0, abs(edge - x))
        box = (x - wide, y - wide * 0.7, x + wide, y + wide * 0.7)
        self.pen.ellipse(box, fill=(*(colour if self.lights_on else tint(colour, 0.9)), 255))
        if self.glow is not None and self.vehicle.speed != 0:
            ImageDraw.Draw(self.glow).ellipse(box, fill=colour if front else tint(colour, 0.8))
