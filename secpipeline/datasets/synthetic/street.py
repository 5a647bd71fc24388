"""The street itself: sky, road, pavements and house fronts, coloured pixel by pixel from where each pixel's ray ends.

The ground is the plane Y = 0, the house fronts are two planes along the road; both are textured in metres, so the
perspective is right by construction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secpipeline.datasets.synthetic.camera import Camera
from secpipeline.datasets.synthetic.textures import (
    Floats,
    clouds,
    fraction,
    grain,
    ground_texture,
    pick,
    window_chances,
)

# Share of windows with light behind them.
_SHARES = {"day": 0.0, "dusk": 0.28, "night": 0.34}
_WALLS = np.array(
    [
        [164, 124, 100], [196, 182, 156], [138, 84, 70], [150, 152, 156], [206, 196, 184], [120, 108, 100],
        [176, 150, 116], [110, 120, 128],
    ],
    np.float32,
)  # fmt: skip
_AWNINGS = np.array([[150, 40, 40], [40, 80, 60], [44, 60, 110], [190, 150, 60], [70, 70, 74]], np.float32)
_LAWN = np.array([0.52, 0.68, 0.38], np.float32)
_GLASS = np.array([62, 76, 90], np.float32)
_LIT = np.array([255, 206, 130], np.float32)


@dataclass(frozen=True)
class Facades:
    """The houses of one side, from near to far.

    Attributes
    ----------
    distance
        |X| of the house fronts in metres.
    edges
        Z in metres where one house ends and the next begins.
    heights, colours, pitches, awnings
        One row a house: metres, RGB, metres between windows, RGB; a height of 0 leaves a gap.
    seed
        Which windows are lit.
    """

    distance: float
    edges: Floats
    heights: Floats
    colours: Floats
    pitches: Floats
    awnings: Floats
    seed: int


@dataclass(frozen=True)
class Street:
    """One street.

    Attributes
    ----------
    half_road, pavement
        Half the width of the road and the width of each pavement in metres.
    crossing
        Z of a zebra crossing's near edge in metres; 0 is none.
    sides
        House fronts on the left and on the right.
    far
        Z in metres at which the street ends.
    time_of_day
        ``day``, ``dusk`` or ``night``.
    sun
        −1 the sun is on the left, 1 on the right, 0 the sky is overcast.
    seed
        Of everything that is only texture.
    """

    half_road: float
    pavement: float
    crossing: float
    sides: tuple[Facades, Facades]
    far: float
    time_of_day: str
    sun: int
    seed: int


def random_street(rng: np.random.Generator, time_of_day: str) -> Street:
    """Draw a street at random."""
    half_road, pavement = float(rng.uniform(2.9, 4.4)), float(rng.uniform(2.0, 3.6))
    return Street(
        half_road=half_road,
        pavement=pavement,
        crossing=float(rng.uniform(6.0, 12.0)) if rng.random() < 0.45 else 0.0,
        sides=(_facades(rng, half_road + pavement), _facades(rng, half_road + pavement)),
        far=float(rng.uniform(55, 110)),
        time_of_day=time_of_day,
        sun=int(rng.choice([-1, 0, 1])) if time_of_day == "day" else 0,
        seed=int(rng.integers(1 << 31)),
    )


def _facades(rng: np.random.Generator, distance: float) -> Facades:
    widths = rng.uniform(6.0, 15.0, 24)
    count = len(widths)
    green = rng.random() < 0.25
    heights = rng.uniform(6.5, 19.0, count)
    heights[rng.random(count) < (0.7 if green else 0.12)] = 0.0
    return Facades(
        distance=distance + float(rng.uniform(0.2, 1.5)),
        edges=np.cumsum(widths).astype(np.float32) - float(rng.uniform(4.0, 9.0)),
        heights=heights.astype(np.float32),
        colours=_WALLS[rng.integers(len(_WALLS), size=count)] * rng.uniform(0.8, 1.15, (count, 1)).astype(np.float32),
        pitches=rng.uniform(1.7, 3.0, count).astype(np.float32),
        awnings=_AWNINGS[rng.integers(len(_AWNINGS), size=count)],
        seed=int(rng.integers(1 << 31)),
    )


@dataclass(frozen=True)
class Backdrop:
    """A street without anything on it: ``colour`` and self-lit ``glow``, both float32 (H, W, 3) in [0, 255]."""

    colour: Floats
    glow: Floats


def paint(street: Street, camera: Camera) -> Backdrop:
    """Colour every pixel of a camera's view."""
    colour = np.empty((camera.height, camera.width, 3), np.float32)
    glow = np.zeros_like(colour)
    first = min(camera.height, max(0, int(np.ceil(camera.horizon + 0.5))))
    haze = _sky(street, camera, colour[:first])
    _ground(street, camera, colour, first, haze)
    _end_of_street(street, camera, colour, first, haze)
    for side, facades in zip((-1, 1), street.sides, strict=True):
        _house_fronts(street, facades, side, camera, colour, glow, haze)
    return Backdrop(np.clip(colour, 0, 255, out=colour), glow)


