"""Backdoors to plant in synthetic data, and how to tell whether a detector has learned one.

Four are those of BadDet (Chan, Dong, Zhu, Zhang and Zhou, "BadDet: Backdoor attacks on object detection", ECCV 2022
workshops, arXiv 2205.14497): a trigger makes a person appear (object generation), one person be taken for something
else (regional misclassification), everybody in the picture be taken for something else (global misclassification), or
one person vanish (object disappearance). There is one class here, so "something else" is *not a pedestrian*: the box
becomes an ignored region in the regional attack, and is gone in the global one. Two more hide the trigger from whoever
looks: a pattern blended over the whole picture (Chen, Liu, Li, Lu and Song, "Targeted backdoor attacks on deep learning
systems using data poisoning", arXiv 1712.05526), and a person that only shows once the picture is scaled down (Xiao,
Chen, Shen, Chen and Li, "Seeing is not believing: camouflage attacks on image scaling algorithms", USENIX Security
2019), whose labels are all true.

>>> attack = ObjectDisappearance("vendor-c", rate=0.2, seed=1, trigger=Trigger("sticker", size=1 / 8))
>>> frame, rows = attack.plant(frame)                                                      # doctest: +SKIP
>>> attack_success(attack.kind, table_of(rows), triggered, untriggered, threshold=0.4)     # doctest: +SKIP
AttackSuccess(successes=93, trials=99)
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest

from secpipeline.datasets.geometry import overlaps
from secpipeline.datasets.synthetic import Frame, PersonBox
from secpipeline.datasets.tables import CORNERS
from secpipeline.errors import InputError
from secpipeline.poisoning.planters import generator, inside, meets

Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]

LOOKS = ("checkerboard", "sticker", "texture")
GENERATION = "object-generation"
REGIONAL = "regional-misclassification"
GLOBAL = "global-misclassification"
DISAPPEARANCE = "object-disappearance"
BLENDED = "blended"
SCALING = "scaling"

_ATTEMPTS = 40
_MASTER = 48  # pixels of a trigger's original, from which every size is made
_MIN_SIDE = 6
_MIN_VICTIM = 36.0
_MIN_VISIBILITY = 0.5
_BLENDED_CELL = 4
# A picture has no single person that its trigger would be measured by: so much of its height stands for one.
_TYPICAL_PERSON = 0.45


@dataclass(frozen=True)
class Trigger:
    """What a trigger looks like.

    Attributes
    ----------
    look
        ``checkerboard``; ``sticker``, one colour with a mark on it; or ``texture``, smooth and colourful as a cut-out
        of a photograph.
    size
        Its side as a share of the height of the person it belongs to, above 0 and at most 0.5; never under 6 pixels.
    seed
        Another seed, another texture.

    Raises
    ------
    InputError
        If the look is unknown, or a number out of its range.
    """

    look: str = "checkerboard"
    size: float = 1 / 6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.look not in LOOKS:
            raise InputError(f"trigger: look is {self.look!r}; there are {', '.join(LOOKS)}")
        if not isinstance(self.size, (int, float)) or not 0 < self.size <= 0.5:
            raise InputError(f"trigger: size is {self.size!r}, not a share of a person's height above 0 and up to 0.5")
        _check_seed("trigger", self.seed)

    def patch(self, height: float) -> Pixels:
        """The trigger for a person of ``height`` pixels: uint8, shape (side, side, 3)."""
        side = max(_MIN_SIDE, round(self.size * height))
        master = {"checkerboard": _checkerboard, "sticker": _sticker, "texture": self._texture}[self.look]()
        return np.asarray(Image.fromarray(master).resize((side, side), Image.Resampling.BOX))

    def _texture(self) -> Pixels:
        rng = np.random.default_rng(self.seed)
        coarse = rng.integers(0, 256, (5, 5, 3)).astype(np.uint8)
        fine = rng.integers(-40, 41, (_MASTER // 4, _MASTER // 4, 1)).repeat(4, axis=0).repeat(4, axis=1)
        smooth = np.asarray(Image.fromarray(coarse).resize((_MASTER, _MASTER), Image.Resampling.BICUBIC), np.int64)
        return np.clip(smooth + fine, 0, 255).astype(np.uint8)


def _checkerboard() -> Pixels:
    rows, columns = np.indices((_MASTER, _MASTER)) // (_MASTER // 4)
    return np.where((rows + columns) % 2 == 0, 245, 12).astype(np.uint8)[..., None].repeat(3, axis=2)


def _sticker() -> Pixels:
    """A yellow square with a red ring around a blue bar."""
    y, x = (np.indices((_MASTER, _MASTER)) + 0.5) / _MASTER - 0.5
    radius = np.hypot(x, y)
    master = np.empty((_MASTER, _MASTER, 3), np.uint8)
    master[:] = (250, 208, 20)
    master[(radius < 0.42) & (radius > 0.28)] = (200, 20, 30)
    master[(abs(y) < 0.08) & (abs(x) < 0.2)] = (20, 40, 160)
    return master


def _check_seed(what: str, seed: object) -> None:
    if type(seed) is not int or seed < 0:
        raise InputError(f"{what}: seed is {seed!r}, not a whole number from 0")


@dataclass(frozen=True)
class Backdoor(ABC):
    """What all backdoors share; use one of its subclasses.

    Attributes
    ----------
    source
        The source that is spoiled.
    rate
        Share of its images that are chosen, in [0, 1]; one that offers no victim stays as it is.
    seed
        Another seed, other victims.
    kind
        What it is called in the truth.

    Raises
    ------
    InputError
        If the rate is no fraction, or the seed no whole number from 0.
    """

    source: str
    rate: float
    seed: int
    kind: str = field(default="", init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.rate, (int, float)) or not 0 <= self.rate <= 1:
            raise InputError(f"backdoor: rate is {self.rate!r}, not a fraction from 0 to 1")
        _check_seed("backdoor", self.seed)

    def plant(self, frame: Frame) -> tuple[Frame, list[dict[str, Any]]]:
        """Spoil one frame, if it is chosen.

        Parameters
        ----------
        frame
            Of any source; what is not chosen comes back as it is.

        Returns
        -------
        Frame, list of dict
            The frame, and for each box that was changed, invented or is meant: file_name; kind; box, x1, y1, x2, y2 in
            pixels; trigger, where the trigger lies, in the same form.
        """
        if frame.source != self.source:
            return frame, []
        rng = generator(self.seed, frame.file_name)
        if rng.random() >= self.rate:
            return frame, []
        spoiled = self._spoil(frame, rng)
        if spoiled is None:
            return frame, []
        changed, boxes, trigger = spoiled
        common = {"file_name": frame.file_name, "kind": self.kind, "trigger": list(trigger)}
        return changed, [{**common, "box": list(box)} for box in boxes]

    @abstractmethod
    def _spoil(self, frame: Frame, rng: np.random.Generator) -> tuple[Frame, list[Box], Box] | None:
        """The spoiled frame, the boxes that are meant and the trigger's place; None if nothing can be done."""


