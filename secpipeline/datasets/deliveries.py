"""Deliveries of synthetic data, laid out as vendors would: images, and one COCO file.

>>> delivery = deliver(Path("delivery"), SceneSpec(scenes_per_source=2, frames_per_scene=3))   # doctest: +SKIP
>>> delivery.instances                                                                         # doctest: +SKIP
PosixPath('delivery/instances.json')
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import io
import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from PIL import Image
from tqdm import tqdm

from secpipeline.datasets import synthetic
from secpipeline.datasets.annotations import ANNOTATION_IMAGE_COLUMNS, Annotations
from secpipeline.datasets.formats.coco import write_coco
from secpipeline.datasets.synthetic import Frame, SceneSpec, draw_scene
from secpipeline.datasets.tables import BOX_COLUMNS, LABEL, empty_boxes
from secpipeline.digests import canonical_json, sha256_bytes, sha256_file, tree_digest, tree_files
from secpipeline.errors import InputError
from secpipeline.store import write_atomic

_JPEG_QUALITY = 92
_RECEIPT = "receipt.json"


class Planter(Protocol):
    """Something that spoils one source's frames and says how, such as a ``PoisonPlan``; a frozen dataclass."""

    @property
    def source(self) -> str:
        """The source it spoils."""

    def plant(self, frame: Frame) -> tuple[Frame, list[dict[str, Any]]]:
        """The spoiled frame and one row for each thing that was planted."""


@dataclass(frozen=True)
class Delivery:
    """Where a delivery lies: its COCO file and, if poison was planted, the list of it."""

    instances: Path
    planted: Path | None


@dataclass(frozen=True)
class _Drawn:
    images: list[dict[str, Any]]
    boxes: list[tuple[Any, ...]]
    planted: list[dict[str, Any]]


def deliver(directory: Path, spec: SceneSpec, plan: Planter | None = None, processes: int = 2) -> Delivery:
    """Draw a data set, plant what is asked for, and write it; an equal delivery that is there already is kept.

    Parameters
    ----------
    directory
        Gets ``<source>/<scene>/<frame>.jpg``, ``instances.json`` and, with a plan, ``planted.json``; what lay there
        before is replaced in one step.
    spec
        What to draw.
    plan
        What to plant in one source, or None.
    processes
        How many draw at once; the bytes do not depend on it.

    Raises
    ------
    InputError
        If the plan is for a source that is not drawn.
    """
    if plan is not None and plan.source not in spec.source_names:
        raise InputError(f"poison for {plan.source}, which is not among {', '.join(spec.source_names)}")
    wish = {"spec": dataclasses.asdict(spec), "plan": _plan_json(plan), "code": _code(plan)}
    if not _is_delivered(directory, wish):
        directory.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
        try:
            _write(scratch / "new", spec, plan, processes, wish)
            if directory.exists():
                directory.rename(scratch / "old")
            (scratch / "new").rename(directory)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    planted = directory / "planted.json"
    return Delivery(directory / "instances.json", planted if plan is not None else None)


def _plan_json(plan: Planter | None) -> dict[str, Any] | None:
    return None if plan is None else dataclasses.asdict(plan)  # type: ignore[call-overload]  # a Planter is a dataclass


def _code(plan: Planter | None) -> str:
    """A digest of what draws and plants, so that a delivery made by older code is made again."""
    files = [*Path(synthetic.__file__).parent.glob("*.py"), Path(__file__)]
    files += [] if plan is None else sorted(Path(inspect.getfile(type(plan))).parent.glob("*.py"))
    versions = {name: sha256_bytes(importlib.metadata.version(name).encode()) for name in ("numpy", "pillow")}
    return tree_digest({path.name: sha256_file(path) for path in files} | versions)


def _is_delivered(directory: Path, wish: dict[str, Any]) -> bool:
    """Whether the receipt is for this wish and the files are still the ones it lists."""
    receipt = directory / _RECEIPT
    if not receipt.is_file():
        return False
    try:
        files = tree_files(directory)
    except InputError:  # a link, or a name that no delivery has
        return False
    del files[_RECEIPT]
    return receipt.read_bytes() == canonical_json({**wish, "files": tree_digest(files)})


def _write(out: Path, spec: SceneSpec, plan: Planter | None, processes: int, wish: dict[str, Any]) -> None:
    scenes = [(source, number) for source in spec.source_names for number in range(spec.scenes_per_source)]
    for source, number in scenes:
        (out / source / f"scene-{number:03d}").mkdir(parents=True)
    drawn = list(tqdm(_draw_all(out, spec, plan, scenes, processes), "draw", len(scenes), disable=None, leave=False))
    images = pd.DataFrame([row for part in drawn for row in part.images], columns=list(ANNOTATION_IMAGE_COLUMNS))
    rows = [row for part in drawn for row in part.boxes]
    boxes = pd.DataFrame(rows, columns=list(BOX_COLUMNS)) if rows else empty_boxes()
    write_coco(Annotations(images, boxes, out), out / "instances.json")
    if plan is not None:
        write_atomic(out / "planted.json", canonical_json([row for part in drawn for row in part.planted]))
    write_atomic(out / _RECEIPT, canonical_json({**wish, "files": tree_digest(tree_files(out))}))


def _draw_all(
    out: Path, spec: SceneSpec, plan: Planter | None, scenes: list[tuple[str, int]], processes: int
) -> Iterator[_Drawn]:
    if processes <= 1:
        for source, number in scenes:
            yield _draw_one(out, spec, plan, source, number)
        return
    # Spawned, because forking a process that already runs threads (a trainer, an orchestrator) can deadlock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(scenes)), context) as pool:
        jobs = [pool.submit(_draw_one, out, spec, plan, source, number) for source, number in scenes]
        for job in jobs:
            yield job.result()


def _draw_one(out: Path, spec: SceneSpec, plan: Planter | None, source: str, number: int) -> _Drawn:
    """Draw and write one scene."""
    drawn = _Drawn([], [], [])
    for frame in draw_scene(spec, source, number):
        if plan is not None and plan.source == source:
            frame, rows = plan.plant(frame)  # noqa: PLW2901 - the clean frame must not be used any more
            drawn.planted.extend(rows)
        _save(out / frame.file_name, frame)
        image_id = frame.file_name.removesuffix(".jpg").replace("/", "-")
        drawn.images.append(_image_row(frame, image_id))
        drawn.boxes.extend(_box_rows(frame, image_id))
    return drawn


def _save(path: Path, frame: Frame) -> None:
    buffer = io.BytesIO()
    Image.fromarray(frame.pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    path.write_bytes(buffer.getvalue())


def _image_row(frame: Frame, image_id: str) -> dict[str, Any]:
    height, width = frame.pixels.shape[:2]
    return {
        "image_id": image_id,
        "file_name": frame.file_name,
        "width": width,
        "height": height,
        "source": frame.source,
        "scene": frame.scene,
        "time_of_day": frame.time_of_day,
    }


def _box_rows(frame: Frame, image_id: str) -> list[tuple[Any, ...]]:
    return [
        (
            f"{image_id}#{n}",
            image_id,
            *person.box,
            LABEL,
            person.ignore,
            person.visibility,
            person.box[3] - person.box[1],
        )
        for n, person in enumerate(frame.people)
    ]
