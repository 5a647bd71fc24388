"""What a JPEG file says about itself, read without decoding a pixel.

Decoders forgive a JPEG nearly everything: libjpeg paints what is missing grey and skips what is too much. So the
structure is read here, by ITU-T T.81, and whatever two decoders could read differently is refused.

>>> layout = read_layout(Path("street.jpg").read_bytes())                          # doctest: +SKIP
>>> layout.size, len(layout.scans), layout.progressive                             # doctest: +SKIP
((640, 480), 1, False)
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from secpipeline.errors import InputError

MAGIC = b"\xff\xd8\xff"
_END, _SCAN, _RESTART_INTERVAL = 0xD9, 0xDA, 0xDD
_FRAMES = {0xC0: False, 0xC1: False, 0xC2: True}  # baseline, extended and progressive, all with Huffman codes
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_ALONE = (0x01, *range(0xD0, _END + 1))  # markers without content
_TABLES = (0xC4, 0xDB, _RESTART_INTERVAL, *range(0xE0, 0xF0), 0xFE)
# Inside entropy-coded data 0xFF is followed by 0x00 (a stuffed byte) or, where an interval was declared, a restart
# marker; anything else ends the scan.
_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_NO_RESTART = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_RESTARTS = re.compile(rb"\xff([\xd0-\xd7])")
# Every scan of a progressive file costs a pass over the whole picture; encoders write about ten.
_MAX_SCANS = 64
_COEFFICIENTS = 64
_NOTHING = 16  # above every bit that a scan may stop at


@dataclass(frozen=True)
class Scan:
    """One scan: its entropy-coded data lie from ``start`` to ``end``.

    It holds the coefficients from ``first`` to ``last`` down to ``low_bit``; an earlier one held them down to
    ``earlier_bit``, or, if that is 0, none did.
    """

    start: int
    end: int
    components: tuple[int, ...]
    first: int
    last: int
    earlier_bit: int
    low_bit: int


@dataclass(frozen=True)
class Layout:
    """The structure of a JPEG file.

    Attributes
    ----------
    size
        Width and height in pixels.
    progressive
        Whether the scans refine one another.
    scans
        In the order of the file.
    end
        The offset of the first byte after the end marker.
    """

    size: tuple[int, int]
    progressive: bool
    scans: tuple[Scan, ...]
    end: int

    @property
    def sequential(self) -> bool:
        """Whether one scan holds everything, so that it can be decoded while it is read."""
        return not self.progressive and len(self.scans) == 1


@dataclass(frozen=True)
class _Frame:
    progressive: bool
    size: tuple[int, int]
    components: tuple[int, ...]


def read_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from the beginning of a file; None if that does not reach to them.

    Raises
    ------
    InputError
        If the file is malformed, without its name.
    """
    for marker, start, end, _ in _segments(data):
        if marker in _FRAMES or marker in _OTHER_FRAMES:
            return _frame(marker, data[start:end]).size
    return None


def read_layout(data: bytes) -> Layout:
    """Read and check the whole structure.

    Parameters
    ----------
    data
        The file's bytes; what stands after the end marker is the caller's to judge.

    Raises
    ------
    InputError
        If the file is cut short, malformed, or of a kind that not every decoder reads; without the file's name.
    """
    frame: _Frame | None = None
    scans: list[Scan] = []
    restarts = False
    for marker, start, end, following in _segments(data):
        if marker == _END:
            return _complete(frame, tuple(scans), end)
        if marker == _SCAN:
            scans.append(_scan(data[start:end], end, following, frame))
            if restarts:
                _check_restarts(data, scans[-1])
        elif marker == _RESTART_INTERVAL:
            restarts = any(data[start:end])
        elif marker in _FRAMES or marker in _OTHER_FRAMES:
            if frame is not None:
                raise InputError("describes its size twice")
            frame = _frame(marker, data[start:end])
        elif marker not in _TABLES:
            raise InputError(f"malformed: the marker {marker:#04x} has no place in a single picture")
    raise InputError("truncated or malformed: it has no end marker")


