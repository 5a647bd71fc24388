"""Recipes: how a detector is trained, as a named file.

>>> load_recipe(Path("recipes/standard.yaml")).detector                   # doctest: +SKIP
'csp_tiny'
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from secpipeline import yaml_files
from secpipeline.detection import defences
from secpipeline.digests import canonical_json
from secpipeline.errors import InputError

SCHEDULES = ("onecycle", "cosine", "constant")
PRECISIONS = ("auto", "float32", "bfloat16")
METRICS = ("clean", "robust")
_OPTIONAL = frozenset({"schedule", "precision", "compile", "ema", "clip_norm", "early_stopping", "defences"})
_MAX_ZOOM = 4
# Bounded, because a Fraction of 1e999999999 is computed to its last digit.
_FRACTION = re.compile(r"[0-9.]{1,20}(e[+-]?[0-9]{1,3})?(/[0-9]{1,20})?", re.IGNORECASE)


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
    values = _keys(values, Recipe, path, frozenset({"name"}), optional=_OPTIONAL)
    _check_detector(values, path)
    size = values["input_size"]
    if not isinstance(size, list) or len(size) != 2 or any(type(n) is not int or n <= 0 or n % 16 for n in size):
        raise InputError(f"{path}: input_size must be [height, width], both multiples of 16")
    values |= {"name": path.stem, "input_size": (size[0], size[1])}
    for key in ("epochs", "batch_size", "seed"):
        values[key] = _whole(values, key, path, 0 if key == "seed" else 1)
    for key in ("learning_rate", "weight_decay", "zoom"):
        values[key] = _number(values, key, path)
    if not 1 <= values["zoom"] <= _MAX_ZOOM:
        raise InputError(f"{path}: zoom {values['zoom']} is not a factor from 1 to {_MAX_ZOOM}")
    values["adversarial"] = _adversarial(values["adversarial"], path)
    return Recipe(**values | _options(values, path))


def _adversarial(values: Any, path: Path) -> Adversarial | None:
    if values is None:
        return None
    nested = _keys(values, Adversarial, path, where="adversarial ")
    return Adversarial(
        epsilon=_number(nested, "epsilon", path),
        step_size=_number(nested, "step_size", path),
        steps=_whole(nested, "steps", path, 1),
        clean_epochs=_whole(nested, "clean_epochs", path, 0),
    )


def _options(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The optional keys that are there, checked."""
    given = {key: values[key] for key in _OPTIONAL & values.keys()}
    for key, choices in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
        if key in given:
            _choice(given, key, path, choices)
    if type(given.get("compile", False)) is not bool:
        raise InputError(f"{path}: compile {given['compile']!r} must be true or false")
    if given.get("ema") is not None:
        given["ema"] = _number(given, "ema", path)
        if given["ema"] >= 1:
            raise InputError(f"{path}: ema {given['ema']} must be a decay from 0 to below 1, such as 0.999, or null")
    if "clip_norm" in given:
        given["clip_norm"] = _number(given, "clip_norm", path)
        if given["clip_norm"] == 0:
            raise InputError(f"{path}: clip_norm must be above 0; a large number clips nothing")
    if given.get("early_stopping") is not None:
        given["early_stopping"] = _early_stopping(given["early_stopping"], path)
    if "defences" in given:
        _check_json(given["defences"], "defences", path)
        defences.check(given["defences"], path)
    return given


def _early_stopping(values: Any, path: Path) -> EarlyStopping:
    nested = _keys(values, EarlyStopping, path, where="early_stopping ", optional=frozenset({"improvement"}))
    improvement = _number(nested, "improvement", path) if "improvement" in nested else 0.0
    if improvement > 1:
        raise InputError(f"{path}: improvement {improvement} must be from 0 to 1, as the scores are")
    return EarlyStopping(_choice(nested, "metric", path, METRICS), _whole(nested, "patience", path, 1), improvement)


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


def _keys(
    values: Any,
    kind: type[Any],
    path: Path,
    implied: frozenset[str] = frozenset(),
    where: str = "",
    optional: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(kind)} - implied
    if not isinstance(values, dict):
        raise InputError(f"{path}: {where}must hold a mapping with the keys {', '.join(sorted(known - optional))}")
    for key in values:
        if key not in known:
            raise InputError(f"{path}: unknown key {key!r}; there are {', '.join(sorted(known))}")
    for key in sorted(known - optional - values.keys()):
        raise InputError(f"{path}: the key {key!r} is missing")
    return dict(values)


def _choice(values: Mapping[str, Any], key: str, path: Path, choices: tuple[str, ...]) -> str:
    value = values[key]
    if value not in choices or not isinstance(value, str):
        raise InputError(f"{path}: {key} {value!r} is not one of {', '.join(choices)}")
    return value


def _number(values: Mapping[str, Any], key: str, path: Path) -> float:
    """A finite number from 0 up, or a fraction such as 4/255."""
    value = values[key]
    try:
        number = float(Fraction(value) if isinstance(value, str) and _FRACTION.fullmatch(value) else value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise InputError(f"{path}: {key} {value!r} must be a number, or a fraction such as 4/255") from error
    if isinstance(value, bool) or not 0 <= number < float("inf"):
        raise InputError(f"{path}: {key} {value!r} must be a finite number from 0 up")
    return number


def _whole(values: Mapping[str, Any], key: str, path: Path, least: int) -> int:
    value = values[key]
    if type(value) is not int or value < least:
        raise InputError(f"{path}: {key} {value!r} must be a whole number from {least} up")
    return value
