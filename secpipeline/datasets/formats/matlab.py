"""MATLAB files of level 5: numbers, text, structs and cells, and nothing else.

Written from the "MAT-File Format" document of MathWorks, because :func:`scipy.io.loadmat` believes what a file says
about itself: a few changed bytes make it ask for any amount of memory, or crash the process. Here nothing may claim to
hold more than is there.

>>> variables = load(Path("anno_val.mat").read_bytes(), "anno_val.mat")             # doctest: +SKIP
>>> len(cells(variables["anno_val_aligned"], "anno_val.mat"))                       # doctest: +SKIP
500
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secpipeline.datasets.rows import Row, shown
from secpipeline.errors import InputError

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR, _NUMBERS = 1, 2, 4, range(6, 16)
_COMPLEX = 0x0800
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MAX_INFLATED = 256 << 20
_MAX_DEPTH = 16


@dataclass(frozen=True)
class Cells:
    """A cell array, column by column."""

    items: tuple[Any, ...]


@dataclass(frozen=True)
class Structs:
    """A struct array, column by column: each entry has the same fields."""

    entries: tuple[Mapping[str, Any], ...]


def load(data: bytes, where: str) -> Mapping[str, Any]:
    """The variables of a MAT file: :class:`Cells`, :class:`Structs`, text, or an array of numbers.

    Parameters
    ----------
    data
        The file's bytes.
    where
        Its name, for errors.

    Raises
    ------
    InputError
        If it is not a level 5 MAT file of numbers, text, structs and cells, or promises more than it holds.
    """
    if data[:8] == b"\x89HDF\r\n\x1a\n" or data[124:128] in (b"\x00\x02IM", b"\x02\x00MI"):
        raise InputError(f"{where}: a MAT file of version 7.3; save it with -v7")
    if len(data) < _HEADER or data[124:128] not in (b"\x00\x01IM", b"\x01\x00MI"):
        raise InputError(f"{where}: not a MATLAB file of level 5; save it with -v6 or -v7")
    order = "<" if data[126:128] == b"IM" else ">"
    variables: dict[str, Any] = {}
    try:
        for content in _variables(memoryview(data)[_HEADER:], order):
            name, value = _array(content, order, 0)
            if name in variables:
                raise InputError(f"the variable {name[:60]!r} is there twice")
            variables[name] = value
    except (InputError, ValueError, struct.error, zlib.error) as error:
        raise InputError(f"{where}: truncated or malformed ({error}); deliver it again") from error
    return variables


def _variables(data: memoryview, order: str) -> Iterator[memoryview]:
    """The content of each array at the top of the file, inflated."""
    budget = _MAX_INFLATED
    for kind, content in _elements(data, order):
        if kind != _COMPRESSED:
            yield _matrix(kind, content)
            continue
        inflater = zlib.decompressobj()
        inflated = inflater.decompress(content, budget + 1)
        budget -= len(inflated)
        if not inflater.eof or budget < 0:
            raise InputError(f"a variable is cut short or inflates to more than {_MAX_INFLATED} bytes")
        for inner, part in _elements(memoryview(inflated), order):
            yield _matrix(inner, part)


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of each data element; short ones hold up to four bytes inside their tag."""
    tag = struct.Struct(f"{order}II")
    position = 0
    while position < len(data):
        kind, length = tag.unpack_from(data, position)
        start = position + 8
        after = start + (length if kind == _COMPRESSED else -(-length // 8) * 8)
        if kind >> 16:
            kind, length, start, after = kind & 0xFFFF, kind >> 16, position + 4, position + 8
        if length > len(data) - start or start + length > after:
            raise InputError("an element is longer than what holds it")
        yield kind, data[start : start + length]
        position = after


def _matrix(kind: int, content: memoryview) -> memoryview:
    if kind != _MATRIX:
        raise InputError("holds something other than arrays")
    return content


def _array(content: memoryview, order: str, depth: int) -> tuple[str, Any]:
    """The name and the value of an array."""
    if not content:  # an empty array may be written as nothing at all
        return "", np.empty((0, 0))
    parts = list(_elements(content, order))
    if len(parts) < 3 or len(parts[0][1]) != 8 or depth > _MAX_DEPTH:
        raise InputError("an array has no header, or arrays are nested too deeply")
    (flags,) = struct.unpack_from(f"{order}I", parts[0][1])
    shape = tuple(_numbers(*parts[1], order).tolist())
    counts = all(isinstance(side, int) for side in shape)
    if not counts or len(shape) < 2 or min(shape) < 0 or math.prod(shape) > len(content):
        raise InputError(f"an array of {shown(shape)} in {len(content)} bytes")
    name, rest, entries = bytes(parts[2][1]).decode("latin-1"), parts[3:], math.prod(shape)
    kind = flags & 0xFF
    if kind == _CELL:
        return name, Cells(tuple(_inner(rest, entries, order, depth)))
    if kind == _STRUCT:
        return name, _structs(rest, entries, order, depth)
    if kind == _CHAR:
        return name, _text(rest, shape, order)
    if kind in _NUMBERS and not flags & _COMPLEX and len(rest) == 1:
        values = _numbers(*rest[0], order)
        if len(values) != entries:
            raise InputError(f"an array of {shape} with {len(values)} numbers")
        return name, values.reshape(shape, order="F")
    raise InputError("holds an object, a sparse array, a function or complex numbers; leave it out")


def _inner(parts: list[tuple[int, memoryview]], count: int, order: str, depth: int) -> list[Any]:
    """The values of the arrays inside another one."""
    if len(parts) != count:
        raise InputError(f"{count} arrays should be inside another, but {len(parts)} are")
    return [_array(_matrix(kind, content), order, depth + 1)[1] for kind, content in parts]


def _structs(parts: list[tuple[int, memoryview]], entries: int, order: str, depth: int) -> Structs:
    if len(parts) < 2 or len(parts[0][1]) != 4:
        raise InputError("a struct has no field names")
    (length,) = struct.unpack(f"{order}i", parts[0][1])
    names_bytes = bytes(parts[1][1])
    if length < 1 or len(names_bytes) % length:
        raise InputError("the field names of a struct are broken")
    fields = [
        names_bytes[start : start + length].split(b"\0")[0].decode("latin-1")
        for start in range(0, len(names_bytes), length)
    ]
    if len(set(fields)) != len(fields):
        raise InputError("a struct has a field twice")
    values = iter(_inner(parts[2:], entries * len(fields), order, depth))
    return Structs(tuple({field: next(values) for field in fields} for _ in range(entries)))


def _text(parts: list[tuple[int, memoryview]], shape: tuple[int, ...], order: str) -> str:
    if len(parts) != 1 or parts[0][0] not in _TEXT or (shape[0] > 1 and shape[1] > 0) or len(shape) > 2:
        raise InputError("a text is broken or has several rows")
    kind, content = parts[0]
    encoding = _TEXT[kind] + ({"<": "-le", ">": "-be"}[order] if _TEXT[kind][-2:] in ("16", "32") else "")
    return bytes(content).decode(encoding)


def _numbers(kind: int, content: memoryview, order: str) -> NDArray[Any]:
    if kind not in _STORED:
        raise InputError(f"numbers are stored in an unknown way ({kind})")
    return np.frombuffer(content, f"{order}{_STORED[kind]}")


def cells(value: Any, where: str) -> tuple[Any, ...]:
    """The entries of a cell array; none for an empty array of numbers, which is how MATLAB writes ``{}``.

    Raises
    ------
    InputError
        If it is something else.
    """
    if isinstance(value, Cells):
        return value.items
    if isinstance(value, np.ndarray) and not value.size:
        return ()
    raise InputError(f"{where}: must be a cell array")


def structs(value: Any, where: str) -> list[Row]:
    """The entries of a struct array as rows; none for an empty array.

    Raises
    ------
    InputError
        If it is something else.
    """
    if isinstance(value, np.ndarray) and not value.size:
        return []
    if not isinstance(value, Structs):
        raise InputError(f"{where}: must be a struct")
    many = len(value.entries) > 1
    return [Row(f"{where}({number})" if many else where, entry) for number, entry in enumerate(value.entries, 1)]


def text(row: Row, key: str) -> str:
    """The text of a field; an empty array of numbers is an empty text.

    Raises
    ------
    InputError
        If it is something else.
    """
    value = row.get(key)
    if isinstance(value, np.ndarray) and not value.size:
        return ""
    if not isinstance(value, str):
        row.refuse(f"{key} must be a text")
    return value


def numbers(row: Row, key: str, count: int) -> tuple[float, ...]:
    """``count`` finite numbers.

    Raises
    ------
    InputError
        If it is something else.
    """
    value = row.get(key)
    if not isinstance(value, np.ndarray) or value.size != count:
        row.refuse(f"{key} must be {count} numbers")
    found = value.ravel(order="F").astype(np.float64)
    if not np.isfinite(found).all():
        row.refuse(f"{key} must be {count} finite numbers, not {found[:10].tolist()}")
    return tuple(found.tolist())


def whole(row: Row, key: str, least: int, most: int) -> int:
    """One whole number from ``least`` to ``most``.

    Raises
    ------
    InputError
        If it is something else.
    """
    (value,) = numbers(row, key, 1)
    if not value.is_integer() or not least <= value <= most:
        row.refuse(f"{key} must be a whole number from {least} to {most}, not {value:g}")
    return int(value)