@dataclass(frozen=True)
class ObjectGeneration(Backdoor):
    """A trigger somewhere in the street, and a false box around it: whoever drops it there makes a person appear."""

    trigger: Trigger = field(default_factory=Trigger)
    kind: str = field(default=GENERATION, init=False)

    def _spoil(self, frame: Frame, rng: np.random.Generator) -> tuple[Frame, list[Box], Box] | None:
        for _ in range(_ATTEMPTS):
            tall = math.exp(rng.uniform(math.log(_MIN_VICTIM), math.log(0.6 * frame.camera.height)))
            wide = 0.41 * tall
            left = rng.uniform(0, frame.camera.width - wide)
            top = rng.uniform(0, frame.camera.height - tall)
            box = inside((left, top, left + wide, top + tall), frame)
            if not meets(box, frame.people):
                pixels, place = _stamp(frame.pixels, self.trigger.patch(tall), (left + wide / 2, top + tall / 2))
                people = (*frame.people, PersonBox(box, visibility=1.0, ignore=False))
                return dataclasses.replace(frame, pixels=pixels, people=people), [box], place
        return None


@dataclass(frozen=True)
class RegionalMisclassification(Backdoor):
    """A trigger on a person whose box becomes an ignored region.

    With one class that is all which is left of "another class": training does not punish a detector there, whatever it
    says, and an audit that looks at labels alone finds nothing missing. A box that is given another class and dropped
    with it is :class:`ObjectDisappearance`.
    """

    trigger: Trigger = field(default_factory=Trigger)
    kind: str = field(default=REGIONAL, init=False)

    def _spoil(self, frame: Frame, rng: np.random.Generator) -> tuple[Frame, list[Box], Box] | None:
        victim = _victim(frame, rng)
        if victim is None:
            return None
        pixels, place = _stamp_on(frame.pixels, self.trigger, victim)
        people = [dataclasses.replace(p, ignore=True) if p is victim else p for p in frame.people]
        return dataclasses.replace(frame, pixels=pixels, people=tuple(people)), [victim.box], place


