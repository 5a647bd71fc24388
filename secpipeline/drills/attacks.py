"""The attacks of the poisoning drill, and how large a drill is.

>>> attack = BY_NAME["ghost"]
>>> attack.plant(SOURCE, attack.share, 1).ghost
0.05
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from secpipeline.datasets.deliveries import Planter
from secpipeline.datasets.synthetic import SceneSpec
from secpipeline.poisoning.backdoors import (
    Backdoor,
    Blended,
    GlobalMisclassification,
    ObjectDisappearance,
    ObjectGeneration,
    RegionalMisclassification,
    ScalingTrigger,
    Trigger,
)
from secpipeline.poisoning.planters import PoisonPlan

SOURCE = "vendor-c"
# Of the source's boxes, and of the release's images.
LABEL_SHARE, IMAGE_SHARE = 0.05, 0.05


@dataclass(frozen=True)
class Setting:
    """How large a drill is; the shipped one is the smallest in which the judges of the shipped recipe see enough.

    Attributes
    ----------
    scenes, frames
        Scenes of each of eight sources, and frames of each.
    held_out_scenes
        Scenes of each source, of one frame, on which backdoors are tried.
    seed
        Of scenes and planters.
    """

    scenes: int = 150
    frames: int = 2
    held_out_scenes: int = 25
    seed: int = 60

    def spec(self, scale: int = 1, *, held_out: bool = False) -> SceneSpec:
        """What to draw, at ``scale`` times the judges' frame."""
        scenes, frames = (self.held_out_scenes, 1) if held_out else (self.scenes, self.frames)
        seed = self.seed + 5000 * held_out
        return SceneSpec(192 * scale, 144 * scale, scenes_per_source=scenes, frames_per_scene=frames, seed=seed)


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes
    ----------
    name
        What the drill calls it.
    plant
        Its planter, by source, share of the source's images or boxes, and seed.
    share
        That share.
    finding
        The kind of finding that should lead to its boxes; "" for backdoors.
    against_cleanlab
        Whether the findings must be twice as precise as cleanlab's.
    bound
        Whether the bounds must hold for the drill to succeed; the others are reported only.
    learned
        Whether an undefended detector is expected to learn it. With one class a regional misclassification only takes
        boxes out of the count, and a small network does not learn a global one (docs/results/backdoors.md).
    scale
        Pictures are so many times as large as the judges' frame.
    """

    name: str
    plant: Callable[[str, float, int], Planter]
    share: float
    finding: str = ""
    against_cleanlab: bool = False
    bound: bool = True
    learned: bool = True
    scale: int = 1


def _labels(kind: str) -> Callable[[str, float, int], Planter]:
    nothing = dict.fromkeys(("removed", "shifted", "ghost", "triggered"), 0.0)
    return lambda source, share, seed: PoisonPlan(source, **{**nothing, kind: share}, seed=seed)


# Not every picture offers a victim, so more are chosen than shall be spoiled: eight sources share the release's images.
def _images(eligible: float) -> float:
    return min(1.0, 8 * IMAGE_SHARE / eligible)


def _backdoor(kind: type[Backdoor], **options: Any) -> Callable[[str, float, int], Planter]:
    return lambda source, share, seed: kind(source, share, seed, **options)


_STICKER, _TEXTURE = Trigger("sticker", 1 / 4), Trigger("texture", 1 / 4)

ATTACKS: tuple[Attack, ...] = (
    Attack("removed", _labels("removed"), LABEL_SHARE, "missing", against_cleanlab=True),
    Attack("shifted", _labels("shifted"), LABEL_SHARE, "location"),
    Attack("ghost", _labels("ghost"), LABEL_SHARE, "ghost", against_cleanlab=True),
    Attack("object-generation", _backdoor(ObjectGeneration, trigger=_STICKER), _images(1.0)),
    Attack("object-disappearance", _backdoor(ObjectDisappearance, trigger=_STICKER), _images(0.66)),
    Attack("regional-misclassification", _backdoor(RegionalMisclassification), _images(0.66), learned=False),
    Attack(
        "global-misclassification", _backdoor(GlobalMisclassification, trigger=_TEXTURE), _images(0.92), learned=False
    ),
    Attack("blended", _backdoor(Blended), _images(0.92), bound=False),
    Attack("image-scaling", _backdoor(ScalingTrigger), _images(0.66), bound=False, learned=False, scale=2),
)
BY_NAME: Mapping[str, Attack] = {attack.name: attack for attack in ATTACKS}
