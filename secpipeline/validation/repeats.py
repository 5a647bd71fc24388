"""Find the rows that may repeat each other without holding the table: what a check of unique values is run on.

A 64-bit hash of every row's key is kept. Rows whose key is repeated share a hash, so the rows that share one hold
every repetition, and a check of unique values says about them what it would say about the whole table.

>>> repeats = Repeats(("box_id",), row_id=("image_id",))
>>> for part in parts: repeats.see(part)                                # doctest: +SKIP
>>> repeats.suspects(parts)                                             # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class Repeats:
    """The keys that were seen.

    Parameters
    ----------
    columns
        What makes the key of a row; columns that the table lacks are left out.
    row_id
        The columns that name a row in a message.
    """

    def __init__(self, columns: Sequence[str], row_id: Sequence[str]) -> None:
        self._columns = tuple(columns)
        self._wanted = tuple(dict.fromkeys((*columns, *row_id)))
        self._hashes: list[NDArray[np.uint64]] = []

    def see(self, part: pd.DataFrame) -> None:
        """Take in the keys of the next rows."""
        keys = {column: _plain(part[column]) for column in self._columns if column in part.columns}
        if not keys:  # the check cannot run, which it says of the first row
            self._hashes.append(np.arange(len(part), dtype=np.uint64))
            return
        frame = pd.DataFrame(keys, index=part.index)
        self._hashes.append(pd.util.hash_pandas_object(frame, index=False).to_numpy().astype(np.uint64))

    def suspects(self, parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
        """The rows whose hash is not their own, and the first row, so that there is one to check.

        Parameters
        ----------
        parts
            The same rows again, in the same order.
        """
        distinct, counts = np.unique(np.concatenate(self._hashes), return_counts=True)
        shared = distinct[counts > 1]
        found: list[pd.DataFrame] = []
        filled = (part for part in parts if not part.empty)
        for hashes, part in zip(self._hashes, filled, strict=True):
            suspect = np.isin(hashes, shared)
            suspect[0] |= not found
            found.append(part.loc[suspect, [column for column in self._wanted if column in part.columns]])
        return pd.concat(found, ignore_index=True)


def _plain(values: pd.Series[Any]) -> pd.Series[Any]:
    """The same values, equal ones having equal bytes: there are two zeros and many NaN."""
    if not pd.api.types.is_float_dtype(values.dtype):
        return values
    numbers = values.to_numpy(np.float64)
    return pd.Series(np.where(np.isnan(numbers), np.nan, numbers + 0.0), index=values.index)
