import hashlib
import itertools
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from secpipeline.datasets.duplicates import DUPLICATE_COLUMNS, NEAR_DISTANCE, dhash, find_duplicates
from secpipeline.datasets.synthetic import SceneSpec, draw_scene
from secpipeline.datasets.tables import empty_boxes
from secpipeline.errors import InputError


def image_table(rows):
    """Rows of hash, file, source, scene, split."""
    return pd.DataFrame(
        {
            "image_id": [f"i{number}" for number in range(len(rows))],
            "sha256": [hashlib.sha256(str(row[1]).encode()).hexdigest() for row in rows],
            "width": 100,
            "height": 50,
            "source": [row[2] for row in rows],
            "scene": [row[3] for row in rows],
            "split": [row[4] for row in rows],
            "dhash": [f"{row[0]:016x}" for row in rows],
        }
    )


def box_table(rows):
    """Rows of image number, corners and whether to ignore."""
    table = pd.DataFrame(rows, columns=["image_id", "x1", "y1", "x2", "y2", "ignore"])
    return table.assign(image_id=[f"i{number}" for number in table["image_id"]])


def pairs(found):
    return {(a, b): kind for a, b, kind in zip(found["image_id"], found["other_id"], found["kind"], strict=True)}


def groups(links, count):
    """Sets of images that are linked, directly or not."""
    parent = list(range(count))

    def root(node):
        while parent[node] != node:
            node = parent[node]
        return node

    for a, b in links:
        parent[root(a)] = root(b)
    found = {}
    for node in range(count):
        found.setdefault(root(node), set()).add(node)
    return {frozenset(group) for group in found.values() if len(group) > 1}


def brute_force(images, distance):
    """Every pair of images that are one file, or of different scenes and within the distance."""
    rows = images.to_dict("records")
    return {
        (a, b)
        for a, b in itertools.combinations(range(len(rows)), 2)
        if rows[a]["sha256"] == rows[b]["sha256"]
        or (
            (rows[a]["source"], rows[a]["scene"]) != (rows[b]["source"], rows[b]["scene"])
            and (int(rows[a]["dhash"], 16) ^ int(rows[b]["dhash"], 16)).bit_count() <= distance
        )
    }


bases = [0, 2**64 - 1, 0x0123456789ABCDEF, 0xFFFFFF0000000000]
hashes = st.tuples(st.sampled_from(bases), st.sets(st.integers(0, 63), max_size=5)).map(
    lambda pair: pair[0] ^ sum(1 << bit for bit in pair[1])
)
rows = st.tuples(
    hashes, st.integers(0, 6), st.sampled_from("ab"), st.sampled_from("xyz"), st.sampled_from(["train", "test"])
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(rows, max_size=24), st.integers(0, 8))
def test_the_groups_are_those_of_comparing_every_pair(drawn, distance):
    files = {}
    # One file has one hash.
    drawn = [
        (files.setdefault(row[1] + 10 * (row[0] % 7), row[0]), row[1] + 10 * (row[0] % 7), *row[2:]) for row in drawn
    ]
    images = image_table(drawn)

    found = find_duplicates(images, empty_boxes(), distance=distance)

    expected = brute_force(images, distance)
    position = {name: number for number, name in enumerate(images["image_id"])}
    links = [(position[a], position[b]) for a, b in zip(found["image_id"], found["other_id"], strict=True)]
    assert set(links) <= expected
    assert len(set(links)) == len(links)
    assert groups(links, len(drawn)) == groups(expected, len(drawn))
    assert tuple(found.columns) == DUPLICATE_COLUMNS
    for row, (a, b) in zip(found.itertuples(), links, strict=True):
        assert row.distance == (drawn[a][0] ^ drawn[b][0]).bit_count()
        assert row.kind == ("file" if drawn[a][1] == drawn[b][1] else "near")
        assert row.crosses_splits == (drawn[a][4] != drawn[b][4])
        assert row.crosses_sources == (drawn[a][2] != drawn[b][2])
        assert not row.labels_differ
    by_group = found.groupby("group")
    assert {frozenset(position[name] for name in {*part["image_id"], *part["other_id"]}) for _, part in by_group} == (
        groups(expected, len(drawn))
    )
    assert found["group"].is_monotonic_increasing


def test_nothing_is_found_among_no_images():
    assert find_duplicates(image_table([]), empty_boxes()).empty