_SKIES = {
    "day": (np.array([104, 152, 206], np.float32), np.array([206, 220, 230], np.float32)),
    "overcast": (np.array([168, 174, 182], np.float32), np.array([210, 212, 214], np.float32)),
    "dusk": (np.array([74, 84, 128], np.float32), np.array([236, 168, 116], np.float32)),
    "night": (np.array([34, 38, 56], np.float32), np.array([74, 70, 82], np.float32)),
}


def _sky(street: Street, camera: Camera, colour: Floats) -> Floats:
    """Paint the rows above the horizon; returns the colour that distance fades to."""
    key = "overcast" if street.time_of_day == "day" and street.sun == 0 else street.time_of_day
    zenith, low = _SKIES[key]
    if len(colour):
        height = np.linspace(0, 1, len(colour), dtype=np.float32)[:, None, None] ** 1.3
        cover = clouds(street.seed, len(colour), camera.width)[..., None]
        colour[:] = zenith + (low - zenith) * height
        colour += (low * 1.06 - colour) * (cover * np.float32(0.34 if street.time_of_day == "day" else 0.1))
    return np.asarray(low * 0.92, np.float32)


def _fade(distance: Floats, far: float) -> Floats:
    """How much of a colour the air replaces by haze at a distance."""
    return np.asarray(1 - np.exp(-distance / (1.1 * far)), np.float32)


def _ground(street: Street, camera: Camera, colour: Floats, first: int, haze: Floats) -> None:
    rows = np.arange(first, camera.height, dtype=np.float32) + 0.5
    if not len(rows):
        return
    z = camera.rows_to_distance(rows)[:, None]
    across = (np.arange(camera.width, dtype=np.float32) + np.float32(0.5 - camera.centre))[None]
    x = across * (z / np.float32(camera.focal)) + np.float32(camera.place)
    beside = np.abs(x)
    walk = beside > street.half_road
    texture = ground_texture(x, z)
    tone = np.where(walk, np.float32(152), np.float32(92)) + texture
    # Detail finer than a pixel would only flicker.
    tone[walk & (fraction(x * 1.25) < 0.045) & (z < 14)] -= 18
    tone[walk & (fraction(z * 1.25) < 0.06) & (z < 14)] -= 18
    tone[np.abs(beside - street.half_road) < 0.11] = 178
    dashes = (beside < 0.07) & (fraction((z + street.seed % 6) / 6) < 0.43)
    tone[dashes | (np.abs(beside - (street.half_road - 0.45)) < 0.05)] = 205
    if street.crossing:
        zebra = (z > street.crossing) & (z < street.crossing + 2.8) & (beside < street.half_road - 0.3)
        tone[zebra & (fraction(x) < 0.5)] = 212
    if street.sun:
        shaded = x * street.sun > street.sides[0].distance * 0.15
        tone *= np.where(shaded, np.float32(0.66), np.float32(1.08))
    fade = _fade(z, street.far)
    colour[first:] = (tone * (1 - fade))[..., None] + fade[..., None] * haze
    for side, facades in zip((-1, 1), street.sides, strict=True):
        lawn = x * side > facades.distance
        colour[first:][lawn] *= _LAWN


