"""One cell of a study: a recipe with a seed, trained, measured, and kept under the digest of all that decides it.

>>> cell = Cell.of(study, study.recipes[0], seed=1)                                         # doctest: +SKIP
>>> run_cell(cell, study, data, Path("build/studies/small"))["measures"]["clean_ap50"]      # doctest: +SKIP
{'value': 0.74, 'low': 0.69, 'high': 0.79}
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from secpipeline import defended_training
from secpipeline.defended_training import teacher_of, train_recipe
from secpipeline.detection import weights
from secpipeline.detection.bootstrap import draw, interval
from secpipeline.detection.distributed import default_device
from secpipeline.detection.inference import predict
from secpipeline.detection.interface import Detector
from secpipeline.detection.matching import SUBSETS, match
from secpipeline.detection.metrics import resampled_average_precision, resampled_log_average_miss_rate
from secpipeline.detection.recipes import Recipe
from secpipeline.digests import sha256_bytes, sha256_file, tree_digest
from secpipeline.errors import InputError
from secpipeline.robustness.attacks import Images
from secpipeline.robustness.corruptions import corrupt
from secpipeline.robustness.patches import learn, wear
from secpipeline.robustness.restarts import attack_restarts
from secpipeline.store import write_atomic
from secpipeline.study.data import StudyData, data_digest
from secpipeline.study.plan import Study

_LOOKS, _WARM_UP = 30, 5
_SECPIPELINE = Path(defended_training.__file__).parent


@dataclass(frozen=True)
class Cell:
    """A recipe with its seed in it.

    Attributes
    ----------
    recipe
        What to train.
    teacher
        The cell that must be there first, or None.
    digest
        SHA-256 of recipe, seed, data, evaluation, code and teacher.
    """

    recipe: Recipe
    teacher: Cell | None
    digest: str

    @classmethod
    def of(cls, study: Study, recipe: Recipe, seed: int) -> Cell:
        """The cell of one recipe and seed of a study."""
        seeded = dataclasses.replace(recipe, seed=seed)
        name = teacher_of(recipe)
        teacher = cls.of(study, next(other for other in study.recipes if other.name == name), seed) if name else None
        made_of = {
            "recipe": json.loads(json.dumps(seeded.to_json())),
            "data": data_digest(study),
            "evaluation": json.loads(json.dumps(dataclasses.asdict(study.evaluation))),
            "code": _code(),
            "teacher": teacher.digest if teacher else None,
        }
        return cls(seeded, teacher, sha256_bytes(json.dumps(made_of, sort_keys=True).encode()))

    @property
    def label(self) -> str:
        """How progress and errors call it."""
        return f"{self.recipe.name} seed {self.recipe.seed}"

    def result_path(self, out: Path) -> Path:
        """Where its result lies once it is there."""
        return out / "cells" / f"{self.recipe.name}-{self.recipe.seed}-{self.digest[:16]}.json"

    def weights_path(self, out: Path) -> Path:
        """Where its trained weights lie."""
        return out / "weights" / f"{self.recipe.name}-{self.recipe.seed}-{self.digest[:16]}.safetensors"

    def read(self, out: Path) -> dict[str, Any] | None:
        """Its result, or None if it has not been computed.

        Raises
        ------
        InputError
            If the file is no result of this cell.
        """
        path = self.result_path(out)
        if not path.is_file():
            return None
        try:
            result = json.loads(path.read_bytes())
            found = result["digest"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a cell's result; delete it, and the study computes it again") from error
        if found != self.digest:
            raise InputError(f"{path}: the result of another cell; delete it, and the study computes it again")
        return dict(result)


def run_cell(cell: Cell, study: Study, data: StudyData, out: Path) -> dict[str, Any]:
    """Train and measure a cell and write its result; killed and run again, training goes on at its last epoch."""
    device = default_device()
    detector, training = _trained(cell, data, out, device)
    detector.to(device)
    measured = measure(detector, study, data)
    result = {
        "recipe": cell.recipe.name,
        "seed": cell.recipe.seed,
        "digest": cell.digest,
        "training": training,
        "latency_ms": latency(detector, data.test.images),
        **measured,
    }
    write_atomic(cell.result_path(out), json.dumps(result, indent=1).encode())
    shutil.rmtree(_resume(cell, out), ignore_errors=True)
    return result


def measure(detector: Detector, study: Study, data: StudyData) -> dict[str, Any]:
    """A detector clean, attacked and corrupted on the test images.

    Returns
    -------
    dict
        ``measures``: intervals by name; ``worst``: which attack was the worst of its kind; ``replicates``: the
        values on every resample, of the means that cells are compared by.
    """
    evaluation, test = study.evaluation, data.test
    counts = draw(len(test.image_ids), evaluation.resamples, evaluation.seed, data.test_scenes)

    def matches(images: Images) -> Any:
        return match(test.boxes, predict(detector, images, test.image_ids), test.image_ids, SUBSETS[evaluation.subset])

    def precision(images: Images) -> NDArray[np.float64]:
        return resampled_average_precision(matches(images), counts)

    clean = matches(test.images)
    attacks = {name: precision(images()) for name, images in _attacks(detector, study, data).items()}
    corrupted = [
        precision(corrupt(test.images, name, severity, evaluation.seed))
        for name in evaluation.corruptions
        for severity in evaluation.severities
    ]
    linf, patch = (_worst(attacks, kind) for kind in ("linf-", "patch-"))
    replicates = {
        "clean_ap50": resampled_average_precision(clean, counts),
        "clean_mr2": resampled_log_average_miss_rate(clean, counts),
        "linf_ap50": attacks[linf],
        "patch_ap50": attacks[patch],
        "corrupted_ap50": np.mean(corrupted, axis=0),
    }
    return {
        "measures": {name: interval(values).to_json() for name, values in {**replicates, **attacks}.items()},
        "worst": {"linf": linf, "patch": patch},
        "replicates": {name: [round(float(value), 5) for value in values] for name, values in replicates.items()},
    }


def latency(detector: Detector, images: Images) -> float:
    """Median milliseconds of a detection in one image, after a warm-up."""
    batch = torch.from_numpy(images[:1]).to(detector.device).float() / 255
    detector.eval()
    taken = []
    for _ in range(_WARM_UP + _LOOKS):
        start = time.perf_counter()
        detector.detect(batch)  # ends in counting boxes, for which an accelerator must have finished
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken[_WARM_UP:])


def _trained(cell: Cell, data: StudyData, out: Path, device: torch.device) -> tuple[Detector, dict[str, Any]]:
    """The cell's detector and the record of its training, from disk if an earlier run got so far."""
    path = cell.weights_path(out)
    record_path = path.with_suffix(".json")
    if path.is_file() and record_path.is_file():
        return weights.load(path), json.loads(record_path.read_bytes())
    teacher = weights.load(cell.teacher.weights_path(out)) if cell.teacher else None
    started = time.process_time()
    detector, record = train_recipe(
        cell.recipe, data.train, data.calibration, teacher, checkpoint_dir=_resume(cell, out), device=device
    )
    training = {**record.to_json(), "cpu_seconds": time.process_time() - started}
    weights.save(detector, path)
    write_atomic(record_path, json.dumps(training, indent=1).encode())
    return detector, training


