import copy
import hashlib
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from format_writers import SHOTS, WRITERS, Seen, Shot, blank, save
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_deliveries import outcome

from secpipeline.datasets.decoding import image_file_size
from secpipeline.datasets.formats import FORMATS, read, write_coco
from secpipeline.errors import InputError


@st.composite
def shots(draw):
    found = []
    for _ in range(draw(st.integers(1, 3))):
        size = draw(st.tuples(st.integers(9, 60), st.integers(9, 60)))
        boxes = []
        for _ in range(draw(st.integers(0, 3))):
            x, y = draw(st.integers(0, size[0] - 1)), draw(st.integers(0, size[1] - 1))
            width, height = draw(st.integers(1, size[0] - x)), draw(st.integers(1, size[1] - y))
            visible = draw(st.just((width, height)) | st.tuples(st.integers(0, width), st.integers(0, height)))
            boxes.append(Seen(x, y, width, height, visible, draw(st.booleans())))
        found.append(Shot(size, boxes))
    return found


def assert_same(found, delivered, tolerance=0.0):
    pd.testing.assert_frame_equal(found.images, delivered.images, check_exact=True)
    exact = found.boxes.assign(height=found.boxes["y2"] - found.boxes["y1"])
    pd.testing.assert_frame_equal(exact, delivered.boxes, check_exact=not tolerance, atol=tolerance, rtol=0)


@pytest.mark.parametrize("writer", WRITERS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(shots())
def test_every_format_is_recognised_and_read_as_it_was_written_and_survives_coco(tmp_path_factory, writer, drawn):
    root = tmp_path_factory.mktemp("delivery")
    delivered = WRITERS[writer](root, drawn)

    found = read(delivered.path, **delivered.options)

    assert_same(found, delivered, tolerance=2e-4 if writer == "yolo" else 0.0)
    write_coco(found, root / "as-coco.json")
    again = read(root / "as-coco.json")
    pd.testing.assert_frame_equal(again.images, found.images, check_exact=True)
    pd.testing.assert_frame_equal(again.boxes, found.boxes, check_exact=True)
    shutil.rmtree(root)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_format_can_be_named_and_its_files_are_those_that_were_read(tmp_path, writer):
    delivered = WRITERS[writer](tmp_path, SHOTS)

    found = read(str(delivered.path), delivered.format)

    assert_same(found, delivered, tolerance=2e-4 if writer == "yolo" else 0.0)
    base = delivered.path if delivered.path.is_dir() else delivered.path.parent
    assert found.files[delivered.file.relative_to(base).as_posix()] == (
        hashlib.sha256(delivered.file.read_bytes()).hexdigest()
    )
    assert all(hashlib.sha256((base / name).read_bytes()).hexdigest() == digest for name, digest in found.files.items())
    assert found.rejected == ()


def test_a_delivery_that_looks_like_nothing_is_refused_with_every_candidate(tmp_path):
    save(tmp_path / "notes.txt", "hello")

    with pytest.raises(InputError) as refusal:
        read(tmp_path)

    lines = str(refusal.value).splitlines()
    assert lines[0] == f"{tmp_path}: looks like none of these; give the right path, or set data.format:"
    assert [line.strip().split(":")[0] for line in lines[1:]] == list(FORMATS)


def test_a_delivery_that_looks_like_two_is_refused_with_both(tmp_path):
    WRITERS["mot"](tmp_path, SHOTS)
    save(tmp_path / "classes.txt", "person\n")

    with pytest.raises(InputError, match=r"could be more than one of these(?s:.*)\n  mot: .*\n  yolo: "):
        read(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "FeatureCollection", "features": []}',
        '{"images": [], "categories": []}',
        '{"set00": {}, "info": 1}',
        "[1, 2]",
        "3",
        "null",
        "",
        "hello",
        '{"a": 1, "a": 2}',
    ],
)
@pytest.mark.parametrize("given_as", ["file", "directory"])
def test_a_strangers_json_is_refused_by_name_with_every_candidate(tmp_path, text, given_as):
    path = save(tmp_path / "strange.json", text)

    with pytest.raises(InputError) as refusal:
        read(path if given_as == "file" else tmp_path)

    lines = str(refusal.value).splitlines()
    assert lines[0].startswith(f"{path if given_as == 'file' else tmp_path}: looks like none of these")
    assert lines[0].endswith("; give the right path, or set data.format:")
    assert [line.strip().split(":")[0] for line in lines[1:]] == list(FORMATS)


