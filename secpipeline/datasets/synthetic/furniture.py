"""What stands on pavements: trees, lamps, signs, and things that a detector takes for people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secpipeline.datasets.synthetic.camera import Camera
from secpipeline.datasets.synthetic.pen import Colour, Pen, Sprite, tint

SMALL_KINDS: tuple[str, ...] = ("sign", "bin", "bollard", "column", "meter", "hydrant", "bush", "signal")
_WARM: Colour = (255, 214, 150)
_STEEL: Colour = (92, 96, 100)
_SIGNS: tuple[Colour, ...] = ((34, 74, 160), (190, 34, 36), (220, 180, 40), (236, 236, 236))


@dataclass(frozen=True)
class Furniture:
    """A ``tree``, a ``lamp`` or one of :data:`SMALL_KINDS` at (x, z) metres; ``seed`` fixes how it looks."""

    kind: str
    x: float
    z: float
    seed: int


@dataclass(frozen=True)
class _Work:
    """What a drawer needs; ``inwards`` is the direction of the road, −1 or 1."""

    pen: Pen
    rng: np.random.Generator
    lights_on: bool
    inwards: int


def draw_furniture(thing: Furniture, camera: Camera, lights_on: bool) -> Sprite:
    """Draw a thing on a canvas of the camera's size; what lies outside is cut off."""
    reach = {"tree": (3.2, 3.2, 8.2, 0.1), "lamp": (1.8, 1.8, 6.4, 0.1)}.get(thing.kind, (0.9, 0.9, 3.7, 0.1))
    foot = camera.point(thing.x, 0.0, thing.z)
    pen = Pen(foot, camera.scale(thing.z), reach, (camera.width, camera.height))
    _DRAWERS[thing.kind](_Work(pen, np.random.default_rng(thing.seed), lights_on, -1 if thing.x > 0 else 1))
    return pen.sprite(-1 if thing.kind in ("tree", "bush", "column", "bin") else 0)


def _tree(work: _Work) -> None:
    trunk = tint((92, 70, 52), float(work.rng.uniform(0.7, 1.2)))
    height = float(work.rng.uniform(2.4, 3.2))
    work.pen.limb((0, 0), (0.05, height), (0.3, 0.2), trunk)
    work.pen.limb((0.05, height - 0.6), (0.6, height + 0.6), (0.14, 0.08), trunk)
    work.pen.limb((0.02, height - 0.4), (-0.6, height + 0.7), (0.14, 0.08), trunk)
    base: Colour = [(62, 96, 44), (84, 108, 48), (48, 82, 46), (132, 104, 44)][int(work.rng.integers(4))]
    count = 34
    angle, radius = work.rng.uniform(0, 2 * np.pi, count), np.sqrt(work.rng.uniform(0, 1, count))
    xs, ys = 1.75 * radius * np.cos(angle), height + 1.6 + 1.7 * radius * np.sin(angle)
    for index in range(count):
        # Lower and earlier leaves are in the shade of later ones.
        shade = 0.62 + 0.4 * index / count + 0.06 * (float(ys[index]) - height - 1.6)
        size = float(work.rng.uniform(0.4, 0.8))
        work.pen.ellipse((float(xs[index]), float(ys[index])), (size, size * 0.85), tint(base, shade))


def _bush(work: _Work) -> None:
    base = tint((58, 88, 46), float(work.rng.uniform(0.8, 1.2)))
    for index in range(14):
        centre = (float(work.rng.uniform(-0.6, 0.6)), float(work.rng.uniform(0.1, 0.75)))
        work.pen.ellipse(centre, (0.26, 0.24), tint(base, 0.7 + 0.035 * index))