def test_frames_of_one_scene_are_no_near_duplicates_but_equal_files_always_are():
    images = image_table(
        [(0, 1, "a", "x", "train"), (1, 2, "a", "x", "train"), (1, 2, "a", "x", "train"), (3, 3, "a", "y", "test")]
    )

    found = find_duplicates(images, empty_boxes(), distance=2)

    assert pairs(found) == {("i0", "i3"): "near", ("i1", "i2"): "file", ("i1", "i3"): "near", ("i2", "i3"): "near"}


def test_equal_pixels_in_different_files_are_told_from_likeness():
    images = image_table([(5, number, "a", str(number), "train") for number in range(4)])
    contents = {f"i{number}": np.full((50, 100, 3), number // 2, np.uint8) for number in range(4)}
    asked = []

    def pixels(image_id):
        asked.append(image_id)
        return contents[image_id]

    found = find_duplicates(images, empty_boxes(), pixels=pixels)

    assert pairs(found)["i0", "i1"] == pairs(found)["i2", "i3"] == "pixels"
    assert pairs(found)["i0", "i2"] == "near"
    assert sorted(asked) == ["i0", "i1", "i2", "i3"]


def test_only_images_of_one_hash_and_one_size_are_decoded():
    images = image_table([(5, 0, "a", "0", "train"), (5, 1, "a", "1", "train"), (4, 2, "a", "2", "test")])
    images.loc[1, "width"] = 99

    find_duplicates(images, empty_boxes(), pixels=lambda image_id: pytest.fail(f"decoded {image_id}"))


LABELS = {
    "the same": ([(0, 10, 10, 20, 30, False)], [(1, 10, 10, 20, 30, False)], False),
    "nearly the same": ([(0, 10, 10, 20, 30, False)], [(1, 11, 10, 21, 31, False)], False),
    "moved": ([(0, 10, 10, 20, 30, False)], [(1, 30, 10, 40, 30, False)], True),
    "one missing": ([(0, 10, 10, 20, 30, False)], [], True),
    "one ignored": ([(0, 10, 10, 20, 30, False)], [(1, 10, 10, 20, 30, True)], True),
    "regions to ignore alone": ([(0, 10, 10, 20, 30, True)], [], False),
    "in another order": (
        [(0, 10, 10, 20, 30, False), (0, 50, 5, 60, 45, False)],
        [(1, 50, 5, 60, 45, False), (1, 10, 10, 20, 30, False)],
        False,
    ),
    "one twice on the other side": (
        [(0, 10, 10, 20, 30, False), (0, 10, 10, 20, 30, False)],
        [(1, 50, 5, 60, 45, False), (1, 10, 10, 20, 30, False)],
        True,
    ),
    "each like one, but two like the same one alone": (
        [(0, 10, 10, 20, 30, False), (0, 10, 11, 20, 31, False), (0, 50, 5, 60, 45, False)],
        [(1, 10, 10, 20, 30, False), (1, 50, 5, 60, 45, False), (1, 50, 6, 60, 46, False)],
        True,
    ),
    "crowded": (
        [(0, 10, 10, 20, 30, False), (0, 12, 10, 22, 30, False), (0, 14, 10, 24, 30, False)],
        [(1, 11, 10, 21, 30, False), (1, 13, 10, 23, 30, False), (1, 15, 10, 25, 30, False)],
        False,
    ),
    "one twice": (
        [(0, 10, 10, 20, 30, False), (0, 50, 5, 60, 45, False)],
        [(1, 10, 10, 20, 30, False), (1, 10, 10, 20, 30, False)],
        True,
    ),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_that_cannot_both_be_right_are_told(case):
    left, right, differ = LABELS[case]
    images = image_table([(0, 1, "a", "x", "train"), (0, 1, "a", "y", "test")])

    found = find_duplicates(images, box_table(left + right))

    assert found["labels_differ"].tolist() == [differ]


def test_labels_are_compared_as_shares_of_images_of_different_size():
    images = image_table([(0, 1, "a", "x", "train"), (0, 2, "a", "y", "test")])
    images.loc[1, ["width", "height"]] = [200, 100]
    boxes = box_table([(0, 10, 10, 20, 30, False), (1, 20, 20, 40, 60, False)])

    assert find_duplicates(images, boxes)["labels_differ"].tolist() == [False]


@pytest.mark.parametrize("distance", [-1, 9])
def test_an_impossible_distance_is_refused(distance):
    with pytest.raises(InputError, match=f"distance {distance} must be from 0 to 8 bits"):
        find_duplicates(image_table([]), empty_boxes(), distance=distance)


@pytest.mark.parametrize("bad", ["", "xyz", None, "f" * 17])
def test_a_hash_that_is_none_is_refused(bad):
    images = image_table([(0, 1, "a", "x", "train")])
    images["dhash"] = pd.Series([bad], dtype=object)

    with pytest.raises(InputError, match="dhash must hold 16 hex digits"):
        find_duplicates(images, empty_boxes())


def test_more_pairs_than_allowed_are_refused_rather_than_kept():
    images = image_table([(1 << number, number, "a", str(number), "train") for number in range(40)])

    assert len(find_duplicates(images, empty_boxes(), distance=2, max_pairs=1000)) == 780
    with pytest.raises(InputError, match=r"more than .* pairs of near duplicates; lower the distance"):
        find_duplicates(images, empty_boxes(), distance=2, max_pairs=300)


def test_frames_of_one_scene_do_not_count_as_pairs():
    images = image_table([(1 << number, number, "a", "x", "train") for number in range(40)])

    assert find_duplicates(images, empty_boxes(), distance=2, max_pairs=5).empty


@pytest.mark.parametrize("kind", ["random", "one picture", "videos", "one sky"])
def test_many_images_are_compared_in_seconds(kind):
    rng, count = np.random.default_rng(0), 50_000
    drawn = rng.integers(0, 2**63, count, dtype=np.uint64)
    if kind == "one picture":
        drawn[:] = 0
    elif kind == "videos":
        drawn = np.repeat(drawn[: count // 100], 100) ^ (np.uint64(1) << rng.integers(0, 64, count, dtype=np.uint64))
    elif kind == "one sky":
        drawn &= np.uint64(0x0000007FFFFFFFFF)
    images = image_table([(0, number, "a", str(number // 100), "train") for number in range(count)])
    images["dhash"] = [f"{value:016x}" for value in drawn]

    started = time.process_time()
    found = find_duplicates(images, empty_boxes())

    assert time.process_time() - started < 15
    assert (len(found) == count - 1) if kind == "one picture" else (len(found) < count / 10)


def test_near_twins_share_most_bits_of_their_hash_and_strangers_do_not():
    rng = np.random.default_rng(0)
    pixels = np.asarray(Image.fromarray(rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)).resize((128, 96)))
    brighter = np.clip(pixels * 0.8 + 30, 0, 255).astype(np.uint8)
    smaller = np.asarray(Image.fromarray(pixels).resize((64, 48)))
    larger = np.asarray(Image.fromarray(pixels).resize((640, 480)))
    stranger = rng.integers(0, 256, (96, 128, 3)).astype(np.uint8)

    def distance(other):
        return (int(dhash(pixels), 16) ^ int(dhash(other), 16)).bit_count()

    assert len(dhash(pixels)) == 16
    assert distance(pixels) == 0
    assert distance(Image.fromarray(pixels)) == 0
    assert max(distance(other) for other in (brighter, smaller, larger)) <= NEAR_DISTANCE
    assert distance(stranger) >= 20


def test_a_hash_tells_where_brightness_rises_to_the_right():
    rising = np.repeat(np.linspace(0, 255, 90).astype(np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)

    assert dhash(rising) == "f" * 16
    assert dhash(rising[:, ::-1].copy()) == "0" * 16


def test_the_distance_tells_street_scenes_apart_and_finds_a_copy_of_one():
    spec = SceneSpec(width=192, height=144, scenes_per_source=5, frames_per_scene=1, seed=3)
    frames = [
        frame for source in spec.source_names for number in range(5) for frame in draw_scene(spec, source, number)
    ]
    copies = [np.asarray(Image.fromarray(frame.pixels).resize((96, 72))) for frame in frames[:10]]
    found = find_duplicates(
        image_table(
            [
                (int(dhash(frame.pixels), 16), number, frame.source, frame.scene, "train")
                for number, frame in enumerate(frames)
            ]
            + [
                (int(dhash(copy), 16), f"copy {number}", "copies", str(number), "test")
                for number, copy in enumerate(copies)
            ]
        ),
        empty_boxes(),
    )

    assert set(pairs(found)) <= {(f"i{number}", f"i{len(frames) + number}") for number in range(10)}
    assert len(found) >= 9
    assert found["crosses_splits"].all()
