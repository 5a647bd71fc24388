"""An attack from several random starts, of which each image gets the one that hurts it most.

>>> worst = attack_restarts(detector, images, truth, spec, restarts=3, batch_size=64, seed=0)   # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from secpipeline.datasets.loading import Truth
from secpipeline.detection.interface import Detector
from secpipeline.robustness.attacks import AttackSpec, Images
from secpipeline.robustness.health import attack_soundly
from secpipeline.robustness.objectives import OBJECTIVES


def attack_restarts(
    detector: Detector,
    images: Images,
    truth: Sequence[Truth],
    spec: AttackSpec,
    restarts: int,
    batch_size: int,
    seed: int,
) -> Images:
    """Attack (N, 3, H, W) uint8 images ``restarts`` times; of each, the result that its objective is highest on."""
    best, height = images, np.full(len(images), -np.inf)
    for restart in range(restarts):
        attacked = attack_soundly(detector, images, truth, spec, batch_size, seed + restart)
        reached = _reached(detector, attacked, truth, spec, batch_size)
        better = reached > height
        best = np.where(better[:, None, None, None], attacked, best)
        height = np.maximum(reached, height)
    return best


@torch.no_grad()
def _reached(
    detector: Detector, images: Images, truth: Sequence[Truth], spec: AttackSpec, batch_size: int
) -> NDArray[np.float64]:
    """The objective of each image as it was rounded (N,)."""
    device = detector.device
    was_training = detector.training
    detector.eval()
    reached = []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        batch = torch.from_numpy(images[part]).to(device).float() / 255
        encoded = detector.encode(truth[part], *images.shape[2:]).to(device)
        reached.append(OBJECTIVES[spec.objective](detector, batch, encoded).double().cpu().numpy())
    detector.train(was_training)
    return np.concatenate(reached)