def _lamp(work: _Work) -> None:
    work.pen.limb((0, 0), (0, 5.6), (0.16, 0.09), _STEEL)
    work.pen.limb((0, 5.6), (work.inwards * 1.2, 5.9), (0.08, 0.07), _STEEL)
    if work.lights_on:
        work.pen.lamp((work.inwards * 1.25, 5.84), 0.2, _WARM)
    else:
        work.pen.ellipse((work.inwards * 1.25, 5.86), (0.24, 0.09), (186, 188, 186))


def _sign(work: _Work) -> None:
    work.pen.limb((0, 0), (0, 2.7), (0.07, 0.07), (142, 146, 150))
    colour = _SIGNS[int(work.rng.integers(len(_SIGNS)))]
    if work.rng.random() < 0.5:
        work.pen.ellipse((0, 2.6), (0.33, 0.33), colour)
        work.pen.ellipse((0, 2.6), (0.2, 0.2), (240, 240, 236))
    else:
        work.pen.rectangle((-0.3, 2.25), (0.3, 2.9), colour)
        work.pen.rectangle((-0.2, 2.42), (0.2, 2.55), (240, 240, 236))


def _signal(work: _Work) -> None:
    work.pen.limb((0, 0), (0, 2.5), (0.11, 0.1), (58, 62, 64))
    work.pen.rectangle((-0.19, 2.35), (0.19, 3.35), (32, 34, 36))
    on = int(work.rng.integers(3))
    for place, colour in enumerate(((226, 40, 34), (240, 180, 40), (44, 190, 96))):
        centre = (0.0, 3.16 - place * 0.31)
        if place == on:
            work.pen.lamp(centre, 0.12, colour)
        else:
            work.pen.ellipse(centre, (0.12, 0.12), tint(colour, 0.25))


def _bin(work: _Work) -> None:
    colour = tint(((56, 74, 58), (70, 74, 82), (150, 70, 30))[int(work.rng.integers(3))], 1.0)
    work.pen.rectangle((-0.26, 0.05), (0.26, 0.95), colour)
    work.pen.ellipse((0, 0.95), (0.28, 0.1), tint(colour, 0.6))
    work.pen.rectangle((-0.26, 0.7), (0.26, 0.76), tint(colour, 1.3))


def _bollard(work: _Work) -> None:
    work.pen.limb((0, 0), (0, 0.95), (0.16, 0.14), (74, 76, 80))
    work.pen.limb((0, 0.74), (0, 0.82), (0.15, 0.15), (206, 206, 200))


def _column(work: _Work) -> None:
    """An advertising pillar: as tall as a person, with a head of its own."""
    colour = tint((84, 100, 92), float(work.rng.uniform(0.7, 1.2)))
    work.pen.rectangle((-0.36, 0.0), (0.36, 1.75), colour)
    red, green, blue = work.rng.integers(90, 230, 3).tolist()
    work.pen.rectangle((-0.28, 0.45), (0.28, 1.6), (red, green, blue))
    work.pen.ellipse((0, 1.78), (0.42, 0.16), tint(colour, 0.7))
    work.pen.ellipse((0, 1.98), (0.2, 0.16), tint(colour, 0.9))


def _meter(work: _Work) -> None:
    """A parking meter: a thin body under a round head."""
    work.pen.limb((0, 0), (0, 1.15), (0.09, 0.09), (70, 72, 76))
    work.pen.limb((0, 1.15), (0, 1.45), (0.24, 0.2), (104, 110, 118))
    work.pen.rectangle((-0.07, 1.3), (0.07, 1.42), (196, 206, 190))


def _hydrant(work: _Work) -> None:
    work.pen.limb((0, 0.05), (0, 0.66), (0.24, 0.22), (178, 40, 32))
    work.pen.limb((-0.18, 0.45), (0.18, 0.45), (0.12, 0.12), (158, 34, 28))


_DRAWERS = {
    "tree": _tree, "lamp": _lamp, "sign": _sign, "signal": _signal, "bin": _bin, "bollard": _bollard,
    "column": _column, "meter": _meter, "hydrant": _hydrant, "bush": _bush,
}  # fmt: skip
