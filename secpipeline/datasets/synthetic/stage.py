"""Frames of a scene: the picture, and for everybody in it the box and how much of the body can be seen."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secpipeline.datasets.synthetic.camera import Camera
from secpipeline.datasets.synthetic.figures import draw_person
from secpipeline.datasets.synthetic.furniture import draw_furniture
from secpipeline.datasets.synthetic.pen import Sprite
from secpipeline.datasets.synthetic.photography import expose, light_field
from secpipeline.datasets.synthetic.scene import NEAREST, Scene
from secpipeline.datasets.synthetic.street import paint
from secpipeline.datasets.synthetic.vehicles import draw_vehicle
from secpipeline.datasets.synthetic.vendors import VENDORS

_SUPERSAMPLE = 2
_SECONDS_A_FRAME = 0.6
_MIN_HEIGHT = 20.0
_MIN_VISIBILITY = 0.15
_HIDDEN = 0.02  # somebody of whom less can be seen is not in the picture
_NEAREST_VEHICLE = 4.0
_SHADOW = Image.radial_gradient("L").point(lambda value: max(0, 150 - value)).reduce(4)

Outline = tuple[float, float, float, float]


@dataclass(frozen=True)
class PersonBox:
    """A person in an image.

    Attributes
    ----------
    box
        x1, y1, x2, y2 in pixels around the whole body, also where it is hidden, cut at the image's edges.
    visibility
        Share of the body's pixels that can be seen, in [0, 1].
    ignore
        Too small or too hidden to be asked for.
    """

    box: tuple[float, float, float, float]
    visibility: float
    ignore: bool


@dataclass(frozen=True)
class Frame:
    """One labelled image."""

    source: str
    scene: str
    number: int
    time_of_day: str
    camera: Camera
    pixels: NDArray[np.uint8]
    people: tuple[PersonBox, ...]

    @property
    def file_name(self) -> str:
        """Where a delivery puts the image."""
        return f"{self.source}/{self.scene}/{self.number:03d}.jpg"


class Stage:
    """A scene made ready for drawing its frames: what does not move is drawn once."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self.scene = scene
        self._seed = seed
        self._canvas_camera = scene.camera.magnified(_SUPERSAMPLE)
        self._dark = scene.street.time_of_day != "day"
        backdrop = paint(scene.street, self._canvas_camera)
        self._colour = Image.fromarray(backdrop.colour.astype(np.uint8))
        self._glow = Image.fromarray(backdrop.glow.astype(np.uint8)) if self._dark else None
        self._fixed = [(thing.z, draw_furniture(thing, self._canvas_camera, self._dark)) for thing in scene.furniture]
        self._fixed += [
            (vehicle.z, draw_vehicle(vehicle, self._canvas_camera, self._dark))
            for vehicle in scene.vehicles
            if not vehicle.speed
        ]
        lamps = [(thing.x, thing.z) for thing in scene.furniture if thing.kind == "lamp"]
        headlights = VENDORS[scene.source].on_road
        self._light = light_field(scene.camera, scene.street.time_of_day, lamps, headlights)

    def frame(self, number: int) -> Frame:
        """Draw frame ``number``, counted from 0."""
        scene, camera = self.scene, self._canvas_camera
        rng = np.random.default_rng([self._seed, list(VENDORS).index(scene.source), scene.number, number + 1])
        seconds = number * _SECONDS_A_FRAME
        layers: list[tuple[float, Sprite, int]] = [(z, sprite, 0) for z, sprite in self._fixed]
        for vehicle in scene.vehicles:
            z = vehicle.z + vehicle.speed * seconds
            if vehicle.speed and z > _NEAREST_VEHICLE:
                layers.append((z, draw_vehicle(dataclasses.replace(vehicle, z=z), camera, self._dark), 0))
        outlines = []
        for person in (start.at(seconds) for start in scene.people):
            if person.z > NEAREST:
                foot, scale = camera.point(person.x, 0.0, person.z), camera.scale(person.z)
                sprite, outline = draw_person(person.look, person.pose, foot, scale, scene.street.sun or -1)
                outlines.append((outline, sprite))
                layers.append((person.z, sprite, len(outlines)))
        colour, glow, owners = self._compose(layers)
        shake = int(rng.integers(2, 5)) if rng.random() < 0.15 else 1
        pixels = expose(colour, glow, self._light, scene.lens, shake, rng)
        people = self._boxes(outlines, owners)
        return Frame(scene.source, scene.name, number, scene.street.time_of_day, scene.camera, pixels, people)

    def _compose(self, layers: list[tuple[float, Sprite, int]]) -> tuple[Image.Image, Image.Image | None, list[int]]:
        """Paste from far to near; returns picture, glow and how many canvas pixels each owner kept."""
        colour = self._colour.copy()
        glow = None if self._glow is None else self._glow.copy()
        owners = Image.new("L", colour.size)
        occupied = False
        for _, sprite, owner in sorted(layers, key=lambda layer: -layer[0]):
            if owner:
                _cast_shadow(colour, sprite)
            colour.paste(sprite.image, sprite.area, sprite.mask)
            if owner or occupied:
                occupied = True
                owners.paste(owner, sprite.area, sprite.mask)
            if glow is not None:
                glow.paste(sprite.glow or 0, sprite.area, sprite.mask)
        return colour.reduce(_SUPERSAMPLE), glow and glow.reduce(_SUPERSAMPLE), owners.histogram()

    def _boxes(self, outlines: list[tuple[Outline, Sprite]], owners: list[int]) -> tuple[PersonBox, ...]:
        width, height = self.scene.camera.width, self.scene.camera.height
        found = []
        for owner, (outline, sprite) in enumerate(outlines, 1):
            x1, y1, x2, y2 = (round(value / _SUPERSAMPLE, 2) for value in outline)
            box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
            body = sprite.mask.histogram()[255]
            visibility = round(owners[owner] / body, 3)
            if visibility < _HIDDEN or box[2] - box[0] < 1 or box[3] - box[1] < 1:
                continue
            ignore = box[3] - box[1] < _MIN_HEIGHT or visibility < _MIN_VISIBILITY
            found.append(PersonBox(box, visibility, ignore))
        return tuple(found)


def _cast_shadow(colour: Image.Image, sprite: Sprite) -> None:
    """A soft dark patch on the ground under a person."""
    wide = max(3, round(sprite.image.width * 0.8))
    tall = max(2, round(sprite.image.height * 0.055))
    left = sprite.left + (sprite.image.width - wide) // 2
    top = sprite.top + round(sprite.image.height * 0.946) - tall // 2
    colour.paste(
        (18, 18, 22),
        (left, top, left + wide, top + tall),
        _SHADOW.resize((wide, tall), Image.Resampling.BILINEAR),
    )
