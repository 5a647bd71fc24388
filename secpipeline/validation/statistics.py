"""What a release looks like, in numbers: by split, time of day, source, and block of scenes.

Everything is counted: images, boxes, and how many boxes fall into each of fixed bins. Counts add up, so the
statistics of a table are the same to the last digit however it is cut into parts, and the quantiles that are read off
them are within half a bin.

>>> statistics = collect(images, boxes)                                 # doctest: +SKIP
>>> statistics.groups["source", "vendor-c"].measures()["boxes_per_image"].value
4.31
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from secpipeline.errors import InputError

VERSION = 1
ALL, SPLIT, TIME, SOURCE, BLOCK = "all", "split", "time_of_day", "source", "scene_block"
PARTITIONS = (ALL, SPLIT, TIME, SOURCE, BLOCK)
BLOCK_SCENES = 25
IMAGE_COLUMNS = ("image_id", "width", "height", "length", "source", "scene", "split", "time_of_day")
BOX_COLUMNS = ("image_id", "x1", "y1", "x2", "y2", "ignore", "visibility")
_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bins:
    """Bins of equal width, of values or of their logarithms to base 2; what lies outside counts in the outermost.

    Attributes
    ----------
    low, high
        The range, in the unit of the values.
    count
        How many bins.
    logarithmic
        Whether the bins have equal ratios instead of equal widths.
    """

    low: float
    high: float
    count: int
    logarithmic: bool = True

    def place(self, values: _Floats) -> _Ints:
        """The bin of each value; none may be NaN."""
        low, high = self._scaled(np.array([self.low, self.high]))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (self._scaled(values) - low) / (high - low)
        places: _Ints = np.floor(np.nan_to_num(share, nan=0.0).clip(0, 1) * self.count).astype(np.int64)
        return places.clip(max=self.count - 1)

    def _scaled(self, values: _Floats) -> _Floats:
        return np.log2(values) if self.logarithmic else values

    def quantile(self, counts: _Ints, share: float) -> float:
        """The value that a ``share`` in (0, 1] of the counted values do not exceed; at least one must be counted."""
        upto = np.cumsum(counts)
        wanted = share * upto[-1]
        found = int(np.searchsorted(upto, wanted))
        position = found + (wanted - (upto[found] - counts[found])) / counts[found]
        low, high = self._scaled(np.array([self.low, self.high]))
        scaled = low + (high - low) * position / self.count
        return float(2**scaled if self.logarithmic else scaled)


# A sixteenth of an octave is 4 %.
BINS: Mapping[str, Bins] = {
    "height": Bins(1, 2**14, 224),
    "aspect": Bins(2**-4, 2**4, 128),
    "visibility": Bins(0, 1, 50, logarithmic=False),
    "bits_per_pixel": Bins(2**-8, 2**8, 256),
}


@dataclass(frozen=True)
class Measure:
    """A number that describes a group.

    Attributes
    ----------
    value
        NaN where the group has nothing to measure.
    error
        Its standard error, if scenes were drawn at random; in the logarithm of the value if ``relative``.
    relative
        Whether two values are compared by their ratio instead of their difference.
    """

    value: float
    error: float
    relative: bool


@dataclass(frozen=True)
class Group:
    """The counts of one group of images.

    Attributes
    ----------
    images, scenes, empty
        How many, and how many images have no people.
    boxes, boxes_squared
        Boxes of people, and the sum over images of their number squared.
    ignored, unknown_visibility
        Regions to ignore, and boxes whose visibility nobody knows.
    histograms
        By name of :data:`BINS`, int64 of shape (count,).
    """

    images: int
    scenes: int
    empty: int
    boxes: int
    boxes_squared: int
    ignored: int
    unknown_visibility: int
    histograms: Mapping[str, _Ints]

    def measures(self) -> dict[str, Measure]:
        """What the group is compared by.

        Frames of a scene show the same people, so it is scenes that count in the standard errors.
        """
        scenes = max(1, self.scenes)
        mean = self.boxes / max(1, self.images)
        variance = max(0.0, self.boxes_squared / max(1, self.images) - mean**2)
        found = {
            "boxes_per_image": Measure(mean, math.sqrt(variance / scenes) / mean if mean else 0.0, relative=True),
            "empty_share": _share(self.empty, self.images, scenes),
            "ignored_share": _share(self.ignored, self.ignored + self.boxes, scenes),
            "unknown_visibility_share": _share(self.unknown_visibility, self.boxes, scenes),
        }
        return found | {f"{name}_median": self._median(name, scenes) for name in BINS}

    def _median(self, name: str, scenes: int) -> Measure:
        bins, counts = BINS[name], self.histograms[name]
        if not counts.sum():
            return Measure(math.nan, math.inf, bins.logarithmic)
        low, middle, high = (bins.quantile(counts, share) for share in (0.25, 0.5, 0.75))
        width = math.log(high / low) if bins.logarithmic else high - low
        # Of a normal distribution: its standard deviation is 0.741 of the distance between the quartiles, and the
        # median's standard error is 1.253 of the mean's.
        return Measure(middle, 1.253 * 0.741 * width / math.sqrt(scenes), bins.logarithmic)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record; bins that hold nothing are left out."""
        plain = {name: getattr(self, name) for name in _COUNTS}
        return plain | {
            "histograms": {
                name: {str(position): int(counts[position]) for position in np.flatnonzero(counts)}
                for name, counts in self.histograms.items()
            }
        }