@pytest.mark.parametrize("text", ["[1, 2]", "hello", "{}"])
@pytest.mark.parametrize("writer", ["yolo", "mot", "pennfudan", "citypersons", "caltech vbb"])
def test_a_strange_json_beside_another_format_does_not_hide_it(tmp_path, writer, text):
    delivered = WRITERS[writer](tmp_path, SHOTS)
    save(delivered.path / "00-notes.json", text)

    assert_same(read(delivered.path), delivered, tolerance=2e-4 if writer == "yolo" else 0.0)


@pytest.mark.parametrize("name", ["gone.json", "x" * 5000, "a\0b"])
def test_a_path_that_is_not_there_is_refused_by_name(tmp_path, name):
    with pytest.raises(InputError, match=r"not found; set data\.dataset"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["COCO", "", None, ["coco"]])
def test_an_unknown_format_is_refused_with_those_there_are(tmp_path, name):
    with pytest.raises(InputError, match=r"is no annotation format; there are auto, coco, citypersons"):
        read(tmp_path, name)


@pytest.mark.parametrize("images", [5, ["x"]])
def test_a_root_that_is_no_path_is_refused(tmp_path, images):
    with pytest.raises(InputError, match="must be paths"):
        read(tmp_path, images=images)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_that_does_not_fit_is_refused_by_path(tmp_path, name):
    save(tmp_path / "empty.json", "{}")

    for path in (tmp_path, tmp_path / "empty.json"):
        with pytest.raises(InputError) as refusal:
            read(path, name)
        assert str(tmp_path) in str(refusal.value)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_box_outside_is_refused_by_place_or_cut_where_that_is_asked_for(tmp_path, writer):
    drawn = [Shot((40, 30), [Seen(5, 5, 10, 10, (10, 10)), Seen(30, 20, 20, 15, (20, 15))])]
    if writer in ("mot", "yolo"):
        pytest.skip("has tests of its own: the size is part of how it is written")
    delivered = WRITERS[writer](tmp_path, drawn)

    with pytest.raises(InputError, match=r"leaves the 40×30 image; mend it or set data\.clip_boxes") as refusal:
        read(delivered.path)
    assert str(delivered.file) in str(refusal.value)

    boxes = read(delivered.path, clip=True).boxes
    assert boxes[["x1", "y1", "x2", "y2"]].to_numpy().tolist() == [[5, 5, 15, 15], [30, 20, 40, 30]]
    assert boxes["height"].tolist() == [10, 10]


def edit(old, new, count=1):
    """A change of a text file that must have had the old text."""

    def apply(delivered):
        text = delivered.file.read_bytes().decode()
        assert old in text
        delivered.file.write_bytes(text.replace(old, new, count).encode())

    return apply


def replace(data):
    return lambda delivered: delivered.file.write_bytes(data)


def beside(name, data):
    return lambda delivered: save(delivered.path / name, data)


def without(name):
    return lambda delivered: (delivered.path / name).unlink()


