"""Scenes at random: which street, which camera, and who and what is where."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from secpipeline.datasets.synthetic.camera import Camera
from secpipeline.datasets.synthetic.figures import Appearance, Pose, random_appearance
from secpipeline.datasets.synthetic.furniture import SMALL_KINDS, Furniture
from secpipeline.datasets.synthetic.photography import Lens
from secpipeline.datasets.synthetic.street import Street, random_street
from secpipeline.datasets.synthetic.vehicles import PAINTS, Vehicle
from secpipeline.datasets.synthetic.vendors import VENDORS
from secpipeline.errors import InputError

NEAREST = 1.7  # metres between the camera and anybody


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
            kind = str(rng.choice(SMALL_KINDS))
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
            found.append(
                dataclasses.replace(person, look=look, x=person.x + beside, z=person.z + float(rng.uniform(-0.5, 0.5)))
            )
    return tuple(found)


def _person(rng: np.random.Generator, street: Street, camera: Camera, vehicles: tuple[Vehicle, ...]) -> Person | None:
    """Somebody at a size that is uniform on a log scale, in a place where people walk; None if none was found."""
    outer = street.half_road + street.pavement - 0.25
    for _ in range(12):
        tall = float(np.exp(rng.uniform(np.log(22), np.log(0.78 * camera.height))))
        z = max(NEAREST, camera.focal * 1.7 / tall)
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
