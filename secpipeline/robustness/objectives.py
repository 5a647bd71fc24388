"""What an attacker wants: one number per image that rises as the detector is hurt.

Average precision hardly notices detections that sink below the deployed threshold or false ones far down the
list, so the detection loss alone would miss two attacks that matter on the street: people who vanish and
people who are not there. The fourth objective leaves them found, but elsewhere than they are.

>>> sorted(OBJECTIVES)
['detection_loss', 'fabricate', 'misplace', 'vanish']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from secpipeline.detection.interface import Detector, Encoded
from secpipeline.errors import InputError

Objective = Callable[[Detector, Tensor, Encoded], Tensor]


def detection_loss(detector: Detector, images: Tensor, encoded: Encoded) -> Tensor:
    """The detector's own training loss: anything goes that makes it wrong.

    Parameters
    ----------
    detector
        Whom to hurt.
    images
        (B, 3, H, W) in [0, 1].
    encoded
        The dense targets of these images.

    Returns
    -------
    Tensor
        (B,).
    """
    parts = detector.losses(images, encoded)
    return torch.stack(list(parts.values())).sum(dim=0)


def vanish(detector: Detector, images: Tensor, encoded: Encoded) -> Tensor:  # noqa: ARG001 - one signature for all
    """Nobody here: push every person logit down, most where somebody is seen (softplus is flat elsewhere).

    Returns
    -------
    Tensor
        (B,).
    """
    return -torch.nn.functional.softplus(detector.logits(images)).sum(dim=1)


def fabricate(detector: Detector, images: Tensor, encoded: Encoded) -> Tensor:  # noqa: ARG001 - one signature for all
    """People everywhere: push every person logit up, most where somebody is nearly seen.

    The opposite of :func:`vanish`. Works on images without people too, where the training loss of some
    detectors has no gradient. Raising the lowest logits first, as a sum of log-probabilities does, invents
    hardly anybody.

    Returns
    -------
    Tensor
        (B,).
    """
    return torch.nn.functional.softplus(detector.logits(images)).sum(dim=1)


def misplace(detector: Detector, images: Tensor, encoded: Encoded) -> Tensor:
    """People elsewhere: only what the training loss says about places and sizes, whatever the scores do.

    Returns
    -------
    Tensor
        (B,).

    Raises
    ------
    InputError
        If the detector does not say which of its loss terms these are.
    """
    if not detector.placing:
        raise InputError(
            f"{detector.name}: does not name the terms of its loss that are about places; leave out misplace"
        )
    parts = detector.losses(images, encoded)
    return torch.stack([parts[name] for name in detector.placing]).sum(dim=0)


OBJECTIVES: Mapping[str, Objective] = {
    "detection_loss": detection_loss,
    "vanish": vanish,
    "fabricate": fabricate,
    "misplace": misplace,
}
