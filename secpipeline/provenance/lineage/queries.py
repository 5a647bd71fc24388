"""The runs that a question begins at: by a file's digest, or by a source's name.

>>> makers(history, "1004ff18e902")[0].stage                             # doctest: +SKIP
'deploy'
>>> contributed(history, "vendor-c")[0].stage                            # doctest: +SKIP
'ingest'
"""

from __future__ import annotations

import re

from secpipeline.errors import InputError
from secpipeline.provenance.lineage.graph import History, TracedRun
from secpipeline.provenance.sources import source_of

_DIGEST = re.compile(r"[0-9a-f]{8,64}")


def makers(history: History, prefix: str) -> tuple[TracedRun, ...]:
    """The runs that made a file with this SHA-256, oldest first; eight hex digits or more are enough.

    Raises
    ------
    InputError
        If it is no digest, or nobody made such a file.
    """
    _check_digest(prefix)
    found = tuple(run for run in history.runs if any(digest.startswith(prefix) for _, digest in run.products))
    if not found:
        raise InputError(f"{prefix}: no signed run made a file with this SHA-256")
    return found


def touched(history: History, prefix: str) -> tuple[TracedRun, ...]:
    """The runs that read or made a file with this SHA-256, oldest first; eight hex digits or more are enough.

    Raises
    ------
    InputError
        If it is no digest; that nobody touched such a file is an answer.
    """
    _check_digest(prefix)
    return tuple(run for run in history.runs if any(digest.startswith(prefix) for _, digest in run.files))


def contributed(history: History, source: str, release: str = "") -> tuple[TracedRun, ...]:
    """The runs that handed on images of a source, oldest first; those of one release, by its digest, if given.

    Parameters
    ----------
    history
        Knows the runs.
    source
        Its name.
    release
        The SHA-256 of the release's manifest, or its first eight hex digits or more.

    Raises
    ------
    InputError
        If there is none.
    """
    if release:
        _check_digest(release)
    runs = tuple(
        run
        for run in history.runs
        if any(source_of(name) == source for name, _ in run.products)
        and any(digest.startswith(release) for digest in releases_of(run) or ("",))
    )
    if not runs:
        where = f" in the release {release}" if release else ""
        raise InputError(f"{source}: no signed run handed on images of this source{where}")
    return runs


def releases_of(run: TracedRun) -> tuple[str, ...]:
    """The releases that a run made, each by the SHA-256 of its manifest."""
    return tuple(sorted(digest for name, digest in run.products if name.endswith("/dataset.sha256")))


def _check_digest(prefix: str) -> None:
    if not _DIGEST.fullmatch(prefix):
        raise InputError(f"{prefix}: not a SHA-256; give 8 to 64 lower-case hex digits, or a file")
