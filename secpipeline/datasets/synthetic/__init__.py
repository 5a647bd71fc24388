"""Synthetic street scenes with pedestrians whose boxes and visibility are known exactly.

>>> spec = SceneSpec(sources=1, scenes_per_source=1, frames_per_scene=2, seed=3)
>>> [frame.file_name for frame in draw_scene(spec, "vendor-a", 0)]
['vendor-a/scene-000/000.jpg', 'vendor-a/scene-000/001.jpg']
"""

from __future__ import annotations

from collections.abc import Iterator

from secpipeline.datasets.synthetic.scene import SceneSpec, random_scene
from secpipeline.datasets.synthetic.stage import Frame, PersonBox, Stage

__all__ = ["Frame", "PersonBox", "SceneSpec", "draw_scene"]


def draw_scene(spec: SceneSpec, source: str, number: int) -> Iterator[Frame]:
    """Draw the frames of scene ``number`` of a source; the same arguments always give the same frames."""
    stage = Stage(random_scene(spec, source, number), spec.seed)
    for index in range(spec.frames_per_scene):
        yield stage.frame(index)
