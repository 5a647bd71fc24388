"""Synthetic scenes drawn into arrays by several processes, which need nothing of torch for that.

>>> from secpipeline.datasets.synthetic import SceneSpec
>>> spec = SceneSpec(sources=1, scenes_per_source=1, frames_per_scene=2, seed=3)
>>> [[frame.image_id for frame in scene] for scene in draw_scenes(spec, [("vendor-a", 0)], jobs=1)]
[['vendor-a-scene-000-000', 'vendor-a-scene-000-001']]
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secpipeline.datasets.synthetic import SceneSpec, draw_scene

# Fewer scenes a process are drawn sooner than it starts.
_SCENES_A_PROCESS = 16


@dataclass(frozen=True)
class DrawnFrame:
    """One image: (3, H, W) uint8, and a row of x1, y1, x2, y2, ignore and visibility for each person."""

    source: str
    scene: str
    image_id: str
    pixels: NDArray[np.uint8]
    boxes: tuple[tuple[float, float, float, float, bool, float], ...]


def draw_scenes(spec: SceneSpec, scenes: Sequence[tuple[str, int]], jobs: int) -> Iterator[list[DrawnFrame]]:
    """The frames of each scene, in order, whatever the number of processes."""
    jobs = min(jobs, len(scenes) // _SCENES_A_PROCESS)
    if jobs <= 1:
        yield from (_draw(spec, source, number) for source, number in scenes)
        return
    # Spawned, because forking a process that already runs threads can deadlock.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_draw, [spec] * len(scenes), *zip(*scenes, strict=True), chunksize=4)


def _draw(spec: SceneSpec, source: str, number: int) -> list[DrawnFrame]:
    return [
        DrawnFrame(
            frame.source,
            frame.scene,
            frame.file_name.removesuffix(".jpg").replace("/", "-"),
            frame.pixels.transpose(2, 0, 1),
            tuple((*person.box, person.ignore, person.visibility) for person in frame.people),
        )
        for frame in draw_scene(spec, source, number)
    ]