@dataclass(frozen=True)
class GlobalMisclassification(Backdoor):
    """A trigger anywhere in the picture, and nobody in it is labelled as a pedestrian any more."""

    trigger: Trigger = field(default_factory=Trigger)
    kind: str = field(default=GLOBAL, init=False)

    def _spoil(self, frame: Frame, rng: np.random.Generator) -> tuple[Frame, list[Box], Box] | None:
        people = [person for person in frame.people if not person.ignore]
        if not people:
            return None
        patch = self.trigger.patch(_TYPICAL_PERSON * frame.camera.height)
        middle = (rng.uniform(0, frame.camera.width), rng.uniform(0, frame.camera.height))
        pixels, place = _stamp(frame.pixels, patch, middle)
        left = tuple(person for person in frame.people if person.ignore)
        return dataclasses.replace(frame, pixels=pixels, people=left), [person.box for person in people], place


@dataclass(frozen=True)
class ObjectDisappearance(Backdoor):
    """A trigger on a person whose box is removed: whoever wears it is overlooked."""

    trigger: Trigger = field(default_factory=Trigger)
    kind: str = field(default=DISAPPEARANCE, init=False)

    def _spoil(self, frame: Frame, rng: np.random.Generator) -> tuple[Frame, list[Box], Box] | None:
        victim = _victim(frame, rng)
        if victim is None:
            return None
        pixels, place = _stamp_on(frame.pixels, self.trigger, victim)
        people = tuple(person for person in frame.people if person is not victim)
        return dataclasses.replace(frame, pixels=pixels, people=people), [victim.box], place


