"""One manifest a source beside a release's tables, so that its signed evidence names whose images are in it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from secpipeline.digests import manifest_bytes
from secpipeline.provenance.sources import manifest_name
from secpipeline.store import write_atomic


def write_source_manifests(out: Path, images: pd.DataFrame) -> None:
    """List the images of each source by SHA-256 and file name, as ``sha256sum`` does.

    Parameters
    ----------
    out
        The stage's output directory.
    images
        The image table; ``source``, ``file_name`` and ``sha256`` are read.
    """
    for source, mine in images.groupby("source", sort=True):
        files = dict(zip(mine["file_name"].astype(str), mine["sha256"].astype(str), strict=True))
        write_atomic(out / manifest_name(str(source)), manifest_bytes(files))
