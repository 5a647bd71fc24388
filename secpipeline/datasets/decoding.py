"""Decode an image from an untrusted source, or say why not.

A picture that two programs read differently is a hiding place: bytes after its end or behind its last pixel, a
rotation flag, a second frame, an alpha channel, a name that lies about the format, a part that is missing. All of these
are refused, and the size is checked before a pixel is decoded.

Whether a JPEG is whole, libjpeg tells nobody: at an end marker that comes too early it paints the rest grey. Without
an end marker it asks for more instead. So a picture of one scan is decoded with its end marker replaced by bits that
no Huffman table holds, too few for a missing part, and what lies near its end is held back until the decoder asks: one
that asks for more than there is was cut short, one that does not ask has bytes that are no part of the picture. A
picture of several scans is decoded twice, once with such bits behind every scan; only a scan that is whole never looks
at them.

>>> decoded = decode(Path("street.jpg").read_bytes(), "street.jpg")                # doctest: +SKIP
>>> decoded.pixels.shape, decoded.format                                           # doctest: +SKIP
((192, 256, 3), 'jpeg')
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import itertools
import os
import re
import struct
import time
import zlib
from dataclasses import astuple, dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from secpipeline.datasets import geometry, jpeg, png
from secpipeline.datasets.geometry import UPRIGHT
from secpipeline.digests import canonical_json, open_plain, sha256_bytes, sha256_file
from secpipeline.errors import InputError

REFUSE, APPLY = "refuse", "apply"
_SUFFIXES = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}
_MAGIC = {"jpeg": jpeg.MAGIC, "png": png.MAGIC}
_ORIENTATION_TAG = 0x0112
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Enough ones to fill libjpeg's 64-bit buffer, which it does ahead of need, but no more: a missing block takes 34.
_ONES = b"\xff\x00" * 8
# A whole picture needs its last byte; some encoders pad it.
_HELD_BACK = 32
# Bits that decode to something, whatever the Huffman tables; a 0xFF would have to be stuffed.
_NOISE = hashlib.sha512(b"behind every scan").digest().replace(b"\xff", b"\x55")
_HEADER_BYTES = 64 << 10
_DECODER_READS = 4096  # a smaller read is for a header
_ADDRESS = re.compile(r" ?<[^>]* at 0x[0-9a-f]+>")
# What Pillow raises on malformed files; it documents only OSError.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, EOFError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


@dataclass(frozen=True)
class DecodeLimits:
    """What an image may cost: bytes and pixels are checked before it is decoded, seconds (of processor) meanwhile."""

    max_bytes: int = 32 << 20
    max_pixels: int = 40_000_000
    max_seconds: float = 60.0


@dataclass(frozen=True)
class Decoded:
    """An image.

    Attributes
    ----------
    picture
        RGB with 8 bits a colour, upright.
    format
        ``jpeg`` or ``png``.
    orientation
        The EXIF orientation that was applied; 1 if there was none.
    """

    picture: Image.Image
    format: str
    orientation: int = UPRIGHT

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The picture as uint8 of shape (H, W, 3)."""
        return np.array(self.picture)


DEFAULT_LIMITS = DecodeLimits()


def decode(data: bytes, name: str, limits: DecodeLimits = DEFAULT_LIMITS, turn: str = REFUSE) -> Decoded:
    """Decode a JPEG or PNG completely.

    Parameters
    ----------
    data
        The file's bytes.
    name
        Its name; the suffix must tell the format.
    limits
        Upper bounds.
    turn
        What to do about an EXIF orientation: ``refuse`` the image, or ``apply`` it to the pixels.

    Raises
    ------
    InputError
        Naming the file and the reason.

    Notes
    -----
    A JPEG that lacks no more than its last two blocks of 8×8 pixels passes for whole.
    """
    kind = _kind(data, name, limits)
    try:
        picture = _load_jpeg(data, limits) if kind == "jpeg" else _load_png(data, limits)
        turned = _orientation(picture, turn)
        if reason := _ambiguity(picture):
            raise InputError(reason)
        upright = picture if picture.mode == "RGB" else picture.convert("RGB")
        if turned != UPRIGHT:
            upright = upright.transpose(_TRANSPOSITIONS[turned])
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except _DECODER_ERRORS as error:
        raise InputError(f"{name}: cannot be decoded ({_reason(error)}); deliver it again") from error
    return Decoded(upright, kind, turned)


