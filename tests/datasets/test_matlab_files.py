import io
import struct
import zlib

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from format_writers import SHOTS, WRITERS, save
from hypothesis import given, settings
from hypothesis import strategies as st
from small_deliveries import outcome

from secpipeline.datasets.formats import matlab, read
from secpipeline.errors import InputError


def mat(variables, **options):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, **options)
    return buffer.getvalue()


def cell(*items):
    array = np.empty((1, len(items)), object)
    array[0] = items
    return array


NESTED = mat({"a": cell({"x": "text", "y": np.arange(6.0).reshape(2, 3)}, cell(1, 2)), "b": np.uint8([[1, 2]])})


def claim(data, old, new):
    """A file that says something else about itself."""
    assert old in data
    return data.replace(old, new, 1)


def compressed(data, size=None):
    """A file with one compressed element after its header."""
    packed = zlib.compress(data)
    return NESTED[:128] + struct.pack("<II", 15, len(packed) if size is None else size) + packed


# The bytes of a MAT file, and what must be said about it.
MALFORMED = {
    "nothing": (b"", "not a MATLAB file of level 5"),
    "text": (b"<html>" * 100, "not a MATLAB file of level 5"),
    "version 7.3": (b"\x89HDF\r\n\x1a\n" + bytes(600), "a MAT file of version 7.3; save it with -v7"),
    "version 7.3 behind a header": (NESTED[:124] + b"\0\2IM" + NESTED[128:], "a MAT file of version 7.3"),
    "level 4": (struct.pack("<5i", 0, 1, 1, 0, 2) + b"a\0" + struct.pack("<d", 1.0) + bytes(200), "not a MATLAB file"),
    "half a file": (NESTED[: len(NESTED) // 2], "an element is longer than what holds it"),
    "half a compressed file": (mat({"a": np.arange(900)}, do_compression=True)[:-20], "an element is longer than"),
    "compressed half": (compressed(NESTED[128:])[:-9] + bytes(9), "truncated or malformed"),
    "cells that are not there": (
        claim(mat({"a": cell(1.0, 2.0)}), struct.pack("<II2i", 5, 8, 1, 2), struct.pack("<II2i", 5, 8, 1, 3)),
        "3 arrays should be inside another, but 2 are",
    ),
    "a billion cells": (
        claim(
            mat({"a": cell(1.0, 2.0)}), struct.pack("<II2i", 5, 8, 1, 2), struct.pack("<II2i", 5, 8, 1 << 15, 1 << 15)
        ),
        "an array of (32768, 32768) in",
    ),
    "negative size": (
        claim(mat({"a": cell(1.0, 2.0)}), struct.pack("<II2i", 5, 8, 1, 2), struct.pack("<II2i", 5, 8, -1, -2)),
        "an array of (-1, -2) in",
    ),
    "numbers that are not there": (
        claim(mat({"a": np.zeros((2, 7))}), struct.pack("<II2i", 5, 8, 2, 7), struct.pack("<II2i", 5, 8, 2, 8)),
        "an array of (2, 8) with 14 numbers",
    ),
    "complex numbers": (mat({"a": np.array([1 + 2j])}), "complex numbers"),
    "a variable twice": (NESTED + NESTED[128:], "the variable 'a' is there twice"),
    "text in an unknown code": (
        claim(mat({"a": "xy"}), struct.pack("<HH", 16, 2), struct.pack("<HH", 3, 2)),
        "a text is broken",
    ),
    "rows of text": (mat({"a": np.array(["xy", "zw"])}), "a text is broken or has several rows"),
    "text that is none": (claim(mat({"a": "xyz"}), b"xyz", b"\xff\xfe\xfd"), "truncated or malformed ("),
    "a field twice": (claim(mat({"a": {"xx": 1, "yy": 2}}), b"yy", b"xx"), "a struct has a field twice"),
    "a sparse array": (mat({"a": scipy.sparse.eye(3).tocsc()}), "holds an object, a sparse array, a function"),
    "inflates without end": (compressed(bytes(300 << 20)), "inflates to more than"),
    "endless nesting": (mat({"a": np.array(0.0)}), None),
}
deep = np.array([[1.0]])
for _ in range(20):
    deep = cell(deep)
MALFORMED["endless nesting"] = (mat({"a": deep}), "arrays are nested too deeply")


@pytest.mark.parametrize("case", MALFORMED)
def test_a_file_that_is_not_what_it_says_is_refused_by_name(case):
    data, message = MALFORMED[case]

    with pytest.raises(InputError) as refusal:
        matlab.load(data, "a.mat")

    assert str(refusal.value).startswith("a.mat: ")
    assert message in str(refusal.value)


@pytest.mark.parametrize("options", [{}, {"do_compression": True}, {"oned_as": "column"}])
def test_numbers_text_structs_and_cells_come_through(options):
    content = cell({"x": "text", "y": np.arange(6.0).reshape(2, 3)}, {"x": "", "y": np.int16([7, 8])})

    variables = matlab.load(mat({"a": content, "b": np.uint8([[1, 2]])}, **options), "a.mat")

    first, second = (matlab.structs(entry, "a")[0] for entry in matlab.cells(variables["a"], "a"))
    assert (matlab.text(first, "x"), matlab.text(second, "x")) == ("text", "")
    assert matlab.numbers(first, "y", 6) == (0, 3, 1, 4, 2, 5)
    assert matlab.numbers(second, "y", 2) == (7, 8)
    assert variables["b"].tolist() == [[1, 2]]


letters = st.characters(exclude_categories=["C"], max_codepoint=0xFFFF)
values = st.recursive(
    st.text(letters, max_size=5).map(lambda text: np.array([text]))
    | st.tuples(st.integers(0, 3), st.integers(0, 4), st.sampled_from(["f8", "f4", "u1", "i2", "u4", "i8", "?"])).map(
        lambda shape: (np.arange(shape[0] * shape[1]).reshape(shape[:2]) % 100).astype(shape[2])
    ),
    lambda inner: st.lists(inner, max_size=4).map(lambda items: cell(*items))
    | st.dictionaries(st.sampled_from(["a", "bc", "field_of_thirty_one_characters_"]), inner, min_size=1, max_size=3),
    max_leaves=8,
)  # fmt: skip


def assert_alike(ours, theirs):
    """What this reader and SciPy's make of the same bytes."""
    if isinstance(ours, matlab.Cells):
        assert theirs.dtype == object
        for mine, other in zip(ours.items, theirs.ravel(order="F"), strict=True):
            assert_alike(mine, other)
    elif isinstance(ours, matlab.Structs):
        for mine, other in zip(ours.entries, theirs.ravel(order="F"), strict=True):
            assert tuple(mine) == theirs.dtype.names
            for name, value in mine.items():
                assert_alike(value, other[name])
    elif isinstance(ours, str):
        assert theirs.dtype.kind == "U"
        assert ours.rstrip() == ("" if not theirs.size else theirs.item().rstrip())
    else:
        np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(values, st.booleans())
def test_a_file_that_scipy_wrote_is_read_as_scipy_reads_it(value, compress):
    data = mat({"value": value}, do_compression=compress)

    assert_alike(matlab.load(data, "a.mat")["value"], scipy.io.loadmat(io.BytesIO(data))["value"])


def test_a_big_endian_file_is_checked_in_its_own_order():
    body = struct.pack(">II", 6, 8) + struct.pack(">II", 6, 0)  # array flags: class 6, double
    body += (
        struct.pack(">IIii", 5, 8, 1, 2)
        + struct.pack(">HH4s", 1, 1, b"a\0\0\0")
        + struct.pack(">IIdd", 9, 16, 1.5, 2.5)
    )
    data = NESTED[:124] + b"\x01\x00MI" + struct.pack(">II", 14, len(body)) + body

    assert matlab.load(data, "a.mat")["a"].tolist() == [[1.5, 2.5]]
    with pytest.raises(InputError, match=r"an array of \(1, 2000000\)"):
        matlab.load(data.replace(struct.pack(">ii", 1, 2), struct.pack(">ii", 1, 2_000_000)), "a.mat")


def rewrite(delivered, change):
    """Write the delivery's MAT file again with a change of its variables."""
    variables = scipy.io.loadmat(delivered.file, struct_as_record=True)
    variables = {name: value for name, value in variables.items() if not name.startswith("__")}
    change(variables)
    with delivered.file.open("wb") as file:
        scipy.io.savemat(file, variables)


def entry(variables, number=0):
    return variables["anno_val_aligned"][0, number][0, 0]


def set_bbs(row, column, value):
    def apply(variables):
        bbs = entry(variables)["bbs"].astype(float)
        bbs[row, column] = value
        entry(variables)["bbs"] = bbs

    return apply


def set_field(name, value):
    return lambda variables: entry(variables).__setitem__(name, value)


def first_object(variables):
    return variables["A"][0, 0]["objLists"][0, 29][0, 0]


# A change of what stands in the file, and what must be said.
CITYPERSONS = {
    "another variable": (lambda v: v.update(x=v.pop("anno_val_aligned")), "must hold one of anno_train_aligned and"),
    "both variables": (lambda v: v.update(anno_train_aligned=v["anno_val_aligned"]), "must hold one of anno_train"),
    "no cells": (lambda v: v.update(anno_val_aligned=np.arange(3)), "anno_val_aligned: must be a cell array"),
    "a number in a cell": (lambda v: v["anno_val_aligned"].__setitem__((0, 1), 5.0), "{2}: must be a struct"),
    "an empty cell": (lambda v: v["anno_val_aligned"].__setitem__((0, 1), np.empty((0, 0))), "{2}: must be one struct"),
    "name in numbers": (set_field("im_name", np.array([[1.0]])), "{1}: im_name must be a text"),
    "name above": (set_field("im_name", np.array(["../../etc/passwd"])), "im_name '../../etc/passwd' is not CITY_"),
    "another city": (set_field("cityname", np.array(["ulm"])), "cityname 'ulm' is not the city of 'aachen_"),
    "image twice": (
        lambda v: v["anno_val_aligned"].__setitem__((0, 1), v["anno_val_aligned"][0, 0]),
        "already used by",
    ),
    "boxes in text": (set_field("bbs", np.array(["x"])), "bbs must be a matrix of numbers"),
    "nine columns": (set_field("bbs", np.zeros((2, 9))), "bbs must have 10 columns, not 9"),
    "unknown class": (set_bbs(1, 0, 6), "bbs(2): class 6 is not one of 0 to 5"),
    "half a class": (set_bbs(1, 0, 1.5), "bbs(2): class 1.5 is not one of"),
    "NaN": (set_bbs(1, 2, np.nan), "bbs(2): row must be 10 finite numbers"),
    "infinite": (set_bbs(1, 3, np.inf), "bbs(2): row must be 10 finite numbers"),
    "negative": (set_bbs(1, 3, -4), "bbs(2): box [30.0, 5.0, -4.0, 30.0] (x, y, width, height) has no area"),
    "negative visible": (set_bbs(1, 8, -4), "bbs(2): visible box"),
    "outside": (set_bbs(1, 1, 55), "bbs(2): box [55.0, 5.0, 65.0, 35.0] leaves the 60×40 image"),
}


@pytest.mark.parametrize("case", CITYPERSONS)
def test_citypersons_that_cannot_be_trusted_are_refused_with_their_cell_and_row(tmp_path, case):
    change, message = CITYPERSONS[case]
    delivered = WRITERS["citypersons-mat"](tmp_path, SHOTS)
    rewrite(delivered, change)

    with pytest.raises(InputError) as refusal:
        read(delivered.path, delivered.format)

    assert str(refusal.value).startswith(f"{delivered.path}: ")
    assert message in str(refusal.value)


def set_top(name, value):
    return lambda variables: variables["A"][0, 0].__setitem__(name, value)


def set_object(name, value):
    return lambda variables: first_object(variables).__setitem__(name, value)


CALTECH = {
    "another variable": (lambda v: v.update(B=v.pop("A")), "holds no variable A"),
    "a number": (lambda v: v.update(A=5.0), "A: must be a struct"),
    "frames missing": (set_top("nFrame", np.array([[91.0]])), "A: nFrame is 91, but objLists has 90 frames"),
    "half a frame": (set_top("nFrame", np.array([[0.5]])), "A: nFrame must be a whole number"),
    "endless frames": (set_top("nFrame", np.array([[1e300]])), "A: nFrame must be a whole number"),
    "lists in numbers": (set_top("objLists", np.arange(90.0)), "A.objLists: must be a cell array"),
    "label in numbers": (set_top("objLbl", cell(1.0, 2.0, 3.0)), "A.objLbl: label must be a text"),
    "unknown label": (set_top("objLbl", cell("cat", "people", "x")), "label 'cat' is not one of person, people"),
    "no labels": (set_top("objLbl", np.empty((0, 0))), "A.objLists{30}(1): id points to a label, but there is none"),
    "object of no label": (set_object("id", np.array([[9.0]])), "(1): id must be a whole number from 1 to 3"),
    "pos of three": (set_object("pos", np.array([[1.0, 2, 3]])), "(1): pos must be 4 numbers"),
    "pos without end": (set_object("pos", np.array([[1.0, 2, np.inf, 3]])), "(1): pos must be 4 finite numbers"),
    "pos in text": (set_object("pos", np.array(["x"])), "(1): pos must be 4 numbers"),
    "negative": (set_object("pos", np.array([[1.0, 2, -3, 3]])), "(1): pos [1.0, 2.0, -3.0, 3.0] has no area"),
    "negative visible": (set_object("posv", np.array([[1.0, 2, -3, 3]])), "(1): posv [1.0, 2.0, -3.0, 3.0] has a neg"),
    "occl of two": (set_object("occl", np.array([[2.0]])), "(1): occl must be a whole number from 0 to 1"),
}


@pytest.mark.parametrize("case", CALTECH)
def test_a_vbb_file_that_cannot_be_trusted_is_refused_with_its_frame_and_object(tmp_path, case):
    change, message = CALTECH[case]
    delivered = WRITERS["caltech vbb"](tmp_path, SHOTS)
    rewrite(delivered, change)

    with pytest.raises(InputError) as refusal:
        read(delivered.path)

    assert str(refusal.value).startswith(f"{delivered.file}: ")
    assert message in str(refusal.value)


words = st.sampled_from([0, 1, 2, 5, 6, 14, 15, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]) | st.integers(
    0, 2**32 - 1
)


@pytest.mark.parametrize("writer", ["citypersons-mat", "citypersons-mat v6", "caltech vbb"])
@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), words), min_size=1, max_size=3))
def test_a_matlab_file_with_other_numbers_in_it_is_read_or_refused_by_name(tmp_path_factory, writer, changes):
    root = tmp_path_factory.getbasetemp() / f"numbers {writer}"
    if writer not in fuzzed:
        fuzzed[writer] = WRITERS[writer](root, SHOTS)
        whole[writer] = fuzzed[writer].file.read_bytes()
    broken = bytearray(whole[writer])
    for where, value in changes:
        place = int(where * len(broken) // 4) * 4
        broken[place : place + 4] = struct.pack("<I", value)
    save(fuzzed[writer].file, bytes(broken))

    _, refusal = outcome(lambda: read(fuzzed[writer].path, fuzzed[writer].format))

    assert refusal is None or str(root) in refusal


fuzzed = {}
whole = {}
