"""A Great Expectations check of our own: a box lies inside its image and has an area.

Importing the module registers ``expect_box_inside_image``; a suite then names it in JSON::

    {"type": "expect_box_inside_image",
     "kwargs": {"column_list": ["x1", "y1", "x2", "y2", "image_width", "image_height"], "min_side": 1.0,
                "ignore_row_if": "never"}}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import pandas as pd
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import MulticolumnMapExpectation
from great_expectations.expectations.metrics.map_metric_provider import (
    MulticolumnMapMetricProvider,
    multicolumn_condition_partial,
)

_METRIC = "multicolumn_values.box_inside_image"


class BoxInsideImage(MulticolumnMapMetricProvider):  # type: ignore[misc] # the base class is untyped
    """Row by row: 0 ≤ x1, x1 + min_side ≤ x2 ≤ width, and the same for y; NaN and infinity fail."""

    condition_metric_name = _METRIC
    condition_domain_keys = (
        "batch_id",
        "table",
        "column_list",
        "row_condition",
        "condition_parser",
        "ignore_row_if",
    )
    condition_value_keys = ("min_side",)

    @multicolumn_condition_partial(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator] # untyped library
    def _pandas(self, column_list: pd.DataFrame, min_side: float = 1.0, **_: Any) -> pd.Series[bool]:
        x1, y1, x2, y2, width, height = (column_list.iloc[:, n].astype("float64") for n in range(6))
        inside = (x1 >= 0) & (y1 >= 0) & (x2 <= width) & (y2 <= height)
        return inside & (x2 - x1 >= min_side) & (y2 - y1 >= min_side)


class ExpectBoxInsideImage(MulticolumnMapExpectation):  # type: ignore[misc] # the base class is untyped
    """Expect every box to lie inside its image, with sides of at least ``min_side`` pixels.

    ``column_list`` names x1, y1, x2, y2, image width and image height, in this order. ``ignore_row_if`` must
    be ``"never"``: any other value would let a box with missing coordinates pass unseen.
    """

    map_metric: ClassVar[str] = _METRIC
    success_keys: ClassVar[tuple[str, ...]] = ("column_list", "min_side", "mostly")

    column_list: Sequence[str]
    min_side: float = 1.0
    ignore_row_if: Literal["never"] = "never"
