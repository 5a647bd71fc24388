"""Judges: detectors that say what they see in images whose labels they never learned.

>>> judged = out_of_fold(data, assigned, recipe, Path("resume"), judges=2)                  # doctest: +SKIP
>>> judged.groupby("judge")["score"].max() <= 1                                             # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from secpipeline.datasets.loading import Pixels
from secpipeline.detection import registry
from secpipeline.detection.distributed import default_device
from secpipeline.detection.inference import predict
from secpipeline.detection.recipes import Recipe
from secpipeline.detection.training import train
from secpipeline.errors import InputError

# Judges that were trained for minutes see something of this score everywhere; it speaks for no label.
LEAST_SCORE = 0.1
# The scores of more would not fit the one number that stands for them together.
MOST_JUDGES = 8


def out_of_fold(
    data: Pixels, assigned: NDArray[np.integer], recipe: Recipe, resume: Path, judges: int = 1
) -> pd.DataFrame:
    """Predictions for every image by the judges of its fold, which were trained on the other folds only.

    The judges of a fold differ in their seed: in weights, in the order of the images and in their augmentation.
    """
    if not isinstance(judges, int) or not 1 <= judges <= MOST_JUDGES:
        raise InputError(
            f"audit.judges is {judges!r}; it must be from 1 to {MOST_JUDGES} a fold; two tell their errors apart"
        )
    numbers = sorted(set(assigned.tolist()))
    parts = []
    for judge in range(judges):
        for fold in numbers:
            inside, outside = np.flatnonzero(assigned == fold), np.flatnonzero(assigned != fold)
            own = replace(recipe, seed=recipe.seed + judge * len(numbers) + int(fold))
            detector = registry.build(own.detector, dict(own.config), seed=own.seed)
            truth = [data.truth[index] for index in outside]
            train(detector, data.images[outside], truth, own, checkpoint_dir=resume / f"fold-{fold}-judge-{judge}")
            names = [data.image_ids[index] for index in inside]
            seen = predict(detector.to(default_device()), data.images[inside], names, score_threshold=LEAST_SCORE)
            parts.append(seen.assign(judge=str(judge)))
    return pd.concat(parts, ignore_index=True)
