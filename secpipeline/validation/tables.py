"""Validate a release: each table alone, boxes against images, the splits, and the statistics.

The box table is read in parts, and the image table once in parts and once for the few columns that relations, splits
and statistics need.

>>> validation = validate_release(Path("release"), Path("expectations"))             # doctest: +SKIP
>>> [failure for result in validation.results for failure in result.failures()]      # doctest: +SKIP
[]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from secpipeline.datasets.manifests import BOXES_FILE, IMAGES_FILE
from secpipeline.datasets.tables import BOX_SCHEMA, CORNERS, IMAGE_SCHEMA
from secpipeline.errors import InputError
from secpipeline.validation import splits, statistics
from secpipeline.validation.comparison import against_baseline, against_peers
from secpipeline.validation.parts import PART_ROWS, ParquetTable, whole
from secpipeline.validation.results import SuiteResult
from secpipeline.validation.running import validate
from secpipeline.validation.statistics import Statistics
from secpipeline.validation.suites import Suite, load_suite

SUITES = ("images", "boxes", "relations", "splits", "shares", "statistics")
BASELINE_SUITE = "baseline"


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes
    ----------
    results
        One entry a suite.
    statistics
        Of the release.
    peers
        From :func:`secpipeline.validation.comparison.against_peers`.
    baseline
        From :func:`secpipeline.validation.comparison.against_baseline`; None if no release was accepted before.
    """

    results: tuple[SuiteResult, ...]
    statistics: Statistics
    peers: pd.DataFrame
    baseline: pd.DataFrame | None


def validate_release(
    directory: Path,
    expectations: Path,
    *,
    accepted: Statistics | None = None,
    holdout_sources: Sequence[str] = (),
    part_rows: int = PART_ROWS,
) -> Validation:
    """Run the suites of :data:`SUITES` on a release, and ``baseline`` if one was accepted before.

    The relations are looked at even when a table alone already failed, so that one run shows everything.

    Parameters
    ----------
    directory
        Holds ``images.parquet`` and ``boxes.parquet``.
    expectations
        Holds the suites.
    accepted
        The statistics of the release that was accepted last.
    holdout_sources
        Sources that only the test split may see.
    part_rows
        How many rows are held at once; the result does not depend on it.

    Raises
    ------
    InputError
        If a table cannot be read, or a suite is missing or could hide something.
    """
    images = ParquetTable(directory / IMAGES_FILE, IMAGE_SCHEMA, rows=part_rows)
    boxes = ParquetTable(directory / BOXES_FILE, BOX_SCHEMA, rows=part_rows)
    return validate_tables(images, boxes, expectations, accepted=accepted, holdout_sources=holdout_sources)


def validate_tables(
    images: pd.DataFrame | ParquetTable,
    boxes: pd.DataFrame | ParquetTable,
    expectations: Path,
    *,
    accepted: Statistics | None = None,
    holdout_sources: Sequence[str] = (),
) -> Validation:
    """As :func:`validate_release`, on tables that are held, or read in parts."""
    names = SUITES if accepted is None else (*SUITES, BASELINE_SUITE)
    suites = {name: load_suite(expectations / f"{name}.json") for name in names}
    image_parts = [images] if isinstance(images, pd.DataFrame) else images
    box_parts = [boxes] if isinstance(boxes, pd.DataFrame) else boxes
    facts = _facts(images)
    counted = statistics.collect(facts, box_parts)
    peers = against_peers(counted)
    change = None if accepted is None else against_baseline(counted, accepted)
    tables: dict[str, Iterable[pd.DataFrame]] = {
        "images": image_parts,
        "boxes": box_parts,
        "relations": Relations(facts, box_parts),
        "splits": [splits.units_frame(facts, holdout_sources)],
        "shares": [splits.shares_frame(facts)],
        "statistics": [peers],
        BASELINE_SUITE: [] if change is None else [change],
    }
    return Validation(_run(suites, tables), counted, peers, change)


def _run(suites: dict[str, Suite], tables: dict[str, Iterable[pd.DataFrame]]) -> tuple[SuiteResult, ...]:
    return tuple(validate(suite, tables[name]) for name, suite in suites.items())


def _facts(images: pd.DataFrame | ParquetTable) -> pd.DataFrame:
    """The columns of the image table that are about more than one row."""
    columns = tuple(dict.fromkeys((*splits.IMAGE_COLUMNS, *statistics.IMAGE_COLUMNS)))
    if isinstance(images, pd.DataFrame):
        require_columns("images", images, columns)
        return images[list(columns)]
    return whole(ParquetTable(images.path, images.schema, columns, images.rows), images.schema, columns)


def require_columns(name: str, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a table that lacks a column.

    Raises
    ------
    InputError
        Naming the table and the columns.
    """
    if missing := [column for column in columns if column not in frame.columns]:
        raise InputError(f"the {name} table has no column {', '.join(missing)}; write it again with ingest")


@dataclass(frozen=True)
class Relations:
    """Boxes in parts, each beside the image it belongs to; see :func:`relations_frame`."""

    images: pd.DataFrame
    boxes: Iterable[pd.DataFrame]

    def __iter__(self) -> Iterator[pd.DataFrame]:
        """The parts."""
        return (relations_frame(self.images, part) for part in self.boxes)


def relations_frame(images: pd.DataFrame, boxes: pd.DataFrame) -> pd.DataFrame:
    """Each box beside the image it belongs to.

    Returns
    -------
    DataFrame
        One row a box: box_id, image_id, x1, y1, x2, y2; image_width and image_height (float64, NaN if there
        is no such image); owner_matches (bool, box_id begins with image_id); height_error (|height − (y2 −
        y1)|).

    Raises
    ------
    InputError
        If a column is missing.
    """
    require_columns("images", images, ("image_id", "width", "height"))
    require_columns("boxes", boxes, ("box_id", "image_id", *CORNERS, "height"))
    sizes = images.drop_duplicates("image_id").set_index("image_id")[["width", "height"]].astype("float64")
    frame = boxes[["box_id", "image_id", *CORNERS]].copy()
    frame["image_width"] = frame["image_id"].map(sizes["width"])
    frame["image_height"] = frame["image_id"].map(sizes["height"])
    frame["owner_matches"] = frame["box_id"].str.rpartition("#")[0] == frame["image_id"]
    frame["height_error"] = (boxes["height"] - (boxes["y2"] - boxes["y1"])).abs()
    return frame
