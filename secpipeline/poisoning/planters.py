"""Poison to plant in synthetic data, so that what finds poison can be measured.

Four kinds, each with a row of truth: a label is ``removed`` though the person is there, ``shifted`` off the person, a
``ghost`` where nobody is, or ``triggered``: a small checkerboard is stamped onto a person whose label is then removed,
which teaches a detector to overlook whoever wears that pattern (the object-disappearance attack of BadDet, Chan et al.
2022).

>>> plan = PoisonPlan("vendor-c", removed=0.1, shifted=0.1, ghost=0.1, triggered=0.1, seed=1)
>>> frame, rows = plan.plant(frame)                                                 # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secpipeline.datasets.synthetic import Frame, PersonBox
from secpipeline.errors import InputError

_ATTEMPTS = 40
_GHOST_OVERLAP = 0.02
_CELLS = 4


@dataclass(frozen=True)
class PoisonPlan:
    """How much of which poison one source gets.

    Attributes
    ----------
    source
        The source.
    removed, shifted, ghost
        Fractions of the source's boxes, each in [0, 1]; removed and shifted together at most 1. ``ghost`` boxes are
        added, so many for each box there is.
    triggered
        Fraction of the source's images with people, in [0, 1].
    seed
        Another seed, other victims.

    Raises
    ------
    InputError
        If a fraction is out of its range, or the seed is no whole number from 0.
    """

    source: str
    removed: float
    shifted: float
    ghost: float
    triggered: float
    seed: int

    def __post_init__(self) -> None:
        for name in ("removed", "shifted", "ghost", "triggered"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise InputError(f"poison: {name} is {value!r}, not a fraction from 0 to 1")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise InputError(f"poison: seed is {self.seed!r}, not a whole number from 0")
        if self.removed + self.shifted > 1:
            raise InputError("poison: removed and shifted are more than all boxes together")

    def plant(self, frame: Frame) -> tuple[Frame, list[dict[str, Any]]]:
        """Poison one frame; each box is chosen independently, so the fractions hold on average.

        Parameters
        ----------
        frame
            A frame of any source; frames of other sources come back as they are.

        Returns
        -------
        Frame, list of dict
            The poisoned frame, and for each planted thing file_name, kind, and box: the person's true box for
            ``removed`` and ``triggered``, the false box for ``shifted`` and ``ghost``.
        """
        if frame.source != self.source:
            return frame, []
        rng = generator(self.seed, frame.file_name)
        planted: list[tuple[str, PersonBox]] = []
        people = [person for person in frame.people if not person.ignore]
        ignored = [person for person in frame.people if person.ignore]
        pixels = frame.pixels
        if people and rng.random() < self.triggered:
            victim = people.pop(int(rng.integers(len(people))))
            pixels = stamp_trigger(pixels, victim)
            planted.append(("triggered", victim))
        kept, changed = self._relabel(people, frame, rng)
        planted += changed
        ghosts = [_ghost(frame, rng) for _ in range(int(rng.binomial(len(people), self.ghost)))]
        found = [ghost for ghost in ghosts if ghost is not None]
        planted += [("ghost", ghost) for ghost in found]
        rows = [{"file_name": frame.file_name, "kind": kind, "box": list(person.box)} for kind, person in planted]
        return dataclasses.replace(frame, pixels=pixels, people=tuple(kept + found + ignored)), rows

    def _relabel(
        self, people: list[PersonBox], frame: Frame, rng: np.random.Generator
    ) -> tuple[list[PersonBox], list[tuple[str, PersonBox]]]:
        kept, changed = [], []
        for person in people:
            fate = rng.random()
            if fate < self.removed:
                changed.append(("removed", person))
            elif fate < self.removed + self.shifted:
                moved = _shifted(person, frame, rng)
                kept.append(moved)
                changed.append(("shifted", moved))
            else:
                kept.append(person)
        return kept, changed


def generator(seed: int, name: str) -> np.random.Generator:
    """Randomness of one image: the same whatever was drawn before it, and in whatever order."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def _shifted(person: PersonBox, frame: Frame, rng: np.random.Generator) -> PersonBox:
    """Moved by .3 to .7 widths and .05 to .3 heights, towards the side where the image has more room."""
    x1, y1, x2, y2 = person.box
    width, height = x2 - x1, y2 - y1
    to_right = (x1 + x2) / 2 < frame.camera.width / 2
    to_bottom = frame.camera.height - y2 > y1
    dx = rng.uniform(0.3, 0.7) * width * (1 if to_right else -1)
    dy = rng.uniform(0.05, 0.3) * height * (1 if to_bottom else -1)
    return dataclasses.replace(person, box=inside((x1 + dx, y1 + dy, x2 + dx, y2 + dy), frame))


def inside(box: tuple[float, float, float, float], frame: Frame) -> tuple[float, float, float, float]:
    """The box cut at the image's edges, to hundredths of a pixel."""
    width, height = frame.camera.width, frame.camera.height
    x1, y1, x2, y2 = (round(float(value), 2) for value in box)
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


def _ghost(frame: Frame, rng: np.random.Generator) -> PersonBox | None:
    """A box where a person of that size could stand but nobody does; None if the street is too full."""
    camera = frame.camera
    for _ in range(_ATTEMPTS):
        tall = float(np.exp(rng.uniform(np.log(28), np.log(0.6 * camera.height))))
        z = camera.focal * 1.7 / tall
        x = float(rng.uniform(*camera.visible_x(z)))
        u, bottom = camera.point(x, 0.0, z)
        half = tall * float(rng.uniform(0.15, 0.24))
        box = inside((u - half, bottom - tall, u + half, bottom), frame)
        if box[2] - box[0] > half and box[3] - box[1] > 0.8 * tall and not meets(box, frame.people):
            return PersonBox(box, visibility=1.0, ignore=False)
    return None


def meets(box: tuple[float, float, float, float], people: tuple[PersonBox, ...]) -> bool:
    """Whether more than a sliver of the box lies on somebody."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    for person in people:
        wide = min(box[2], person.box[2]) - max(box[0], person.box[0])
        tall = min(box[3], person.box[3]) - max(box[1], person.box[1])
        if wide > 0 and tall > 0 and wide * tall > _GHOST_OVERLAP * area:
            return True
    return False


def stamp_trigger(pixels: NDArray[np.uint8], victim: PersonBox) -> NDArray[np.uint8]:
    """A black and white checkerboard, a sixth of the victim's height, on the victim's upper body.

    Parameters
    ----------
    pixels
        uint8, shape (H, W, 3); not changed.
    victim
        On whom.

    Returns
    -------
    ndarray
        uint8, shape (H, W, 3).
    """
    x1, y1, x2, y2 = victim.box
    side = max(_CELLS, round((y2 - y1) / 6 / _CELLS) * _CELLS)
    cell = side // _CELLS
    rows, columns = np.indices((side, side)) // cell
    patch = np.where((rows + columns) % 2 == 0, 245, 12).astype(np.uint8)[..., None]
    height, width = pixels.shape[:2]
    top = int(np.clip(round(y1 + 0.3 * (y2 - y1)), 0, height - side))
    left = int(np.clip(round((x1 + x2) / 2 - side / 2), 0, width - side))
    stamped = pixels.copy()
    stamped[top : top + side, left : left + side] = patch
    return stamped