def _attacks(detector: Detector, study: Study, data: StudyData) -> dict[str, Any]:
    """The test images under each attack, by name, each computed when it is called."""
    evaluation, test, train = study.evaluation, data.test, data.train

    def worn(spec: Any, seed: int) -> Images:
        patch = learn(detector, train.images, train.truth, spec, evaluation.patch.batch_size, seed)
        return wear(test.images, test.truth, patch, spec.fraction)

    linf = {
        spec.name: partial(
            attack_restarts,
            detector,
            test.images,
            test.truth,
            spec,
            evaluation.linf.restarts,
            evaluation.batch_size,
            evaluation.seed,
        )
        for spec in evaluation.linf.specs()
    }
    patches = {
        f"{spec.name}-{seed}": partial(worn, spec, seed)
        for spec in evaluation.patch.specs()
        for seed in evaluation.patch.seeds
    }
    return {**linf, **patches}


def _worst(attacks: dict[str, NDArray[np.float64]], kind: str) -> str:
    return min((name for name in attacks if name.startswith(kind)), key=lambda name: float(attacks[name][0]))


def _resume(cell: Cell, out: Path) -> Path:
    return out / "resume" / cell.digest[:16]


def _code() -> str:
    """A digest of what trains and measures, so that results of older code are computed again."""
    files = [
        _SECPIPELINE / "defended_training.py",
        *sorted((_SECPIPELINE / "detection").glob("*.py")),
        *sorted((_SECPIPELINE / "robustness").glob("*.py")),
        *sorted((_SECPIPELINE / "study").glob("*.py")),
    ]
    return tree_digest({f"{path.parent.name}/{path.name}": sha256_file(path) for path in files})