# The writer, what is spoiled, and what must be said, after the path of the file.
REFUSED = {
    "citypersons: no JSON": ("citypersons", replace(b"{"), "not a JSON file"),
    "citypersons: a list": ("citypersons", replace(b"[]"), "holds a list, not a JSON object"),
    "citypersons: no size": ("citypersons", edit('"imgWidth": 60, ', ""), "has no imgWidth"),
    "citypersons: absurd size": (
        "citypersons",
        edit('"imgWidth": 60', '"imgWidth": 70000'),
        "imgWidth must be a whole",
    ),
    "citypersons: unknown label": (
        "citypersons",
        edit('"rider"', '"dog"'),
        "objects[2]: label 'dog' is not one of ignore",
    ),
    "citypersons: NaN": ("citypersons", edit("[2, 3, 8, 20]", "[NaN, 3, 8, 20]"), "objects[0]: bbox must be 4 finite"),
    "citypersons: negative": (
        "citypersons",
        edit("[2, 3, 8, 20]", "[2, 3, -8, 20]"),
        "objects[0]: box [2.0, 3.0, -8.0",
    ),
    "citypersons: negative visible": ("citypersons", edit('Vis": [2, 3, 8', 'Vis": [2, 3, -8'), "has a negative size"),
    "citypersons: no visible box": ("citypersons", edit("bboxVis", "seen"), "objects[0]: has no bboxVis"),
    "citypersons: key twice": ("citypersons", edit('"imgHeight"', '"imgWidth"'), "the key 'imgWidth' appears twice"),
    "caltech json: unknown label": (
        "caltech json",
        edit('"people"', '"cat"'),
        "29[2] (id 2): label 'cat' is not one of",
    ),
    "caltech json: frame beyond": ("caltech json", edit('"nFrame": 90', '"nFrame": 80'), "'89' is no frame of 0 to 79"),
    "caltech json: frame in words": ("caltech json", edit('"59"', '"first"'), "'first' is no frame of 0 to 89"),
    "caltech json: frame of many digits": ("caltech json", edit('"59"', '"' + "5" * 5000 + '"'), "is no frame of"),
    "caltech json: video of another name": ("caltech json", edit("V000", "W000"), "must be called such as set00, V000"),
    "caltech json: pos in text": ("caltech json", edit('"pos": [2', '"pos": ["2"'), "pos must be 4 finite numbers"),
    "caltech json: occl of two": ("caltech json", edit('"occl": 1', '"occl": 2'), "occl must be true or false"),
    "caltech json: frames in a list": (
        "caltech json",
        edit('"frames": {', '"frames": [], "x": {'),
        "'frames' must be an",
    ),
    "eurocity: unknown identity": ("eurocity", edit('"bicycle"', '"bike"'), "children[0]: identity 'bike' is unknown"),
    "eurocity: unknown occlusion": ("eurocity", edit("occluded>10", "occluded>30"), "tag 'occluded>30' is not one of"),
    "eurocity: tags in a text": ("eurocity", edit('["occluded>10"]', '"occluded>10"'), "tags must be a list of texts"),
    "eurocity: no corner": ("eurocity", edit('"x1"', '"xx"'), "children[0]: has no x1"),
    "eurocity: corner without end": ("eurocity", edit('"x0": 2', '"x0": Infinity'), "x0 must be a finite number"),
    "eurocity: corners exchanged": ("eurocity", edit('"x0": 2', '"x0": 20'), "box [20.0, 3.0, 10.0, 23.0] has no area"),
    "eurocity: children in a text": (
        "eurocity",
        edit('"children": []', '"children": "x"'),
        "'children' must be a list",
    ),
    "eurocity: endless children": (
        "eurocity",
        replace(
            b'{"imagewidth": 9, "imageheight": 9, "children": '
            + b'[{"identity": "bicycle", "children": ' * 40
            + b"[]"
            + b"}]" * 40
            + b"}"
        ),
        "children are nested too deeply",
    ),
    "pennfudan: no size": ("pennfudan", edit("Image size", "Picture size"), "has no line 'Image size (X x Y x C)'"),
    "pennfudan: size in words": ("pennfudan", edit("60 x 40 x 3", "60 by 40"), "line 3: must be such as 559 x 536 x 3"),
    "pennfudan: absurd size": (
        "pennfudan",
        edit("60 x 40 x 3", "0 x 40 x 3"),
        "line 3: size must be a whole number from 1",
    ),
    "pennfudan: file elsewhere": (
        "pennfudan",
        edit("PNGImages/", "../../etc/"),
        "line 2: must end in PNGImages/PennPed00000",
    ),
    "pennfudan: unknown label": (
        "pennfudan",
        edit('box for object 1 "PASpersonWalking"', 'box for object 1 "PAScar"'),
        "line 10: label 'PAScar'",
    ),
    "pennfudan: half a box": ("pennfudan", edit("(3, 4) - (10, 23)", "(3, 4)"), "line 10: must be such as (160, 182)"),
    "pennfudan: fraction": ("pennfudan", edit("(3, 4)", "(3.5, 4)"), "line 10: Xmin must be a whole number"),
    "pennfudan: corner in words": ("pennfudan", edit("(3, 4)", "(nan, 4)"), "line 10: Xmin must be a finite number"),
    "pennfudan: another count": ("pennfudan", edit("truth : 3", "truth : 4"), "line 5: says '4 {"),
    "pennfudan: object twice": ("pennfudan", edit("for object 2", "for object 1", 9), "was already used by line 9"),
    "pennfudan: counted from zero": ("pennfudan", edit(": (1, 1)", ": (0, 0)"), "the top left pixel is (0, 0), but"),
    "pennfudan: no colon": (
        "pennfudan",
        edit("Database :", "Database"),
        "line 4: is neither a comment nor KEY : VALUE",
    ),
    "pennfudan: no text": ("pennfudan", replace(b"\xff\xfe\0"), "not a UTF-8 text (byte 0)"),
    "pennfudan: endless line": ("pennfudan", replace(b"#" * 20_000), "line 1: 20000 characters, more than the 10000"),
    "mot: too few columns": ("mot", edit("1,1,3,4,", "1,1,3,"), "line 1: must have 9 columns (frame, id, left, top"),
    "mot: unknown class": ("mot", edit("0,3,1\n", "0,14,1\n"), "class 14 is not one of 1 to 13"),
    "mot: frame beyond": ("mot", edit("1,99,", "4,99,"), "frame must be a whole number from 1 to 3, not '4'"),
    "mot: frame of zero": ("mot", edit("1,99,", "0,99,"), "frame must be a whole number from 1 to 3, not '0'"),
    "mot: NaN": ("mot", edit("1,1,3,4,", "1,1,nan,4,"), "line 1: left must be a finite number, not 'nan'"),
    "mot: underscores": ("mot", edit("1,1,3,4,", "1,1,1_0,4,"), "line 1: left must be a finite number, not '1_0'"),
    "mot: other digits": ("mot", edit("1,1,3,4,", "1,1,٣,4,"), "line 1: left must be a finite number"),
    "mot: endless number": (
        "mot",
        edit("1,1,3,4,", "1,1," + "9" * 400 + ",4,"),
        "line 1: left must be a finite number",
    ),
    "mot: negative": ("mot", edit("3,4,8,20", "3,4,-8,20"), "line 1: width -8 and height 20 leave no area"),
    "mot: outside": ("mot", edit("3,4,8,20", "-3,4,8,20"), "line 1: box [-4.0, 3.0, 4.0, 23.0] leaves the 60×40 image"),
    "mot: considered twice": (
        "mot",
        edit(",1,1,1.0", ",2,1,1.0"),
        "line 1: considered must be a whole number from 0 to 1",
    ),
    "mot: visibility in percent": (
        "mot",
        edit(",1,1,1.0", ",1,1,100"),
        "line 1: visibility must be from 0 to 1, not 100",
    ),
    "mot: person twice in a frame": (
        "mot",
        edit("1,2,", "1,1,"),
        "line 2: frame 1 and id 1 were already used by line 1",
    ),
    "yolo: too few numbers": (
        "yolo",
        edit("0 ", "", 1),
        "line 1: must have 5 numbers (class cx cy width height), not 4",
    ),
    "yolo: a score": ("yolo", edit("\n", " 0.9\n"), "line 1: must have 5 numbers (class cx cy width height), not 6"),
    "yolo: unknown class": ("yolo", edit("0 ", "2 "), "line 1: class 2 is not one of the 2 that are named"),
    "yolo: a car": ("yolo", edit("0 ", "1 "), "line 1: class 1 (car) is no pedestrian; leave its boxes out"),
    "yolo: negative class": ("yolo", edit("0 ", "-1 "), "line 1: class must be a whole number from 0 to"),
    "yolo: pixels": ("yolo", edit("0 0.1", "0 60.1"), "line 1: cx and cy must be from 0 to 1"),
    "yolo: outside": ("yolo", edit("0.133333", "0.533333"), "leaves the 60×40 image; mend it or set data.clip_boxes"),
    "yolo: infinite": ("yolo", edit("0.133333", "inf"), "line 1: width must be a finite number, not 'inf'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_cannot_be_trusted_is_refused_with_its_place(tmp_path, case):
    writer, spoil, message = REFUSED[case]
    delivered = WRITERS[writer](tmp_path, SHOTS)
    spoil(delivered)

    with pytest.raises(InputError) as refusal:
        read(delivered.path, delivered.format)

    assert str(refusal.value).startswith(f"{delivered.file}: ")
    assert message in str(refusal.value)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 500


# The same for what is wrong around the file.
REFUSED_AROUND = {
    "citypersons: another name": ("citypersons", beside("val/aachen/x_gtBboxCityPersons.json", {}), "its name must be"),
    "eurocity: other JSON": ("eurocity", beside("val/notes.json", {"a": 1}), "notes.json: has no imagewidth"),
    "caltech: video without annotation": (
        "caltech vbb",
        lambda d: blank(d.path / "images/set01_V000_I00029.png", (9, 9)),
        "no annotation of set01 V000",
    ),
    "caltech: frame beyond": (
        "caltech vbb",
        lambda d: blank(d.path / "images/set00_V000_I00090.png", (9, 9)),
        "has 90 frames, but there is",
    ),
    "caltech: no frames": ("caltech vbb", lambda d: shutil.rmtree(d.path / "images"), "holds no image such as set00"),
    "caltech: file in another place": ("caltech vbb", lambda d: save(d.path / "x.vbb", b""), "must lie in a directory"),
    "mot: no ground truth": ("mot", without("MOT17-05-SDP/gt/gt.txt"), "gt.txt: cannot be read"),
    "mot: no section": ("mot", beside("MOT17-05-SDP/seqinfo.ini", "a=1"), "not an INI file with a section [Sequence]"),
    "mot: key twice": ("mot", beside("MOT17-05-SDP/seqinfo.ini", "[Sequence]\na=1\na=2"), "not an INI file"),
    "mot: no length": ("mot", beside("MOT17-05-SDP/seqinfo.ini", "[Sequence]\na=1"), "has no seqLength"),
    "mot: absurd length": (
        "mot",
        beside("MOT17-05-SDP/seqinfo.ini", "[Sequence]\nseqLength=99999999"),
        "seqLength must be a whole number",
    ),
    "mot: images elsewhere": (
        "mot",
        beside("MOT17-05-SDP/seqinfo.ini", "[Sequence]\nseqLength=3\nimWidth=60\nimHeight=40\nimDir=../x\nimExt=.jpg"),
        "not a safe relative file name",
    ),
    "mot: films": (
        "mot",
        beside("MOT17-05-SDP/seqinfo.ini", "[Sequence]\nseqLength=3\nimWidth=60\nimHeight=40\nimDir=x\nimExt=.mp4"),
        "imExt is '.mp4', not one of .jpg",
    ),
    "yolo: label of no image": ("yolo", beside("labels/9.txt", ""), "9.txt: belongs to no image"),
    "yolo: no names": ("yolo", beside("classes.txt", "\n\n"), "names 0 classes"),
    "yolo: names twice": ("yolo", beside("data.yaml", "names: [person]"), "must hold exactly one of classes.txt"),
    "yolo: control characters": ("yolo", beside("classes.txt", "person\x1b[2J"), "holds control characters"),
    "yolo: linked directory": (
        "yolo",
        lambda d: (d.path / "labels/more").symlink_to(d.path / "images"),
        "is a symbolic link; deliver the",
    ),
    "pennfudan: no texts": (
        "pennfudan",
        lambda d: [p.unlink() for p in d.path.glob("*/*.txt")],
        "holds no Annotation/*",
    ),
}


@pytest.mark.parametrize("case", REFUSED_AROUND)
def test_a_delivery_that_is_not_whole_is_refused_by_name(tmp_path, case):
    writer, spoil, message = REFUSED_AROUND[case]
    delivered = WRITERS[writer](tmp_path, SHOTS)
    spoil(delivered)

    with pytest.raises(InputError) as refusal:
        read(delivered.path, delivered.format)

    assert message in str(refusal.value)
    assert str(tmp_path) in str(refusal.value)


@pytest.mark.parametrize("writer", ["yolo", "citypersons-mat", "caltech vbb", "caltech json"])
@pytest.mark.parametrize("data", [b"", b"<html>", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_an_image_whose_size_cannot_be_read_is_rejected_alone(tmp_path, writer, data):
    delivered = WRITERS[writer](tmp_path, SHOTS)
    row = delivered.images.iloc[2]
    (tmp_path / row["file_name"]).write_bytes(data)

    found = read(delivered.path)

    (rejection,) = found.rejected
    assert (rejection.image_id, rejection.file_name, rejection.source) == tuple(
        row[["image_id", "file_name", "source"]]
    )
    assert rejection.reason.startswith(f"{row['file_name']}: ")
    assert found.images["image_id"].tolist() == delivered.images["image_id"].tolist()[:2]
    assert row["image_id"] not in set(found.boxes["image_id"])


def test_a_mot_delivery_with_one_sequence_for_each_detector_is_read_once(tmp_path):
    delivered = WRITERS["mot"](tmp_path, SHOTS)
    shutil.copytree(tmp_path / "MOT17-05-SDP", tmp_path / "MOT17-05-DPM")

    found = read(tmp_path)

    assert found.images["source"].unique().tolist() == ["MOT17-05-DPM"]
    assert len(found.boxes) == len(delivered.boxes)
    save(tmp_path / "MOT17-05-DPM/gt/gt.txt", "1,1,1,1,5,5,1,1,1\n")
    with pytest.raises(InputError, match="has another ground truth than MOT17-05-DPM"):
        read(tmp_path)


def test_people_that_do_not_count_are_ignored_and_vehicles_are_left_out(tmp_path):
    delivered = WRITERS["mot"](tmp_path, [Shot((60, 40))])
    lines = [f"1,{label},{label},1,5,5,1,{label},1\n" for label in range(1, 14)]
    save(delivered.file, "".join(lines))

    boxes = read(tmp_path).boxes

    assert dict(zip((boxes["x1"] + 1).astype(int), boxes["ignore"], strict=True)) == {
        1: False, 2: True, 7: True, 8: True, 12: True, 13: True
    }  # fmt: skip


@pytest.mark.parametrize(
    ("identity", "tags", "expected"),
    [
        ("pedestrian", [], [False]),
        ("pedestrian", ["behind-glass"], [True]),
        ("pedestrian", ["sitting-lying", "occluded>10"], [True]),
        ("pedestrian", ["depiction"], [True]),
        ("person-group-far-away", [], [True]),
        ("rider+vehicle-group-far-away", [], [True]),
        (None, [], [True]),
        ("bicycle-group", [], []),
        ("wheelchair", [], []),
    ],
)
def test_eurocity_people_count_as_in_its_benchmark(tmp_path, identity, tags, expected):
    box = {"identity": identity, "tags": tags, "x0": 1, "y0": 1, "x1": 9, "y1": 9}
    save(tmp_path / "a.json", {"imagewidth": 20, "imageheight": 20, "children": [box]})

    assert read(tmp_path / "a.json").boxes["ignore"].tolist() == expected


def test_a_rider_hides_no_pedestrian_among_its_children(tmp_path):
    child = {"identity": "pedestrian", "tags": [], "x0": 2, "y0": 2, "x1": 5, "y1": 9}
    rider = {"identity": "rider", "tags": [], "x0": 1, "y0": 1, "x1": 9, "y1": 9, "children": [child]}
    save(tmp_path / "a.json", {"imagewidth": 20, "imageheight": 20, "children": [rider]})

    boxes = read(tmp_path / "a.json").boxes

    assert boxes[["x1", "ignore"]].to_numpy().tolist() == [[1.0, True], [2.0, False]]


@pytest.mark.parametrize(
    ("occluded", "part", "expected"),
    [
        (0, [0, 0, 0, 0], 1.0), (0, [2, 3, 4, 10], 1.0), (1, [2, 3, 4, 10], 0.25), (1, [2, 3, 8, 20], 0.0),
        (1, [0, 0, 0, 0], np.nan), (1, [2, 3, 0, 0], 0.0), (1, [2, 3, 80, 20], 1.0),
    ],
)  # fmt: skip
def test_caltech_visibility_is_that_of_its_toolbox(tmp_path, occluded, part, expected):
    item = {"lbl": "person", "pos": [2, 3, 8, 20], "posv": part, "occl": occluded}
    save(tmp_path / "a.json", {"set00": {"V000": {"nFrame": 1, "frames": {"0": [item]}}}})
    blank(tmp_path / "set00_V000_0.png", (60, 40))

    np.testing.assert_array_equal(read(tmp_path / "a.json").boxes["visibility"], [expected])


@pytest.mark.parametrize(
    "name",
    ["set00_V000_I00029.jpg", "set00_V000_29.png", "set00/V000/I00029.jpg", "deep/er/set00/V000/29.jpeg"],
)
def test_caltech_frames_are_found_under_their_usual_names(tmp_path, name):
    WRITERS["caltech json"](tmp_path, SHOTS)
    path = tmp_path / "frames" / name
    path.parent.mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(path)
    (tmp_path / "frames/cover.jpg").write_bytes(b"")

    found = read(tmp_path / "annotations.json", images=tmp_path / "frames")

    assert found.images[["image_id", "file_name"]].to_numpy().tolist() == [["set00_V000_I00029", name]]
    assert len(found.boxes) == 3


@pytest.mark.parametrize("place", ["leftImg8bit/val/aachen", "val/aachen", "aachen", "."])
def test_cityscapes_images_are_found_in_their_usual_places(tmp_path, place):
    delivered = WRITERS["citypersons-mat"](tmp_path / "a", SHOTS)
    shutil.copytree(tmp_path / "a/leftImg8bit/val/aachen", tmp_path / "b" / place)

    found = read(delivered.path, images=tmp_path / "b")

    assert found.root == tmp_path / "b"
    for row in found.images.itertuples():
        assert image_file_size(tmp_path / "b", row.file_name) == (row.width, row.height)


def test_cityscapes_images_that_are_nowhere_are_asked_for(tmp_path):
    delivered = WRITERS["citypersons-mat"](tmp_path, SHOTS)
    shutil.rmtree(tmp_path / "leftImg8bit")

    with pytest.raises(InputError, match=r"holds none of the 3 images.*set data\.images to the directory"):
        read(delivered.path)


@pytest.mark.parametrize("place", ["", "gtBboxCityPersons", "gtBboxCityPersons/val", "gtBboxCityPersons/val/aachen"])
def test_citypersons_json_may_be_given_at_any_level(tmp_path, place):
    delivered = WRITERS["citypersons"](tmp_path / "city", SHOTS)

    found = read(tmp_path / "city" / place)

    assert found.root == tmp_path / "city"
    assert_same(found, delivered)


@pytest.mark.parametrize("place", ["", "night", "night/labels", "night/labels/val/ulm"])
def test_eurocity_may_be_given_at_any_level(tmp_path, place):
    WRITERS["eurocity"](tmp_path / "ECP", SHOTS)

    found = read(tmp_path / "ECP" / place)

    names = [(found.root / name).relative_to(tmp_path / "ECP").as_posix() for name in found.images["file_name"]]
    assert names == [f"night/img/val/ulm/ulm_{number:05d}.png" for number in range(3)]
    assert set(found.images["time_of_day"]) == {"night"}


@pytest.mark.parametrize(
    ("writer", "place"),
    [
        *(("citypersons", place) for place in ("", "gtBboxCityPersons", "gtBboxCityPersons/val/aachen")),
        *(("eurocity", place) for place in ("", "night", "night/labels", "night/labels/val/ulm")),
    ],
)
def test_a_path_relative_to_where_one_stands_gives_the_same_images(tmp_path, monkeypatch, writer, place):
    WRITERS[writer](tmp_path, SHOTS)
    whole = read(tmp_path / place)

    monkeypatch.chdir(tmp_path / place)
    found = read(".")

    assert found.root.resolve() == whole.root
    pd.testing.assert_frame_equal(found.images, whole.images)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_masks_give_the_boxes_around_each_number(tmp_path_factory, seed):
    root = tmp_path_factory.mktemp("masks")
    rng = np.random.default_rng(seed)
    mask = np.where(rng.random((20, 30)) < 0.02, rng.integers(1, 5, (20, 30)), 0).astype(np.uint8)
    (root / "PedMasks").mkdir()
    Image.fromarray(mask).save(root / "PedMasks/FudanPed00001_mask.png")

    found = read(root)

    assert found.images.iloc[0].tolist() == [
        "FudanPed00001", "PNGImages/FudanPed00001.png", 30, 20, "fudan", "FudanPed00001", ""
    ]  # fmt: skip
    expected = []
    for number in range(1, 5):
        where = [(x, y) for y in range(20) for x in range(30) if mask[y, x] == number]
        if where:
            xs, ys = zip(*where, strict=True)
            expected.append([min(xs), min(ys), max(xs) + 1, max(ys) + 1])
    assert found.boxes[["x1", "y1", "x2", "y2"]].to_numpy().tolist() == expected


def test_a_mask_that_is_no_mask_is_refused_by_name(tmp_path):
    (tmp_path / "PedMasks").mkdir()
    blank(tmp_path / "PedMasks/a_mask.png", (9, 9))

    with pytest.raises(InputError, match=r"a_mask\.png: a mask must be one picture of one 8-bit value"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("names: [person", "not valid YAML"), ("names: 5", "has no list 'names'"), ("names: {1: person}", "count from 0"),
     ("names: [[person]]", "name must be a text"), ("- person", "has no list 'names'"), ("\xff", "not a UTF-8 text")],
)  # fmt: skip
def test_a_yolo_yaml_that_names_no_classes_is_refused(tmp_path, text, message):
    WRITERS["yolo"](tmp_path, SHOTS)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "data.yaml").write_text(text, encoding="latin-1")

    with pytest.raises(InputError, match=rf"data\.yaml: .*{message}"):
        read(tmp_path)


@pytest.mark.parametrize(
    "text", ["names: [person, car]", "names:\n  0: person\n  1: car\n", "nc: 2\nnames: [Person, 'x']"]
)
def test_yolo_classes_may_stand_in_a_yaml(tmp_path, text):
    delivered = WRITERS["yolo"](tmp_path, SHOTS)
    (tmp_path / "classes.txt").unlink()
    save(tmp_path / "data.yaml", text)

    assert_same(read(tmp_path), delivered, tolerance=2e-4)


def test_a_yolo_box_that_rounding_pushed_over_the_edge_is_cut(tmp_path):
    WRITERS["yolo"](tmp_path, [Shot((60, 40), [Seen(0, 0, 60, 40, (60, 40))])])
    save(tmp_path / "labels/000.txt", "0 0.4999995 0.5 1 1\n0 0.5000005 0.5 1 1\n")

    assert read(tmp_path).boxes[["x1", "x2"]].to_numpy().round(3).tolist() == [[0, 60], [0, 60]]


@pytest.mark.parametrize("writer", WRITERS)
@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.floats(0, 1, exclude_max=True), st.binary(max_size=4), st.integers(0, 40), st.booleans())
def test_a_file_with_broken_bytes_is_read_or_refused_by_name(tmp_path_factory, writer, where, inserted, removed, clip):
    root = tmp_path_factory.getbasetemp() / f"broken {writer}"
    delivered = WRITERS[writer](root, SHOTS) if not root.exists() else fuzzed[writer]
    fuzzed[writer] = delivered
    whole = fuzzed_bytes.setdefault(writer, delivered.file.read_bytes())
    start = int(where * len(whole))
    delivered.file.write_bytes(whole[:start] + inserted + whole[start + removed :])

    _, refusal = outcome(lambda: read(delivered.path, delivered.format, clip=clip))

    assert refusal is None or str(root) in refusal


fuzzed = {}
fuzzed_bytes = {}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-3, 60) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["pedestrian", "person", "29", "set00", "occluded>10", 10**4000, -(10**400)]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def spots(value, place=()):
    yield place
    if isinstance(value, dict):
        for key in value:
            yield from spots(value[key], (*place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from spots(item, (*place, index))


@pytest.mark.parametrize("writer", ["citypersons", "caltech json", "eurocity"])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_a_mutated_json_is_read_or_refused_by_name(tmp_path_factory, writer, data):
    root = tmp_path_factory.getbasetemp() / f"mutated {writer}"
    if not root.exists():
        fuzzed[root] = WRITERS[writer](root, SHOTS)
        fuzzed_bytes[root] = json.loads(fuzzed[root].file.read_bytes())
    content = copy.deepcopy(fuzzed_bytes[root])
    *way, last = data.draw(st.sampled_from(list(spots(content))[1:]))
    place = content
    for step in way:
        place = place[step]
    if data.draw(st.booleans()):
        place[last] = data.draw(json_values)
    else:
        del place[last]
    fuzzed[root].file.write_text(json.dumps(content))

    _, refusal = outcome(lambda: read(fuzzed[root].path, fuzzed[root].format))

    assert refusal is None or str(root) in refusal


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(["mot", "pennfudan", "yolo"]), st.data())
def test_text_with_other_words_is_read_or_refused_by_name(tmp_path_factory, writer, data):
    root = tmp_path_factory.getbasetemp() / f"words {writer}"
    if not root.exists():
        fuzzed[root] = WRITERS[writer](root, SHOTS)
        fuzzed_bytes[root] = fuzzed[root].file.read_text()
    words = re.split(r"([ ,():\n]+)", fuzzed_bytes[root])
    index = data.draw(st.integers(0, len(words) - 1))
    words[index] = data.draw(
        st.text(max_size=6) | st.integers().map(str) | st.floats().map(str)
        | st.sampled_from(["", "-0", "1e999", "1e-999", "0x10", "²", "9" * 5000, ",,,,", "((((", "\0", "\r"])
    )  # fmt: skip
    fuzzed[root].file.write_text("".join(words), encoding="utf-8", errors="surrogatepass")

    _, refusal = outcome(lambda: read(fuzzed[root].path, fuzzed[root].format))

    assert refusal is None or str(root) in refusal