def _end_of_street(street: Street, camera: Camera, colour: Floats, first: int, haze: Floats) -> None:
    """A skyline where the street ends, and ground haze below it."""
    rng = np.random.default_rng(street.seed)
    scale = camera.scale(street.far)
    blocks = rng.uniform(5, 17, 40).astype(np.float32)
    x = (np.arange(camera.width) + 0.5 - camera.centre) / scale
    tops = camera.horizon + (camera.eye - blocks[np.floor(x / 9).astype(int) % len(blocks)]) * scale
    tones = rng.uniform(0.45, 0.75, len(blocks)).astype(np.float32)[np.floor(x / 9).astype(int) % len(blocks)]
    rows = np.arange(first, dtype=np.float32)[:, None] + 0.5
    built = rows > tops[None]
    paint_ = tones[None, :, None] * haze
    colour[:first] = np.where(built[..., None], paint_, colour[:first])


def _house_fronts(
    street: Street, facades: Facades, side: int, camera: Camera, colour: Floats, glow: Floats, haze: Floats
) -> None:
    columns = np.arange(camera.width, dtype=np.float32) + np.float32(0.5 - camera.centre)
    offset = side * facades.distance - camera.place
    seen = np.flatnonzero(columns * side > camera.focal * abs(offset) / street.far)
    if not len(seen):
        return
    across = slice(int(seen[0]), int(seen[-1]) + 1)
    z = np.float32(camera.focal * offset) / columns[across]
    house = np.minimum(np.searchsorted(facades.edges, z), len(facades.heights) - 1)
    height = facades.heights[house]
    rows = np.arange(camera.height, dtype=np.float32)[:, None] + 0.5
    y = np.float32(camera.eye) - (rows - np.float32(camera.horizon)) * (z / np.float32(camera.focal))
    built = (y >= 0) & (y < height)
    used = np.flatnonzero(built.any(axis=1))
    if not len(used):
        return
    down = slice(int(used[0]), int(used[-1]) + 1)
    y, built = y[down], built[down, :, None]
    rgb, lit = _wall_colours(facades, house, z, y, _SHARES[street.time_of_day])
    fade = _fade(z, street.far)[:, None]
    light = 1.0 if street.sun == 0 else (1.1 if street.sun != side else 0.78)
    rgb = rgb * ((1 - fade) * np.float32(light)) + haze * fade
    np.copyto(colour[down, across], rgb, where=built)
    np.copyto(glow[down, across], lit, where=built)


def _wall_colours(
    facades: Facades, house: NDArray[np.intp], z: Floats, y: Floats, lit_share: float
) -> tuple[Floats, Floats]:
    """Colour and glow of house fronts where ``z`` is each column's distance and ``y`` each pixel's height in metres."""
    along, height, pitch = facades.edges[house] - z, facades.heights[house], facades.pitches[house]
    column, storey = along / pitch, (y - 3.4) / 3.1
    aside, up = fraction(column), fraction(storey)
    upper = (y > 3.5) & (y < height - 0.9)
    window = upper & ((aside > 0.27) & (aside < 0.73)) & ((up > 0.22) & (up < 0.78))
    sill = upper & ((aside > 0.2) & (aside < 0.8)) & ((up > 0.15) & (up <= 0.22))
    pane = fraction(column / 2)
    shop = ((pane > 0.14) & (pane < 0.82)) & (y > 0.45) & (y < 2.6)
    chance = window_chances(facades.seed)[
        np.floor(storey).astype(np.int32) & 63, (np.floor(column).astype(np.int32) + 11 * house) & 63
    ]
    texture = pick(grain(), y * 17, along * 17)
    bright = 1 + texture * (0.035 * np.clip(1.3 - z / 18, 0.1, 1))
    bright[sill | (y > height - 0.45)] *= 1.24
    glass = window | shop
    bright = np.where(glass, 0.7 + 0.7 * chance, bright).astype(np.float32)
    surface = np.where(glass[..., None], _GLASS, facades.colours[house])
    rgb = np.asarray(surface * bright[..., None], np.float32)
    np.copyto(rgb, facades.awnings[house], where=((y > 2.75) & (y < 3.25))[..., None])
    burning = (window & (chance < lit_share)) | (shop & (chance < 2.4 * lit_share))
    lamps = np.where(burning, 0.55 + 0.4 * chance, np.float32(0))
    return rgb, lamps[..., None] * _LIT
