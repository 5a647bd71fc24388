"""People: how they look, how they stand and walk, and how that is drawn.

Proportions are shares of body height (Drillis and Contini 1966, rounded).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from secpipeline.datasets.synthetic.pen import Colour, Pen, Point, Sprite, tint

_SKIN: tuple[Colour, ...] = ((244, 208, 177), (222, 171, 127), (187, 131, 92), (141, 90, 59), (92, 58, 40))
_HAIR: tuple[Colour, ...] = (
    (28, 22, 20),
    (66, 44, 30),
    (110, 76, 44),
    (182, 144, 86),
    (150, 150, 150),
    (120, 50, 26),
)
_CLOTHES: tuple[Colour, ...] = (
    (30, 32, 40), (52, 66, 102), (120, 126, 134), (212, 208, 200), (150, 36, 40), (36, 92, 66), (190, 150, 62),
    (96, 62, 44), (70, 110, 168), (196, 96, 120), (226, 120, 40), (84, 58, 108), (240, 238, 232), (60, 72, 52),
)  # fmt: skip
_TROUSERS: tuple[Colour, ...] = (
    (28, 30, 38), (44, 56, 88), (70, 88, 124), (92, 84, 76), (58, 60, 64), (150, 136, 112), (24, 40, 56),
)  # fmt: skip
_SHOES: tuple[Colour, ...] = ((24, 22, 22), (70, 48, 34), (216, 214, 210), (120, 30, 34))
_THIGH, _SHIN, _ANKLE = 0.245, 0.235, 0.04
_UPPER_ARM, _FOREARM = 0.165, 0.145
_HIP, _SHOULDER, _HEAD = 0.52, 0.815, 0.928


@dataclass(frozen=True)
class Appearance:
    """How a person looks: height in metres, girth as a factor, clothing and colours."""

    height: float
    girth: float
    skin: Colour
    hair: Colour
    top: Colour
    bottom: Colour
    shoes: Colour
    bag_colour: Colour
    legwear: str
    hairstyle: str
    bag: str
    child: bool


@dataclass(frozen=True)
class Pose:
    """How a person stands.

    Attributes
    ----------
    view
        ``side``, ``front`` or ``back``.
    direction
        −1 walks to the left, 1 to the right; only the side view shows it.
    phase
        Of the walk cycle, in radians.
    stride
        Swing of the thighs in radians; 0 stands.
    """

    view: str
    direction: int
    phase: float
    stride: float


def random_appearance(rng: np.random.Generator) -> Appearance:
    """A person dressed at random."""

    def pick(choices: tuple[Colour, ...]) -> Colour:
        return tint(choices[int(rng.integers(len(choices)))], float(rng.uniform(0.85, 1.15)))

    child = bool(rng.random() < 0.12)
    return Appearance(
        height=float(rng.uniform(1.1, 1.45) if child else rng.normal(1.71, 0.08)),
        girth=float(rng.uniform(0.86, 1.28)),
        skin=pick(_SKIN),
        hair=pick(_HAIR),
        top=pick(_CLOTHES),
        bottom=pick(_TROUSERS),
        shoes=pick(_SHOES),
        bag_colour=pick(_CLOTHES),
        legwear=str(rng.choice(["trousers", "trousers", "trousers", "coat", "skirt", "shorts", "dress"])),
        hairstyle=str(rng.choice(["short", "short", "long", "bun", "hat", "hood"])),
        bag=str(rng.choice(["none", "none", "none", "backpack", "handbag", "case"])),
        child=child,
    )


class _Figure:
    """One person being drawn; everything in shares of body height, scaled by the pen."""

    def __init__(self, look: Appearance, pose: Pose, pen: Pen) -> None:
        self.look, self.pose, self.pen = look, pose, pen
        self.side = pose.view == "side"
        self.girth = look.girth * (1.1 if look.child else 1.0)

    def legs(self) -> list[tuple[Point, Point, Point]]:
        """Hip, knee and ankle of the far and the near leg, standing on the ground."""
        found = []
        for number in (0, 1):
            phase = self.pose.phase + number * math.pi
            swing = self.pose.stride * math.sin(phase)
            bend = 1.3 * self.pose.stride * max(0.0, math.cos(phase))
            spread = (number - 0.5) * 0.1
            if self.side:
                hip = (0.0, _HIP)
                knee = _swing(hip, _THIGH, self.pose.direction * swing)
                ankle = _swing(knee, _SHIN, self.pose.direction * (swing - bend))
            else:
                # Seen from the front, a swinging leg only becomes shorter.
                hip = (spread, _HIP)
                knee = (spread * 1.12, _HIP - _THIGH * math.cos(swing))
                ankle = (spread * 1.05, knee[1] - _SHIN * math.cos(0.8 * bend))
            found.append((hip, knee, ankle))
        sink = min(ankle[1] for _, _, ankle in found) - _ANKLE
        return [tuple((x, y - sink) for x, y in leg) for leg in found]  # type: ignore[misc]  # three joints, as above

    def draw_leg(self, leg: tuple[Point, Point, Point], shade: float) -> None:
        hip, knee, ankle = leg
        bare = self.look.legwear in ("skirt", "dress", "shorts")
        cloth = tint(self.look.bottom, shade)
        shin = tint(self.look.skin, shade) if bare else cloth
        thigh = shin if self.look.legwear in ("skirt", "dress") else cloth
        wide = 0.098 * self.girth
        self.pen.limb(knee, ankle, (0.064 * self.girth, 0.044), shin)
        self.pen.limb(hip, knee, (wide, 0.07 * self.girth), thigh)
        toe = self.pose.direction * 0.085 if self.side else 0.012 * (1 if ankle[0] > 0 else -1)
        heel = (ankle[0] - 0.25 * toe, ankle[1] - 0.02)
        self.pen.limb(heel, (ankle[0] + toe, ankle[1] - 0.026), (0.04, 0.03), tint(self.look.shoes, shade))

    def draw_arm(self, number: int, drop: float, shade: float) -> None:
        swing = -1.1 * self.pose.stride * math.sin(self.pose.phase + number * math.pi)
        sleeve, skin = tint(self.look.top, shade), tint(self.look.skin, shade)
        wide = 0.06 * self.girth
        if self.side:
            shoulder = (0.0, _SHOULDER - drop)
            elbow = _swing(shoulder, _UPPER_ARM, self.pose.direction * swing)
            hand = _swing(elbow, _FOREARM, self.pose.direction * (swing + 0.35))
        else:
            sign = 1 if number else -1
            shoulder = (sign * 0.112 * self.girth, _SHOULDER - drop - 0.012)
            elbow = _swing(shoulder, _UPPER_ARM * (1 - 0.25 * abs(swing)), sign * 0.16)
            hand = _swing(elbow, _FOREARM * (1 - 0.45 * abs(swing)), -sign * 0.05)
        self.pen.limb(elbow, hand, (wide * 0.85, wide * 0.7), sleeve)
        self.pen.limb(shoulder, elbow, (wide, wide * 0.85), sleeve)
        self.pen.ellipse(hand, (0.024, 0.028), skin)
        if self.look.bag in ("handbag", "case") and number == 1:
            with self.pen.unmeasured():
                self._draw_carried(hand)

    def _draw_carried(self, hand: Point) -> None:
        half, deep = (0.055, 0.10) if self.look.bag == "handbag" else (0.085, 0.13)
        top = hand[1] - 0.04
        self.pen.rectangle((hand[0] - half, top - deep), (hand[0] + half, top), self.look.bag_colour)
        self.pen.limb((hand[0], hand[1]), (hand[0], top), (0.012, 0.012), tint(self.look.bag_colour, 0.7))

    def draw_torso(self, drop: float) -> None:
        top, waist = _SHOULDER - drop, _HIP - drop
        chest = (0.072 if self.side else 0.108) * self.girth
        hips = (0.066 if self.side else 0.088) * self.girth
        self.pen.polygon(((-chest, top), (chest, top), (hips, waist - 0.02), (-hips, waist - 0.02)), self.look.top)
        self.pen.ellipse((0, top), (chest, 0.035), self.look.top)
        self.pen.ellipse((0, waist - 0.015), (hips, 0.03), self.look.top)
        if not self.side and self.pose.view == "front":
            self.pen.limb((0, top - 0.03), (0, waist + 0.03), (0.012, 0.012), tint(self.look.top, 0.75))
        hem = {"coat": 0.24, "skirt": 0.2, "dress": 0.27}.get(self.look.legwear)
        if hem is not None:
            flare = hips + 0.035 + 0.1 * self.pose.stride
            colour = self.look.bottom if self.look.legwear == "skirt" else self.look.top
            low = waist - hem
            self.pen.polygon(((-hips, waist), (hips, waist), (flare, low), (-flare, low)), colour)

    def draw_backpack(self, drop: float) -> None:
        middle = _SHOULDER - drop - 0.12
        colour = self.look.bag_colour
        if self.side:
            with self.pen.unmeasured():
                self.pen.ellipse((-self.pose.direction * 0.1, middle), (0.062, 0.12), colour)
        elif self.pose.view == "back":
            self.pen.ellipse((0, middle), (0.082, 0.125), colour)
            self.pen.ellipse((0, middle - 0.045), (0.055, 0.05), tint(colour, 0.8))
        else:
            for x in (-0.062, 0.062):
                self.pen.limb((x, middle + 0.11), (x, middle - 0.06), (0.022, 0.022), colour)

    def draw_head(self, drop: float) -> None:
        size = 1.22 if self.look.child else 1.0
        y = _HEAD - drop
        wide, tall = 0.045 * size, 0.064 * size
        ahead = self.pose.direction * 0.012 if self.side else 0.0
        hair = self.look.top if self.look.hairstyle == "hood" else self.look.hair
        self.pen.limb((0, _SHOULDER - drop + 0.01), (ahead, y - 0.03), (0.05, 0.046), tint(self.look.skin, 0.88))
        if self.look.hairstyle == "long":
            self.pen.ellipse((-ahead * 1.5, y - 0.03), (wide * 1.12, tall * 1.25), hair)
        self.pen.ellipse((-ahead * 0.6, y + 0.01), (wide * 1.16, tall * 1.03), hair)
        if self.pose.view != "back":
            self.pen.ellipse((ahead, y - 0.012), (wide * 0.9, tall * 0.86), self.look.skin)
            self.pen.polygon(
                ((-wide, y + 0.03), (wide, y + 0.03), (wide * 0.7, y + tall), (-wide * 0.7, y + tall)), hair
            )
            self._draw_face(ahead, y, size)
        if self.look.hairstyle == "bun":
            self.pen.ellipse((-ahead * 2.5, y + tall * 0.95), (0.024, 0.022), hair)
        if self.look.hairstyle == "hat":
            cap = self.look.bag_colour
            self.pen.ellipse((0, y + 0.03), (wide * 1.25, tall * 0.62), cap)
            self.pen.limb((-wide, y + 0.02), (wide + ahead * 2.5, y + 0.02), (0.016, 0.014), tint(cap, 0.8))

    def _draw_face(self, ahead: float, y: float, size: float) -> None:
        dark = tint(self.look.skin, 0.45)
        for x in (ahead * 2.2,) if self.side else (-0.017 * size, 0.017 * size):
            self.pen.ellipse((ahead + x, y), (0.007, 0.006), dark)

    def draw(self) -> None:
        """Draw from back to front."""
        far, near = self.legs()
        drop = _HIP - near[0][1]
        backpack = self.look.bag == "backpack"
        self.draw_arm(0, drop, 0.78 if self.side else 0.94)
        if backpack and self.side:
            self.draw_backpack(drop)
        self.draw_leg(far, 0.78 if self.side else 0.94)
        self.draw_leg(near, 1.0)
        self.draw_torso(drop)
        if backpack and not self.side:
            self.draw_backpack(drop)
        self.draw_head(drop)
        self.draw_arm(1, drop, 0.9 if self.side else 1.0)


def _swing(start: Point, length: float, angle: float) -> Point:
    """The end of a bone that hangs down from ``start`` and is turned by ``angle`` to the right."""
    return start[0] + length * math.sin(angle), start[1] - length * math.cos(angle)


def draw_person(
    look: Appearance, pose: Pose, foot: Point, scale: float, lit_from: int
) -> tuple[Sprite, tuple[float, float, float, float]]:
    """Draw a person whole, also where the canvas ends.

    Parameters
    ----------
    look, pose
        Who and how.
    foot
        Canvas pixel between the feet.
    scale
        Canvas pixels a metre.
    lit_from
        −1 left, 1 right.

    Returns
    -------
    Sprite, tuple
        The picture, and x1, y1, x2, y2 in canvas pixels around the body without what it carries; they may lie
        outside the canvas.
    """
    pen = Pen(foot, scale * look.height, (0.42, 0.42, 1.06, 0.06))
    _Figure(look, pose, pen).draw()
    return pen.sprite(lit_from), pen.outline()
