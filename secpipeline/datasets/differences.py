"""What one release has that another has not: images and boxes that were added, removed or changed, source by source.

>>> print(release_diff(Path("release-1"), Path("release-2")).text())                # doctest: +SKIP
images: 40 added, 0 removed, 1 changed; boxes: 131 added, 2 removed, 3 changed
  vendor-a  images +40 −0 ~1  boxes +131 −2 ~3
  changed  vendor-a-scene-001-000: sha256
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from secpipeline.datasets.geometry import overlaps
from secpipeline.datasets.releases import BOXES_FILE, IMAGES_FILE
from secpipeline.datasets.tables import BOX_SCHEMA, CORNERS, IMAGE_SCHEMA, read_table

ADDED, REMOVED, CHANGED = "added", "removed", "changed"
KINDS = (ADDED, REMOVED, CHANGED)
IMAGE_DIFF_COLUMNS = ("kind", "image_id", "source", "what")
BOX_DIFF_COLUMNS = ("kind", "image_id", "source", "old_box_id", "new_box_id", "overlap")
# Where an image lies among the shards is no property of the image, and its boxes are compared one by one.
_IMAGE_FACTS = ("file_name", "sha256", "width", "height", "source", "scene", "split", "time_of_day")
_BOX_FACTS = (*CORNERS, "label", "ignore", "visibility")
_SAME_BOX = 0.5


@dataclass(frozen=True)
class ReleaseDiff:
    """The difference of two releases.

    Attributes
    ----------
    images
        kind (added, removed, changed), image_id, source (the new one, if there is one) and what: the columns in which
        a changed image differs.
    boxes
        kind, image_id, source, old_box_id and new_box_id ("" where there is none), overlap: the intersection over
        union of a changed box with what it was, NaN for the others. Boxes of added and removed images are added and
        removed boxes.
    """

    images: pd.DataFrame
    boxes: pd.DataFrame

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return self.images.empty and self.boxes.empty

    def by_source(self) -> pd.DataFrame:
        """How many images and boxes were added, removed and changed in each source that has any.

        Returns
        -------
        DataFrame
            Indexed by source, with the columns ``images added`` … ``boxes changed``.
        """
        sources = sorted({*self.images["source"], *self.boxes["source"]})
        counts = {
            f"{what} {kind}": table.loc[table["kind"] == kind, "source"].value_counts().reindex(sources, fill_value=0)
            for what, table in (("images", self.images), ("boxes", self.boxes))
            for kind in KINDS
        }
        return pd.DataFrame(counts, index=pd.Index(sources, name="source"), dtype=np.int64)

    def text(self, most: int = 20) -> str:
        """The difference for people: totals, a line a source, and the first ``most`` images that differ."""
        if self.same:
            return "the releases hold the same images and boxes\n"
        counts = self.by_source()
        totals = counts.sum()
        lines = [
            "; ".join(
                f"{what}: " + ", ".join(f"{totals[f'{what} {kind}']} {kind}" for kind in KINDS)
                for what in ("images", "boxes")
            )
        ]
        width = max(len(source) for source in counts.index)
        for source, row in counts.to_dict("index").items():
            parts = (
                f"{what} +{row[f'{what} {ADDED}']} −{row[f'{what} {REMOVED}']} ~{row[f'{what} {CHANGED}']}"
                for what in ("images", "boxes")
            )
            lines.append(f"  {source!s:{width}}  {'  '.join(parts)}")
        lines += self._image_lines(most)
        return "\n".join(lines) + "\n"

    def _image_lines(self, most: int) -> list[str]:
        """One line for each image that differs, itself or in its boxes alone."""
        shown = self.images.head(most)
        columns = (shown[column] for column in ("kind", "image_id", "what"))
        lines = [
            f"  {kind}  {image_id}{': ' * bool(what)}{what}" for kind, image_id, what in zip(*columns, strict=True)
        ]
        relabelled = sorted({*self.boxes["image_id"]} - {*self.images["image_id"]})
        lines += [f"  {CHANGED}  {image_id}: boxes" for image_id in relabelled[: most - len(lines)]]
        more = len(self.images) + len(relabelled) - len(lines)
        return [*lines, f"  and {more} more"] if more else lines


def release_diff(old: Path, new: Path) -> ReleaseDiff:
    """Compare two releases.

    Images are the same if they have the same id. A box is the same if nothing about it changed but its number; of what
    is left in an image, boxes that overlap by at least half, best pairs first, are one changed box.

    Parameters
    ----------
    old, new
        Directories that hold ``images.parquet`` and ``boxes.parquet``.

    Raises
    ------
    InputError
        If a table is missing or unreadable.
    """
    images = [read_table(directory / IMAGES_FILE, IMAGE_SCHEMA) for directory in (old, new)]
    boxes = [read_table(directory / BOXES_FILE, BOX_SCHEMA) for directory in (old, new)]
    sources = {**_sources(images[0]), **_sources(images[1])}
    return ReleaseDiff(_image_diff(images[0], images[1], sources), _box_diff(boxes[0], boxes[1], sources))


def _sources(images: pd.DataFrame) -> dict[str, str]:
    return dict(zip(images["image_id"], images["source"], strict=True))


def _image_diff(old: pd.DataFrame, new: pd.DataFrame, sources: dict[str, str]) -> pd.DataFrame:
    before, after = old.set_index("image_id"), new.set_index("image_id")
    both = before.index.intersection(after.index, sort=False)
    differs = pd.DataFrame(
        {fact: before.loc[both, fact].to_numpy() != after.loc[both, fact].to_numpy() for fact in _IMAGE_FACTS}, both
    )
    facts = np.array(_IMAGE_FACTS)
    rows = [
        *((ADDED, image_id, "") for image_id in after.index.difference(before.index, sort=False)),
        *((REMOVED, image_id, "") for image_id in before.index.difference(after.index, sort=False)),
        *(
            (CHANGED, image_id, ", ".join(facts[row]))
            for image_id, row in zip(both, differs.to_numpy(bool), strict=True)
            if row.any()
        ),
    ]
    records = [(kind, image_id, sources[image_id], what) for kind, image_id, what in rows]
    return pd.DataFrame(records, columns=list(IMAGE_DIFF_COLUMNS))


def _box_diff(old: pd.DataFrame, new: pd.DataFrame, sources: dict[str, str]) -> pd.DataFrame:
    before, after = _unmatched(old, new)
    groups = {str(image_id): rows for image_id, rows in after.groupby("image_id", sort=False)}
    records = []
    for image_id, rows in before.groupby("image_id", sort=False):
        records += _image_boxes(str(image_id), rows, groups.pop(str(image_id), after.head(0)))
    for image_id, rows in groups.items():
        records += _image_boxes(image_id, before.head(0), rows)
    order = {kind: number for number, kind in enumerate(KINDS)}
    records.sort(key=lambda record: order[record[0]])
    return pd.DataFrame(
        [(kind, image_id, sources.get(image_id, ""), *rest) for kind, image_id, *rest in records],
        columns=list(BOX_DIFF_COLUMNS),
    )


def _unmatched(old: pd.DataFrame, new: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The boxes that have no equal on the other side; of several equal ones each matches one."""
    keys = ["image_id", *_BOX_FACTS]
    tables = [table.assign(copy=table.groupby(keys, dropna=False, sort=False).cumcount()) for table in (old, new)]
    marks = [pd.MultiIndex.from_frame(table[[*keys, "copy"]].fillna({"visibility": -1.0})) for table in tables]
    return tables[0][~marks[0].isin(marks[1])], tables[1][~marks[1].isin(marks[0])]


def _image_boxes(image_id: str, old: pd.DataFrame, new: pd.DataFrame) -> list[tuple[str, str, str, str, float]]:
    overlap = overlaps(old[list(CORNERS)].to_numpy(np.float64), new[list(CORNERS)].to_numpy(np.float64))
    left, right = old["box_id"].tolist(), new["box_id"].tolist()
    rows = []
    while overlap.size and overlap.max() >= _SAME_BOX:
        i, j = np.unravel_index(int(overlap.argmax()), overlap.shape)
        rows.append((CHANGED, image_id, left[i], right[j], float(overlap[i, j])))
        overlap[i], overlap[:, j] = -1, -1
        left[i] = right[j] = ""
    rows += [(REMOVED, image_id, box_id, "", np.nan) for box_id in left if box_id]
    rows += [(ADDED, image_id, "", box_id, np.nan) for box_id in right if box_id]
    return rows
