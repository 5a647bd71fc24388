"""Immutable releases: image shards, annotation tables and a manifest, named by the manifest's digest.

>>> summary = write_release(Path("release"), annotations, splits)                   # doctest: +SKIP
>>> release = Release(Path("release"), Path("release"))                             # doctest: +SKIP
>>> release.decode(release.images["image_id"].iloc[0]).shape                        # doctest: +SKIP
(192, 256, 3)

``sha256sum -c dataset.sha256`` checks a release by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from secpipeline.datasets.coco import Annotations, plain_file
from secpipeline.datasets.decoding import DEFAULT_LIMITS, DecodeLimits, decode
from secpipeline.datasets.shards import Location, ShardReader, ShardWriter
from secpipeline.datasets.tables import BOX_SCHEMA, IMAGE_SCHEMA, annotation_digests, read_table, table_bytes
from secpipeline.digests import manifest_bytes, sha256_bytes, sha256_file
from secpipeline.errors import InputError, IntegrityError
from secpipeline.store import write_atomic

IMAGES_FILE, BOXES_FILE, MANIFEST_FILE = "images.parquet", "boxes.parquet", "dataset.sha256"
_THREADS = 2
_BATCH = 256
_SHOWN = 10


@dataclass(frozen=True)
class _Ingested:
    """One image that was read, decoded and found as annotated."""

    data: bytes
    sha256: str
    format: str
    dhash: str


def write_release(
    out_dir: Path,
    annotations: Annotations,
    splits: pd.Series,
    *,
    limits: DecodeLimits = DEFAULT_LIMITS,
) -> dict[str, Any]:
    """Read, decode and check every image of a delivery once and write its release.

    Parameters
    ----------
    out_dir
        An empty directory; on an error what was written there is no release, for its manifest comes last.
    annotations
        What was delivered.
    splits
        ``train``, ``calibration`` or ``test`` for each row of ``annotations.images``, on the same index.
    limits
        What one image may cost.

    Returns
    -------
    dict
        digest (of the manifest), images, boxes, shards, bytes.

    Raises
    ------
    InputError
        Naming the first ten images that are missing, cannot be decoded safely, or differ from their annotation.
    """
    images = annotations.images
    writer = ShardWriter(out_dir)
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    progress = tqdm(total=len(images), desc="ingest", disable=None, leave=False)
    for record, outcome in _ingest_all(annotations, limits):
        progress.update()
        if isinstance(outcome, InputError):
            problems.append(str(outcome))
        elif not problems:
            location = writer.add(record["file_name"], outcome.data)
            rows.append({**record, **_facts(location, outcome)})
    progress.close()
    if problems:
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        shown = "\n  ".join(problems[:_SHOWN])
        raise InputError(f"{len(problems)} of {len(images)} images cannot be used:\n  {shown}{more}")
    writer.close()
    table = pd.DataFrame(rows)
    table["split"] = splits.reindex(images.index).to_numpy()
    digest = _write_tables(out_dir, table, annotations.boxes, writer.names)
    return {
        "digest": digest,
        "images": len(table),
        "boxes": len(annotations.boxes),
        "shards": len(writer.names),
        "bytes": int(table["length"].sum()),
    }


def _ingest_all(
    annotations: Annotations, limits: DecodeLimits
) -> Iterator[tuple[dict[str, Any], _Ingested | InputError]]:
    """Every image in table order; a batch at a time, so that memory does not grow with the data set."""
    records = annotations.images.to_dict("records")

    def attempt(record: dict[str, Any]) -> _Ingested | InputError:
        try:
            return _ingest(annotations.root, record, limits)
        except InputError as error:
            return error

    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(records), _BATCH):
            batch = records[start : start + _BATCH]
            yield from zip(batch, pool.map(attempt, batch), strict=True)


def _ingest(root: Path, record: dict[str, Any], limits: DecodeLimits) -> _Ingested:
    name = record["file_name"]
    try:
        path = plain_file(root, name)
        if path is None:
            raise InputError(f"{name}: is or lies behind a symbolic link; deliver the file itself")
        with path.open("rb") as file:
            data = file.read(limits.max_bytes + 1)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}); it should be at {root / name}") from error
    decoded = decode(data, name, limits)
    height, width = decoded.pixels.shape[:2]
    if (width, height) != (record["width"], record["height"]):
        raise InputError(f"{name}: {width}×{height} pixels, annotated as {record['width']}×{record['height']}")
    return _Ingested(data, sha256_bytes(data), decoded.format, dhash(decoded.pixels))


def _facts(location: Location, image: _Ingested) -> dict[str, Any]:
    return {
        "shard": location.shard,
        "offset": location.offset,
        "length": location.length,
        "sha256": image.sha256,
        "format": image.format,
        "dhash": image.dhash,
    }


def dhash(pixels: NDArray[np.uint8]) -> str:
    """Difference hash: 64 bits that say where brightness rises from left to right on a 9×8 grid, as 16 hex digits.

    Near duplicates differ in few bits.
    """
    grid = np.asarray(Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return np.packbits(grid[:, 1:] > grid[:, :-1]).tobytes().hex()


def write_tables(out_dir: Path, images: pd.DataFrame, boxes: pd.DataFrame) -> str:
    """Write a release that has tables of its own and reads its images from another release's shards.

    Returns
    -------
    str
        The digest of the manifest.

    Raises
    ------
    InputError
        If a column is missing or holds values of another type.
    """
    return _write_tables(out_dir, images, boxes, [])


def _write_tables(out_dir: Path, images: pd.DataFrame, boxes: pd.DataFrame, shards: list[str]) -> str:
    described = images.assign(annotations_sha256=annotation_digests(images["image_id"], boxes))
    write_atomic(out_dir / IMAGES_FILE, table_bytes(described, IMAGE_SCHEMA))
    write_atomic(out_dir / BOXES_FILE, table_bytes(boxes, BOX_SCHEMA))
    names = [IMAGES_FILE, BOXES_FILE, *shards]
    manifest = manifest_bytes({name: sha256_file(out_dir / name) for name in names})
    write_atomic(out_dir / MANIFEST_FILE, manifest)
    return sha256_bytes(manifest)


class Release:
    """A release on disk; every image is checked against its digest when it is read.

    Parameters
    ----------
    tables_dir
        Holds ``images.parquet`` and ``boxes.parquet``.
    shards_root
        The directory that the table's shard names are relative to.

    Attributes
    ----------
    images, boxes
        The tables, see :mod:`secpipeline.datasets.tables`.

    Raises
    ------
    InputError
        If a table is missing, unreadable, or names an image twice.
    """

    def __init__(self, tables_dir: Path, shards_root: Path) -> None:
        self.images = read_table(tables_dir / IMAGES_FILE, IMAGE_SCHEMA)
        self.boxes = read_table(tables_dir / BOXES_FILE, BOX_SCHEMA)
        self._shards = ShardReader(shards_root)
        self._name = tables_dir.name
        ids = self.images["image_id"]
        if ids.duplicated().any():
            raise InputError(f"{tables_dir / IMAGES_FILE}: image {ids[ids.duplicated()].iloc[0]} appears twice")
        columns = ("shard", "offset", "length", "sha256", "file_name")
        self._index = dict(zip(ids, zip(*(self.images[c].tolist() for c in columns), strict=True), strict=True))

    def read(self, image_id: str) -> bytes:
        """The image's file, byte for byte as it was delivered.

        Raises
        ------
        InputError
            If there is no such image, or its shard is missing or too short.
        IntegrityError
            If the bytes changed.
        """
        if image_id not in self._index:
            raise InputError(f"{self._name}: has no image {image_id}")
        shard, offset, length, expected, file_name = self._index[image_id]
        data = self._shards.read(Location(shard, offset, length))
        if (found := sha256_bytes(data)) != expected:
            raise IntegrityError(f"image {image_id} ({file_name}) in {shard}", expected, found, "run ingest again")
        return data

    def decode(self, image_id: str) -> NDArray[np.uint8]:
        """The image's pixels: uint8, shape (H, W, 3), RGB.

        Raises
        ------
        InputError, IntegrityError
            As :meth:`read`.
        """
        data = self.read(image_id)
        return decode(data, self._index[image_id][4]).pixels

    def damaged(self) -> list[str]:
        """Images whose bytes or boxes are not those that were recorded, in table order.

        Boxes of an image that the image table does not list are reported under that image's id, at the end.
        """
        found = annotation_digests(self.images["image_id"], self.boxes)
        relabelled = np.array(found) != self.images["annotations_sha256"].to_numpy()
        damaged = [
            image_id
            for image_id, changed in zip(self.images["image_id"], relabelled, strict=True)
            if changed or not self._intact(image_id)
        ]
        strangers = self.boxes.loc[~self.boxes["image_id"].isin(self.images["image_id"]), "image_id"]
        return damaged + sorted(set(strangers))

    def _intact(self, image_id: str) -> bool:
        try:
            self.read(image_id)
        except (InputError, IntegrityError):
            return False
        return True
