"""The gate's policy: bounds and required evidence, fixed in a file before training.

>>> from pathlib import Path
>>> policy = load_policy(Path("policies/default.yaml"))
>>> 0 < policy.attacked.ap50_floor < policy.clean.ap50_floor < 1
True
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secpipeline.detection.matching import SUBSETS
from secpipeline.detection.ranges import check_choice, check_range
from secpipeline.detection.settings import load
from secpipeline.errors import InputError

# What the suite calls things; written out here so that deciding needs neither torch nor a detector.
EVIDENCE = ("validation", "label_audit", "robustness", "export")
# Without misplace: it has no gradient where nobody is, which to the gate is an attack that did not work.
OBJECTIVES = ("detection_loss", "vanish", "fabricate")
CONTROLS = ("noise", "grey_patch")
CORRUPTIONS = ("gaussian_noise", "motion_blur", "fog", "low_light", "jpeg")
SEVERITIES = (1, 2, 3)


@dataclass(frozen=True)
class SampleRules:
    """How much test data a verdict needs.

    Attributes
    ----------
    subset
        Whom the bounds are about, of :data:`secpipeline.detection.matching.SUBSETS`: a report about easier people
        decides nothing.
    min_images, min_people
        Test images, and people in them that are to be found.
    relative_margin
        How far beyond a bound the unfavourable end of a 95 % interval may lie, as a share of the bound.
    """

    subset: str
    min_images: int
    min_people: int
    relative_margin: float

    def __post_init__(self) -> None:
        check_choice("subset", self.subset, SUBSETS)
        if self.min_images < 1 or self.min_people < 1:
            raise InputError("min_images and min_people must be 1 or more")
        check_range("relative_margin", self.relative_margin, 0, 1)


@dataclass(frozen=True)
class CleanRules:
    """Bounds without attack.

    Attributes
    ----------
    ap50_floor
        Average precision at intersection over union 0.5, 0 to 1.
    """

    ap50_floor: float

    def __post_init__(self) -> None:
        check_range("ap50_floor", self.ap50_floor, 0, 1)


@dataclass(frozen=True)
class AttackedRules:
    """Bounds under the worst attack, and what counts as having attacked.

    Attributes
    ----------
    objectives
        Each must have been attacked with at least ``min_epsilon`` and ``min_steps``.
    min_epsilon
        Of the L∞ ball, on a scale where black is 0 and white 1.
    min_steps
        Gradient steps.
    controls
        Conditions without intent that must have been measured beside the attacks.
    ap50_floor
        Average precision, 0 to 1.
    miss_rate_ceiling
        Share of people missed at the deployed threshold, 0 to 1.
    fppi_ceiling
        False positives per image at the deployed threshold.
    """

    objectives: tuple[str, ...]
    min_epsilon: float
    min_steps: int
    controls: tuple[str, ...]
    ap50_floor: float
    miss_rate_ceiling: float
    fppi_ceiling: float

    def __post_init__(self) -> None:
        _known("objectives", self.objectives, OBJECTIVES)
        _known("controls", self.controls, CONTROLS)
        check_range("min_epsilon", self.min_epsilon, 0, 1)
        check_range("ap50_floor", self.ap50_floor, 0, 1)
        check_range("miss_rate_ceiling", self.miss_rate_ceiling, 0, 1)
        if self.min_steps < 1 or self.fppi_ceiling < 0:
            raise InputError("min_steps must be 1 or more and fppi_ceiling 0 or more")


@dataclass(frozen=True)
class CorruptedRules:
    """Bounds under corruptions.

    Attributes
    ----------
    corruptions, severities
        Each pair must have been measured.
    mean_ap50_floor
        Average precision in the mean over all of them, 0 to 1.
    """

    corruptions: tuple[str, ...]
    severities: tuple[int, ...]
    mean_ap50_floor: float

    def __post_init__(self) -> None:
        _known("corruptions", self.corruptions, CORRUPTIONS)
        _known("severities", self.severities, SEVERITIES)
        check_range("mean_ap50_floor", self.mean_ap50_floor, 0, 1)


@dataclass(frozen=True)
class ArtifactRules:
    """How like the trained detector the exported artifact must be; it must keep all the floors above as well.

    Attributes
    ----------
    max_ap50_difference
        Largest difference in average precision under any condition.
    max_box_difference
        Pixels, between boxes that the two agree on.
    max_score_difference
        Between scores that the two agree on.
    max_unmatched
        Detections of one that the other lacks.
    """

    max_ap50_difference: float
    max_box_difference: float
    max_score_difference: float
    max_unmatched: float

    def __post_init__(self) -> None:
        if (
            min(
                self.max_ap50_difference,
                self.max_box_difference,
                self.max_score_difference,
                self.max_unmatched,
            )
            < 0
        ):
            raise InputError("differences must be 0 or more")


@dataclass(frozen=True)
class HealthRules:
    """When attacks are too broken for their failure to mean anything.

    Attributes
    ----------
    max_zero_gradient_share, max_non_finite_share
        Of the images attacked.
    max_sanity_ap50
        Average precision that may survive an attack of absurd strength.
    max_doubling_gain
        Average precision that twice the steps may take away beyond the attack as configured.
    max_single_step_advantage
        Average precision by which one step may hurt more than many (a sign of masked gradients).
    max_noise_advantage
        Average precision by which random noise may hurt more than the attack.
    """

    max_zero_gradient_share: float
    max_non_finite_share: float
    max_sanity_ap50: float
    max_doubling_gain: float
    max_single_step_advantage: float
    max_noise_advantage: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_range(name, value, 0, 1)


@dataclass(frozen=True)
class Policy:
    """What a detector must show before it may be released.

    Attributes
    ----------
    name
        For people; evidence names the policy by its digest.
    required_evidence
        Reports without which nothing is decided, of :data:`EVIDENCE`.
    require_source_attribution
        Whether a label audit that could not compare sources (there were fewer than three) prevents a verdict.
    """

    name: str
    required_evidence: tuple[str, ...]
    require_source_attribution: bool
    sample: SampleRules
    clean: CleanRules
    attacked: AttackedRules
    corrupted: CorruptedRules
    artifact: ArtifactRules
    health: HealthRules

    def __post_init__(self) -> None:
        _known("required_evidence", self.required_evidence, EVIDENCE)


def load_policy(path: Path) -> Policy:
    """Read a policy.

    Raises
    ------
    InputError
        If the file is missing, or a key is unknown, missing, there twice, of the wrong type or out of range;
        the message names the file and the key.
    """
    return load(Policy, path)


def _known(name: str, values: tuple[Any, ...], known: Any) -> None:
    for value in values:
        check_choice(name, value, known)
