r"""Pictures of data, findings and attacks.

Images go in as uint8 arrays of shape (H, W, 3); boxes as rows x1, y1, x2, y2 in pixels. Everything comes back as PNG
bytes, small enough to show inside a web page.

>>> import numpy as np
>>> tile = Tile(np.zeros((64, 48, 3), np.uint8), (Layer(np.array([[4, 4, 20, 44]]), "label"),), "empty street")
>>> contact_sheet([tile], columns=1)[:4]
b'\x89PNG'
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# Colours that stay apart for colour-blind readers (Okabe and Ito, 2008).
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "label": (86, 180, 233),
    "prediction": (240, 228, 66),
    "finding": (213, 94, 0),
    "ignore": (160, 160, 160),
    "clean": (0, 158, 115),
    "attacked": (213, 94, 0),
}
_CAPTION_PIXELS = 14


@dataclass(frozen=True)
class Layer:
    """Boxes of one meaning; ``kind`` is a key of :data:`COLOURS`."""

    boxes: NDArray[Any]
    kind: str


@dataclass(frozen=True)
class Tile:
    """One picture of a contact sheet: pixels (H, W, 3) uint8, boxes over it, and a caption under it."""

    pixels: NDArray[np.uint8]
    layers: tuple[Layer, ...] = ()
    caption: str = ""


def draw_tile(tile: Tile, scale: int = 1) -> Image.Image:
    """One tile as an image, its boxes drawn and its caption below."""
    height, width = tile.pixels.shape[:2]
    picture = Image.fromarray(tile.pixels).resize((width * scale, height * scale), Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (width * scale, height * scale + _CAPTION_PIXELS), (24, 24, 24))
    canvas.paste(picture, (0, 0))
    pen = ImageDraw.Draw(canvas)
    for layer in tile.layers:
        for x1, y1, x2, y2 in np.asarray(layer.boxes, float).reshape(-1, 4) * scale:
            if x2 - x1 >= 1 and y2 - y1 >= 1:
                pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=COLOURS[layer.kind], width=max(1, scale))
    pen.text((3, height * scale + 1), tile.caption, fill=(235, 235, 235), font=ImageFont.load_default(11))
    return canvas


def contact_sheet(tiles: Sequence[Tile], columns: int, scale: int = 1) -> bytes:
    """Lay tiles out in rows of ``columns``; tiles may differ in size, cells take the largest.

    Raises
    ------
    ValueError
        If there are no tiles.
    """
    if not tiles:
        raise ValueError("a contact sheet needs at least one tile")
    pictures = [draw_tile(tile, scale) for tile in tiles]
    cell_width = max(picture.width for picture in pictures) + 4
    cell_height = max(picture.height for picture in pictures) + 4
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (cell_width * min(columns, len(pictures)), cell_height * rows), (24, 24, 24))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * cell_width + 2, index // columns * cell_height + 2))
    return _png(sheet)


def thumbnail(png: bytes, max_bytes: int = 48_000) -> bytes:
    """Shrink a picture until its JPEG form fits ``max_bytes``: Dagster's pages grow slow with larger ones."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    steps = ((85, 1.0), (75, 0.8), (70, 0.6), (60, 0.45), (50, 0.3), (40, 0.2))
    for quality, factor in itertools.chain(steps, ((40, 0.2 / 2**halvings) for halvings in itertools.count(1))):
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        buffer = io.BytesIO()
        picture.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= max_bytes or size == (1, 1):
            break
    return buffer.getvalue()


def line_chart(series: Mapping[str, Sequence[float]], x: Sequence[float], labels: tuple[str, str], title: str) -> bytes:
    """Curves over a shared axis; ``labels`` name the x and the y axis with their units."""
    figure, (axes,) = _figure()
    for name, values in series.items():
        axes.plot(x, values, label=name, linewidth=1.8)
    axes.set(xlabel=labels[0], ylabel=labels[1], title=title)
    axes.legend(frameon=False)
    return _save(figure)


def bar_chart(
    values: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    label: str,
    title: str,
    bound: tuple[float, str] | None = None,
) -> bytes:
    """Horizontal bars with confidence intervals and, if given, the policy's bound as a dashed line."""
    figure, (axes,) = _figure(height=0.6 + 0.26 * len(values))
    names = list(values)
    centre = np.array([values[name] for name in names])
    ends = np.array([intervals.get(name, (values[name], values[name])) for name in names])
    error = np.clip(np.stack([centre - ends[:, 0], ends[:, 1] - centre]), 0, None)
    colours = ["#009E73" if name == "clean" else "#0072B2" for name in names]
    axes.barh(range(len(names)), centre, xerr=error, color=colours, error_kw={"elinewidth": 1})
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel=label, title=title, xlim=(0, max(1.0, float(ends.max()) * 1.02)))
    if bound is not None:
        axes.axvline(bound[0], color="#D55E00", linestyle="--", linewidth=1.4, label=bound[1])
        axes.legend(frameon=False, loc="lower right")
    return _save(figure)


def reliability_chart(bins: Sequence[Mapping[str, Any]], threshold: float, title: str) -> bytes:
    """Precision against score with 95 % intervals, and under it how many detections each point rests on.

    Parameters
    ----------
    bins
        Rows of :func:`secpipeline.detection.calibration.reliability`, null where a bin is empty.
    threshold
        The deployed score threshold, a dashed line.
    title
        What it is about.
    """
    figure, (curve, counts) = _figure(height=4.4, ratios=(3, 1))
    filled = [row for row in bins if row["detections"]]
    score, precision, low, high = (
        np.array([row[name] for row in filled]) for name in ("score", "precision", "precision_low", "precision_high")
    )
    curve.plot([0, 1], [0, 1], color="#888888", linewidth=1, label="calibrated")
    error = np.clip(np.stack([precision - low, high - precision]), 0, None)
    curve.errorbar(score, precision, error, fmt="o-", color="#0072B2", elinewidth=1, label="measured")
    curve.set(ylabel="share on a person", title=title, xlim=(0, 1), ylim=(0, 1.02))
    places = [row["low_score"] for row in filled]
    widths = [row["high_score"] - row["low_score"] for row in filled]
    counts.bar(places, [row["detections"] for row in filled], widths, align="edge", color="#0072B2", edgecolor="white")
    counts.set(xlabel="score", ylabel="detections", yscale="log", ylim=(0.5, None))
    for axes in (curve, counts):
        axes.axvline(threshold, color="#D55E00", linestyle="--", linewidth=1.4, label="deployed threshold")
    curve.legend(frameon=False, loc="upper left")
    return _save(figure)


def _figure(height: float = 3.2, ratios: Sequence[float] = (1,)) -> tuple[Any, list[Any]]:
    """A figure of charts under each other that share their x axis, their heights in the given ratios."""
    # The object interface leaves pyplot's global state, which is not safe under Dagster's threads, alone.
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import, and most stages draw no chart

    figure = Figure(figsize=(6.4, height), dpi=110, layout="constrained")
    charts = figure.subplots(len(ratios), sharex=True, squeeze=False, height_ratios=ratios)[:, 0].tolist()
    for axes in charts:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure, charts


def _save(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
