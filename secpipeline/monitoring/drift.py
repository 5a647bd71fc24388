"""Drift of a detector's inputs and outputs against a reference window.

Each image becomes a few numbers (brightness, contrast, sharpness, saturation; detections and mean score). A window is
compared with the reference by the two-sample Kolmogorov-Smirnov test, Bonferroni-corrected over the statistics, and by
the population stability index, so that a large window does not raise an incident over a difference of no size.

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> drift(rng.normal(0, 1, 300), rng.normal(0, 1, 300)).ks_p > 0.01
True
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from secpipeline.errors import CannotDecide

INPUT_STATISTICS = ("brightness", "contrast", "sharpness", "saturation")
OUTPUT_STATISTICS = ("detections", "mean_score")
MINIMUM_IMAGES = 20
_BINS = 10


@dataclass(frozen=True)
class Drift:
    """How one statistic of a window differs from the reference.

    Attributes
    ----------
    ks_p
        P-value of the two-sample Kolmogorov-Smirnov test, in [0, 1].
    psi
        Population stability index over ten reference quantile bins, ≥ 0; by custom 0.25 and more is a large shift.
    reference, window
        Medians.
    """

    ks_p: float
    psi: float
    reference: float
    window: float


def input_statistics(images: NDArray[np.uint8]) -> pd.DataFrame:
    """Statistics of images (N, 3, H, W) uint8, one row each, in units of the full range [0, 1]."""
    rows = []
    for image in images:
        pixels = image.astype(np.float32) / 255
        grey = pixels.mean(axis=0)
        edges = np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()
        saturation = (pixels.max(axis=0) - pixels.min(axis=0)).mean()
        rows.append((grey.mean(), grey.std(), edges, saturation))
    return pd.DataFrame(rows, columns=list(INPUT_STATISTICS), dtype=float)


def output_statistics(predictions: pd.DataFrame, image_ids: list[str], threshold: float) -> pd.DataFrame:
    """Detections at the deployed threshold and their mean score, one row an image (score 0 where there are none)."""
    sure = predictions[predictions["score"] >= threshold].groupby("image_id")["score"]
    table = pd.DataFrame({"detections": sure.size(), "mean_score": sure.mean()})
    return table.reindex(image_ids).fillna(0.0).reset_index(drop=True).astype(float)


def drift(reference: NDArray[Any], window: NDArray[Any]) -> Drift:
    """Compare one statistic of two samples.

    Raises
    ------
    CannotDecide
        If either sample has fewer than :data:`MINIMUM_IMAGES` values or any is not finite.
    """
    for name, sample in (("reference", reference), ("window", window)):
        if len(sample) < MINIMUM_IMAGES:
            raise CannotDecide(f"the {name} has {len(sample)} images; drift needs {MINIMUM_IMAGES}")
        if not np.isfinite(sample).all():
            raise CannotDecide(f"the {name} holds values that are not finite")
    edges, repeats = np.unique(np.quantile(reference, np.linspace(0, 1, _BINS + 1)[1:-1]), return_counts=True)
    # A value that many images share has a bin to itself, or falling below it would go unnoticed.
    edges = np.union1d(edges, np.nextafter(edges[repeats > 1], -np.inf))
    expected, found = (_shares(sample, edges) for sample in (reference, window))
    psi = float(((found - expected) * np.log(found / expected)).sum())
    return Drift(
        float(ks_2samp(reference, window, method="asymp").pvalue),
        psi,
        float(np.median(reference)),
        float(np.median(window)),
    )


def _shares(sample: NDArray[Any], edges: NDArray[Any]) -> NDArray[Any]:
    counts = np.bincount(np.searchsorted(edges, sample), minlength=len(edges) + 1)
    # Half a count a bin keeps the logarithm finite where a bin is empty.
    return np.asarray((counts + 0.5) / (counts + 0.5).sum())


def compare(
    reference: pd.DataFrame, window: pd.DataFrame, level: float = 0.01, large_shift: float = 0.25
) -> list[dict[str, Any]]:
    """Compare every statistic of two tables.

    Returns
    -------
    list of dict
        One row a statistic: its drift and ``incident``, true if the corrected test rejects at ``level`` and the
        stability index reaches ``large_shift``.

    Raises
    ------
    CannotDecide
        If the tables are too small or hold values that are not finite.
    """
    rows = []
    for name in reference.columns:
        found = drift(reference[name].to_numpy(float), window[name].to_numpy(float))
        incident = found.ks_p < level / len(reference.columns) and found.psi >= large_shift
        rows.append({"statistic": name, **vars(found), "incident": bool(incident)})
    return rows
