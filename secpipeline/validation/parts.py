"""A parquet table in parts, so that a release of any size is validated in bounded memory.

>>> boxes = ParquetTable(Path("release/boxes.parquet"), BOX_SCHEMA)     # doctest: +SKIP
>>> sum(len(part) for part in boxes)                                    # doctest: +SKIP
1000000
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from secpipeline.errors import InputError

PART_ROWS = 131_072


@dataclass(frozen=True)
class ParquetTable:
    """The rows of a parquet file, part by part and as often as they are asked for.

    Attributes
    ----------
    path
        The file.
    schema
        Its columns in their order; values that another writer stored in wider types are cast.
    columns
        Those to read; all by default.
    rows
        Of a part, at most.
    """

    path: Path
    schema: pa.Schema
    columns: Sequence[str] = ()
    rows: int = PART_ROWS

    def __iter__(self) -> Iterator[pd.DataFrame]:
        """The parts, in the file's order.

        Raises
        ------
        InputError
            If the file is missing, is no parquet, or has other columns or values that do not fit them.
        """
        wanted = list(self.columns or self.schema.names)
        schema = pa.schema([self.schema.field(name) for name in wanted])
        try:
            with self.path.open("rb") as data, pq.ParquetFile(data, buffer_size=1 << 20) as file:
                if file.schema_arrow.names != self.schema.names:
                    found = ", ".join(file.schema_arrow.names)
                    raise InputError(f"{self.path}: its columns are not those of a release ({found}); write it again")
                for batch in file.iter_batches(self.rows, columns=wanted):
                    batch.validate(full=True)
                    frame: pd.DataFrame = pa.Table.from_batches([batch]).cast(schema).to_pandas()
                    yield frame
        except FileNotFoundError as error:
            raise InputError(f"{self.path}: not found; run the stage that writes it") from error
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.path}: not a readable parquet file ({error}); write it again") from error


def whole(parts: Iterable[pd.DataFrame], schema: pa.Schema, columns: Sequence[str]) -> pd.DataFrame:
    """All rows of a few columns, also if there are none."""
    empty = pa.schema([schema.field(name) for name in columns]).empty_table().to_pandas()
    frame: pd.DataFrame = pd.concat([empty, *parts], ignore_index=True)
    return frame
