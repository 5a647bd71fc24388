"""A release in parts: what a label audit reads, some images at a time.

>>> parts = ParquetParts(Path("images.parquet"), Path("boxes.parquet"), Path("predictions.parquet"))  # doctest: +SKIP
>>> audit_parts(parts).findings                                                                       # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from secpipeline.datasets.tables import CORNERS
from secpipeline.errors import InputError
from secpipeline.poisoning.fusion import fuse, judges_of
from secpipeline.poisoning.pairs import Judged, judge


@dataclass(frozen=True)
class Part:
    """Some images with all their boxes and predictions; tables as for :func:`secpipeline.poisoning.pairs.judge`."""

    images: pd.DataFrame
    boxes: pd.DataFrame
    predictions: pd.DataFrame

    def judged(self, judges: Sequence[str]) -> Judged:
        """Predictions fused and paired with labels."""
        return judge(self.images, self.boxes, fuse(self.images, self.predictions, judges))


class Parts(Protocol):
    """Parts of one release, in its order; they are gone through more than once."""

    @property
    def judges(self) -> Sequence[str]:
        """All judges, sorted; none if there is one without a name."""

    def __iter__(self) -> Iterator[Part]:
        """All parts, from the first."""


@dataclass(frozen=True)
class MemoryParts:
    """Parts that are in memory."""

    parts: Sequence[Part]

    @property
    def judges(self) -> Sequence[str]:
        """All judges, sorted."""
        return sorted({name for part in self.parts for name in judges_of(part.predictions)})

    def __iter__(self) -> Iterator[Part]:
        """All parts, from the first."""
        return iter(self.parts)


@dataclass(frozen=True)
class ParquetParts:
    """Parts read from three Parquet files, so that memory is needed for one part at a time.

    Attributes
    ----------
    images, boxes, predictions
        The files. Boxes and predictions lie in the order of the images.
    size
        Images a part.
    """

    images: Path
    boxes: Path
    predictions: Path
    size: int = 4096

    @property
    def judges(self) -> Sequence[str]:
        """All judges, sorted."""
        file = _open(self.predictions)
        if "judge" not in file.schema_arrow.names:
            return []
        groups = (file.read_row_group(number, columns=["judge"]) for number in range(file.num_row_groups))
        return sorted({name for group in groups for name in judges_of(group.to_pandas())})

    def __iter__(self) -> Iterator[Part]:
        """All parts, from the first.

        Raises
        ------
        InputError
            If a file is no readable Parquet, lacks a column, or boxes or predictions are not in the order of the
            images.
        """
        boxes = _Rows(self.boxes, ("box_id", "image_id", *CORNERS, "ignore"), ())
        predictions = _Rows(self.predictions, ("image_id", *CORNERS, "score"), ("judge",))
        file = _open(self.images)
        for batch in file.iter_batches(self.size, columns=_columns(file, self.images, ("image_id", "source", "scene"))):
            images = batch.to_pandas()
            yield Part(images, boxes.of(images["image_id"]), predictions.of(images["image_id"]))
        for rows in (boxes, predictions):
            rows.must_be_read()


class _Rows:
    """The rows of a file, image by image."""

    def __init__(self, path: Path, columns: Sequence[str], optional: Sequence[str]) -> None:
        file = _open(path)
        kept = [*_columns(file, path, columns), *(name for name in optional if name in file.schema_arrow.names)]
        self._path = path
        self._batches = (batch.to_pandas() for batch in file.iter_batches(65536, columns=kept))
        self._waiting = file.schema_arrow.empty_table().select(kept).to_pandas()

    def of(self, image_ids: pd.Series) -> pd.DataFrame:
        """The next rows, as long as they are about these images."""
        taken = []
        while True:
            mine = self._waiting["image_id"].isin(image_ids).to_numpy()
            count = len(mine) if mine.all() else int(np.argmin(mine))
            taken.append(self._waiting.iloc[:count])
            self._waiting = self._waiting.iloc[count:]
            if len(self._waiting) or (batch := next(self._batches, None)) is None:
                rows: pd.DataFrame = pd.concat(taken, ignore_index=True)
                return rows
            self._waiting = batch

    def must_be_read(self) -> None:
        """Refuse rows that were left over."""
        if len(self._waiting):
            first = self._waiting["image_id"].iloc[0]
            raise InputError(f"{self._path}: {first} is no image of this release, or not in the order of its images")


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error


def _columns(file: pq.ParquetFile, path: Path, wanted: Sequence[str]) -> list[str]:
    if missing := [name for name in wanted if name not in file.schema_arrow.names]:
        raise InputError(f"{path}: has no column {', '.join(missing)}")
    return list(wanted)
