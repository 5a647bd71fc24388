"""Does training see what the test set asks? Scenes, held-out sources and duplicates across splits; the splits' sizes.

>>> frame = units_frame(images, holdout_sources=("vendor-h",))          # doctest: +SKIP
>>> frame.loc[frame["misplaced"] > 0, ["kind", "source", "name"]]       # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from secpipeline.datasets.duplicates import FILE, find_duplicates
from secpipeline.datasets.tables import SPLITS, empty_boxes

IMAGE_COLUMNS = ("image_id", "sha256", "width", "height", "source", "scene", "split", "dhash")
UNIT_COLUMNS = ("kind", "source", "name", "images", "splits", "misplaced", "lookalikes", "examples")
TEST = "test"


def units_frame(images: pd.DataFrame, holdout_sources: Sequence[str] = ()) -> pd.DataFrame:
    """What must be in one split.

    Parameters
    ----------
    images
        Image table, with :data:`IMAGE_COLUMNS`; rows whose dhash is not 16 hex digits have no lookalikes.
    holdout_sources
        Those that only the test split may see; absent ones are left out.

    Returns
    -------
    DataFrame
        With :data:`UNIT_COLUMNS`. One row a scene, a held-out source, a group of images that are one file
        (``duplicate``), and a group of images that resemble each other across splits (``lookalike``). ``misplaced``
        counts the images that have to move, as far as that is a fact; ``lookalikes`` those of a group of which all
        that is known is that they resemble each other. ``examples`` names an image a split.

    Raises
    ------
    InputError
        If there are too many lookalikes to list.
    """
    repeated = images[images["sha256"].duplicated(keep=False) & images["sha256"].notna()]
    lookalikes = _units("lookalike", _lookalikes(images), ["group"], name="image_id")
    held = images[images["source"].isin(list(holdout_sources))]
    return pd.concat(
        [
            _units("scene", images, ["source", "scene"], name="scene"),
            _units("held-out source", held, ["source"], name="source", allowed=TEST),
            _units("duplicate", repeated, ["sha256"], name="sha256"),
            lookalikes.assign(lookalikes=lookalikes["images"], misplaced=0),
        ],
        ignore_index=True,
    )


def _units(kind: str, images: pd.DataFrame, keys: list[str], name: str, allowed: str = "") -> pd.DataFrame:
    """One row a unit; misplaced are the images outside the allowed split, or else outside the one most are in."""
    table = images.assign(unit=images.groupby(keys, dropna=False, sort=True).ngroup(), name=images[name])
    table["right"] = table["split"] == allowed
    parts = table.groupby(["unit", "split"], dropna=False, sort=True).agg(
        source=("source", "first"),
        name=("name", "first"),
        images=("image_id", "size"),
        right=("right", "sum"),
        example=("image_id", "first"),
    )
    units = parts.groupby("unit", sort=True).agg(
        source=("source", "first"),
        name=("name", "first"),
        images=("images", "sum"),
        splits=("images", "size"),
        right=("right" if allowed else "images", "sum" if allowed else "max"),
        examples=("example", lambda ids: " ".join(map(str, ids))),
    )
    units = units.assign(kind=kind, misplaced=units["images"] - units["right"], lookalikes=0)
    return units[list(UNIT_COLUMNS)]


def _lookalikes(images: pd.DataFrame) -> pd.DataFrame:
    """The images of every group that crosses splits by a mere likeness, with the number of their group."""
    known = images["dhash"].astype("str").str.fullmatch("[0-9a-f]{16}") & images["sha256"].notna()
    links = find_duplicates(images[known].drop_duplicates("image_id"), empty_boxes())
    crossing = links.loc[links["crosses_splits"] & (links["kind"] != FILE), "group"].unique()
    links = links[links["group"].isin(crossing)]
    others = links[["other_id", "group"]].rename(columns={"other_id": "image_id"})
    members = pd.concat([links[["image_id", "group"]], others])
    return members.drop_duplicates().merge(images.drop_duplicates("image_id"), on="image_id", how="left")


def shares_frame(images: pd.DataFrame) -> pd.DataFrame:
    """One row a split, also if it has no images: split, images, and its share of all images."""
    counts = images["split"].value_counts()
    names = [*SPLITS, *sorted(set(counts.index) - set(SPLITS))]
    sizes = [int(counts.get(name, 0)) for name in names]
    whole = max(1, len(images))
    return pd.DataFrame({"split": names, "images": sizes, "share": [size / whole for size in sizes]})
