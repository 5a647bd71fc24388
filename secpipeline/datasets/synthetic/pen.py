"""Drawing in metres onto small sprites.

A sprite is an upright thing at one distance: opaque where its alpha is 255, nothing elsewhere. Edges become smooth
later, when the whole canvas is reduced.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True)
class Sprite:
    """A picture at a place of the canvas.

    Attributes
    ----------
    image
        RGB.
    mask
        One bit a pixel: where the thing is.
    left, top
        Canvas pixel of its upper left corner.
    glow
        The light it gives off by itself, RGB, if any.
    """

    image: Image.Image
    mask: Image.Image
    left: int
    top: int
    glow: Image.Image | None = None

    @property
    def area(self) -> tuple[int, int, int, int]:
        """Canvas pixels x1, y1, x2, y2."""
        return self.left, self.top, self.left + self.mask.width, self.top + self.mask.height


def tint(colour: Colour, factor: float) -> Colour:
    """A colour made lighter or darker."""
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in colour)
    return red, green, blue


@functools.cache
def _ramp() -> Image.Image:
    """Bright at the left, dark at the right: the shading of anything round that is lit from the left."""
    ramp = Image.linear_gradient("L").rotate(90).reduce((4, 64))
    return ramp.point(lambda value: 255 - round(value * 0.42))


class Pen:
    """Draws shapes in metres around a foot point.

    Parameters
    ----------
    foot
        Canvas pixel of the local origin (0 m, 0 m).
    scale
        Canvas pixels a metre.
    reach
        How far to the left, right, up and down the drawing may go, in metres.
    clip
        Canvas width and height: nothing outside is kept. None keeps everything, for things whose whole area counts.
    """

    def __init__(
        self,
        foot: Point,
        scale: float,
        reach: tuple[float, float, float, float],
        clip: tuple[int, int] | None = None,
    ) -> None:
        left, top = foot[0] - reach[0] * scale, foot[1] - reach[2] * scale
        right, bottom = foot[0] + reach[1] * scale, foot[1] + reach[3] * scale
        if clip is not None:
            left, top = max(left, 0), max(top, 0)
            right, bottom = min(right, clip[0]), min(bottom, clip[1])
        self._left, self._top = math.floor(left), math.floor(top)
        size = (max(1, math.ceil(right) - self._left), max(1, math.ceil(bottom) - self._top))
        self._image = Image.new("RGBA", size)
        self._draw = ImageDraw.Draw(self._image)
        self._glow: Image.Image | None = None
        self._origin = (foot[0] - self._left, foot[1] - self._top)
        self._scale = scale
        self._measures = True
        self._extent = [math.inf, math.inf, -math.inf, -math.inf]

    @contextlib.contextmanager
    def unmeasured(self) -> Iterator[None]:
        """What is drawn inside does not count for :meth:`outline`."""
        self._measures = False
        yield
        self._measures = True

    def _measure(self, left: float, top: float, right: float, bottom: float) -> None:
        if self._measures:
            x1, y1, x2, y2 = self._extent
            self._extent = [min(x1, left), min(y1, top), max(x2, right), max(y2, bottom)]

    def _at(self, point: Point) -> Point:
        return self._origin[0] + point[0] * self._scale, self._origin[1] - point[1] * self._scale

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """A filled polygon."""
        corners = [self._at(point) for point in points]
        xs, ys = zip(*corners, strict=True)
        self._measure(min(xs), min(ys), max(xs), max(ys))
        self._draw.polygon(corners, fill=(*colour, 255))

    def rectangle(self, low: Point, high: Point, colour: Colour) -> None:
        """A filled rectangle between its lower left and upper right corner."""
        self.polygon((low, (high[0], low[1]), high, (low[0], high[1])), colour)

    def ellipse(self, centre: Point, radii: Point, colour: Colour) -> None:
        """A filled ellipse."""
        x, y = self._at(centre)
        rx, ry = radii[0] * self._scale, radii[1] * self._scale
        self._measure(x - rx, y - ry, x + rx, y + ry)
        self._draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=(*colour, 255))

    def limb(self, start: Point, end: Point, widths: Point, colour: Colour) -> None:
        """A tapered line with round ends; ``widths`` in metres at start and end."""
        length = math.hypot(end[0] - start[0], end[1] - start[1]) or 1.0
        normal = ((start[1] - end[1]) / length / 2, (end[0] - start[0]) / length / 2)
        first, last = widths
        self.polygon(
            (
                (start[0] + normal[0] * first, start[1] + normal[1] * first),
                (end[0] + normal[0] * last, end[1] + normal[1] * last),
                (end[0] - normal[0] * last, end[1] - normal[1] * last),
                (start[0] - normal[0] * first, start[1] - normal[1] * first),
            ),
            colour,
        )
        self.ellipse(start, (first / 2, first / 2), colour)
        self.ellipse(end, (last / 2, last / 2), colour)

    def lamp(self, centre: Point, radius: float, colour: Colour) -> None:
        """A disc that shines by itself."""
        self.ellipse(centre, (radius, radius), colour)
        if self._glow is None:
            self._glow = Image.new("RGB", self._image.size)
        x, y = self._at(centre)
        r = max(1.0, radius * self._scale)
        ImageDraw.Draw(self._glow).ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def outline(self) -> tuple[float, float, float, float]:
        """Canvas pixels x1, y1, x2, y2 around all that has been drawn and measured."""
        x1, y1, x2, y2 = self._extent
        return x1 + self._left, y1 + self._top, x2 + self._left, y2 + self._top

    def sprite(self, lit_from: int = 0) -> Sprite:
        """What was drawn; ``lit_from`` −1 or 1 shades it as something round lit from the left or right."""
        image = self._image.convert("RGB")
        if lit_from:
            ramp = _ramp() if lit_from < 0 else _ramp().transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            shade = ramp.resize(image.size, Image.Resampling.BILINEAR)
            image = ImageChops.multiply(image, Image.merge("RGB", (shade,) * 3))
        return Sprite(image, opaque(self._image), self._left, self._top, self._glow)


def opaque(image: Image.Image) -> Image.Image:
    """The opaque pixels of an RGBA picture as a bit mask, which pastes several times faster than an alpha channel."""
    return image.getchannel("A").convert("1", dither=Image.Dither.NONE)
