"""Learned patches on people's torsos: what an attacker prints on a shirt.

After Brown et al., "Adversarial patch", 2017, and Thys, Van Ranst and Goedemé, "Fooling automated surveillance cameras:
adversarial patches to attack person detection", CVPR Workshops 2019. One patch is learned for all people at once, under
random shifts, sizes and light (expectation over transformation: Athalye et al., "Synthesizing robust adversarial
examples", ICML 2018), so that it works on people it was not learned on. A detector must be attacked with patches that
were learned on itself: those of another detector say little about it.

>>> spec = PatchSpec("worn", "vanish", fraction=0.45, texels=24, steps=200, rate=0.05)
>>> patch = learn(detector, images, truth, spec, batch_size=16, seed=0)                     # doctest: +SKIP
>>> worn = wear(other_images, other_truth, patch, spec.fraction)                            # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from secpipeline.datasets.loading import Truth
from secpipeline.detection.interface import Detector
from secpipeline.detection.ranges import check_choice
from secpipeline.errors import InputError
from secpipeline.robustness.attacks import TORSO, Images, frozen
from secpipeline.robustness.objectives import OBJECTIVES

_SHIFT, _SIZE, _LIGHT = 0.08, 0.1, 0.1
_NOWHERE = -1e6


@dataclass(frozen=True)
class PatchSpec:
    """One patch attack.

    Attributes
    ----------
    name
        How reports call it.
    objective
        A key of :data:`secpipeline.robustness.objectives.OBJECTIVES`.
    fraction
        Side of the square as a share of the person's height, in (0, 1].
    texels
        Side of the learned square in its own pixels.
    steps
        Steps of Adam, each on one batch of images.
    rate
        Of Adam; it falls to 0 along a cosine.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    name: str
    objective: str
    fraction: float
    texels: int
    steps: int
    rate: float

    def __post_init__(self) -> None:
        check_choice(f"patch {self.name}: objective", self.objective, OBJECTIVES)
        if not 0 < self.fraction <= 1:
            raise InputError(f"patch {self.name}: fraction {self.fraction} is not in (0, 1]")
        if not 0 < self.rate <= 1:
            raise InputError(f"patch {self.name}: rate {self.rate} is not in (0, 1]")
        if self.texels < 2 or self.steps < 1:
            raise InputError(f"patch {self.name}: texels must be 2 or more and steps 1 or more")


def torsos(truth: Sequence[Truth], fraction: float) -> Tensor:
    """Where patches go: (B, M, 3) float32 of centre x, centre y and side in pixels.

    The smallest people come first and the nearest are drawn last, over them; rows beyond an image's people lie outside
    every picture.
    """
    most = max((len(people.boxes) for people in truth), default=0)
    places = np.full((len(truth), max(most, 1), 3), _NOWHERE, np.float32)
    places[..., 2] = 1.0
    for index, people in enumerate(truth):
        boxes = np.asarray(people.boxes, np.float32).reshape(-1, 4)
        tall = boxes[:, 3] - boxes[:, 1]
        squares = np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 1] + TORSO * tall, fraction * tall], axis=1)
        places[index, : len(boxes)] = squares[np.argsort(tall, kind="stable")]
    return torch.from_numpy(places)


def jitter(places: Tensor, generator: torch.Generator) -> Tensor:
    """Move every square by up to 8 % of its side and change its size by up to 10 %."""
    draw = torch.empty(places.shape, device=generator.device).uniform_(-1, 1, generator=generator).to(places)
    side = places[..., 2:] * (1 + _SIZE * draw[..., 2:])
    return torch.cat([places[..., :2] + _SHIFT * places[..., 2:] * draw[..., :2], side], dim=2)


def hide(places: Tensor, hidden: Tensor) -> Tensor:
    """The same squares (B, M, 3), those of the ``hidden`` (B,) images outside every picture."""
    nowhere = torch.tensor([_NOWHERE, _NOWHERE, 1.0], device=places.device)
    return torch.where(hidden[:, None, None], nowhere, places)


