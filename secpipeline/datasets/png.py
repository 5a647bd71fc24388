"""What a PNG file says about itself, checked down to the last byte of its compressed pixels.

Pillow looks at neither the checksums of the pixels nor their number: rows that are missing are black, and what follows
the last row is not read. By the PNG specification (ISO/IEC 15948) both are errors.

>>> layout = read_layout(Path("street.png").read_bytes(), max_pixels=40_000_000)    # doctest: +SKIP
>>> layout.size, layout.end                                                         # doctest: +SKIP
((559, 536), 482913)
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from secpipeline.errors import InputError

MAGIC = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
# Start and step of the columns and rows that each pass of an interlaced picture holds.
_ADAM7 = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))
_PIECE = 8 << 20  # inflated at a time, so that a small file cannot fill the memory


@dataclass(frozen=True)
class Layout:
    """The size of a PNG in pixels (width, height), and the offset of the first byte after its end."""

    size: tuple[int, int]
    end: int


@dataclass(frozen=True)
class _Header:
    size: tuple[int, int]
    bits: int  # of one pixel
    interlaced: bool


def read_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from the beginning of a file; None if that does not reach to them.

    Raises
    ------
    InputError
        If the header is malformed, without the file's name.
    """
    for kind, content in _chunks(memoryview(data)[:33]):
        return _header(kind, content).size
    return None


def read_layout(data: bytes, max_pixels: int) -> Layout:
    """Read and check the whole structure, and inflate the pixels without keeping them.

    Parameters
    ----------
    data
        The file's bytes; what stands after the end chunk is the caller's to judge.
    max_pixels
        Width times height, at most; looked at before anything is inflated.

    Raises
    ------
    InputError
        If a chunk is broken, missing, out of place or unknown and critical, or the pixels are too few or too many;
        without the file's name.
    """
    header: _Header | None = None
    pixels: list[memoryview] = []
    previous, end = b"", len(MAGIC)
    for kind, content in _chunks(memoryview(data)):
        end += 12 + len(content)
        if header is None:
            header = _header(kind, content)
            if header.size[0] * header.size[1] > max_pixels:
                raise InputError(f"{header.size[0]}×{header.size[1]} pixels, more than the {max_pixels} allowed")
        elif kind == b"IEND":
            _check_pixels(b"".join(pixels), _raw_bytes(header))
            return Layout(header.size, end)
        else:
            _check_place(kind, previous, seen_pixels=bool(pixels))
            if kind == b"IDAT":
                pixels.append(content)
        previous = kind
    raise InputError("truncated or malformed: it has no end chunk, or a chunk is not what its checksum says")


def _chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of each chunk; ends early where one is cut short or is not what its checksum says."""
    position = len(MAGIC)
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 8 + length
        if data[end : end + 4] != zlib.crc32(data[position + 4 : end]).to_bytes(4, "big"):
            return
        yield bytes(data[position + 4 : position + 8]), data[position + 8 : end]
        position = end + 4


def _header(kind: bytes, content: memoryview) -> _Header:
    if kind != b"IHDR" or len(content) != 13:
        raise InputError("malformed: it does not begin with a header")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", content)
    if not (0 < width < 1 << 31 and 0 < height < 1 << 31):
        raise InputError(f"says that it has {width}×{height} pixels")
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise InputError("malformed: its header asks for what the PNG specification does not have")
    return _Header((width, height), depth * _CHANNELS[colour], bool(interlace))


def _check_place(kind: bytes, previous: bytes, *, seen_pixels: bool) -> None:
    name = kind.decode("ascii", "replace")
    if kind in _ANIMATION:
        raise InputError("holds more than one picture; save a single frame")
    if kind == b"IHDR" or (kind == b"IDAT" and seen_pixels and previous != b"IDAT"):
        raise InputError(f"malformed: a second {name} stands where none may be")
    if kind not in _CRITICAL and not kind[0] & 0x20:
        raise InputError(f"malformed: the chunk {name!r} is critical and unknown")


def _check_pixels(compressed: bytes, expected: int) -> None:
    """The compressed pixels are one whole zlib stream of exactly the size that the header promises."""
    inflater = zlib.decompressobj()
    waiting, found = compressed, 0
    try:
        while not inflater.eof and found <= expected:
            piece = inflater.decompress(waiting, _PIECE)
            waiting = inflater.unconsumed_tail
            found += len(piece)
            if not piece and not waiting:
                break
    except zlib.error as error:
        raise InputError(f"truncated or malformed: its pixels cannot be inflated ({error})") from error
    if found != expected or not inflater.eof:
        amount = "more" if found > expected else "less"
        raise InputError(f"truncated or malformed: holds {amount} than the {expected} bytes of its pixels")
    if inflater.unused_data:
        raise InputError(f"holds {len(inflater.unused_data)} bytes behind its pixels; save it again without them")


def _raw_bytes(header: _Header) -> int:
    """Bytes of the filtered rows: each row has a byte that names its filter."""
    width, height = header.size
    passes = _ADAM7 if header.interlaced else ((0, 1, 0, 1),)
    total = 0
    for x, dx, y, dy in passes:
        columns, rows = -(-(width - x) // dx), -(-(height - y) // dy)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * header.bits // 8))
    return total
