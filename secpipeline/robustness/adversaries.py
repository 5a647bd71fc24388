"""The attack in a training loop, made of what a recipe asks for.

L∞ steps (Madry et al., ICLR 2018; one step from a random start: Wong et al., ICLR 2020), free training (Shafahi et al.,
NeurIPS 2019), patches on torsos, and L∞ and patches in one recipe, because a detector hardened against one of them is
not hardened against the other (Tramèr and Boneh, "Adversarial training and robustness for multiple perturbations",
NeurIPS 2019). Patches are learned with the detector and begin anew with every epoch, because a detector soon knows the
patches that it has seen. Patches made for one image in a few steps from noise, as the rectangles of Wu et al.,
"Defending against physically realizable attacks on image classification", ICLR 2020, do not serve here: as tried, the
detector learned that a square of noise gives a person away, and lost even to a grey one.

>>> seen = SeenBatch()
>>> attack = adversary(recipe, defences.read(recipe.defences, recipe.name), seen)           # doctest: +SKIP
>>> train(detector, images, truth, recipe, augment=seen, perturb=attack)                    # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secpipeline.detection.defences import Defences, Patch
from secpipeline.detection.hooks import Perturb
from secpipeline.detection.interface import Detector, Encoded
from secpipeline.detection.recipes import Adversarial, Recipe
from secpipeline.detection.seen import SeenBatch
from secpipeline.errors import InputError
from secpipeline.robustness.attacks import AttackSpec, frozen, perturb
from secpipeline.robustness.objectives import OBJECTIVES
from secpipeline.robustness.patches import hide, jitter, paste, torsos


def adversary(recipe: Recipe, found: Defences, seen: SeenBatch) -> Perturb | None:
    """The attack that a recipe trains against, or None.

    Parameters
    ----------
    recipe
        Its ``adversarial`` says how far and how often, and from which epoch on.
    found
        The recipe's defences.
    seen
        The memory that ends the recipe's augmentation.

    Raises
    ------
    InputError
        If a defence needs the recipe's ``adversarial`` and there is none, or epsilon 0 leaves no attack.
    """
    settings = recipe.adversarial
    if settings is None:
        if found.free or found.patch:
            raise InputError(
                f"recipe {recipe.name}: defences.free and defences.patch attack, so adversarial must be given"
            )
        return None
    if settings.epsilon == 0:
        if found.patch is None:
            raise InputError(f"recipe {recipe.name}: adversarial.epsilon 0 leaves no attack without defences.patch")
        return PatchAdversary(found.patch, settings, seen)
    # Made for all of them, because it refuses what is out of range.
    spec = AttackSpec(
        "in the loop", "detection_loss", settings.epsilon, settings.step_size, settings.steps, random_start=True
    )
    if found.patch:
        return PatchAdversary(found.patch, settings, seen)
    remembering = seen if found.distillation else None
    return FreeAdversary(settings.epsilon, remembering) if found.free else _linf(spec, remembering)


def _linf(spec: AttackSpec, seen: SeenBatch | None) -> Perturb:
    def attack(detector: Detector, images: Tensor, encoded: Encoded, generator: torch.Generator) -> Tensor:
        if seen is not None:
            seen.find(images)  # a teacher that comes later is only given the attacked ones
        return perturb(detector, images, encoded, spec, generator)

    return attack


class FreeAdversary:
    """A perturbation that the training's own backward pass moves, kept from step to step.

    It needs batches that come several times in a row (:class:`secpipeline.detection.seen.Replay`), and a training loop
    that runs its backward pass through the images that it was given.

    Parameters
    ----------
    epsilon
        Largest change of a pixel, black 0 and white 1.
    seen
        The memory that ends the recipe's augmentation, if a teacher asks it for the images before the attack.
    """

    def __init__(self, epsilon: float, seen: SeenBatch | None = None) -> None:
        self.epsilon, self.seen = epsilon, seen
        self._epoch: torch.Generator | None = None
        self._change = torch.zeros(0)

    def __call__(self, detector: Detector, images: Tensor, encoded: Encoded, generator: torch.Generator) -> Tensor:  # noqa: ARG002 - the interface of attacks
        """The batch under the perturbation so far."""
        if self.seen is not None:
            self.seen.find(images)
        if self._epoch is not generator or self._change.shape != images.shape:
            self._epoch, self._change = generator, torch.zeros_like(images)
        elif self._change.grad is not None:
            moved = self._change.detach() + self.epsilon * self._change.grad.nan_to_num().sign()
            self._change = moved.clamp(-self.epsilon, self.epsilon)
        self._change = self._change.detach().requires_grad_(True)
        with torch.enable_grad():
            return (images + self._change).clamp(0, 1)


class PatchAdversary:
    """Patches on the torsos of a share of the images, and an L∞ attack on the others, on all, or in turns.

    A few patches are shared by all images. Each batch moves them a step or more, and an epoch begins with plain squares
    of new colours, so that a training that was resumed meets the patches of one that was not.

    Parameters
    ----------
    settings
        Of the patches.
    bound
        Steps of both, and the L∞ attack beside the patches; its epsilon may be 0.
    seen
        The memory that ends the recipe's augmentation; it knows where people are.
    """

    def __init__(self, settings: Patch, bound: Adversarial, seen: SeenBatch) -> None:
        self.settings, self.bound, self.seen = settings, bound, seen
        self._epoch: torch.Generator | None = None
        self._patches = torch.zeros(0)

    def __call__(self, detector: Detector, images: Tensor, encoded: Encoded, generator: torch.Generator) -> Tensor:
        """The batch under attack; the detector is left as it was."""
        truth = self.seen.find(images).truth
        places = torsos(truth, self.settings.fraction).to(images.device)
        places = jitter(self._with_decoys(places, images, generator), generator)
        wears, reach = self._who(len(images), generator)
        places = hide(places, ~wears)
        change = (2 * _draw(images.shape, generator) - 1).to(images) * reach
        patches = self._pool(generator)
        worn = torch.randint(len(patches), (len(images),), generator=generator, device=generator.device)
        objective = OBJECTIVES[self.settings.objective]
        with frozen(detector):
            for _ in range(self.bound.steps):
                change.requires_grad_(True)
                patches.requires_grad_(True)
                shown = paste((images + change).clamp(0, 1), places, patches[worn])
                hurt = objective(detector, shown, encoded).sum()
                by_pixel, by_texel = torch.autograd.grad(hurt, [change, patches])
                change = change.detach() + self.bound.step_size * by_pixel.nan_to_num().sign()
                change = torch.minimum(torch.maximum(change, -reach), reach)
                patches = patches.detach() + self.settings.step_size * by_texel.nan_to_num().sign()
                patches = patches.clamp(0, 1)
        self._patches = patches
        return paste((images + change).clamp(0, 1), places, patches[worn]).detach()

    def _who(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which images wear patches (B,) bool, and how far each may change elsewhere (B, 1, 1, 1)."""
        draws = 1 if self.settings.composition == "alternating" else count
        draw = _draw((draws,), generator).expand(count)
        wears = draw < self.settings.share
        moves = torch.ones_like(wears) if self.settings.composition == "joint" else ~wears
        return wears, (moves.float() * self.bound.epsilon).view(-1, 1, 1, 1)

    def _with_decoys(self, places: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
        """As many squares again, of the same sizes, anywhere: else a square would give a person away."""
        if not self.settings.decoys:
            return places
        height, width = images.shape[2:]
        anywhere = _draw((*places.shape[:2], 2), generator).to(places)
        centres = anywhere * torch.tensor([width, height], device=places.device)
        real = places[..., :1] >= 0
        decoys = torch.where(real, torch.cat([centres, places[..., 2:]], dim=2), places)
        return torch.cat([decoys, places], dim=1)

    def _pool(self, generator: torch.Generator) -> Tensor:
        """The patches so far (K, 3, S, S); in a new epoch plain squares with a little noise."""
        if self._epoch is not generator:
            count, side = self.settings.patches, self.settings.texels
            noise = 0.1 * (_draw((count, 3, side, side), generator) - 0.5)
            self._epoch, self._patches = generator, (_draw((count, 3, 1, 1), generator) + noise).clamp(0, 1)
        return self._patches


def _draw(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Uniform numbers in [0, 1) on the generator's device."""
    return torch.rand(tuple(shape), generator=generator, device=generator.device)
