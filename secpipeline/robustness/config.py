"""What the suite does to a detector, as a file.

>>> from pathlib import Path
>>> [attack.name for attack in load_suite(Path("policies/attacks.yaml")).attacks]
['fgsm', 'pgd', 'vanish', 'fabricate']
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from secpipeline.detection.matching import SUBSETS
from secpipeline.detection.ranges import check_choice
from secpipeline.detection.settings import load
from secpipeline.errors import InputError
from secpipeline.robustness.attacks import AttackSpec
from secpipeline.robustness.corruptions import CORRUPTIONS, SEVERITIES


@dataclass(frozen=True)
class HealthConfig:
    """How the attacks themselves are checked.

    Attributes
    ----------
    images
        How many images with people are attacked for the checks.
    sanity_epsilon
        Bound of an attack that must break anything, on a scale where black is 0 and white 1.
    """

    images: int
    sanity_epsilon: float

    def __post_init__(self) -> None:
        if self.images < 1:
            raise InputError("health.images must be 1 or more")
        if not 0 < self.sanity_epsilon <= 1:
            raise InputError("health.sanity_epsilon must be in (0, 1]")


@dataclass(frozen=True)
class SuiteConfig:
    """The conditions of a suite.

    Attributes
    ----------
    subset
        Whom the metrics are about, a key of :data:`secpipeline.detection.matching.SUBSETS`.
    attacks
        White-box attacks, with names of their own.
    noise_epsilon
        Strength of the noise control, on a scale where black is 0 and white 1.
    grey_patch
        Side of the grey square on every torso, as a share of the person's height.
    corruptions, severities
        Every pair is a condition.
    resamples
        Of the bootstrap.
    batch_size
        Images attacked at once.
    gallery
        How many images are kept under every attack, to be looked at.
    """

    subset: str
    attacks: tuple[AttackSpec, ...]
    noise_epsilon: float
    grey_patch: float
    corruptions: tuple[str, ...]
    severities: tuple[int, ...]
    resamples: int
    batch_size: int
    gallery: int
    health: HealthConfig

    def __post_init__(self) -> None:
        check_choice("subset", self.subset, SUBSETS)
        for name in self.corruptions:
            check_choice("corruptions", name, CORRUPTIONS)
        for severity in self.severities:
            check_choice("severities", severity, SEVERITIES)
        names = self.condition_names()
        if len(set(names)) != len(names):
            raise InputError(f"two conditions have one name: {', '.join(names)}")
        if not any(attack.objective == "detection_loss" for attack in self.attacks):
            raise InputError("attacks: one must have the objective detection_loss; the health checks repeat it")
        if not 0 < self.noise_epsilon <= 1 or not 0 < self.grey_patch <= 1:
            raise InputError("noise_epsilon and grey_patch must be in (0, 1]")
        if self.resamples < 100 or self.batch_size < 1 or self.gallery < 1:
            raise InputError("resamples must be 100 or more, batch_size and gallery 1 or more")

    @property
    def strongest(self) -> AttackSpec:
        """The attack on the detection loss with the most steps, which the health checks repeat."""
        return max((a for a in self.attacks if a.objective == "detection_loss"), key=lambda attack: attack.steps)

    def condition_names(self) -> tuple[str, ...]:
        """Every condition in the order in which it is measured."""
        corrupted = (f"{name}-{severity}" for name in self.corruptions for severity in self.severities)
        return ("clean", "noise", "grey_patch", *(attack.name for attack in self.attacks), *corrupted)


def load_suite(path: Path) -> SuiteConfig:
    """Read a suite.

    Raises
    ------
    InputError
        If the file is missing, or a key is unknown, missing, there twice, of the wrong type or out of range;
        the message names the file and the key.
    """
    return load(SuiteConfig, path)
