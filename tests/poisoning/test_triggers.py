"""Pictures of random rectangles stand for streets: the same search, a hundredth of the time."""

import numpy as np
import pandas as pd
import pytest

from secpipeline.errors import InputError
from secpipeline.poisoning.backdoors import Trigger
from secpipeline.poisoning.hidden_triggers import scaling_contrast, shared_pattern
from secpipeline.poisoning.patches import Whitening, novel_patches, patch_sample
from secpipeline.poisoning.triggers import TriggerRule, disputed_boxes, find_triggers

HEIGHT, WIDTH = 72, 96
SOURCES = ("a", "b", "c")
EACH = 16
RULE = TriggerRule(patches=8, queries=60)


def picture(rng):
    """Noise, and rectangles of dull colours."""
    pixels = np.full((HEIGHT, WIDTH, 3), rng.integers(60, 180, 3), float)
    for _ in range(12):
        x, y = rng.integers(0, WIDTH - 12), rng.integers(0, HEIGHT - 12)
        pixels[y : y + rng.integers(4, 30), x : x + rng.integers(4, 30)] = rng.integers(40, 200) + rng.integers(
            -20, 21, 3
        )
    return np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)


class Release:
    """Images, one honest box each that the judges find, and what a test stamps on them."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.rng = rng
        ids = [f"{source}{number}" for source in SOURCES for number in range(EACH)]
        self.images = pd.DataFrame({"image_id": ids, "source": [i[0] for i in ids], "scene": ids})
        self.pixels = {image_id: picture(rng) for image_id in ids}
        self.boxes = [(i, 5.0, 5.0, 20.0, 45.0, False) for i in ids]
        self.predictions = [(i, 5.0, 5.0, 20.0, 45.0, 0.9) for i in ids]

    def stamp(self, image_id, corner, height=48, look="texture"):
        patch = Trigger(look, 1 / 4, seed=5).patch(height)
        x, y = corner
        self.pixels[image_id][y : y + len(patch), x : x + len(patch)] = patch

    def anywhere(self):
        return int(self.rng.integers(30, WIDTH - 20)), int(self.rng.integers(0, HEIGHT - 20))

    def tables(self):
        columns = ["image_id", "x1", "y1", "x2", "y2"]
        boxes = pd.DataFrame(self.boxes, columns=[*columns, "ignore"])
        boxes["box_id"] = [f"{image_id}#{n}" for n, image_id in enumerate(boxes["image_id"])]
        return self.images, boxes, pd.DataFrame(self.predictions, columns=[*columns, "score"])

    def search(self, rule=RULE):
        return find_triggers(*self.tables(), self.pixels.__getitem__, rule)


def poisoned(look="texture"):
    """Seven pictures of one source with a trigger on somebody whom the judges find and no label names."""
    release = Release()
    for number in range(7):
        x, y = release.anywhere()
        release.stamp(f"b{number}", (x, y), height=(44, 48, 54)[number % 3], look=look)
        release.predictions.append(
            (f"b{number}", max(x - 8.0, 22.0), max(y - 15.0, 0.0), x + 20.0, min(y + 40.0, 72.0), 0.9)
        )
    return release


@pytest.mark.parametrize("look", ["checkerboard", "sticker", "texture"])
def test_a_repeated_trigger_is_found_where_it_is_and_honest_pictures_are_not_held(look):
    release = poisoned(look)
    search = release.search()

    held = set(search.findings["image_id"])
    assert len(held & {f"b{n}" for n in range(7)}) >= 6
    assert len(held) <= 8
    assert {cluster.source for cluster in search.clusters} == {"b"}
    assert search.clusters[0].patch.shape == (32, 32, 3)
    assert search.findings["score"].between(0, 1, inclusive="right").all()
    assert search.findings["reason"].str.contains("b alone repeats").all()


def test_a_triggered_picture_without_a_dispute_is_held_too():
    release = poisoned()
    release.stamp("b12", release.anywhere())

    assert "b12" in set(release.search().findings["image_id"])


def test_pictures_without_a_trigger_give_nothing():
    search = Release(1).search()

    assert search.findings.empty
    assert search.clusters == ()
    assert search.undecided == ""


def test_what_every_source_has_is_no_trigger():
    release = poisoned()
    for source in SOURCES:
        for number in range(8, 14):
            release.stamp(f"{source}{number}", release.anywhere())

    assert release.search().findings.empty


def test_what_a_source_has_in_all_its_pictures_is_no_trigger():
    release = Release()
    for number in range(EACH):
        release.stamp(f"b{number}", (70, 50))

    assert release.search().findings.empty


def test_what_a_source_repeats_where_nobody_disputes_its_labels_is_no_trigger():
    release = Release()
    for number in range(7):
        release.stamp(f"b{number}", release.anywhere())
    for number in range(7, EACH):
        release.predictions.append((f"b{number}", 60.0, 20.0, 75.0, 60.0, 0.9))

    assert release.search().findings.empty


def test_one_source_alone_is_undecided():
    release = poisoned()
    release.images["source"] = "b"

    search = release.search()

    assert search.findings.empty
    assert "one source" in search.undecided


def test_missing_unsupported_and_excepted_boxes_are_disputed():
    release = Release()
    release.predictions.append(("a0", 60.0, 10.0, 75.0, 50.0, 0.9))
    release.boxes += [("a1", 60.0, 10.0, 75.0, 50.0, False), ("a2", 60.0, 10.0, 75.0, 50.0, True)]
    release.predictions.append(("a2", 60.0, 10.0, 75.0, 50.0, 0.9))

    found = disputed_boxes(*release.tables())

    at = found[found["x1"] == 60.0].groupby("image_id")["evidence"].max()
    assert set(at.index) == {"a0", "a1", "a2"}
    assert (at > 0.3).all()


def test_a_reader_of_another_kind_of_picture_is_refused():
    release = poisoned()
    release.pixels["a3"] = release.pixels["a3"][..., 0]

    with pytest.raises(InputError, match=r"a3 was read as uint8 \(72, 96\)"):
        release.search()


def test_no_patches_no_background():
    with pytest.raises(InputError, match="at least one picture"):
        Whitening.of([])


def test_the_odd_patch_comes_first():
    release = Release()
    pictures = list(release.pixels.values())
    whitening = Whitening.of(patch_sample(p, 10, np.random.default_rng(0)) for p in pictures)
    release.stamp("a0", (60, 30))

    odd = novel_patches(release.pixels["a0"], whitening, 3)

    assert odd.boxes.shape == (3, 4)
    middle = (odd.boxes[0, :2] + odd.boxes[0, 2:]) / 2
    assert ((middle > (58, 28)) & (middle < (74, 44))).all()


def test_a_blended_pattern_stands_out_of_its_source_alone():
    release = Release()
    pattern = np.random.default_rng(9).uniform(0, 255, (18, 24, 3)).repeat(4, axis=0).repeat(4, axis=1)
    for number in range(6):
        mixed = 0.85 * release.pixels[f"c{number}"] + 0.15 * pattern
        release.pixels[f"c{number}"] = mixed.astype(np.uint8)

    excess = shared_pattern(release.images, release.pixels.__getitem__)

    spoiled = release.images["image_id"].isin({f"c{n}" for n in range(6)})
    assert excess[spoiled].min() > 0.1 > excess[~spoiled].max()
    alone = release.images.assign(source="c")
    assert shared_pattern(alone, release.pixels.__getitem__).isna().all()


def test_a_picture_made_for_scaling_differs_from_its_mean():
    rng = np.random.default_rng(2)
    large = picture(rng).repeat(4, axis=0).repeat(4, axis=1)
    hidden = large.copy()
    hidden[100:180:4, 100:180:4] = 250
    hidden[102:180:4, 102:180:4] = 250

    assert scaling_contrast(large, (72, 96)) < 20 < scaling_contrast(hidden, (72, 96))
    with pytest.raises(InputError, match="not scaled down"):
        scaling_contrast(large, (288, 384))
