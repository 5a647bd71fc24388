"""Decode an image from an untrusted source, or say why not.

A picture that two programs read differently is a hiding place: bytes after its end, a rotation flag, a second frame,
an alpha channel, a name that lies about the format. All of these are refused, and the size is checked before a pixel
is decoded.

>>> decoded = decode(Path("street.jpg").read_bytes(), "street.jpg")                # doctest: +SKIP
>>> decoded.pixels.shape, decoded.format                                           # doctest: +SKIP
((192, 256, 3), 'jpeg')
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secpipeline.errors import InputError

_SUFFIXES = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}
_MAGIC = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
_ORIENTATION = 0x0112
_UPRIGHT = 1
_SCAN, _END = 0xDA, 0xD9
# Inside entropy-coded data 0xFF is followed by 0x00 (a stuffed byte) or a restart marker; anything else ends the scan.
_SCAN_END = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
# What Pillow raises on malformed files; it documents only OSError.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip


@dataclass(frozen=True)
class DecodeLimits:
    """What an image may cost, checked before it is decoded."""

    max_bytes: int = 32 << 20
    max_pixels: int = 40_000_000


@dataclass(frozen=True)
class Decoded:
    """An image: ``pixels`` uint8 RGB of shape (H, W, 3), and its format, ``jpeg`` or ``png``."""

    pixels: NDArray[np.uint8]
    format: str


DEFAULT_LIMITS = DecodeLimits()


def decode(data: bytes, name: str, limits: DecodeLimits = DEFAULT_LIMITS) -> Decoded:
    """Decode a JPEG or PNG completely.

    Parameters
    ----------
    data
        The file's bytes.
    name
        Its name; the suffix must tell the format.
    limits
        Upper bounds.

    Raises
    ------
    InputError
        Naming the file and the reason.
    """
    kind = _SUFFIXES.get(PurePosixPath(name).suffix.lower())
    if kind is None:
        raise InputError(f"{name}: only .jpg, .jpeg and .png images are read; convert it")
    if len(data) > limits.max_bytes:
        raise InputError(f"{name}: {len(data)} bytes, more than the {limits.max_bytes} allowed")
    if not data.startswith(_MAGIC[kind]):
        raise InputError(f"{name}: its content is not {kind.upper()}, as its name says; rename or convert it")
    end = _jpeg_end(data) if kind == "jpeg" else _png_end(data)
    if end is None:
        raise InputError(f"{name}: truncated or malformed; deliver it again")
    if end != len(data):
        raise InputError(f"{name}: {len(data) - end} bytes after the end of the image; save it again without them")
    return Decoded(_pixels(data, name, kind, limits), kind)


def _pixels(data: bytes, name: str, kind: str, limits: DecodeLimits) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=(kind.upper(),)) as picture:
            width, height = picture.size
            if width * height > limits.max_pixels:
                raise InputError(f"{name}: {width}×{height} pixels, more than the {limits.max_pixels} allowed")
            picture.load()  # before the next check: a PNG may carry its EXIF after its pixels
            if reason := _ambiguity(picture):
                raise InputError(f"{name}: {reason}")
            return np.array(picture.convert("RGB"))
    except _DECODER_ERRORS as error:
        raise InputError(f"{name}: cannot be decoded ({error}); deliver it again") from error


def _ambiguity(picture: Image.Image) -> str:
    """Why programs could disagree about the picture; empty if they cannot."""
    if getattr(picture, "n_frames", 1) != 1 or getattr(picture, "is_animated", False):
        return "holds more than one picture; save a single frame"
    if picture.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT:
        return "has an EXIF rotation, which would move its boxes; rotate the pixels and remove the flag"
    if "transparency" in picture.info or picture.mode not in ("RGB", "L", "P", "1"):
        return f"is neither opaque RGB nor grey with 8 bits (mode {picture.mode}); convert it to RGB"
    return ""


def _png_end(data: bytes) -> int | None:
    """Where the PNG ends, from its chunk lengths; None if it has no end or a chunk is not what its checksum says.

    Pillow alone would not look at the checksums of the pixels.
    """
    position = len(_MAGIC["png"])
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        checksum = position + 8 + int(length)
        found = zlib.crc32(memoryview(data)[position + 4 : checksum])
        position = checksum + 4
        if data[checksum:position] != found.to_bytes(4, "big"):
            return None
        if kind == b"IEND":
            return position
    return None


def _jpeg_end(data: bytes) -> int | None:
    """Where the JPEG ends, from its segment lengths; None if it has no end."""
    position = 2
    while position + 2 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == _END:
            return position + 2
        if marker == 0xFF:  # fill bytes may stand before a marker
            position += 1
            continue
        if position + 4 > len(data):
            return None
        position += 2 + int(struct.unpack_from(">H", data, position + 2)[0])
        if marker == _SCAN:
            found = _SCAN_END.search(data, position)
            if found is None:
                return None
            position = found.end() - 2
    return None
