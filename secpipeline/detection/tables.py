"""Predictions as a table: one row a detection; an image without any has no row.

>>> prediction_table(["a", "b"], [np.zeros((0, 4)), np.array([[1, 2, 3, 4]])], [np.zeros(0), np.array([0.5])])
  image_id   x1   y1   x2   y2  score
0        b  1.0  2.0  3.0  4.0    0.5
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

PREDICTION_COLUMNS = ("image_id", "x1", "y1", "x2", "y2", "score")


def prediction_table(
    image_ids: Sequence[str], boxes: Sequence[NDArray[Any]], scores: Sequence[NDArray[Any]]
) -> pd.DataFrame:
    """Join the boxes (n, 4) and scores (n,) of each image."""
    counts = [len(found) for found in scores]
    corners = np.concatenate([np.asarray(b, np.float64).reshape(-1, 4) for b in boxes] or [np.zeros((0, 4))])
    table = pd.DataFrame(corners, columns=list(PREDICTION_COLUMNS[1:5]))
    table.insert(0, "image_id", pd.Series(np.repeat(np.asarray(image_ids, object), counts), dtype="str"))
    table["score"] = np.concatenate([np.asarray(s, np.float64) for s in scores] or [np.zeros(0)])
    return table