def decode_mask(data: bytes, name: str, limits: DecodeLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Decode a PNG whose values are numbers of objects, not colours.

    Returns
    -------
    ndarray
        uint8, shape (H, W): equal where the stored values, before any palette, are equal; grey of fewer than eight bits
        is scaled.

    Raises
    ------
    InputError
        As :func:`decode`, or if a pixel has more than one value or more than eight bits.
    """
    if _kind(data, name, limits) != "png":
        raise InputError(f"{name}: a mask must be a PNG; a JPEG does not keep its values")
    try:
        picture = _load_png(data, limits)
        if picture.mode not in ("L", "P") or getattr(picture, "n_frames", 1) != 1:
            raise InputError(f"a mask must be one picture of one 8-bit value a pixel, not of mode {picture.mode}")
        return np.array(picture)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except _DECODER_ERRORS as error:
        raise InputError(f"{name}: cannot be decoded ({_reason(error)}); deliver it again") from error


def read_image_file(root: Path, name: str, limits: DecodeLimits = DEFAULT_LIMITS) -> bytes:
    """The bytes of an image of a delivery.

    Parameters
    ----------
    root
        The delivery's directory.
    name
        Relative to it, with slashes.
    limits
        ``max_bytes`` is looked at before anything is read.

    Raises
    ------
    InputError
        If it is missing, too large, a pipe or device, or if it or a directory on the way is a symbolic link.
    """
    descriptor, size = _open_image(root, name)
    with os.fdopen(descriptor, "rb") as file:
        if size > limits.max_bytes:
            raise InputError(f"{name}: {size} bytes, more than the {limits.max_bytes} allowed")
        return file.read(limits.max_bytes + 1)


def image_file_size(root: Path, name: str, limits: DecodeLimits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Width and height of an image of a delivery, from its header.

    Raises
    ------
    InputError
        As :func:`read_image_file`, except that a file may be large, or if the header is malformed or not what the name
        says.
    """
    descriptor, _ = _open_image(root, name)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(_HEADER_BYTES)
        for beginning in (data, b""):
            data = beginning or data + file.read(limits.max_bytes - len(data))
            kind = _kind(data, name, limits)
            try:
                size = jpeg.read_size(data) if kind == "jpeg" else png.read_size(data)
            except InputError as error:
                raise InputError(f"{name}: {error}") from error
            if size is not None:
                return size
    raise InputError(f"{name}: truncated or malformed: its header does not tell its size; deliver it again")


def decoder_digest(limits: DecodeLimits, turn: str) -> str:
    """SHA-256 of everything that decides whether an image is accepted and what its pixels are."""
    modules = (Path(__file__), Path(jpeg.__file__), Path(png.__file__), Path(geometry.__file__))
    description = {
        "code": {path.name: sha256_file(path) for path in modules},
        "pillow": importlib.metadata.version("pillow"),
        "libraries": {name: str(features.version(name)) for name in ("libjpeg_turbo", "jpg", "zlib")},
        "limits": [str(limit) for limit in astuple(limits)],
        "orientation": turn,
    }
    return sha256_bytes(canonical_json(description))


def _open_image(root: Path, name: str) -> tuple[int, int]:
    """A descriptor and the size in bytes."""
    parts = name.split("/")
    path = str(root)
    for part in parts[:-1]:
        path = f"{path}/{part}"
        if os.path.islink(path):  # noqa: PTH114 - Path objects would cost more than the system calls
            raise InputError(f"{name}: lies behind a symbolic link; deliver the file itself")
    try:
        descriptor, status = open_plain(f"{path}/{parts[-1]}")
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return descriptor, status.st_size


def _kind(data: bytes, name: str, limits: DecodeLimits) -> str:
    kind = _SUFFIXES.get(PurePosixPath(name).suffix.lower())
    if kind is None:
        raise InputError(f"{name}: only .jpg, .jpeg and .png images are read; convert it")
    if len(data) > limits.max_bytes:
        raise InputError(f"{name}: {len(data)} bytes, more than the {limits.max_bytes} allowed")
    if not data.startswith(_MAGIC[kind]):
        raise InputError(f"{name}: its content is not {kind.upper()}, as its name says; rename or convert it")
    return kind


def _check_end(data: bytes, end: int) -> None:
    if end != len(data):
        raise InputError(f"{len(data) - end} bytes after the end of the image; save it again without them")


class _Feed(io.BytesIO):
    """A file that gives what lies behind ``fence`` only when it is asked again, and nothing after the deadline."""

    def __init__(self, data: bytes, limits: DecodeLimits, fence: int) -> None:
        super().__init__(data)
        self._fence = fence
        self._limit = limits.max_seconds
        self._deadline = time.thread_time() + limits.max_seconds

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and 0 <= size < _DECODER_READS:
            return super().read(size)
        if time.thread_time() > self._deadline:
            raise InputError(f"takes more than the {self._limit:g} seconds allowed to decode")
        position = self.tell()
        if position < self._fence and (size is None or size < 0 or position + size > self._fence):
            size = self._fence - position
        return super().read(size)

    @property
    def asked_behind_fence(self) -> bool:
        return self.tell() > self._fence


def _load_jpeg(data: bytes, limits: DecodeLimits) -> Image.Image:
    layout = jpeg.read_layout(data)
    _check_end(data, layout.end)
    width, height = layout.size
    if width * height > limits.max_pixels:
        raise InputError(f"{width}×{height} pixels, more than the {limits.max_pixels} allowed")
    if not layout.sequential:
        return _load_scans(data, layout, limits)
    scan = layout.scans[0]
    feed = _Feed(data[: scan.end] + _ONES, limits, max(scan.start, scan.end - _HELD_BACK))
    try:
        picture = _load(feed, "JPEG")
    except OSError as error:
        if "truncated" in str(error):
            raise InputError("truncated: its last rows are missing; deliver it again") from error
        raise
    if not feed.asked_behind_fence:
        raise InputError(f"holds {_HELD_BACK} or more bytes behind its last pixel; save it again without them")
    return picture


def _load_scans(data: bytes, layout: jpeg.Layout, limits: DecodeLimits) -> Image.Image:
    picture = _load(_Feed(data, limits, len(data)), "JPEG")
    ends = [0, *(scan.end for scan in layout.scans), len(data)]
    noisy = _NOISE.join(data[start:end] for start, end in itertools.pairwise(ends))
    again = _load(_Feed(noisy, limits, len(noisy)), "JPEG")
    if picture.tobytes() != again.tobytes():
        raise InputError("truncated: a scan ends before the picture does; deliver it again")
    return picture


def _load_png(data: bytes, limits: DecodeLimits) -> Image.Image:
    _check_end(data, png.read_layout(data, limits.max_pixels).end)
    return _load(_Feed(data, limits, len(data)), "PNG")


def _load(feed: _Feed, kind: str) -> Image.Image:
    picture = Image.open(feed, formats=(kind,))
    picture.load()
    return picture


def _orientation(picture: Image.Image, turn: str) -> int:
    found = picture.getexif().get(_ORIENTATION_TAG, UPRIGHT)
    if found == UPRIGHT:
        return UPRIGHT
    if turn == REFUSE:
        raise InputError(
            "has an EXIF rotation, which would move its boxes; rotate the pixels and remove the flag, "
            "or set data.orientation to apply"
        )
    if not isinstance(found, int) or found not in _TRANSPOSITIONS:
        raise InputError(f"has the EXIF orientation {str(found)[:20]!r}, which does not exist; remove the flag")
    return found


def _ambiguity(picture: Image.Image) -> str:
    """Why programs could disagree about the picture; empty if they cannot."""
    if getattr(picture, "n_frames", 1) != 1 or getattr(picture, "is_animated", False):
        return "holds more than one picture; save a single frame"
    if "transparency" in picture.info or picture.mode not in ("RGB", "L", "P", "1"):
        return f"is neither opaque RGB nor grey with 8 bits (mode {picture.mode}); convert it to RGB"
    return ""


def _reason(error: BaseException) -> str:
    """What Pillow says, without the addresses that differ from run to run."""
    return _ADDRESS.sub("", str(error)) or type(error).__name__
