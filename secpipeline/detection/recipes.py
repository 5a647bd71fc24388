"""Recipes: how a detector is trained, as a named file.

>>> load_recipe(Path("recipes/standard.yaml")).detector                   # doctest: +SKIP
'csp_tiny'
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secpipeline import yaml_files
from secpipeline.detection import defences
from secpipeline.detection.ranges import check_choice, check_range
from secpipeline.detection.settings import build, check_keys, number
from secpipeline.digests import canonical_json
from secpipeline.errors import InputError

SCHEDULES = ("onecycle", "cosine", "constant")
PRECISIONS = ("auto", "float32", "bfloat16")
METRICS = ("clean", "robust")
_OPTIONAL = frozenset({"schedule", "precision", "compile", "ema", "clip_norm", "early_stopping", "defences"})
_MAX_ZOOM = 4


@dataclass(frozen=True)
class Adversarial:
    """The attack in the training loop (Madry et al., ICLR 2018; one step from a random start: Wong et al., ICLR 2020).

    Attributes
    ----------
    epsilon, step_size
        On a scale where black is 0 and white 1.
    steps
        Gradient steps a batch.
    clean_epochs
        Epochs before the attack begins.
    """

    epsilon: float
    step_size: float
    steps: int
    clean_epochs: int


@dataclass(frozen=True)
class EarlyStopping:
    """When to stop, and which epoch's weights to keep (Prechelt, "Early stopping - but when?", 1998).

    Attributes
    ----------
    metric
        ``clean``: average precision on calibration images; ``robust``: on attacked ones, because adversarially trained
        networks overfit to the attack long before the clean score shows it (Rice, Wong and Kolter, ICML 2020).
    patience
        Epochs without improvement after which training stops, 1 or more.
    improvement
        A score that is not better by more than this, from 0 to 1, is no improvement.
    """

    metric: str
    patience: int
    improvement: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """How a detector is trained.

    Attributes
    ----------
    name
        The file's stem.
    detector
        A name of the registry.
    config
        Arguments of the detector.
    input_size
        Height and width of the frame in pixels, multiples of 16.
    epochs, batch_size
        How long and how many images a step, on all devices together.
    learning_rate, weight_decay
        Of AdamW; the rate is the peak of the schedule.
    seed
        Of weights, order, augmentation and attack.
    adversarial
        The attack in the loop, or none.
    zoom
        Images are seen up to this factor nearer or farther, from 1 (never) to 4. Much zoom carries a detector over to
        other cameras, little learns the present ones sooner.
    schedule
        How the learning rate moves: ``onecycle``, ``cosine`` or ``constant``; see
        :mod:`secpipeline.detection.schedules`.
    precision
        ``float32``, ``bfloat16``, or ``auto``: bfloat16 where the hardware computes in it. Weights are float32 in any
        case.
    compile
        Whether torch compiles the losses: worth its minutes in long trainings on an accelerator.
    ema
        The decay, in [0, 1), of an exponential moving average of the weights, which then is what is kept; or none.
    clip_norm
        Gradients are scaled down to this Euclidean norm.
    early_stopping
        When to stop before the last epoch, or none.
    defences
        Defences by name, as :mod:`secpipeline.detection.defences` reads them.
    """

    name: str
    detector: str
    config: Mapping[str, Any]
    input_size: tuple[int, int]
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int
    adversarial: Adversarial | None
    zoom: float = 1.1
    schedule: str = "onecycle"
    precision: str = "auto"
    compile: bool = False
    ema: float | None = None
    clip_norm: float = 5.0
    early_stopping: EarlyStopping | None = None
    defences: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The recipe as a JSON-able record."""
        return dataclasses.asdict(self)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises
    ------
    InputError
        If the file is missing, or a key is missing, unknown or has an impossible value; names the file and the key.
    """
    shipped = ", ".join(sorted(entry.stem for entry in path.parent.glob("*.yaml"))) or "none"
    values = yaml_files.read(path, f"no such recipe; there are {shipped}")
    known = [field.name for field in dataclasses.fields(Recipe) if field.name != "name"]
    check_keys(values, known, _OPTIONAL, str(path))
    _check_detector(values, path)
    size = values["input_size"]
    if not isinstance(size, list) or len(size) != 2 or any(type(n) is not int or n <= 0 or n % 16 for n in size):
        raise InputError(f"{path}: input_size must be [height, width], both multiples of 16")
    values = {**values, "name": path.stem, "input_size": (size[0], size[1])}
    for key, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
        _check_whole(values[key], f"{path}: {key}", least)
    for key in ("learning_rate", "weight_decay", "zoom"):
        values[key] = _amount(values[key], f"{path}: {key}")
    if not 1 <= values["zoom"] <= _MAX_ZOOM:
        raise InputError(f"{path}: zoom {values['zoom']} is not a factor from 1 to {_MAX_ZOOM}")
    values["adversarial"] = _adversarial(values["adversarial"], path)
    return Recipe(**values | _options(values, path))


def _adversarial(values: Any, path: Path) -> Adversarial | None:
    if values is None:
        return None
    where = f"{path}: adversarial"
    found = build(Adversarial, values, where)
    _amount(found.epsilon, f"{where}.epsilon")
    _amount(found.step_size, f"{where}.step_size")
    _check_whole(found.steps, f"{where}.steps", 1)
    _check_whole(found.clean_epochs, f"{where}.clean_epochs", 0)
    return found


def _options(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The optional keys that are there, checked."""
    given = {key: values[key] for key in _OPTIONAL & values.keys()}
    for key, choices in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
        if key in given:
            check_choice(f"{path}: {key}", given[key], choices)
    if type(given.get("compile", False)) is not bool:
        raise InputError(f"{path}: compile {given['compile']!r} must be true or false")
    if given.get("ema") is not None:
        given["ema"] = _amount(given["ema"], f"{path}: ema")
        if given["ema"] >= 1:
            raise InputError(f"{path}: ema {given['ema']} must be a decay from 0 to below 1, such as 0.999, or null")
    if "clip_norm" in given:
        given["clip_norm"] = _amount(given["clip_norm"], f"{path}: clip_norm")
        if given["clip_norm"] == 0:
            raise InputError(f"{path}: clip_norm must be above 0; a large number clips nothing")
    if given.get("early_stopping") is not None:
        given["early_stopping"] = _early_stopping(given["early_stopping"], path)
    if "defences" in given:
        _check_json(given["defences"], "defences", path)
        defences.check(given["defences"], path)
    return given