_COUNTS = ("images", "scenes", "empty", "boxes", "boxes_squared", "ignored", "unknown_visibility")


def _share(part: int, whole: int, scenes: int) -> Measure:
    """A share, with the standard error of the Agresti-Coull interval, which does not vanish at 0 and 1."""
    if not whole:
        return Measure(math.nan, math.inf, relative=False)
    share = part / whole
    centre = (share * scenes + 2) / (scenes + 4)
    return Measure(share, math.sqrt(centre * (1 - centre) / (scenes + 4)), relative=False)


@dataclass(frozen=True)
class Statistics:
    """Every group by partition and name, such as ``("source", "vendor-c")``."""

    groups: Mapping[tuple[str, str], Group]

    def of(self, partition: str) -> dict[str, Group]:
        """The groups of one partition by name."""
        return {name: group for (kind, name), group in self.groups.items() if kind == partition}

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record, which :func:`parse` reads."""
        bins = {name: [b.low, b.high, b.count, b.logarithmic] for name, b in BINS.items()}
        groups = [{"partition": p, "name": n, **group.to_json()} for (p, n), group in self.groups.items()]
        return {"version": VERSION, "block_scenes": BLOCK_SCENES, "bins": bins, "groups": groups}


def collect(images: pd.DataFrame, boxes: Iterable[pd.DataFrame]) -> Statistics:
    """Count.

    Parameters
    ----------
    images
        Image table, with :data:`IMAGE_COLUMNS`; of rows with one image_id the first counts.
    boxes
        Box table in parts, with :data:`BOX_COLUMNS`, in pixels. Boxes of no image are left out, as are values that
        are not finite; other suites name them.
    """
    images = images.drop_duplicates("image_id").reset_index(drop=True)
    cells = _cells(images)
    cell = cells.pop("cell").to_numpy(np.int64)
    count = int(cell.max()) + 1 if len(cell) else 0
    people = np.zeros(len(images), np.int64)
    sums = {name: np.zeros(count, np.int64) for name in ("ignored", "unknown_visibility")}
    histograms = {name: np.zeros((count, bins.count), np.int64) for name, bins in BINS.items()}
    index = pd.Index(images["image_id"])
    for part in boxes:
        rows = index.get_indexer(pd.Index(part["image_id"]))
        _count_boxes(part[rows >= 0], rows[rows >= 0], cell, people, sums, histograms)
    length, width, height = (images[name].to_numpy(np.float64) for name in ("length", "width", "height"))
    _fill(histograms["bits_per_pixel"], "bits_per_pixel", cell, _ratio(8 * length, width * height))
    per_image = {"images": np.ones_like(people), "empty": people == 0, "boxes": people, "boxes_squared": people**2}
    sums |= {name: np.bincount(cell, values, count).astype(np.int64) for name, values in per_image.items()}
    return Statistics(_rolled_up(cells, cell, sums, histograms))


def _cells(images: pd.DataFrame) -> pd.DataFrame:
    """The group of each image in each partition, its scene, and the number of the finest cell that it falls into."""
    table = images[["source", "scene", "split", "time_of_day"]].fillna("").astype("str")
    scenes = table[["source", "scene"]].drop_duplicates().sort_values(["source", "scene"], kind="stable")
    scenes[BLOCK] = scenes["source"] + " #" + (scenes.groupby("source").cumcount() // BLOCK_SCENES).astype("str")
    table = table.merge(scenes, on=["source", "scene"], how="left").assign(**{ALL: ""})
    table["scene"] = table["source"] + "\0" + table["scene"]
    table["cell"] = table.groupby(list(PARTITIONS), sort=True).ngroup()
    return table[[*PARTITIONS, "scene", "cell"]]


def _count_boxes(
    part: pd.DataFrame,
    rows: NDArray[np.intp],
    cell: _Ints,
    people: _Ints,
    sums: Mapping[str, _Ints],
    histograms: Mapping[str, _Ints],
) -> None:
    """Add the boxes of one part to what was counted."""
    ignored = part["ignore"].fillna(False).to_numpy(bool)
    np.add.at(sums["ignored"], cell[rows[ignored]], 1)
    part, rows = part[~ignored], rows[~ignored]
    np.add.at(people, rows, 1)
    x1, y1, x2, y2, visibility = (part[name].to_numpy(np.float64) for name in ("x1", "y1", "x2", "y2", "visibility"))
    np.add.at(sums["unknown_visibility"], cell[rows[np.isnan(visibility)]], 1)
    height = y2 - y1
    for name, values in (("height", height), ("aspect", _ratio(x2 - x1, height)), ("visibility", visibility)):
        _fill(histograms[name], name, cell[rows], values)


def _ratio(above: _Floats, below: _Floats) -> _Floats:
    """The quotients; not finite where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return above / below


