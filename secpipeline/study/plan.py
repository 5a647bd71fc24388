"""A study as a file: which data, which recipes, which seeds, and what is measured.

>>> study = load_study(Path("recipes/studies/small.yaml"), Path("build/studies/small"))      # doctest: +SKIP
>>> [recipe.name for recipe in study.recipes]                                               # doctest: +SKIP
['standard', 'linf', 'patch', 'composite']
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from secpipeline import yaml_files
from secpipeline.datasets.synthetic import SceneSpec
from secpipeline.defended_training import teacher_of
from secpipeline.detection.matching import SUBSETS
from secpipeline.detection.ranges import check_choice
from secpipeline.detection.recipes import Recipe, load_recipe
from secpipeline.detection.settings import build
from secpipeline.errors import InputError
from secpipeline.robustness.attacks import AttackSpec
from secpipeline.robustness.corruptions import CORRUPTIONS, SEVERITIES
from secpipeline.robustness.patches import PatchSpec
from secpipeline.store import write_atomic

_NAME = re.compile(r"\A[a-z0-9][a-z0-9_-]{0,40}\Z")
_KEYS = ("data", "seeds", "base", "recipes", "evaluation")


@dataclass(frozen=True)
class Splits:
    """How scenes are divided; see :func:`secpipeline.datasets.splits.assign_splits`."""

    calibration: float
    test: float
    holdout_sources: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Synthetic:
    """Scenes that are drawn for the study."""

    synthetic: SceneSpec
    splits: Splits


@dataclass(frozen=True)
class ReleaseFolders:
    """A release that is there: the folder of its tables, and the one that holds its shards."""

    tables: str
    shards: str


@dataclass(frozen=True)
class Linf:
    """PGD within L∞: every objective, each from ``restarts`` random starts of which the worst counts."""

    epsilon: float
    step_size: float
    steps: int
    restarts: int
    objectives: tuple[str, ...]

    def specs(self) -> list[AttackSpec]:
        """One attack an objective."""
        return [
            AttackSpec(f"linf-{name}", name, self.epsilon, self.step_size, self.steps, random_start=True)
            for name in self.objectives
        ]


@dataclass(frozen=True)
class Worn:
    """Patches on torsos, learned anew for every detector on its training images: every objective with every seed."""

    fraction: float
    texels: int
    steps: int
    rate: float
    batch_size: int
    objectives: tuple[str, ...]
    seeds: tuple[int, ...]

    def specs(self) -> list[PatchSpec]:
        """One attack an objective."""
        return [
            PatchSpec(f"patch-{name}", name, self.fraction, self.texels, self.steps, self.rate)
            for name in self.objectives
        ]


@dataclass(frozen=True)
class Evaluation:
    """What is measured of every detector.

    Attributes
    ----------
    subset
        Whom the metrics are about, a key of :data:`secpipeline.detection.matching.SUBSETS`.
    images
        At most this many test images, drawn at random.
    batch_size
        Images at once in attacks.
    resamples
        Of the scenes, for 95 % intervals.
    linf, patch
        The attacks.
    corruptions, severities
        The mean over all of them is reported.
    seed
        Of the draw, attacks, corruptions and resamples.
    """

    subset: str
    images: int
    batch_size: int
    resamples: int
    linf: Linf
    patch: Worn
    corruptions: tuple[str, ...]
    severities: tuple[int, ...]
    seed: int

    def __post_init__(self) -> None:
        choices = {"subset": (self.subset,), "corruptions": self.corruptions, "severities": self.severities}
        known: Mapping[str, Any] = {"subset": SUBSETS, "corruptions": CORRUPTIONS, "severities": SEVERITIES}
        for key, values in choices.items():
            for value in values:
                check_choice(key, value, known[key])
        counts = {"images": self.images, "batch_size": self.batch_size, "linf.restarts": self.linf.restarts}
        for key, count in {**counts, "patch.batch_size": self.patch.batch_size}.items():
            if count < 1:
                raise InputError(f"{key} {count} must be 1 or more")
        if self.resamples < 100:
            raise InputError(f"resamples {self.resamples} must be 100 or more")
        self.linf.specs(), self.patch.specs()  # each refuses what is out of range


@dataclass(frozen=True)
class Study:
    """A grid.

    Attributes
    ----------
    name
        The file's stem.
    data
        What to train and test on.
    seeds
        Every recipe is trained with each.
    recipes
        The first is the one that costs are set against.
    evaluation
        What is measured.
    """

    name: str
    data: Synthetic | ReleaseFolders
    seeds: tuple[int, ...]
    recipes: tuple[Recipe, ...]
    evaluation: Evaluation


def load_study(path: Path, out: Path) -> Study:
    """Read a study; its recipes are written out in full to ``out/recipes``.

    Parameters
    ----------
    path
        A YAML file: ``data``, ``seeds``, ``evaluation``, ``recipes`` (by name) and ``base``, what they have in common.
    out
        The study's folder.

    Raises
    ------
    InputError
        If the file or a recipe is not valid; names the file and the key.
    """
    values = yaml_files.read(path, "no such study; the shipped ones are in recipes/studies")
    if not isinstance(values, dict) or sorted(values) != sorted(_KEYS):
        raise InputError(f"{path}: must hold a mapping with just the keys {', '.join(_KEYS)}")
    seeds = values["seeds"]
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int or seed < 0 for seed in seeds):
        raise InputError(f"{path}: seeds {seeds!r} must be a list of whole numbers from 0 up")
    if len(set(seeds)) != len(seeds):
        raise InputError(f"{path}: seeds {seeds!r} hold one twice")
    recipes = _recipes(values["base"], values["recipes"], path, out / "recipes")
    evaluation = build(Evaluation, values["evaluation"], f"{path}: evaluation")
    return Study(path.stem, _data(values["data"], path), tuple(seeds), recipes, evaluation)


def _data(values: Any, path: Path) -> Synthetic | ReleaseFolders:
    if isinstance(values, dict) and "synthetic" in values:
        return build(Synthetic, values, f"{path}: data")
    return build(ReleaseFolders, values, f"{path}: data")


def _recipes(base: Any, values: Any, path: Path, folder: Path) -> tuple[Recipe, ...]:
    if not isinstance(base, dict) or not isinstance(values, dict) or not values:
        raise InputError(f"{path}: base must be a mapping of recipe keys, and recipes one of such mappings by name")
    for name, own in values.items():
        if not isinstance(name, str) or not _NAME.match(name) or not isinstance(own, dict):
            raise InputError(f"{path}: recipe {name!r} needs a short name of a-z, 0-9, - and _, and a mapping")
        text = yaml.safe_dump({**base, "seed": 0, **own}, sort_keys=True)
        write_atomic(folder / f"{name}.yaml", text.encode())
    recipes = tuple(load_recipe(folder / f"{name}.yaml") for name in values)
    for recipe in recipes:
        _check_teacher(recipe, {other.name: other for other in recipes}, path)
    return recipes


def _check_teacher(recipe: Recipe, by_name: Mapping[str, Recipe], path: Path) -> None:
    teacher = teacher_of(recipe)
    if teacher is None:
        return
    if teacher not in by_name:
        raise InputError(f"{path}: recipe {recipe.name} is taught by {teacher}, which is no recipe of this study")
    if teacher_of(by_name[teacher]) is not None:
        raise InputError(f"{path}: recipe {recipe.name} is taught by {teacher}, which has a teacher itself")
