"""The street itself: sky, road, pavements and house fronts, coloured pixel by pixel from where each pixel's ray ends.

The ground is the plane Y = 0, the house fronts are two planes along the road; both are textured in metres, so the
perspective is right by construction.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secpipeline.datasets.synthetic.camera import Camera

Floats = NDArray[np.float32]
_TILE = 512
_WALLS = np.array(
    [[164, 124, 100], [196, 182, 156], [138, 84, 70], [150, 152, 156], [206, 196, 184], [120, 108, 100], [176, 150, 116],
     [110, 120, 128]], np.float32,
)  # fmt: skip
_AWNINGS = np.array([[150, 40, 40], [40, 80, 60], [44, 60, 110], [190, 150, 60], [70, 70, 74]], np.float32)
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


@functools.cache
def grain() -> Floats:
    """A tileable 512 × 512 patch of noise around 0: fine grain on top of blotches."""
    rng = np.random.default_rng(7)
    fine = rng.standard_normal((_TILE, _TILE), np.float32)
    spectrum = np.fft.rfft2(rng.standard_normal((_TILE, _TILE)))
    fy, fx = np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None]
    blotches = np.fft.irfft2(spectrum / (0.004 + fx**2 + fy**2) ** 0.8).astype(np.float32)
    return np.asarray(0.45 * fine + blotches / blotches.std(), np.float32)


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
    haze = _sky(street, camera, colour)
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
    """Paint the sky everywhere; returns the colour that distance fades to."""
    key = "overcast" if street.time_of_day == "day" and street.sun == 0 else street.time_of_day
    zenith, low = _SKIES[key]
    height = np.clip(np.arange(camera.height, dtype=np.float32) / max(camera.horizon, 1.0), 0, 1)[:, None, None] ** 1.3
    colour[:] = zenith + (low - zenith) * height
    offset = street.seed % _TILE
    clouds = np.roll(grain(), offset, (0, 1))[::4, ::2]
    rows = np.arange(camera.height) * len(clouds) // (2 * camera.height)
    columns = np.arange(camera.width) * clouds.shape[1] // (2 * camera.width)
    cover = np.clip(clouds[np.ix_(rows, columns)], 0, 1.6)[..., None] * (22 if key in ("day", "overcast") else 8)
    colour += cover * (low / 255)
    return np.asarray(low * 0.92, np.float32)


def _fade(distance: Floats, far: float) -> Floats:
    """How much of a colour the air replaces by haze at a distance."""
    return np.asarray(1 - np.exp(-distance / (1.1 * far)), np.float32)


def _ground(street: Street, camera: Camera, colour: Floats, first: int, haze: Floats) -> None:
    rows = np.arange(first, camera.height, dtype=np.float32) + 0.5
    if not len(rows):
        return
    z = camera.rows_to_distance(rows)[:, None]
    across = (np.arange(camera.width, dtype=np.float32) + 0.5 - camera.centre)[None]
    x = across * (z / camera.focal) + camera.place
    beside = np.abs(x)
    # Detail finer than a pixel would only flicker.
    sharp = np.clip(1.6 - z / 14, 0.12, 1)
    tile = grain()
    texture = tile[(z * 23).astype(np.int32) % _TILE, (x * 23).astype(np.int32) % _TILE] * sharp
    wide = tile[(z * 1.5).astype(np.int32) % _TILE, (x * 3).astype(np.int32) % _TILE]
    tone = 92 + 5 * texture + 5 * wide
    slabs = ((x % 0.8 < 0.035) | (z % 0.8 < 0.05)) & (z < 14)
    walk = 152 + 5 * texture + 5 * wide - 26 * slabs * sharp
    tone = np.where(beside > street.half_road, walk, tone)
    tone = np.where(np.abs(beside - street.half_road) < 0.11, 178, tone)
    dashes = (np.abs(x) < 0.07) & ((z + street.seed % 6) % 6 < 2.6)
    edges = np.abs(beside - street.half_road + 0.45) < 0.05
    tone = np.where(dashes | edges, 205 + 6 * texture, tone)
    if street.crossing:
        zebra = (z > street.crossing) & (z < street.crossing + 2.8) & (beside < street.half_road - 0.3)
        tone = np.where(zebra, np.where(x % 1.0 < 0.5, 214, 96) + 5 * texture, tone)
    shade = np.ones_like(tone)
    if street.sun:
        limit = street.sides[0].distance * 0.15
        shade = np.where(x * street.sun > limit, np.float32(0.66), np.float32(1.08))
    warm = np.where(beside > street.half_road, 1.0, 0.0)[..., None]
    rgb = (tone * shade)[..., None] * (np.array([1, 1, 1.02], np.float32) - warm * np.array([0, 0.02, 0.06], np.float32))
    fade = _fade(z, street.far)[..., None]
    colour[first:] = rgb + (haze - rgb) * fade


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
    columns = np.arange(camera.width, dtype=np.float32) + 0.5 - camera.centre
    offset = side * facades.distance - camera.place
    seen = np.flatnonzero(columns * side > 0.5 * abs(offset) / street.far)
    z = camera.focal * offset / columns[seen]
    seen, z = seen[z < street.far], z[z < street.far]
    if not len(seen):
        return
    house = np.minimum(np.searchsorted(facades.edges, z), len(facades.heights) - 1)
    height = facades.heights[house]
    rows = np.arange(camera.height, dtype=np.float32)[:, None] + 0.5
    y = camera.eye - (rows - camera.horizon) * (z / camera.focal)
    built = (y >= 0) & (y < height)
    used = np.flatnonzero(built.any(axis=1))
    if not len(used):
        return
    top, bottom = int(used[0]), int(used[-1]) + 1
    y, built = y[top:bottom], built[top:bottom]
    along = facades.edges[house] - z
    light = 1.0 if street.sun == 0 else (1.1 if street.sun != side else 0.78)
    rgb, lit = _wall_colours(facades, house, along, y, height, z, street)
    rgb *= light
    rgb += (haze - rgb) * _fade(z, street.far)[:, None]
    area = np.ix_(range(top, bottom), seen)
    colour[area] = np.where(built[..., None], rgb, colour[area])
    glow[area] = np.where(built[..., None], lit, 0)


def _wall_colours(
    facades: Facades, house: NDArray[np.intp], along: Floats, y: Floats, height: Floats, z: Floats, street: Street
) -> tuple[Floats, Floats]:
    """Colour and glow of house fronts at positions ``along`` each house and heights ``y``, in metres."""
    tile = grain()
    texture = tile[(y * 17).astype(np.int32) % _TILE, (along * 17).astype(np.int32) % _TILE] * np.clip(1.3 - z / 18, 0.1, 1)
    rgb = facades.colours[house] + 5.0 * texture[..., None]
    pitch, floor = facades.pitches[house], np.float32(3.1)
    column, storey = along / pitch, (y - 3.4) / floor
    window = ((column % 1 > 0.27) & (column % 1 < 0.73)) & ((storey % 1 > 0.22) & (storey % 1 < 0.78))
    window &= (y > 3.5) & (y < height - 0.9)
    shop = (y > 0.45) & (y < 2.6) & ((along / (2 * pitch)) % 1 > 0.14) & ((along / (2 * pitch)) % 1 < 0.82)
    number = np.floor(column).astype(np.int64) * 92821 + np.floor(storey).astype(np.int64) * 68917 + house * 31 + facades.seed
    chance = ((number * 2654435761) % 4294967296).astype(np.float32) / 4294967296
    glass = _GLASS * (0.7 + 0.7 * chance[..., None])
    rgb = np.where((window | shop)[..., None], glass, rgb)
    frame = (storey % 1 > 0.16) & (storey % 1 < 0.22) & (column % 1 > 0.2) & (column % 1 < 0.8) & (y > 3.5)
    rgb = np.where(frame[..., None], rgb * 1.25, rgb)
    rgb = np.where(((y > 2.75) & (y < 3.25))[..., None], facades.awnings[house], rgb)
    rgb = np.where((y > height - 0.45)[..., None], rgb * 1.22, rgb)
    share = {"day": 0.0, "dusk": 0.28, "night": 0.34}[street.time_of_day]
    bright = (window & (chance < share)) | (shop & (share > 0) & (chance < 0.75))
    return rgb, np.where(bright[..., None], _LIT * (0.55 + 0.4 * chance[..., None]), np.float32(0))
