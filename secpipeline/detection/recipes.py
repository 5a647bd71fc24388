"""Recipes: how a detector is trained, as a named file.

>>> load_recipe(Path("recipes/standard.yaml")).detector                   # doctest: +SKIP
'csp_tiny'
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from secpipeline import yaml_files
from secpipeline.digests import canonical_json
from secpipeline.errors import InputError

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
        How long and how many images a step.
    learning_rate, weight_decay
        Of AdamW; the rate is the peak of a one-cycle schedule.
    seed
        Of weights, order, augmentation and attack.
    adversarial
        The attack in the loop, or none.
    zoom
        Images are seen up to this factor nearer or farther, from 1 (never) to 4. Much zoom carries a detector over to
        other cameras, little learns the present ones sooner.
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
    values = _keys(values, Recipe, path, {"name"})
    _check_detector(values, path)
    if values["adversarial"] is not None:
        nested = _keys(values["adversarial"], Adversarial, path, set(), "adversarial ")
        values["adversarial"] = Adversarial(
            epsilon=_number(nested, "epsilon", path),
            step_size=_number(nested, "step_size", path),
            steps=_whole(nested, "steps", path, 1),
            clean_epochs=_whole(nested, "clean_epochs", path, 0),
        )
    size = values["input_size"]
    if not isinstance(size, list) or len(size) != 2 or any(type(n) is not int or n <= 0 or n % 16 for n in size):
        raise InputError(f"{path}: input_size must be [height, width], both multiples of 16")
    for key in ("epochs", "batch_size", "seed"):
        values[key] = _whole(values, key, path, 0 if key == "seed" else 1)
    for key in ("learning_rate", "weight_decay", "zoom"):
        values[key] = _number(values, key, path)
    if not 1 <= values["zoom"] <= _MAX_ZOOM:
        raise InputError(f"{path}: zoom {values['zoom']} is not a factor from 1 to {_MAX_ZOOM}")
    return Recipe(**{**values, "name": path.stem, "input_size": (size[0], size[1])})


def _check_detector(values: Mapping[str, Any], path: Path) -> None:
    if not isinstance(values["detector"], str):
        raise InputError(f"{path}: detector {values['detector']!r} must be the name of a detector")
    if not isinstance(values["config"], dict):
        raise InputError(f"{path}: config {values['config']!r} must be a mapping, {{}} for the detector's own choice")
    try:
        canonical_json(values["config"])
    except (InputError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: config must hold what JSON can hold and nothing else ({error})") from error


def _keys(values: Any, kind: type[Any], path: Path, implied: set[str], where: str = "") -> dict[str, Any]:
    wanted = {field.name for field in dataclasses.fields(kind)} - implied
    if not isinstance(values, dict):
        raise InputError(f"{path}: {where}must hold a mapping with the keys {', '.join(sorted(wanted))}")
    for key in values:
        if key not in wanted:
            raise InputError(f"{path}: unknown key {key!r}; there are {', '.join(sorted(wanted))}")
    for key in sorted(wanted - values.keys()):
        raise InputError(f"{path}: the key {key!r} is missing")
    return dict(values)


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
