"""What a reader is given: a path, where the images lie, and one careful way to read files.

Every file is read once, through one descriptor, and the digest that is kept is that of the very bytes that were parsed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from secpipeline.datasets.annotations import Annotations, Rejection
from secpipeline.datasets.decoding import image_file_size
from secpipeline.datasets.formats import matlab
from secpipeline.datasets.rows import Row, parse_json
from secpipeline.digests import check_name, open_plain, sha256_bytes
from secpipeline.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_MAX_BYTES = 2 << 30
_MAX_TEXT_BYTES = 256 << 20
_MAX_LINE = 10_000


class Given:
    """A delivery that is to be read.

    Parameters
    ----------
    path
        The annotation file, or the directory of annotation files.
    images
        The directory of the images, where it is not the one that the format implies.
    clip
        Cut boxes that reach outside their image instead of refusing them.

    Attributes
    ----------
    files
        SHA-256 of each file that was read, by its path relative to ``path`` (or its name).
    rejected
        Images whose size could not be read, by their file name.
    """

    def __init__(self, path: Path, images: Path | None = None, *, clip: bool = False) -> None:
        self.path, self.images, self.clip = path, images, clip
        self.files: dict[str, str] = {}
        self.rejected: dict[str, Rejection] = {}

    @property
    def base(self) -> Path:
        """The directory that the annotations lie in."""
        return self.path if self.is_directory else self.path.parent

    @cached_property
    def is_directory(self) -> bool:
        """Whether the path is a directory."""
        return self.path.is_dir()

    @property
    def is_json(self) -> bool:
        """Whether the path is that of a single JSON file."""
        return self.path.suffix.lower() == ".json" and not self.is_directory

    def read(self, path: Path, most: int = _MAX_BYTES) -> bytes:
        """The bytes of a file.

        Raises
        ------
        InputError
            If it is missing, a link, a pipe or a device, or larger than ``most`` bytes.
        """
        descriptor, status = open_plain(path)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            if status.st_size > most:
                raise InputError(f"{path}: {status.st_size} bytes, more than the {most} that are read")
            data = file.readall()
        self.files[self.name_of(path)] = sha256_bytes(data)
        return data

    def name_of(self, path: Path) -> str:
        """The path relative to the annotations' directory, with slashes."""
        return check_name(path.relative_to(self.base).as_posix())

    def lines(self, path: Path) -> list[Row]:
        """The lines of a UTF-8 text file as rows without values yet; ``line`` holds the text. Empty lines are left out.

        Raises
        ------
        InputError
            As :meth:`read`, or if it is no UTF-8 text.
        """
        try:
            text = self.read(path, _MAX_TEXT_BYTES).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not a UTF-8 text (byte {error.start}); save it as one") from error
        lines = text.replace("\r\n", "\n").split("\n")
        for number, line in enumerate(lines, 1):
            if len(line) > _MAX_LINE:
                raise InputError(
                    f"{path}: line {number}: {len(line)} characters, more than the {_MAX_LINE} that are read"
                )
        return [Row(f"{path}: line {number}", {"line": line}) for number, line in enumerate(lines, 1) if line.strip()]

    def json(self, path: Path) -> Row:
        """The object of a JSON file.

        Raises
        ------
        InputError
            As :meth:`read`, or if it is no JSON object or has a key twice.
        """
        return parse_json(self.read(path), str(path))

    @cached_property
    def document(self) -> Row:
        """The object of the JSON file at the path itself, read once for recognition and reading."""
        return self.json(self.path)

    @cached_property
    def variables(self) -> Mapping[str, Any]:
        """The variables of the MATLAB file at the path itself, read once for recognition and reading."""
        return matlab.load(self.read(self.path), str(self.path))

    def find(self, *suffixes: str) -> list[Path]:
        """The files below the annotations' directory whose names end like this, sorted.

        Raises
        ------
        InputError
            If a directory is a symbolic link or cannot be listed: what is in it would be left out silently.
        """
        return [path for path in self._all_files if path.name.endswith(suffixes)]

    @cached_property
    def _all_files(self) -> list[Path]:
        return list_files(self.base)

    def size_of(self, root: Path, file_name: str, image_id: str, source: str) -> tuple[int, int] | None:
        """Width and height from an image's header; None, and a rejection, where it cannot be read."""
        try:
            return image_file_size(root, check_name(file_name))
        except InputError as error:
            self.rejected[file_name] = Rejection(image_id, file_name, source, str(error))
            return None


@dataclass(frozen=True)
class Format:
    """One annotation format.

    Attributes
    ----------
    name
        What users write.
    title
        What it is, and the path it wants.
    recognises
        Whether a delivery looks like it.
    read
        The reader.
    """

    name: str
    title: str
    recognises: Callable[[Given], bool]
    read: Callable[[Given], Annotations]


def list_files(directory: Path) -> list[Path]:
    """The files below a directory, sorted by name; see :meth:`Given.find`."""
    found = []
    for here, directories, names in os.walk(directory, onerror=_refuse_directory):
        for name in directories:
            if (Path(here) / name).is_symlink():
                raise InputError(f"{Path(here) / name}: is a symbolic link; deliver the directory itself")
        found += [Path(here) / name for name in names]
    return sorted(found)


def _refuse_directory(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be listed ({error.strerror}); give a directory that can be read")