def _early_stopping(values: Any, path: Path) -> EarlyStopping:
    where = f"{path}: early_stopping"
    found = build(EarlyStopping, values, where, defaults=True)
    check_choice(f"{where}.metric", found.metric, METRICS)
    check_range(f"{where}.improvement", found.improvement, 0, 1)
    _check_whole(found.patience, f"{where}.patience", 1)
    return found


def _check_detector(values: Mapping[str, Any], path: Path) -> None:
    if not isinstance(values["detector"], str):
        raise InputError(f"{path}: detector {values['detector']!r} must be the name of a detector")
    if not isinstance(values["config"], dict):
        raise InputError(f"{path}: config {values['config']!r} must be a mapping, {{}} for the detector's own choice")
    _check_json(values["config"], "config", path)


def _check_json(value: Any, key: str, path: Path) -> None:
    try:
        canonical_json(value)
    except (InputError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {key} must hold what JSON can hold and nothing else ({error})") from error


def _amount(value: Any, where: str) -> float:
    found = number(value, where)
    if found < 0:
        raise InputError(f"{where}: {value!r} must be from 0 up")
    return found


def _check_whole(value: Any, where: str, least: int) -> None:
    if type(value) is not int or value < least:
        raise InputError(f"{where}: {value!r} must be a whole number from {least} up")
