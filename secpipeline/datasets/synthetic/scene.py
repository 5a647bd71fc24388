"""Scenes and their frames: who is where, what hides whom, and the picture of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secpipeline.datasets.synthetic.camera import Camera
from secpipeline.datasets.synthetic.figures import Appearance, Pose, draw_person, random_appearance
from secpipeline.datasets.synthetic.furniture import Furniture, draw_furniture
from secpipeline.datasets.synthetic.pen import Sprite
from secpipeline.datasets.synthetic.photography import Floats, Lens, expose, light_field
from secpipeline.datasets.synthetic.street import Street, paint, random_street
from secpipeline.datasets.synthetic.vehicles import PAINTS, Vehicle, draw_vehicle
from secpipeline.errors import InputError

_SUPERSAMPLE = 2
_NEAREST = 1.7
_SECONDS_A_FRAME = 0.6
_MIN_HEIGHT = 20.0
_MIN_VISIBILITY = 0.15
_SHADOW = Image.radial_gradient("L").point(lambda value: max(0, 150 - value))


@dataclass(frozen=True)
class SceneSpec:
    """What to draw: ``sources`` vendors, each with its own camera, each with scenes of several frames.

    Attributes
    ----------
    width, height
        Pixels of every image, 64 to 1024.
    sources
        1 to 8 vendors, named ``vendor-a`` and so on.
    scenes_per_source, frames_per_scene
        At least 1; frames of a scene share street, camera and light, and people move on between them.
    seed
        Another seed, other streets.

    Raises
    ------
    InputError
        If a number is out of its range.
    """

    width: int = 256
    height: int = 192
    sources: int = 8
    scenes_per_source: int = 25
    frames_per_scene: int = 10
    seed: int = 20

    def __post_init__(self) -> None:
        bounds = {
            "width": (64, 1024), "height": (64, 1024), "sources": (1, len(VENDORS)),
            "scenes_per_source": (1, 100_000), "frames_per_scene": (1, 10_000), "seed": (0, 2**31),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            if not isinstance(getattr(self, name), int) or not low <= getattr(self, name) <= high:
                raise InputError(f"synthetic data: {name} must be a whole number from {low} to {high}")

    @property
    def source_names(self) -> tuple[str, ...]:
        """Names of the vendors."""
        return tuple(list(VENDORS)[: self.sources])


@dataclass(frozen=True)
class Vendor:
    """Where a vendor puts its camera, and what the camera is like."""

    eye: float
    focal: float
    on_road: bool
    horizon: float
    lens: Lens


VENDORS = {
    "vendor-a": Vendor(1.45, 0.90, True, 0.46, Lens((1.00, 1.00, 1.00), 2.0, 0.30, 0.10)),
    "vendor-b": Vendor(1.60, 0.95, False, 0.47, Lens((1.04, 1.00, 0.95), 3.0, 0.40, 0.16)),
    "vendor-c": Vendor(1.90, 0.85, True, 0.43, Lens((0.97, 1.00, 1.04), 2.5, 0.35, 0.12)),
    "vendor-d": Vendor(1.30, 1.00, False, 0.48, Lens((1.02, 1.02, 0.97), 4.0, 0.30, 0.20)),
    "vendor-e": Vendor(2.50, 0.95, False, 0.38, Lens((0.98, 1.01, 1.00), 2.0, 0.45, 0.08)),
    "vendor-f": Vendor(1.50, 1.05, True, 0.46, Lens((1.00, 0.98, 1.05), 3.5, 0.35, 0.22)),
    "vendor-g": Vendor(1.70, 0.90, False, 0.45, Lens((1.05, 1.00, 0.96), 2.0, 0.50, 0.14)),
    "vendor-h": Vendor(2.10, 1.00, True, 0.42, Lens((0.98, 1.02, 0.98), 3.0, 0.40, 0.12)),
}


@dataclass(frozen=True)
class Person:
    """A person somewhere in a scene at the time of its first frame: metres, metres a second."""

    look: Appearance
    pose: Pose
    x: float
    z: float
    speed_x: float
    speed_z: float

    def at(self, seconds: float) -> Person:
        """The same person later."""
        pace = float(np.hypot(self.speed_x, self.speed_z))
        phase = self.pose.phase + seconds * pace * 4.4 / self.look.height
        return dataclasses.replace(
            self,
            x=self.x + seconds * self.speed_x,
            z=self.z + seconds * self.speed_z,
            pose=dataclasses.replace(self.pose, phase=phase),
        )


@dataclass(frozen=True)
class Scene:
    """Everything that the frames of a scene share."""

    source: str
    number: int
    camera: Camera
    lens: Lens
    street: Street
    people: tuple[Person, ...]
    vehicles: tuple[Vehicle, ...]
    furniture: tuple[Furniture, ...]

    @property
    def name(self) -> str:
        """Unique within the source."""
        return f"scene-{self.number:03d}"


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


def random_scene(spec: SceneSpec, source: str, number: int) -> Scene:
    """Scene ``number`` of a source; the same arguments always give the same scene."""
    rng = np.random.default_rng([spec.seed, list(VENDORS).index(source), number])
    vendor = VENDORS[source]
    time_of_day = str(rng.choice(["day", "dusk", "night"], p=[0.62, 0.2, 0.18]))
    street = random_street(rng, time_of_day)
    if vendor.on_road:
        place = float(rng.uniform(-0.6, 0.45)) * street.half_road
    else:
        place = float(rng.choice([-1, 1])) * (street.half_road + float(rng.uniform(-0.2, 0.9)) * street.pavement / 2)
    camera = Camera(
        width=spec.width,
        height=spec.height,
        focal=vendor.focal * spec.width * float(rng.uniform(0.93, 1.07)),
        horizon=spec.height * (vendor.horizon + float(rng.uniform(-0.03, 0.03))),
        centre=spec.width * float(rng.uniform(0.38, 0.62)),
        eye=vendor.eye * float(rng.uniform(0.92, 1.08)),
        place=place,
    )
    vehicles = _vehicles(rng, street, camera)
    return Scene(
        source, number, camera, vendor.lens, street, _people(rng, street, camera, vehicles), vehicles,
        _furniture(rng, street),
    )  # fmt: skip


def _vehicles(rng: np.random.Generator, street: Street, camera: Camera) -> tuple[Vehicle, ...]:
    found = []
    for side in (-1, 1):
        z = float(rng.uniform(4.5, 12))
        while z < 45 and street.half_road > 3.2:
            if rng.random() < 0.5 and not street.crossing - 6 < z < street.crossing + 4:
                paint_ = PAINTS[int(rng.integers(len(PAINTS)))]
                x = side * (street.half_road - 1.0)
                if abs(x - camera.place) > 1.4:
                    found.append(Vehicle(x, z, 0.0, side < 0, bool(rng.random() < 0.2), paint_))
            z += float(rng.uniform(5.6, 9))
    for _ in range(int(rng.integers(0, 3))):
        side = int(rng.choice([-1, 1]))
        paint_ = PAINTS[int(rng.integers(len(PAINTS)))]
        z, speed = float(rng.uniform(12, 45)), float(rng.uniform(2, 6))
        found.append(Vehicle(side * street.half_road * 0.36, z, -speed if side < 0 else speed, side < 0,
                             bool(rng.random() < 0.2), paint_))  # fmt: skip
    return tuple(found)


def _furniture(rng: np.random.Generator, street: Street) -> tuple[Furniture, ...]:
    found = []
    for side in (-1, 1):
        kerb = side * (street.half_road + 0.45)
        front = side * (street.half_road + street.pavement - 0.3)
        pitch = float(rng.uniform(11, 18))
        found += [Furniture("lamp", kerb, z, 0) for z in np.arange(float(rng.uniform(4, 10)), 60, pitch).tolist()]
        if rng.random() < 0.55:
            zs = np.arange(float(rng.uniform(6, 14)), 60, float(rng.uniform(7, 12))).tolist()
            found += [Furniture("tree", kerb, z, int(rng.integers(1 << 31))) for z in zs]
        for _ in range(int(rng.integers(1, 5))):
            kind = str(rng.choice(["sign", "bin", "bollard", "column", "meter", "hydrant", "bush", "signal"]))
            x = front if kind in ("bin", "column", "bush") else kerb
            found.append(Furniture(kind, x, float(rng.uniform(3.6, 22)), int(rng.integers(1 << 31))))
        if street.crossing and rng.random() < 0.5:
            found.append(Furniture("signal", kerb, street.crossing - 0.3, int(rng.integers(1 << 31))))
    return tuple(found)


def _people(
    rng: np.random.Generator, street: Street, camera: Camera, vehicles: tuple[Vehicle, ...]
) -> tuple[Person, ...]:
    if rng.random() < 0.07:
        return ()
    found: list[Person] = []
    for _ in range(int(rng.integers(1, 8))):
        person = _person(rng, street, camera, vehicles)
        if person is None:
            continue
        found.append(person)
        if rng.random() < 0.25:
            # Friends walk side by side, which is where most occlusion between people comes from.
            beside = float(rng.choice([-1, 1])) * float(rng.uniform(0.35, 0.75))
            look = random_appearance(rng)
            found.append(dataclasses.replace(person, look=look, x=person.x + beside, z=person.z + float(rng.uniform(-0.5, 0.5))))
    return tuple(found)


def _person(
    rng: np.random.Generator, street: Street, camera: Camera, vehicles: tuple[Vehicle, ...]
) -> Person | None:
    """Somebody at a size that is uniform on a log scale, in a place where people walk; None if none was found."""
    outer = street.half_road + street.pavement - 0.25
    for _ in range(12):
        tall = float(np.exp(rng.uniform(np.log(22), np.log(0.78 * camera.height))))
        z = max(_NEAREST, camera.focal * 1.7 / tall)
        low, high = camera.visible_x(z)
        x = float(rng.uniform(low, high))
        crossing = bool(street.crossing and street.crossing < z < street.crossing + 2.8)
        walkable = 1.0 if street.half_road + 0.2 < abs(x) < outer else (0.9 if crossing else 0.16)
        blocked = any(abs(x - v.x) < 1.3 and v.z - 0.6 < z < v.z + v.length + 0.6 for v in vehicles)
        if abs(x) < outer and not blocked and rng.random() < walkable:
            return _walker(rng, x, z, on_road=abs(x) < street.half_road)
    return None


def _walker(rng: np.random.Generator, x: float, z: float, on_road: bool) -> Person:
    look = random_appearance(rng)
    pace = float(rng.uniform(0.8, 1.6)) if rng.random() < 0.78 else 0.0
    across = bool(rng.random() < (0.8 if on_road else 0.25))
    direction = int(rng.choice([-1, 1]))
    view = "side" if across or (pace == 0 and rng.random() < 0.3) else ("back" if direction > 0 else "front")
    stride = float(rng.uniform(0.3, 0.5)) if pace else float(rng.uniform(0.0, 0.06))
    pose = Pose(view, direction, float(rng.uniform(0, 2 * np.pi)), stride)
    return Person(look, pose, x, z, pace * direction * across, pace * direction * (not across))


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
        self._light: Floats | None = light_field(scene.camera, scene.street.time_of_day, lamps, headlights)

    def frame(self, number: int) -> Frame:
        """Draw one frame."""
        scene, camera = self.scene, self._canvas_camera
        rng = np.random.default_rng([self._seed, list(VENDORS).index(scene.source), scene.number, number + 1])
        seconds = number * _SECONDS_A_FRAME
        layers: list[tuple[float, Sprite, int]] = [(z, sprite, 0) for z, sprite in self._fixed]
        for vehicle in scene.vehicles:
            z = vehicle.z + vehicle.speed * seconds
            if vehicle.speed and z > 4.0:
                layers.append((z, draw_vehicle(dataclasses.replace(vehicle, z=z), camera, self._dark), 0))
        outlines = []
        for person in (start.at(seconds) for start in scene.people):
            if person.z > _NEAREST:
                foot, scale = camera.point(person.x, 0.0, person.z), camera.scale(person.z)
                sprite, outline = draw_person(person.look, person.pose, foot, scale, scene.street.sun or -1)
                outlines.append((outline, sprite))
                layers.append((person.z, sprite, len(outlines)))
        colour, glow, owners = self._compose(layers)
        shake = int(rng.integers(2, 5)) if rng.random() < 0.15 else 1
        pixels = expose(colour, glow, self._light, scene.lens, shake, rng)
        people = self._boxes(outlines, owners)
        return Frame(scene.source, scene.name, number, scene.street.time_of_day, scene.camera, pixels, people)

    def _compose(
        self, layers: list[tuple[float, Sprite, int]]
    ) -> tuple[Image.Image, Image.Image | None, list[int]]:
        """Paste from far to near; returns picture, glow and how many canvas pixels each owner kept."""
        colour = self._colour.copy()
        glow = None if self._glow is None else self._glow.copy()
        owners = Image.new("L", colour.size)
        for _, sprite, owner in sorted(layers, key=lambda layer: -layer[0]):
            place = (sprite.left, sprite.top)
            alpha = sprite.image.getchannel("A")
            if owner:
                _cast_shadow(colour, sprite)
            colour.paste(sprite.image, place, alpha)
            owners.paste(owner, (*place, place[0] + alpha.width, place[1] + alpha.height), alpha)
            if glow is not None:
                glow.paste(sprite.glow or 0, (*place, place[0] + alpha.width, place[1] + alpha.height), alpha)
        return colour.reduce(_SUPERSAMPLE), glow and glow.reduce(_SUPERSAMPLE), owners.histogram()

    def _boxes(
        self, outlines: list[tuple[tuple[float, float, float, float], Sprite]], owners: list[int]
    ) -> tuple[PersonBox, ...]:
        width, height = self.scene.camera.width, self.scene.camera.height
        found = []
        for owner, (outline, sprite) in enumerate(outlines, 1):
            x1, y1, x2, y2 = (round(value / _SUPERSAMPLE, 2) for value in outline)
            box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
            body = sprite.image.getchannel("A").histogram()[255]
            visibility = round(owners[owner] / body, 3)
            if owners[owner] == 0 or box[2] - box[0] < 1 or box[3] - box[1] < 1:
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
    colour.paste((18, 18, 22), (left, top, left + wide, top + tall), _SHADOW.resize((wide, tall)))
