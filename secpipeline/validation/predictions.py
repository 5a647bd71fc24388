"""Is a table of predictions one that something may be concluded from?

Whoever reads predictions rests on them: a judge that says the same of every image, or of images that are not in the
release, would speak for or against labels all the same.

>>> results = validate_predictions(predictions, images, Path("expectations"))       # doctest: +SKIP
>>> [failure for result in results for failure in result.failures()]                # doctest: +SKIP
[]
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from secpipeline.datasets.tables import CORNERS
from secpipeline.validation.results import SuiteResult
from secpipeline.validation.running import validate
from secpipeline.validation.suites import load_suite
from secpipeline.validation.tables import require_columns


def validate_predictions(
    predictions: pd.DataFrame, images: pd.DataFrame, expectations: Path
) -> tuple[SuiteResult, ...]:
    """Run the suites ``predictions`` and ``prediction_totals``.

    Parameters
    ----------
    predictions
        image_id, x1, y1, x2, y2 in pixels of the images, and score.
    images
        Image table; image_id, width and height are read.
    expectations
        The directory of the suites.

    Raises
    ------
    InputError
        If a column or a suite is missing.
    """
    frames = {
        "predictions": predictions_frame(predictions, images),
        "prediction_totals": totals_frame(predictions, images),
    }
    return tuple(validate(load_suite(expectations / f"{name}.json"), frame) for name, frame in frames.items())


def predictions_frame(predictions: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Each prediction with the size of its image.

    Returns
    -------
    DataFrame
        image_id, x1, y1, x2, y2, score (float64); image_width and image_height (NaN if there is no such image); and
        inside (the share of the box's area that lies in the image; NaN where that cannot be told).
    """
    require_columns("predictions", predictions, ("image_id", *CORNERS, "score"))
    require_columns("images", images, ("image_id", "width", "height"))
    sizes = images.drop_duplicates("image_id").set_index("image_id")[["width", "height"]].astype("float64")
    frame = predictions[["image_id", *CORNERS, "score"]].reset_index(drop=True)
    frame = frame.astype(dict.fromkeys((*CORNERS, "score"), "float64"))
    frame["image_width"] = frame["image_id"].map(sizes["width"])
    frame["image_height"] = frame["image_id"].map(sizes["height"])
    x1, y1, x2, y2 = (frame[name].to_numpy() for name in CORNERS)
    width, height = frame["image_width"].to_numpy(), frame["image_height"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        seen_width = (np.minimum(x2, width) - np.maximum(x1, 0)).clip(0)
        seen_height = (np.minimum(y2, height) - np.maximum(y1, 0)).clip(0)
        frame["inside"] = seen_width * seen_height / ((x2 - x1) * (y2 - y1))
    frame.loc[~(np.isfinite(frame[list(CORNERS)]).all(axis=1) & (x2 > x1) & (y2 > y1)), "inside"] = np.nan
    return frame


def totals_frame(predictions: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """One row about all predictions.

    Returns
    -------
    DataFrame
        predictions, distinct_boxes, distinct_scores (counts), and images_share (the share of the images with at
        least one prediction).
    """
    known = predictions["image_id"].isin(images["image_id"])
    row = {
        "predictions": len(predictions),
        "distinct_boxes": len(predictions[list(CORNERS)].drop_duplicates()),
        "distinct_scores": int(predictions["score"].nunique()),
        "images_share": predictions.loc[known, "image_id"].nunique() / max(1, images["image_id"].nunique()),
    }
    return pd.DataFrame([row])
