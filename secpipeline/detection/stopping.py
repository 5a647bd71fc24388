"""Early stopping: which epoch's weights to keep, and when more epochs are not worth their time.

>>> rule = EarlyStopping("clean", patience=2)
>>> best_epoch([0.5, 0.7, 0.6, 0.65], rule), is_over([0.5, 0.7, 0.6, 0.65], rule)
(1, True)
"""

from __future__ import annotations

from collections.abc import Sequence

from secpipeline.detection.recipes import EarlyStopping


def best_epoch(scores: Sequence[float], rule: EarlyStopping) -> int:
    """The last epoch, counted from 0, that was an improvement; -1 before the first."""
    best = -1
    for epoch, score in enumerate(scores):
        if best < 0 or score > scores[best] + rule.improvement:
            best = epoch
    return best


def is_over(scores: Sequence[float], rule: EarlyStopping) -> bool:
    """Whether the last ``rule.patience`` epochs were no improvement."""
    return len(scores) - 1 - best_epoch(scores, rule) >= rule.patience
