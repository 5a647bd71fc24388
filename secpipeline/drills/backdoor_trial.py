"""How well a backdoor works: held-out scenes with and without its trigger, shown to a detector.

>>> trial = Trial.draw(BY_NAME["object-disappearance"], Setting(), (144, 192))      # doctest: +SKIP
>>> trial.measure(detector).success.rate                                            # doctest: +SKIP
0.93
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from secpipeline.datasets.loading import letterbox, to_frame
from secpipeline.datasets.synthetic import Frame, draw_scene
from secpipeline.datasets.tables import BOX_COLUMNS, CORNERS, LABEL
from secpipeline.detection import metrics
from secpipeline.detection.inference import predict
from secpipeline.detection.interface import Detector
from secpipeline.drills.attacks import Attack, Setting
from secpipeline.poisoning.backdoors import AttackSuccess, Backdoor, attack_success

MAX_FPPI = 0.5


@dataclass(frozen=True)
class Measured:
    """What a detector does on held-out scenes: how often it obeys the trigger, and its AP50 without one."""

    success: AttackSuccess
    average_precision: float


@dataclass(frozen=True)
class Trial:
    """Held-out scenes as they are and with the trigger, in a detector's frame.

    Attributes
    ----------
    kind
        Of the backdoor.
    ids, calibration
        The images, and those that set the threshold; the others count.
    plain, triggered
        uint8, (N, 3, H, W).
    people
        Box table of the scenes as they are.
    planted
        The boxes that the trigger is to change: image_id, x1, y1, x2, y2.
    """

    kind: str
    ids: tuple[str, ...]
    calibration: tuple[str, ...]
    plain: NDArray[np.uint8]
    triggered: NDArray[np.uint8]
    people: pd.DataFrame
    planted: pd.DataFrame

    @classmethod
    def draw(cls, attack: Attack, setting: Setting, size: tuple[int, int]) -> Trial:
        """Draw scenes that are in no release and put the trigger wherever it can be."""
        spec = setting.spec(attack.scale, held_out=True)
        kind, frames = "", list[_Shown]()
        for source in spec.source_names:
            planter = attack.plant(source, 1.0, setting.seed + 1)
            assert isinstance(planter, Backdoor)
            kind = planter.kind
            for number in range(spec.scenes_per_source):
                frames += [_show(frame, planter, size, number % 4 == 0) for frame in draw_scene(spec, source, number)]
        people = [row for frame in frames for row in frame.people]
        return cls(
            kind,
            tuple(frame.name for frame in frames),
            tuple(frame.name for frame in frames if frame.calibrates),
            np.stack([frame.plain for frame in frames]),
            np.stack([frame.triggered for frame in frames]),
            pd.DataFrame(people, columns=list(BOX_COLUMNS)),
            pd.DataFrame([row for frame in frames for row in frame.planted], columns=["image_id", *CORNERS]),
        )

    def measure(self, detector: Detector) -> Measured:
        """Try one detector, at the threshold that allows half a false positive an image."""
        predictions = predict(detector, self.plain, list(self.ids))
        threshold = metrics.operating_threshold(self._matches(predictions, self.calibration), MAX_FPPI)
        counted = [image_id for image_id in self.ids if image_id not in self.calibration]
        planted = self.planted[self.planted["image_id"].isin(counted)]
        marked = predict(detector, self.triggered, list(self.ids))
        success = attack_success(self.kind, planted, marked, predictions, threshold)
        return Measured(success, metrics.average_precision(self._matches(predictions, counted)))

    def _matches(self, predictions: pd.DataFrame, ids: Sequence[str]) -> metrics.Matches:
        return metrics.match(self.people, predictions, list(ids), metrics.ALL)


@dataclass(frozen=True)
class _Shown:
    name: str
    calibrates: bool
    plain: NDArray[np.uint8]
    triggered: NDArray[np.uint8]
    people: list[tuple[Any, ...]]
    planted: list[tuple[Any, ...]]


def _show(frame: Frame, planter: Backdoor, size: tuple[int, int], calibrates: bool) -> _Shown:
    spoiled, rows = planter.plant(frame)
    pixels, place = letterbox(frame.pixels, size)
    name, people = frame.file_name, []
    for number, person in enumerate(frame.people):
        (box,) = to_frame([person.box], place)
        people.append((f"{name}#{number}", name, *box, LABEL, person.ignore, person.visibility, box[3] - box[1]))
    planted = [(name, *to_frame([row["box"]], place)[0]) for row in rows]
    return _Shown(name, calibrates, pixels, letterbox(spoiled.pixels, size)[0], people, planted)
