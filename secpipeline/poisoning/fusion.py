"""One table of predictions out of those of several judges.

Judges that were started from other seeds err in other places. What two of them see at one place is one opinion: its
box is their mean, weighted by score, its score is their mean, with 0 for a judge that saw nothing, and the judges'
own scores stay beside it, so that :mod:`secpipeline.poisoning.confidence` can weigh them.

>>> import pandas as pd
>>> seen = pd.DataFrame([("i", 0, 0, 10, 20, .9, "a"), ("i", 0, 0, 10, 20, .7, "b")],
...                     columns=["image_id", "x1", "y1", "x2", "y2", "score", "judge"])
>>> fuse(pd.DataFrame({"image_id": ["i"]}), seen, ["a", "b"])[["score", "score:a", "score:b"]].round(2).values.tolist()
[[0.8, 0.9, 0.7]]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from secpipeline.datasets.geometry import overlap
from secpipeline.datasets.tables import CORNERS
from secpipeline.errors import InputError
from secpipeline.poisoning.pairs import Floats, Judged, corners, match_one_to_one, same_image

OWN_SCORE = "score:"
_SAME_PERSON = 0.5


def judges_of(predictions: pd.DataFrame) -> list[str]:
    """The judges of a table of predictions, sorted; none if it has no column ``judge``."""
    return sorted(predictions["judge"].astype(str).unique()) if "judge" in predictions.columns else []


def fuse(images: pd.DataFrame, predictions: pd.DataFrame, judges: Sequence[str]) -> pd.DataFrame:
    """Merge what several judges see at one place (intersection over union of at least .5, one to one).

    Parameters
    ----------
    images
        Image table; image_id is read.
    predictions
        image_id, x1, y1, x2, y2, score in [0, 1] and judge; without the column ``judge`` there is one judge and
        the table comes back as it is.
    judges
        The judges of the whole release, in the order in which they are merged; a part of it may lack some.

    Returns
    -------
    DataFrame
        image_id, x1 … y2, score (mean over the judges) and ``score:<judge>``, 0 where that judge saw nothing.

    Raises
    ------
    InputError
        If a judge is unknown, or an image_id is not in ``images``.
    """
    if not judges:
        return predictions
    if unknown := sorted(set(judges_of(predictions)) - set(judges)):
        raise InputError(f"predictions: judge {unknown[0]} is none of {', '.join(judges)}")
    image = pd.Index(images["image_id"]).get_indexer(predictions["image_id"])
    if (image < 0).any():
        first = predictions["image_id"].iloc[int(np.argmin(image))]
        raise InputError(f"predictions: {first} is no image of this release; use predictions of the same release")
    table = predictions.assign(image=image)
    merged = _as_seen_by(table, judges[0], judges)
    for judge in judges[1:]:
        merged = _merge(merged, _as_seen_by(table, judge, judges), len(images))
    own = merged[[OWN_SCORE + judge for judge in judges]].to_numpy(dtype="float64")
    merged["score"] = own.mean(axis=1)
    merged["image_id"] = images["image_id"].to_numpy()[merged["image"].to_numpy()]
    return merged.drop(columns="image")


def _as_seen_by(table: pd.DataFrame, judge: str, judges: Sequence[str]) -> pd.DataFrame:
    seen = table[table["judge"].astype(str) == judge].sort_values("image", kind="stable").reset_index(drop=True)
    # float64 throughout, so that the mean of two boxes is the same however the table was stored.
    kept = seen[["image", *CORNERS, "score"]].astype(dict.fromkeys((*CORNERS, "score"), "float64"))
    return kept.assign(**{OWN_SCORE + name: kept["score"] if name == judge else 0.0 for name in judges})


def _merge(known: pd.DataFrame, seen: pd.DataFrame, images: int) -> pd.DataFrame:
    """Both tables with what they have in common merged, sorted by image; ``score`` becomes a sum of weights."""
    a, b = same_image(known["image"].to_numpy(), seen["image"].to_numpy(), images)
    iou = overlap(corners(known)[a], corners(seen)[b])
    pairs = match_one_to_one(Judged(pd.DataFrame(), known, seen, a, b, iou), _SAME_PERSON)
    left, right = a[pairs], b[pairs]
    weight, other = (frame["score"].to_numpy()[rows] for frame, rows in ((known, left), (seen, right)))
    both = known.iloc[left].copy()
    both[list(CORNERS)] = _weighted(corners(known)[left], weight, corners(seen)[right], other)
    own = [column for column in known.columns if column == "score" or column.startswith(OWN_SCORE)]
    both[own] = known[own].to_numpy()[left] + seen[own].to_numpy()[right]
    rest = [frame.drop(index=frame.index[rows]) for frame, rows in ((known, left), (seen, right))]
    merged = pd.concat([both, *rest], ignore_index=True)
    return merged.sort_values(["image", *CORNERS], kind="stable").reset_index(drop=True)


def _weighted(a: Floats, weight_a: Floats, b: Floats, weight_b: Floats) -> Floats:
    share: Floats = (weight_a / np.maximum(weight_a + weight_b, 1e-12))[:, None]
    return share * a + (1 - share) * b