def paste(images: Tensor, places: Tensor, patches: Tensor) -> Tensor:
    """Images with everybody wearing the patch; differentiable in images and patches.

    Parameters
    ----------
    images
        (B, 3, H, W) in [0, 1].
    places
        (B, M, 3) from :func:`torsos`.
    patches
        (B, 3, S, S) in [0, 1], one an image; the nearest person's square hides those behind.
    """
    height, width = images.shape[2:]
    centre_x, centre_y, half = places[..., 0], places[..., 1], places[..., 2] / 2
    columns = torch.arange(width, device=images.device) + 0.5
    rows = torch.arange(height, device=images.device) + 0.5
    u = (columns - centre_x[..., None]) / half[..., None]
    v = (rows - centre_y[..., None]) / half[..., None]
    inside = (v.abs() <= 1)[..., :, None] & (u.abs() <= 1)[..., None, :]
    # 1 and up: the last, nearest, person whose square covers the pixel; 0: nobody's does.
    rank = torch.arange(1, places.shape[1] + 1, dtype=torch.int16, device=images.device)
    owner = (inside * rank[:, None, None]).amax(dim=1)
    who = (owner.long() - 1).clamp(min=0)
    across = u.gather(1, who)
    down = v.gather(1, who.transpose(1, 2)).transpose(1, 2)
    texture = F.grid_sample(
        patches.float(), torch.stack([across, down], dim=3), padding_mode="border", align_corners=False
    )
    return torch.where((owner > 0)[:, None], texture.to(images.dtype), images)


def learn(
    detector: Detector, images: Images, truth: Sequence[Truth], spec: PatchSpec, batch_size: int, seed: int
) -> Tensor:
    """Learn one patch that hurts the detector on all images with people, on the detector's device.

    Parameters
    ----------
    detector
        Whom to fool; mode, weights and gradients are left as they were.
    images
        (N, 3, H, W) uint8 in the detector's frame; not the images that the patch is judged on.
    truth
        The people of each image.
    spec
        The attack.
    batch_size, seed
        Images a step; order, start and transformations.

    Returns
    -------
    Tensor
        (3, S, S) in [0, 1].

    Raises
    ------
    InputError
        If no image holds people.
    """
    crowded = np.flatnonzero([len(people.boxes) > 0 for people in truth])
    if len(crowded) == 0:
        raise InputError(f"patch {spec.name}: none of {len(truth)} images holds people to wear it")
    device = detector.device
    generator = torch.Generator(device).manual_seed(seed)
    rng = np.random.default_rng(seed)
    patch = torch.rand((3, spec.texels, spec.texels), generator=generator, device=device).requires_grad_(True)
    optimizer = torch.optim.Adam([patch], lr=spec.rate, maximize=True)
    objective = OBJECTIVES[spec.objective]
    with frozen(detector):
        for step in tqdm(range(spec.steps), f"patch {spec.name}", leave=False, disable=None):
            chosen = rng.choice(crowded, min(batch_size, len(crowded)), replace=False)
            people = [truth[index] for index in chosen]
            batch = torch.from_numpy(images[chosen]).to(device).float() / 255
            places = jitter(torsos(people, spec.fraction).to(device), generator)
            light = torch.empty((len(chosen), 1, 1, 1), device=device)
            light.uniform_(1 - _LIGHT, 1 + _LIGHT, generator=generator)
            shown = (patch[None] * light).clamp(0, 1)
            encoded = detector.encode(people, *images.shape[2:]).to(device)
            hurt = objective(detector, paste(batch, places, shown), encoded).mean()
            (patch.grad,) = torch.autograd.grad(hurt, patch)
            optimizer.param_groups[0]["lr"] = spec.rate * (1 + math.cos(math.pi * step / spec.steps)) / 2
            optimizer.step()
            with torch.no_grad():
                patch.clamp_(0, 1)
    return patch.detach()


def wear(images: Images, truth: Sequence[Truth], patch: Tensor, fraction: float, batch_size: int = 64) -> Images:
    """Put a patch (3, S, S) on every torso of (N, 3, H, W) uint8 images, rounded to 8 bits."""
    worn = np.empty_like(images)
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        batch = torch.from_numpy(images[part]).to(patch.device).float() / 255
        places = torsos(truth[part], fraction).to(patch.device)
        shown = paste(batch, places, patch.expand(len(batch), -1, -1, -1))
        worn[part] = (shown * 255).round().clamp(0, 255).byte().cpu().numpy()
    return worn
