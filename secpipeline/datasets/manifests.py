"""The tables of a release and the manifest that names it.

>>> digest = write_tables(Path("curated"), images, boxes)                           # doctest: +SKIP
>>> read_manifest(Path("curated"))["images.parquet"]                                # doctest: +SKIP
'5d1c…'
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from secpipeline.datasets.tables import BOX_SCHEMA, IMAGE_SCHEMA, annotation_digests, table_bytes
from secpipeline.digests import manifest_bytes, sha256_bytes, sha256_file
from secpipeline.errors import InputError
from secpipeline.store import write_atomic

IMAGES_FILE, BOXES_FILE, MANIFEST_FILE = "images.parquet", "boxes.parquet", "dataset.sha256"
_HEX = re.compile(r"[0-9a-f]{64}\Z")


def write_tables(
    out_dir: Path, images: pd.DataFrame, boxes: pd.DataFrame, shards: Mapping[str, str] | None = None
) -> str:
    """Write the tables and the manifest of a release; without shards it reads its images from another release's.

    Parameters
    ----------
    out_dir
        The release's directory.
    images, boxes
        Its tables; ``annotations_sha256`` is computed anew.
    shards
        SHA-256 of each of its shards, which lie in ``out_dir``, by its name.

    Returns
    -------
    str
        The digest of the manifest.

    Raises
    ------
    InputError
        If a column is missing or holds values of another type.
    """
    described = images.assign(annotations_sha256=annotation_digests(images["image_id"], boxes))
    write_atomic(out_dir / IMAGES_FILE, table_bytes(described, IMAGE_SCHEMA))
    write_atomic(out_dir / BOXES_FILE, table_bytes(boxes, BOX_SCHEMA))
    tables = {name: sha256_file(out_dir / name) for name in (IMAGES_FILE, BOXES_FILE)}
    manifest = manifest_bytes(tables | dict(shards or {}))
    write_atomic(out_dir / MANIFEST_FILE, manifest)
    return sha256_bytes(manifest)


def read_manifest(directory: Path) -> dict[str, str]:
    """SHA-256 of each file of a release, by its name.

    Raises
    ------
    InputError
        If the manifest is missing or is none.
    """
    path = directory / MANIFEST_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read; give the directory of a release") from error
    parsed = [line.partition("  ") for line in lines]
    if not all(_HEX.match(digest) and gap and name for digest, gap, name in parsed):
        raise InputError(f"{path}: not a manifest of sha256sum; restore it or run ingest again")
    return {name: digest for digest, _, name in parsed}
