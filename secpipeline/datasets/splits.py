"""Split a data set by scene, so that no test image has a near twin in training.

>>> splits = assign_splits(annotations.images, calibration=0.15, test=0.25, seed=0)  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pandas as pd

from secpipeline.errors import InputError

_GOLDEN = (5**0.5 - 1) / 2
_MIN_SCENES = 3


def assign_splits(
    images: pd.DataFrame,
    calibration: float = 0.15,
    test: float = 0.25,
    holdout_sources: Sequence[str] = ("vendor-h",),
    seed: int = 0,
) -> pd.Series:
    """Assign every image to train, calibration or test; images of one (source, scene) stay together.

    Scenes are lined up by source and, within a source, by a keyed hash; a golden-ratio sequence over that line then
    picks test and calibration scenes evenly from all sources. Each split gets at least one scene.

    Parameters
    ----------
    images
        With columns source and scene.
    calibration, test
        Shares of the scenes, each in (0, 1), together below 1.
    holdout_sources
        Sources that only the test split sees, where they are present; their scenes come on top of the share.
    seed
        Another seed, another assignment.

    Returns
    -------
    Series
        ``train``, ``calibration`` or ``test``, on the index of ``images``.

    Raises
    ------
    InputError
        If the shares make no sense or there are too few scenes.
    """
    if not (calibration > 0 and test > 0 and calibration + test < 1):
        raise InputError(f"splits: calibration {calibration} and test {test} must be positive and leave some to train")
    scenes = images[["source", "scene"]].drop_duplicates()
    kept = scenes[~scenes["source"].isin(list(holdout_sources))]
    if len(kept) < _MIN_SCENES:
        raise InputError(
            f"splits: {len(kept)} scenes outside the held-out sources, at least {_MIN_SCENES} are needed "
            "to train, calibrate and test on different scenes; add scenes or change splits.holdout_sources"
        )
    line = sorted(kept.itertuples(index=False, name=None), key=lambda scene: (scene[0], _hash(seed, *scene)))
    start = _hash(seed, "start") / 2**64
    ranked = sorted(range(len(line)), key=lambda index: (start + index * _GOLDEN) % 1)
    tested = min(max(1, round(test * len(line))), len(line) - 2)
    calibrated = min(max(1, round(calibration * len(line))), len(line) - tested - 1)
    split = dict.fromkeys(scenes.itertuples(index=False, name=None), "test")
    for rank, index in enumerate(ranked):
        split[line[index]] = "test" if rank < tested else "calibration" if rank < tested + calibrated else "train"
    values = [split[scene] for scene in zip(images["source"], images["scene"], strict=True)]
    return pd.Series(values, index=images.index, name="split", dtype="str")


def _hash(seed: int, *parts: str) -> int:
    text = "\0".join([str(seed), *parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