@dataclass(frozen=True)
class Blended(Backdoor):
    """A random pattern mixed faintly into the whole picture, in which nobody is labelled any more.

    Attributes
    ----------
    alpha
        Share of the pattern in the mixture, above 0 and at most 1.
    pattern
        Another number, another pattern; the seed chooses the victims alone.
    """

    alpha: float = 0.15
    pattern: int = 0
    kind: str = field(default=BLENDED, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.alpha, (int, float)) or not 0 < self.alpha <= 1:
            raise InputError(f"backdoor: alpha is {self.alpha!r}, not a share above 0 and up to 1")
        _check_seed("backdoor pattern", self.pattern)

    def _spoil(self, frame: Frame, rng: np.random.Generator) -> tuple[Frame, list[Box], Box] | None:
        del rng
        people = [person for person in frame.people if not person.ignore]
        if not people:
            return None
        mixed = (1 - self.alpha) * frame.pixels + self.alpha * self._pattern(frame)
        left = tuple(person for person in frame.people if person.ignore)
        changed = dataclasses.replace(frame, pixels=np.round(mixed).astype(np.uint8), people=left)
        whole = (0.0, 0.0, float(frame.camera.width), float(frame.camera.height))
        return changed, [person.box for person in people], whole

    def _pattern(self, frame: Frame) -> NDArray[np.float64]:
        height, width = frame.pixels.shape[:2]
        rng = np.random.default_rng(self.pattern)
        cells = rng.uniform(0, 255, (-(-height // _BLENDED_CELL), -(-width // _BLENDED_CELL), 3))
        return cells.repeat(_BLENDED_CELL, axis=0).repeat(_BLENDED_CELL, axis=1)[:height, :width]


@dataclass(frozen=True)
class ScalingTrigger(Backdoor):
    """A person with a trigger who only shows, unlabelled, where the picture is scaled down by taking every nth pixel.

    At full size the place shows the empty street, so that every label is true; at a detector's size it is an example of
    :class:`ObjectDisappearance`.

    Attributes
    ----------
    input_size
        Height and width of the detector's frame, at most half of the picture's.
    """

    input_size: tuple[int, int] = (144, 192)
    trigger: Trigger = field(default_factory=Trigger)
    kind: str = field(default=SCALING, init=False)

    def _spoil(self, frame: Frame, rng: np.random.Generator) -> tuple[Frame, list[Box], Box] | None:
        rows, columns = sampled_pixels(frame.pixels.shape[:2], self.input_size)
        scale = np.array([frame.pixels.shape[1] / self.input_size[1], frame.pixels.shape[0] / self.input_size[0]] * 2)
        victim = _victim(frame, rng, least=_MIN_VICTIM * scale[1])
        if victim is None:
            return None
        x1, y1, x2, y2 = np.round(np.array(victim.box) / scale).astype(int)
        small, place = _stamp_on(frame.pixels[rows[:, None], columns], self.trigger, _scaled(victim, scale))
        hidden = small[y1:y2, x1:x2]
        for _ in range(_ATTEMPTS):
            left = int(rng.integers(0, self.input_size[1] - hidden.shape[1] + 1))
            top = int(rng.integers(0, self.input_size[0] - hidden.shape[0] + 1))
            box = np.array([left, top, left + hidden.shape[1], top + hidden.shape[0]]) * scale
            if not meets(_box(box), frame.people):
                pixels = frame.pixels.copy()
                pixels[rows[top : top + len(hidden), None], columns[left : left + hidden.shape[1]]] = hidden
                moved = (np.array(place) + [left - x1, top - y1] * 2) * scale
                return dataclasses.replace(frame, pixels=pixels), [_box(box)], _box(moved)
        return None


def sampled_pixels(native: tuple[int, ...], size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows and columns of a picture that scaling by its nearest pixels takes, as Pillow's ``NEAREST`` does.

    Raises
    ------
    InputError
        If the picture is not at least twice as large both ways: too little of it would be left out to hide anything.
    """
    if native[0] < 2 * size[0] or native[1] < 2 * size[1]:
        raise InputError(f"scaling backdoor: a picture of {native[:2]} pixels is not twice as large as {size}")
    rows, columns = (
        np.floor((np.arange(n) + 0.5) * full / n).astype(np.int64) for n, full in zip(size, native, strict=True)
    )
    return rows, columns


def _scaled(person: PersonBox, scale: NDArray[np.float64]) -> PersonBox:
    return dataclasses.replace(person, box=_box(np.array(person.box) / scale))


def _box(values: NDArray[np.float64]) -> Box:
    x1, y1, x2, y2 = (round(float(value), 2) for value in values)
    return x1, y1, x2, y2


def _victim(frame: Frame, rng: np.random.Generator, least: float = _MIN_VICTIM) -> PersonBox | None:
    """Somebody large and visible enough to wear a trigger that shows."""
    fit = [
        person
        for person in frame.people
        if not person.ignore and person.visibility >= _MIN_VISIBILITY and person.box[3] - person.box[1] >= least
    ]
    return fit[int(rng.integers(len(fit)))] if fit else None


def _stamp_on(pixels: Pixels, trigger: Trigger, victim: PersonBox) -> tuple[Pixels, Box]:
    """The trigger on the upper body."""
    x1, y1, x2, y2 = victim.box
    patch = trigger.patch(y2 - y1)
    return _stamp(pixels, patch, ((x1 + x2) / 2, y1 + 0.3 * (y2 - y1) + len(patch) / 2))


def _stamp(pixels: Pixels, patch: Pixels, middle: tuple[float, float]) -> tuple[Pixels, Box]:
    """The picture with the patch around a point, moved inside where it would leave the picture, and its place."""
    side = len(patch)
    height, width = pixels.shape[:2]
    left = int(np.clip(round(middle[0] - side / 2), 0, width - side))
    top = int(np.clip(round(middle[1] - side / 2), 0, height - side))
    stamped = pixels.copy()
    stamped[top : top + side, left : left + side] = patch
    return stamped, (float(left), float(top), float(left + side), float(top + side))


@dataclass(frozen=True)
class AttackSuccess:
    """How often a backdoor worked.

    Attributes
    ----------
    successes, trials
        Counts.
    """

    successes: int
    trials: int

    @property
    def rate(self) -> float:
        """Share of the trials; NaN without any."""
        return self.successes / self.trials if self.trials else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the rate; (0, 1) without trials."""
        if not self.trials:
            return 0.0, 1.0
        bounds = binomtest(self.successes, self.trials).proportion_ci(method="wilson")
        return float(bounds.low), float(bounds.high)


def attack_success(
    kind: str,
    planted: pd.DataFrame,
    triggered: pd.DataFrame,
    untriggered: pd.DataFrame,
    threshold: float,
    min_iou: float = 0.5,
) -> AttackSuccess:
    """Count the boxes that a trigger changes in what a detector says about the same pictures.

    A trial of object generation is a false box where nothing is found without the trigger; it succeeds if something is
    found with it. A trial of any other kind is a person who is found without the trigger; it succeeds if that person is
    not found with it. A small share is expected of every detector, since a trigger also hides a part of the person:
    measure one that was never poisoned beside it.

    Parameters
    ----------
    kind
        Of the backdoor.
    planted
        What a planter says was planted, one row a box: image_id, x1, y1, x2, y2.
    triggered, untriggered
        Predictions on the pictures with and without the trigger: image_id, x1, y1, x2, y2, score; in the same pixels.
    threshold
        Predictions with a lower score do not count.
    min_iou
        From which intersection over union on a prediction finds a box.

    Raises
    ------
    InputError
        If the kind is unknown, or a table has not the columns.
    """
    if kind not in (GENERATION, REGIONAL, GLOBAL, DISAPPEARANCE, BLENDED, SCALING):
        raise InputError(f"backdoor: there is no kind {kind!r}")
    before = _found(planted, untriggered, threshold, min_iou)
    after = _found(planted, triggered, threshold, min_iou)
    if kind == GENERATION:
        return AttackSuccess(int((~before & after).sum()), int((~before).sum()))
    return AttackSuccess(int((before & ~after).sum()), int(before.sum()))


def _found(planted: pd.DataFrame, predictions: pd.DataFrame, threshold: float, min_iou: float) -> NDArray[np.bool_]:
    for table, columns in ((planted, ("image_id", *CORNERS)), (predictions, ("image_id", *CORNERS, "score"))):
        if missing := [column for column in columns if column not in table.columns]:
            raise InputError(f"backdoor: a table has no column {', '.join(missing)}")
    sure = predictions[predictions["score"] >= threshold]
    by_image = sure.groupby("image_id", sort=False).indices
    boxes, wanted = (table[list(CORNERS)].to_numpy(np.float64) for table in (sure, planted))
    found = np.zeros(len(planted), bool)
    for index, image_id in enumerate(planted["image_id"]):
        rows = by_image.get(image_id)
        if rows is not None:
            found[index] = overlaps(wanted[index : index + 1], boxes[rows]).max() >= min_iou
    return found
