"""The two tables that describe every data set, and the one way they are written.

The image table has one row an image, the box table one row a box; an image without people has no box row. Boxes are
in pixels with the origin at the top left, and x2 and y2 are exclusive.

>>> images = read_table(Path("release/images.parquet"), IMAGE_SCHEMA)              # doctest: +SKIP
>>> boxes = read_table(Path("release/boxes.parquet"), BOX_SCHEMA)                  # doctest: +SKIP
"""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from secpipeline.digests import sha256_bytes
from secpipeline.errors import InputError

IMAGE_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("file_name", pa.string()),  # relative POSIX path as delivered
        ("shard", pa.string()),
        ("offset", pa.int64()),  # of the file's first content byte inside the shard
        ("length", pa.int64()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("source", pa.string()),
        ("scene", pa.string()),
        ("split", pa.string()),
        ("time_of_day", pa.string()),
        ("dhash", pa.string()),
        ("annotations_sha256", pa.string()),
    ]
)
BOX_SCHEMA = pa.schema(
    [
        ("box_id", pa.string()),
        ("image_id", pa.string()),
        ("x1", pa.float64()),
        ("y1", pa.float64()),
        ("x2", pa.float64()),
        ("y2", pa.float64()),
        ("label", pa.string()),
        ("ignore", pa.bool_()),
        ("visibility", pa.float64()),  # NaN where unknown
        ("height", pa.float64()),
    ]
)
IMAGE_COLUMNS: tuple[str, ...] = tuple(IMAGE_SCHEMA.names)
BOX_COLUMNS: tuple[str, ...] = tuple(BOX_SCHEMA.names)
CORNERS: tuple[str, ...] = ("x1", "y1", "x2", "y2")
SPLITS: tuple[str, ...] = ("train", "calibration", "test")
LABEL = "pedestrian"


def table_bytes(frame: pd.DataFrame, schema: pa.Schema) -> bytes:
    """Serialize a table to parquet; equal tables give equal bytes.

    Raises
    ------
    InputError
        If a column is missing or holds values of another type.
    """
    if missing := [name for name in schema.names if name not in frame.columns]:
        raise InputError(f"the table has no column {', '.join(missing)}")
    try:
        table = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"a column holds values of the wrong type: {error}") from error
    buffer = io.BytesIO()
    # Pandas' own metadata names library versions, which would change the digest of equal data.
    pq.write_table(table.replace_schema_metadata(None), buffer, compression="zstd")
    return buffer.getvalue()


def read_table(path: Path, schema: pa.Schema) -> pd.DataFrame:
    """Read a table that :func:`table_bytes` wrote.

    Raises
    ------
    InputError
        If the file is missing, is no parquet, or has other columns or values that do not fit them.
    """
    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()))
        table.validate(full=True)  # text that is no UTF-8 would otherwise be found out where it is used
        if table.schema.names != schema.names:
            found = ", ".join(table.schema.names)
            raise InputError(f"{path}: its columns are not those of a release ({found}); run the stage again")
        # Another writer may store the same values in wider types; values that do not fit are refused.
        return _frame(_without_nulls(table.cast(schema), path))
    except FileNotFoundError as error:
        raise InputError(f"{path}: not found; run ingest first") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable parquet file ({error}); run the stage again") from error


def _without_nulls(table: pa.Table, path: Path) -> pa.Table:
    """The table, if only numbers with a fraction are missing; those are read as NaN."""
    for field in table.schema:
        column = table.column(field.name)
        if column.null_count and not pa.types.is_floating(field.type):
            row = column.is_null().index(True).as_py()
            raise InputError(f"{path}: row {row} has no {field.name}; run the stage again")
    return table


def empty_boxes() -> pd.DataFrame:
    """A box table without rows."""
    return _frame(BOX_SCHEMA.empty_table())


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    return frame


def annotation_digests(image_ids: pd.Series, boxes: pd.DataFrame) -> list[str]:
    """SHA-256 of each image's boxes, so that a changed box is traced to its image.

    What is hashed is the canonical JSON of the image's rows in table order, each a list in :data:`BOX_COLUMNS` order;
    an unknown visibility is null, and an infinite number, which only a damaged table holds, its name.

    Parameters
    ----------
    image_ids
        The images, in the order of the result.
    boxes
        Box table.

    Returns
    -------
    list of str
        One digest an image, in hex; images without boxes share the digest of an empty list.
    """
    rows: dict[str, list[list[Any]]] = {}
    for row in boxes[list(BOX_COLUMNS)].itertuples(index=False, name=None):
        rows.setdefault(row[1], []).append([_plain(value) for value in row])
    return [sha256_bytes(_canonical_rows(rows.get(image_id, []))) for image_id in image_ids]


def _canonical_rows(rows: list[list[Any]]) -> bytes:
    """The canonical JSON of rows, in one pass: they hold texts, truth values, finite numbers and None alone."""
    text = json.dumps(rows, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def _plain(value: Any) -> Any:
    """What JSON can hold of a table's value."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
