"""Immutable releases: image shards, annotation tables and a manifest, named by the manifest's digest.

>>> written = write_release(Path("release"), annotations, splits)                   # doctest: +SKIP
>>> release = Release(Path("release"), Path("release"))                             # doctest: +SKIP
>>> release.decode(release.images["image_id"].iloc[0]).shape                        # doctest: +SKIP
(192, 256, 3)

``sha256sum -c dataset.sha256`` checks a release by hand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secpipeline.datasets.decoding import APPLY, decode
from secpipeline.datasets.ingestion import DECODER_FILE, Written, write_release
from secpipeline.datasets.manifests import BOXES_FILE, IMAGES_FILE, MANIFEST_FILE, read_manifest, write_tables
from secpipeline.datasets.shards import Location, ShardReader
from secpipeline.datasets.tables import BOX_SCHEMA, IMAGE_SCHEMA, annotation_digests, read_table
from secpipeline.digests import sha256_bytes
from secpipeline.errors import InputError, IntegrityError

__all__ = [
    "BOXES_FILE",
    "DECODER_FILE",
    "IMAGES_FILE",
    "MANIFEST_FILE",
    "Release",
    "Written",
    "read_manifest",
    "write_release",
    "write_tables",
]


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
        # A release holds no image with an orientation unless that was to be applied, and its boxes are turned already.
        return decode(data, self._index[image_id][4], turn=APPLY).pixels

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
