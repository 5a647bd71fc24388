import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_deliveries import DOCUMENT, HEIGHT, WIDTH, document, outcome, write_document

from secpipeline.datasets.annotations import ANNOTATION_IMAGE_COLUMNS
from secpipeline.datasets.formats.coco import read_coco
from secpipeline.datasets.tables import BOX_COLUMNS
from secpipeline.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One directory for all the documents that hypothesis tries."""
    return tmp_path_factory.mktemp("coco")


def change(section, index, **values):
    """A change of one row; None removes a key."""

    def apply(content):
        row = content[section][index]
        row.update(values)
        for key in [key for key, value in values.items() if value is None]:
            del row[key]

    return apply


def bbox(*values):
    return change("annotations", 1, bbox=list(values))


def test_a_valid_file_becomes_an_image_and_a_box_table(tmp_path):
    annotations = read_coco(write_document(tmp_path, document()))

    assert tuple(annotations.images.columns) == ANNOTATION_IMAGE_COLUMNS
    assert annotations.images.iloc[2].to_dict() == {
        "image_id": "3",
        "file_name": "vendor-a/mall/003.jpg",
        "width": WIDTH,
        "height": HEIGHT,
        "source": "vendor-a",
        "scene": "mall",
        "time_of_day": "dusk",
    }
    assert tuple(annotations.boxes.columns) == BOX_COLUMNS
    rows = list(annotations.boxes.drop(columns=["label", "visibility"]).itertuples(index=False, name=None))
    assert rows == [
        ("1#0", "1", 2.0, 3.0, 8.0, 18.5, False, 15.5),
        ("3#0", "3", 20.25, 4.0, 28.25, 22.0, True, 18.0),
        ("1#1", "1", 0.0, 0.0, 32.0, 24.0, False, 24.0),
        ("6#0", "6", 1.5, 2.5, 4.5, 11.5, True, 9.0),
    ]
    np.testing.assert_array_equal(annotations.boxes["visibility"], [0.75, math.nan, math.nan, math.nan])
    assert annotations.root == tmp_path


def test_an_image_that_says_nothing_about_itself_is_a_scene_of_its_own(tmp_path):
    content = document()
    for key in ("source", "scene", "time_of_day"):
        change("images", 1, **{key: None})(content)

    row = read_coco(write_document(tmp_path, content)).images.iloc[1]

    assert (row["source"], row["scene"], row["time_of_day"]) == ("default", "2", "")


def test_a_file_without_people_gives_an_empty_box_table(tmp_path):
    annotations = read_coco(write_document(tmp_path, document() | {"annotations": []}))

    assert len(annotations.images) == 6
    assert annotations.boxes.empty
    assert tuple(annotations.boxes.columns) == BOX_COLUMNS


# How to spoil the valid document, the row that must be named, and what must be said about it.
REFUSED = {
    "no images": (lambda d: d["images"].clear(), "", "lists no images"),
    "no list of annotations": (lambda d: d.pop("annotations"), "", "has no annotations"),
    "no list of categories": (lambda d: d.pop("categories"), "", "has no categories"),
    "images in an object": (lambda d: d.update(images={"1": d["images"][0]}), "", "'images' must be a list"),
    "annotation in a list": (lambda d: d["annotations"].insert(1, [1, 2]), "annotations[1]", "must be an object"),
    "image id used twice": (change("images", 4, id=2), "images[4]", "image_id 2 was already used by images[1]"),
    "image id as text and number": (change("images", 4, id="2"), "images[4]", "was already used by images[1]"),
    "box id used twice": (change("annotations", 3, id=10), "annotations[3]", "already used by annotations[0]"),
    "category id used twice": (change("categories", 2, id=1), "categories[2]", "category id 1 appears twice"),
    "file used twice": (
        change("images", 1, file_name="vendor-a/quay/001.jpg"),
        "images[1]",
        "file_name vendor-a/quay/001.jpg was already used by images[0]",
    ),
    "image without an id": (change("images", 0, id=None), "images[0]", "has no id"),
    "truth value as an id": (change("images", 0, id=True), "images[0]", "id must be a text"),
    "fraction as an id": (change("images", 0, id=1.0), "images[0]", "id must be a text"),
    "id with a line break": (change("images", 0, id="a\nb"), "images[0]", "holds control characters"),
    "id that turns text around": (change("images", 0, id="a\u202eb"), "images[0]", "holds control characters"),
    "endless id": (change("images", 0, id="a" * 201), "images[0]", "id must be a text of 1 to 200"),
    "image without a file": (change("images", 3, file_name=None), "images[3]", "has no file_name"),
    "file above the delivery": (change("images", 3, file_name="../x.jpg"), "images[3]", "not a safe relative"),
    "file above by a detour": (change("images", 3, file_name="a/../../x.jpg"), "images[3]", "not a safe relative"),
    "absolute file": (change("images", 3, file_name="/etc/x.jpg"), "images[3]", "not a safe relative"),
    "backslash in a file": (change("images", 3, file_name="a\\x.jpg"), "images[3]", "not a safe relative"),
    "file in two Unicode forms": (change("images", 3, file_name="e\u0301.jpg"), "images[3]", "not a safe relative"),
    "endless name": (change("images", 3, file_name="é" * 201), "images[3]", "file_name must be a text of 1 to 200"),
    "id of a thousand digits": (change("images", 0, id=10**1000), "images[0]", "id is a whole number of more than 64"),
    "id of 65 bits": (change("images", 0, id=2**63), "images[0]", "id is a whole number of more than 64 bits"),
    "box id of a thousand digits": (change("annotations", 0, id=-(10**1000)), "annotations[0]", "more than 64 bits"),
    "width of zero": (change("images", 0, width=0), "images[0]", "width must be a whole number"),
    "width in text": (change("images", 0, width="32"), "images[0]", "width must be a whole number"),
    "fractional height": (change("images", 0, height=24.5), "images[0]", "height must be a whole number"),
    "endless height": (change("images", 0, height=math.inf), "images[0]", "height must be a whole number"),
    "image wider than any": (change("images", 0, width=65_536), "images[0]", "width must be a whole number"),
    "unknown time of day": (change("images", 0, time_of_day="noon"), "images[0]", "time_of_day is 'noon'"),
    "empty source": (change("images", 0, source=""), "images[0]", "source must be a text"),
    "box of no image": (change("annotations", 2, image_id=77), "annotations[2]", "image 77, which is not in"),
    "unknown category": (change("annotations", 2, category_id=9), "annotations[2]", "category 9 is not in the file"),
    "box around a car": (change("annotations", 2, category_id=3), "annotations[2]", "category 3 is no pedestrian"),
    "three coordinates": (bbox(1, 2, 3), "annotations[1]", "must be 4 finite numbers"),
    "coordinate in text": (bbox(1, 2, "3", 4), "annotations[1]", "must be 4 finite numbers"),
    "coordinate missing": (bbox(1, 2, None, 4), "annotations[1]", "must be 4 finite numbers"),
    "coordinate not a number": (bbox(1, math.nan, 3, 4), "annotations[1]", "must be 4 finite numbers"),
    "infinite coordinate": (bbox(1, 2, 3, math.inf), "annotations[1]", "must be 4 finite numbers"),
    "coordinate beyond a double": (bbox(1, 2, 3, 10**400), "annotations[1]", "must be 4 finite numbers"),
    "sum beyond a double": (bbox(1e308, 2, 1e308, 4), "annotations[1]", "leaves the 32×24 image"),
    "negative width": (bbox(9, 2, -3, 4), "annotations[1]", "has no area"),
    "height of zero": (bbox(1, 2, 3, 0), "annotations[1]", "has no area"),
    "height below a millionth": (bbox(1, 2, 3, 1e-9), "annotations[1]", "has no area"),
    "box over the left edge": (bbox(-0.5, 2, 3, 4), "annotations[1]", "leaves the 32×24 image"),
    "box over the lower edge": (bbox(1, 20, 3, 4.01), "annotations[1]", "leaves the 32×24 image"),
    "box beside the image": (bbox(40, 2, 3, 4), "annotations[1]", "leaves the 32×24 image"),
    "crowd of two": (change("annotations", 0, iscrowd=2), "annotations[0]", "iscrowd must be true or false"),
    "ignore in text": (change("annotations", 0, ignore="no"), "annotations[0]", "ignore must be true or false"),
    "visibility in percent": (change("annotations", 0, visibility=75), "annotations[0]", "from 0 to 1"),
    "visibility not a number": (change("annotations", 0, visibility=math.nan), "annotations[0]", "from 0 to 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_document_that_cannot_be_trusted_is_refused_with_its_file_and_row(tmp_path, case):
    spoil, row, message = REFUSED[case]
    content = document()
    spoil(content)
    path = write_document(tmp_path, content)

    with pytest.raises(InputError) as refusal:
        read_coco(path)

    assert str(refusal.value).startswith(f"{path}: {row}")
    assert message in str(refusal.value)
    assert str(refusal.value).isprintable()


# Raw bytes in place of a JSON document, and what must be said about them.
UNREADABLE = {
    "nothing": (b"", "not a JSON file"),
    "half a file": (json.dumps(DOCUMENT).encode()[:-40], "not a JSON file"),
    "two files in one": (json.dumps(DOCUMENT).encode() * 2, "not a JSON file"),
    "no text": (b"\xff\xd8\xff\xe0 a JPEG", "not a JSON file"),
    "endless nesting": (b"[" * 200_000, "not a JSON file"),
    "endless number": (b'{"images": ' + b"9" * 10_000 + b"}", "not a JSON file"),
    "a list": (b"[]", "holds a list"),
    "a text": (b'"images"', "holds a str"),
    "a section twice": (b'{"images": [], "annotations": [], "images": []}', "key 'images' appears twice"),
    "a row's key twice": (b'{"images": [{"id": 1, "width": 9, "id": 2}]}', "key 'id' appears twice"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_is_no_unambiguous_json_object_is_refused_by_name(tmp_path, case):
    data, message = UNREADABLE[case]
    path = tmp_path / "instances.json"
    path.write_bytes(data)

    with pytest.raises(InputError) as refusal:
        read_coco(path)

    assert str(refusal.value).startswith(f"{path}: ")
    assert message in str(refusal.value)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()], ids=["missing", "a directory"])
def test_a_path_that_is_no_file_is_refused_by_name(tmp_path, make):
    path = tmp_path / "instances.json"
    make(path)

    with pytest.raises(InputError, match=r"instances\.json: cannot be read"):
        read_coco(path)


CLIPPED = {
    "left": ((-5, 4, 10, 10), (0, 4, 5, 14)),
    "lower right": ((30, 20, 10, 10), (30, 20, 32, 24)),
    "all sides": ((-1, -1, 100, 100), (0, 0, 32, 24)),
    "none": ((1, 2, 3, 4), (1, 2, 4, 6)),
    "beyond a double": ((1, 2, 1e308, 4), (1, 2, 32, 6)),
}


@pytest.mark.parametrize("case", CLIPPED)
def test_a_box_over_the_edge_is_cut_where_that_is_asked_for(tmp_path, case):
    written, expected = CLIPPED[case]
    content = document()
    bbox(*written)(content)

    boxes = read_coco(write_document(tmp_path, content), clip=True).boxes

    assert tuple(boxes.loc[1, ["x1", "y1", "x2", "y2"]]) == expected
    assert boxes.loc[1, "height"] == expected[3] - expected[1]


@pytest.mark.parametrize("values", [(40, 2, 3, 4), (-5, 2, 5, 4), (1, 24, 3, 4), (9, 2, -3, 4)])
def test_a_box_with_nothing_inside_the_image_is_refused_even_where_boxes_are_cut(tmp_path, values):
    content = document()
    bbox(*values)(content)

    with pytest.raises(InputError, match=r"annotations\[1\] \(id 11\): .*has no area"):
        read_coco(write_document(tmp_path, content), clip=True)


def test_a_refusal_does_not_repeat_an_endless_or_unprintable_id(tmp_path):
    for bad in ("\x1b[2Jgone", "a" * 100_000, 10**4000):
        content = document()
        change("annotations", 0, id=bad, visibility="?")(content)

        with pytest.raises(InputError) as refusal:
            read_coco(write_document(tmp_path, content))

        message = str(refusal.value).removeprefix(str(tmp_path))
        assert "annotations[0]" in message
        assert message.isprintable()
        assert len(message) < 400


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-3, 40)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["person", "1", "night", "../x", "a/b.jpg"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
SPOTS = [
    spot
    for section, rows in DOCUMENT.items()
    for spot in [
        (section,),
        *((section, index) for index in range(len(rows))),
        *((section, index, key) for index, row in enumerate(rows) for key in row),
    ]
]


def holds(place, step):
    if isinstance(place, list):
        return isinstance(step, int) and step < len(place)
    return isinstance(place, dict) and step in place


def mutate(content, spot, how, value):
    """Change a document at one spot, if an earlier change has left it there."""
    place = content
    for step in spot[:-1]:
        if not holds(place, step):
            return
        place = place[step]
    last = spot[-1]
    if not holds(place, last):
        return
    if how == "replace":
        place[last] = value
    elif how == "repeat" and isinstance(place, list):
        place.append(place[last])
    elif how == "rename" and isinstance(place, dict):
        place[str(value)[:5]] = place.pop(last)
    else:
        del place[last]


def check_annotations(annotations):
    """What holds for everything that read_coco lets pass."""
    images, boxes = annotations.images, annotations.boxes
    assert len(images) > 0
    assert images["image_id"].is_unique
    assert images["file_name"].is_unique
    assert boxes["box_id"].is_unique
    sizes = images.set_index("image_id").loc[boxes["image_id"], ["width", "height"]].to_numpy()
    corners = boxes[["x1", "y1", "x2", "y2"]].to_numpy(float)
    assert (corners[:, :2] >= 0).all()
    assert (corners[:, 2:] <= sizes).all()
    assert (corners[:, 2:] > corners[:, :2]).all()
    assert (boxes["label"] == "pedestrian").all()
    assert boxes["visibility"].dropna().between(0, 1).all()


mutations = st.tuples(st.sampled_from(SPOTS), st.sampled_from(["drop", "replace", "repeat", "rename"]), json_values)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(mutations, min_size=1, max_size=2), st.booleans())
def test_a_mutated_document_is_read_correctly_or_refused_by_file(folder, changes, clip):
    content = document()
    for spot, how, value in changes:
        mutate(content, spot, how, value)
    path = write_document(folder, content)

    annotations, refusal = outcome(lambda: read_coco(path, clip=clip))

    if refusal is None:
        check_annotations(annotations)
    else:
        assert refusal.startswith(f"{path}: ")
        assert refusal.isprintable()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, len(json.dumps(DOCUMENT)) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_a_document_with_broken_bytes_is_read_correctly_or_refused_by_file(folder, start, inserted, removed):
    data = json.dumps(DOCUMENT).encode()
    path = folder / "bytes.json"
    path.write_bytes(data[:start] + inserted + data[start + removed :])

    annotations, refusal = outcome(lambda: read_coco(path))

    if refusal is None:
        check_annotations(annotations)
    else:
        assert refusal.startswith(f"{path}: ")
