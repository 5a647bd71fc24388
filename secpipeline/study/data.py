"""The images of a study: drawn straight into arrays, or loaded from a release.

>>> data = prepare(study, Path("build/studies/small"), jobs=2)                              # doctest: +SKIP
>>> len(data.train.image_ids), len(data.test.image_ids)                                     # doctest: +SKIP
(240, 96)
"""

from __future__ import annotations

import dataclasses
import io
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from secpipeline.datasets import synthetic
from secpipeline.datasets.loading import Pixels, Placement, Truth, load
from secpipeline.datasets.releases import Release
from secpipeline.datasets.splits import assign_splits
from secpipeline.datasets.synthetic import SceneSpec
from secpipeline.digests import canonical_json, sha256_bytes, sha256_file, tree_digest, tree_files
from secpipeline.errors import InputError
from secpipeline.store import write_atomic
from secpipeline.study.drawing import draw_scenes
from secpipeline.study.plan import ReleaseFolders, Study, Synthetic

_BOX_COLUMNS = ("x1", "y1", "x2", "y2", "ignore", "visibility")


@dataclass(frozen=True)
class StudyData:
    """Three splits that share no scene, and the scene of every test image."""

    train: Pixels
    calibration: Pixels
    test: Pixels
    test_scenes: tuple[str, ...]


def data_digest(study: Study) -> str:
    """What a study's images are made of: everything that decides them, as one SHA-256."""
    if isinstance(study.data, ReleaseFolders):
        tables = tree_digest(tree_files(Path(study.data.tables)))
        return sha256_bytes(canonical_json({"release": tables, "draw": _draw_of(study)}))
    drawing = {path.name: sha256_file(path) for path in Path(synthetic.__file__).parent.glob("*.py")}
    wish = {"data": dataclasses.asdict(study.data), "code": tree_digest(drawing), "draw": _draw_of(study)}
    return sha256_bytes(canonical_json(wish))


def prepare(study: Study, out: Path, jobs: int) -> StudyData:
    """The study's images; drawn ones are kept in ``out/data`` and read from there the next time.

    Raises
    ------
    InputError
        If recipes want frames of different sizes, or of another size than the scenes that are drawn.
    """
    sizes = {recipe.input_size for recipe in study.recipes}
    if len(sizes) != 1:
        raise InputError(f"study {study.name}: its recipes want frames of {sorted(sizes)}; one size a study")
    (size,) = sizes
    if isinstance(study.data, ReleaseFolders):
        return _from_release(study, study.data, size)
    spec = study.data.synthetic
    if size != (spec.height, spec.width):
        raise InputError(f"study {study.name}: scenes of {spec.height} × {spec.width} pixels and frames of {size}")
    path = out / "data" / f"{data_digest(study)}.npz"
    if not path.is_file():
        _draw(spec, path, jobs)
    return _split(study, study.data, path)


def _draw_of(study: Study) -> dict[str, int]:
    return {"images": study.evaluation.images, "seed": study.evaluation.seed}


def _from_release(study: Study, folders: ReleaseFolders, size: tuple[int, int]) -> StudyData:
    release = Release(Path(folders.tables), Path(folders.shards))
    images = release.images

    def part(split: str) -> list[str]:
        return list(images.loc[images["split"] == split, "image_id"])

    chosen = _some(part("test"), study)
    scenes = images.set_index("image_id").loc[chosen, ["source", "scene"]].agg("/".join, axis=1)
    train, calibration, test = (load(release, ids, size) for ids in (part("train"), part("calibration"), chosen))
    return StudyData(train, calibration, test, tuple(scenes))


def _some(image_ids: list[str], study: Study) -> list[str]:
    """A seeded draw of the test images, in their order."""
    rng = np.random.default_rng(study.evaluation.seed)
    chosen = rng.permutation(len(image_ids))[: study.evaluation.images]
    return [image_ids[index] for index in np.sort(chosen)]


def _draw(spec: SceneSpec, path: Path, jobs: int) -> None:
    scenes = [(source, number) for source in spec.source_names for number in range(spec.scenes_per_source)]
    pixels: list[NDArray[np.uint8]] = []
    names: list[tuple[str, str, str]] = []
    rows: list[tuple[Any, ...]] = []
    drawn = draw_scenes(spec, scenes, jobs)
    for frame in itertools.chain.from_iterable(tqdm(drawn, "draw", len(scenes), unit="scene", disable=None)):
        rows += [(len(names), *box) for box in frame.boxes]
        names.append((frame.source, frame.scene, frame.image_id))
        pixels.append(frame.pixels)
    buffer = io.BytesIO()
    table = np.array(rows, np.float64).reshape(-1, 1 + len(_BOX_COLUMNS))
    np.savez(buffer, pixels=np.stack(pixels), names=np.array(names), boxes=table)
    write_atomic(path, buffer.getvalue())


def _split(study: Study, data: Synthetic, path: Path) -> StudyData:
    with np.load(path) as file:
        pixels, names, rows = file["pixels"], file["names"], file["boxes"]
    images = pd.DataFrame(names, columns=["source", "scene", "image_id"])
    splits = data.splits
    split = assign_splits(images, splits.calibration, splits.test, splits.holdout_sources, splits.seed).to_numpy(str)
    chosen = {name: np.flatnonzero(split == name) for name in ("train", "calibration", "test")}
    rng = np.random.default_rng(study.evaluation.seed)
    chosen["test"] = np.sort(rng.permutation(chosen["test"])[: study.evaluation.images])
    scenes = (images["source"] + "/" + images["scene"]).to_numpy(str)
    train, calibration, test = (_part(pixels, names[:, 2], rows, index) for index in chosen.values())
    return StudyData(train, calibration, test, tuple(scenes[chosen["test"]]))


def _part(pixels: NDArray[np.uint8], names: NDArray[Any], rows: NDArray[np.float64], index: NDArray[Any]) -> Pixels:
    mine = rows[np.isin(rows[:, 0], index)]
    boxes = pd.DataFrame(mine[:, 1:], columns=list(_BOX_COLUMNS)).astype({"ignore": bool})
    boxes.insert(0, "image_id", pd.Series(names[mine[:, 0].astype(np.int64)], dtype="str"))
    boxes["height"] = boxes["y2"] - boxes["y1"]
    return Pixels(
        pixels[index],
        [_truth(rows[rows[:, 0] == number]) for number in index],
        [str(name) for name in names[index]],
        boxes,
        [Placement(1.0, 0.0, 0.0)] * len(index),
    )


def _truth(rows: NDArray[np.float64]) -> Truth:
    ignored, corners = rows[:, 5] > 0, rows[:, 1:5].astype(np.float32)
    return Truth(corners[~ignored], corners[ignored])