def _segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Each segment: its marker, the start and end of its content, and where the next marker stands.

    Between the last two lie a scan's entropy-coded data. Ends without an end marker where the data end or hold
    something that is no segment.
    """
    position, scan_end = 2, _MARKER
    while position + 2 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill bytes may stand before a marker
            position += 1
            continue
        position += 2
        if marker in _ALONE:
            yield marker, position, position, position
            return
        if position + 2 > len(data):
            return
        length = int(struct.unpack_from(">H", data, position)[0])
        if length < 2 or position + length > len(data):
            return
        start, position = position + 2, position + length
        end = position
        if marker == _RESTART_INTERVAL:
            scan_end = _NO_RESTART if any(data[start:end]) else _MARKER
        if marker == _SCAN:
            found = scan_end.search(data, position)
            if found is None:
                return
            position = found.start()
        yield marker, start, end, position


def _frame(marker: int, content: bytes) -> _Frame:
    if marker in _OTHER_FRAMES:
        raise InputError("a lossless, hierarchical or arithmetic-coded JPEG, which few programs read; convert it")
    if len(content) < 6 or len(content) != 6 + 3 * content[5]:
        raise InputError("malformed: its frame header is broken")
    precision, height, width = struct.unpack_from(">BHH", content)
    if precision != 8:
        raise InputError(f"has {precision} bits a colour, only 8 are read; convert it")
    if width == 0 or height == 0:
        raise InputError(f"says that it has {width}×{height} pixels")
    components = tuple(content[6::3])
    if len(set(components)) != len(components) or not components:
        raise InputError("malformed: its colour components have no names of their own")
    return _Frame(_FRAMES[marker], (width, height), components)


def _scan(content: bytes, start: int, end: int, frame: _Frame | None) -> Scan:
    if frame is None or len(content) < 1 or len(content) != 4 + 2 * content[0]:
        raise InputError("malformed: a scan header is broken or comes before the frame header")
    components = tuple(content[1:-3:2])
    if not components or not set(components) <= set(frame.components):
        raise InputError("malformed: a scan holds colours that the picture does not have")
    first, last, bits = content[-3:]
    return Scan(start, end, components, first, last, bits >> 4, bits & 15)


def _check_restarts(data: bytes, scan: Scan) -> None:
    """Restart markers count from 0 to 7 over and over."""
    for number, found in enumerate(_RESTARTS.finditer(data, scan.start, scan.end)):
        if found[1][0] != 0xD0 + number % 8:
            raise InputError("malformed: its restart markers are out of order, so a part of the picture is missing")


def _complete(frame: _Frame | None, scans: tuple[Scan, ...], end: int) -> Layout:
    """The layout, if the scans hold every bit of every coefficient of every colour."""
    if frame is None or not scans:
        raise InputError("malformed: it holds no picture")
    if len(scans) > _MAX_SCANS:
        raise InputError(f"has {len(scans)} scans, more than the {_MAX_SCANS} allowed; save it again")
    missing = InputError("truncated: scans are missing, so a part of its detail or colour is; deliver it again")
    low_bits = {component: [_NOTHING] * _COEFFICIENTS for component in frame.components}
    for scan in scans:
        first, last, earlier, low = (scan.first, scan.last, scan.earlier_bit, scan.low_bit)
        if not frame.progressive:
            first, last, earlier, low = 0, _COEFFICIENTS - 1, 0, 0
        expected = earlier or _NOTHING
        for component in scan.components:
            found = low_bits[component][first : last + 1]
            if not found or found != [expected] * (last + 1 - first) or (earlier and low != earlier - 1):
                raise missing
            low_bits[component][first : last + 1] = [low] * len(found)
    if any(bit for bits in low_bits.values() for bit in bits):
        raise missing
    return Layout(frame.size, frame.progressive, scans, end)
