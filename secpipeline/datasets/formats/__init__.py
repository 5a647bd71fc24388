"""Annotation formats: one module a format, one way to read them all.

>>> annotations = read(Path("MOT17/train"), clip=True)                              # doctest: +SKIP
>>> write_coco(annotations, Path("instances.json"))                                 # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from secpipeline.datasets.annotations import Annotations
from secpipeline.datasets.formats import caltech, citypersons, coco, eurocity, mot, pennfudan, yolo
from secpipeline.datasets.formats.coco import write_coco
from secpipeline.datasets.formats.given import Format, Given
from secpipeline.errors import InputError

AUTO = "auto"
FORMATS: Mapping[str, Format] = {
    entry.name: entry
    for entry in (
        coco.FORMAT,
        citypersons.JSON,
        citypersons.MAT,
        caltech.FORMAT,
        eurocity.FORMAT,
        pennfudan.TEXTS,
        pennfudan.MASKS,
        mot.FORMAT,
        yolo.FORMAT,
    )
}

__all__ = ["AUTO", "FORMATS", "read", "write_coco"]


def read(
    path: Path | str,
    format: str = AUTO,  # noqa: A002 - what users call it
    *,
    images: Path | str | None = None,
    clip: bool = False,
) -> Annotations:
    """Read a delivery's annotations, whatever their format.

    Parameters
    ----------
    path
        The annotation file or directory; what each format wants is in its title in :data:`FORMATS`.
    format
        A key of :data:`FORMATS`, or ``auto`` to recognise it.
    images
        The directory that the images' names are relative to, where it is not the one that the format implies.
    clip
        Cut boxes that reach outside their image instead of refusing them.

    Returns
    -------
    Annotations
        The same tables for every format.

    Raises
    ------
    InputError
        If the format is unknown, cannot be recognised, or fits twice, naming the candidates; or naming the file and
        line, row or object that cannot be used, and what to do.
    """
    if not isinstance(images, (str, Path, type(None))) or not isinstance(path, (str, Path)):
        raise InputError(f"the annotations {path!r} and the images {images!r} must be paths")
    given = Given(Path(path), None if images is None else Path(images), clip=clip)
    if not os.path.exists(path):  # noqa: PTH110 - unlike Path.exists, it is false for an impossible name
        raise InputError(f"{path}: not found; set data.dataset to the annotations")
    if format == AUTO:
        return _recognise(given).read(given)
    if not isinstance(format, str) or format not in FORMATS:
        raise InputError(f"{format!r} is no annotation format; there are {', '.join((AUTO, *FORMATS))}")
    return FORMATS[format].read(given)


def _recognise(given: Given) -> Format:
    found, objections = [], []
    for entry in FORMATS.values():
        # What one format cannot even look into may be another one's: a note in JSON beside YOLO labels.
        try:
            if entry.recognises(given):
                found.append(entry)
        except InputError as error:
            objections.append(str(error))
    if len(found) == 1:
        return found[0]
    candidates = "".join(f"\n  {entry.name}: {entry.title}" for entry in found or FORMATS.values())
    why = f" ({objections[0]})" if objections else ""
    verdict = "could be more than one of these" if found else f"looks like none of these{why}"
    raise InputError(f"{given.path}: {verdict}; give the right path, or set data.format:{candidates}")
