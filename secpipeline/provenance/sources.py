"""How evidence names who contributed what.

A stage that hands on images writes one manifest a source, so that the signed list of its files says, by name alone,
whose images are in it; queries and revocations by source need nothing else.

>>> manifest_name("vendor-c")
'sources/vendor-c.sha256'
>>> source_of("ingest/sources/city%2F7.sha256")
'city/7'
"""

from __future__ import annotations

from urllib.parse import quote, unquote

from secpipeline.errors import InputError

_FOLDER, _SUFFIX = "sources/", ".sha256"
_LONGEST = 240  # bytes; a file name has 255 on every common file system, and is longer while it is written


def manifest_name(source: str) -> str:
    """The file that lists a source's images, relative to the artifacts of the stage that hands them on.

    Raises
    ------
    InputError
        If the name cannot be a file's: empty, too long, or no Unicode text.
    """
    try:
        name = f"{quote(source, safe='')}{_SUFFIX}"
    except UnicodeEncodeError as error:
        raise InputError(f"{source!r}: a source's name must be Unicode text; rename the source") from error
    if not source or len(name) > _LONGEST:
        raise InputError(f"{source[:40]!r}…: a source's name is empty or too long for a file; rename the source")
    return _FOLDER + name


def source_of(artifact: str) -> str:
    """The source whose manifest an artifact is; empty if it is something else."""
    name = artifact.partition("/")[2]
    if name.startswith(_FOLDER) and name.endswith(_SUFFIX):
        return unquote(name.removeprefix(_FOLDER).removesuffix(_SUFFIX))
    return ""
