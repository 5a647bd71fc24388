"""Validate the tables of a release: each table alone, boxes against images, and scenes against splits.

>>> results = validate_tables(release.images, release.boxes, Path("expectations"))   # doctest: +SKIP
>>> [failure for result in results for failure in result.failures()]                 # doctest: +SKIP
[]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from secpipeline.errors import InputError
from secpipeline.validation.results import SuiteResult
from secpipeline.validation.running import validate
from secpipeline.validation.suites import load_suite


def require_columns(name: str, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a table that lacks a column.

    Raises
    ------
    InputError
        Naming the table and the columns.
    """
    if missing := [column for column in columns if column not in frame.columns]:
        raise InputError(f"the {name} table has no column {', '.join(missing)}; write it again with ingest")


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
    require_columns("boxes", boxes, ("box_id", "image_id", "x1", "y1", "x2", "y2", "height"))
    sizes = images.drop_duplicates("image_id").set_index("image_id")[["width", "height"]].astype("float64")
    frame = boxes[["box_id", "image_id", "x1", "y1", "x2", "y2"]].copy()
    frame["image_width"] = frame["image_id"].map(sizes["width"])
    frame["image_height"] = frame["image_id"].map(sizes["height"])
    frame["owner_matches"] = frame["box_id"].str.rpartition("#")[0] == frame["image_id"]
    frame["height_error"] = (boxes["height"] - (boxes["y2"] - boxes["y1"])).abs()
    return frame


def scenes_frame(images: pd.DataFrame) -> pd.DataFrame:
    """Each scene of each source with the number of splits its images are spread over.

    Returns
    -------
    DataFrame
        source, scene, images (count), splits (count; 1 unless training could see what the test set asks),
        examples (one image_id per split, joined by spaces).

    Raises
    ------
    InputError
        If a column is missing.
    """
    require_columns("images", images, ("image_id", "source", "scene", "split"))
    groups = images.groupby(["source", "scene"], dropna=False, sort=True)
    frame = groups.agg(images=("image_id", "size"), splits=("split", "nunique")).reset_index()
    first = images.drop_duplicates(["source", "scene", "split"]).groupby(["source", "scene"], dropna=False, sort=True)
    frame["examples"] = first["image_id"].agg(lambda ids: " ".join(map(str, ids))).to_numpy()
    return frame


def validate_tables(images: pd.DataFrame, boxes: pd.DataFrame, expectations: Path) -> tuple[SuiteResult, ...]:
    """Run the suites images, boxes, relations and scenes of the directory ``expectations``, in this order.

    The relations are looked at even when a table alone already failed, so that one run shows everything.

    Raises
    ------
    InputError
        If a suite is missing or could hide something; see :func:`secpipeline.validation.suites.load_suite`.
    """
    suites = {name: load_suite(expectations / f"{name}.json") for name in ("images", "boxes", "relations", "scenes")}
    frames = {
        "images": images,
        "boxes": boxes,
        "relations": relations_frame(images, boxes),
        "scenes": scenes_frame(images),
    }
    return tuple(validate(suite, frames[name]) for name, suite in suites.items())
