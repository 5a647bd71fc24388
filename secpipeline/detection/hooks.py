"""What a training loop lets others do to it: change a batch, attack it, add to its loss, score its weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from secpipeline.datasets.loading import Truth
from secpipeline.detection.interface import Detector, Encoded

# Of images (B, 3, H, W) in [0, 1] and their truth; draws from the two generators and from nothing else.
Augment = Callable[[Tensor, list[Truth], np.random.Generator, torch.Generator], tuple[Tensor, list[Truth]]]
# Of images and their targets: the images under attack.
Perturb = Callable[[Detector, Tensor, Encoded, torch.Generator], Tensor]
# Of images and their targets: a scalar that is added to the loss.
Penalty = Callable[[Detector, Tensor, Encoded], Tensor]
# Of the detector after an epoch, counted from 0: the higher, the better.
Validate = Callable[[Detector, int], float]