def _fill(histogram: _Ints, name: str, cells: _Ints, values: _Floats) -> None:
    known = np.isfinite(values)
    np.add.at(histogram, (cells[known], BINS[name].place(values[known])), 1)


def _rolled_up(
    table: pd.DataFrame, cell: _Ints, sums: Mapping[str, _Ints], histograms: Mapping[str, _Ints]
) -> dict[tuple[str, str], Group]:
    """Cells added up to the groups of each partition."""
    groups = {}
    for partition in PARTITIONS:
        for name, members in table.groupby(partition, sort=True).indices.items():
            own = np.unique(cell[members])
            scenes = table["scene"].iloc[members].nunique()
            counts = {key: int(values[own].sum()) for key, values in sums.items()}
            added = {key: values[own].sum(axis=0) for key, values in histograms.items()}
            groups[partition, str(name)] = Group(scenes=scenes, histograms=added, **counts)
    return groups


def parse(data: bytes, where: str) -> Statistics:
    """Read statistics that were written before, strictly.

    Parameters
    ----------
    data
        A ``statistics.json``.
    where
        What to call it in errors.

    Raises
    ------
    InputError
        If it is not one, or was made by a version that counted otherwise.
    """
    try:
        record = json.loads(data)
        expected = json.loads(json.dumps(Statistics({}).to_json()))
        if {key: record[key] for key in expected if key != "groups"} | {"groups": []} != expected:
            raise InputError(f"{where}: was counted in another way; accept a release of this version as the baseline")
        groups = {(str(entry["partition"]), str(entry["name"])): _group(entry) for entry in record["groups"]}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise InputError(
            f"{where}: not the statistics.json of a release ({type(error).__name__}: {error}); "
            "take build/artifacts/validate/statistics.json of one that was accepted"
        ) from error
    if (ALL, "") not in groups:
        raise InputError(f"{where}: has no statistics of all images; take the statistics.json of an accepted release")
    return Statistics(groups)


def _group(entry: Mapping[str, Any]) -> Group:
    counts = {name: _whole(entry[name], name) for name in _COUNTS}
    histograms = {}
    for name, bins in BINS.items():
        histograms[name] = np.zeros(bins.count, np.int64)
        for position, number in entry["histograms"][name].items():
            histograms[name][_whole(int(position), "bin")] = _whole(number, name)
    return Group(histograms=histograms, **counts)


def _whole(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ValueError(f"{what} is {value!r}, not a count")
    return value
