import numpy as np
import pandas as pd
import pytest

from secpipeline.errors import InputError
from secpipeline.poisoning.concentration import RELEASE, concentrate, sentences

SIZE = (120, 240)
SOURCES = ("a", "b", "c", "d")


def marked(seed=0, number=120, where=None):
    """Events and mild tests anywhere; ``where`` moves the events of source a: a function of its rows."""
    rng = np.random.default_rng(seed)
    rows = []
    for source in SOURCES:
        for n in range(number):
            x, y = rng.uniform(0, SIZE[1] - 10), rng.uniform(0, SIZE[0] - 20)
            kind = ("missing", "ghost", "location")[n % 3]
            corners = (x, y, x + 10, y + 20)
            label, predicted = ((np.nan,) * 4, corners) if kind == "missing" else (corners, (np.nan,) * 4)
            rows.append((kind, source, f"{n:03}", f"{source}/{n:03}", *label, *predicted, n % 2 == 0))
    corners = ("x1", "y1", "x2", "y2", "px1", "py1", "px2", "py2")
    table = pd.DataFrame(rows, columns=["kind", "source", "scene", "image_id", *corners, "event"])
    table["mild"] = ~table["event"]
    return table if where is None else where(table)


def to_the_left(table):
    chosen = (table["source"] == "a") & (table["kind"] == "missing") & table["event"]
    table.loc[chosen, "px1"], table.loc[chosen, "px2"] = 5.0, 15.0
    return table


def test_errors_anywhere_are_not_concentrated():
    found = [concentrate(marked(seed), SIZE) for seed in range(2)]

    assert not any(table["concentrated"].any() for table in found)
    assert sentences(found[0]) == []


def test_missing_boxes_on_the_left_are_told_with_their_share():
    found = concentrate(marked(where=to_the_left), SIZE)

    rows = found[found["concentrated"] & (found["scope"] == "a")]
    assert list(rows[["kind", "dimension", "group"]].itertuples(index=False, name=None)) == [
        ("missing", "across", "left")
    ]
    assert rows["share"].iloc[0] == 1
    assert sentences(found)[0].startswith("a: 100% of its missing boxes are on the left third of the image (")
    assert not any("malicious" in sentence for sentence in sentences(found))


def test_where_the_judges_doubt_anyway_is_no_finding():
    """All mild tests lie on the left too, as where the street is."""

    def everything_left(table):
        chosen = table["kind"] == "missing"
        table.loc[chosen, "px1"], table.loc[chosen, "px2"] = 5.0, 15.0
        return table

    assert not concentrate(marked(where=everything_left), SIZE)["concentrated"].any()


def test_errors_of_one_time_are_told():
    def at_the_end(table):
        own = (table["source"] == "a") & (table["kind"] == "ghost")
        return table.assign(event=table["event"] & (~own | (table["scene"] >= "240")))

    found = concentrate(marked(number=360, where=at_the_end), SIZE)

    told = found[found["concentrated"]]
    assert set(told.loc[told["scope"] == "a", "group"]) == {"last"}


def test_one_kind_beyond_its_peers_is_told():
    def only_ghosts(table):
        own = table["source"] == "a"
        return table.assign(event=table["event"] & (~own | (table["kind"] == "ghost")))

    found = concentrate(marked(where=only_ghosts), SIZE)

    assert "a: 100% of its strong tests are ghost boxes" in "; ".join(sentences(found))


def test_errors_at_a_repeated_patch_are_told_for_the_whole_release():
    table = marked()
    victims = table[table["event"] & (table["kind"] == "missing")].groupby("source").head(15)["image_id"]
    bystanders = table[~table["event"]].groupby("source").head(2)["image_id"]
    patches = pd.DataFrame({"image_id": pd.concat([victims, bystanders]).unique(), "cluster": "p1"})
    elsewhere = pd.DataFrame({"image_id": table["image_id"].unique()[::7], "cluster": "p2"})

    found = concentrate(table, SIZE, pd.concat([patches, elsewhere]))

    told = found[found["concentrated"]]
    assert set(told["group"]) == {"p1"}
    assert RELEASE in set(told["scope"])
    assert "at the repeated patch p1" in sentences(found)[0]


def test_one_scene_counts_once_however_many_frames_it_has():
    table = marked(where=to_the_left)
    frames = table[(table["source"] == "a") & (table["kind"] == "missing") & table["event"]].head(1)
    repeated = pd.concat([marked(), *[frames] * 50], ignore_index=True)

    assert not concentrate(repeated, SIZE)["concentrated"].any()


def test_nothing_to_test_gives_an_empty_table():
    assert concentrate(marked().assign(event=False, mild=False), SIZE).empty


@pytest.mark.parametrize(
    ("size", "patches", "message"),
    [
        ((0, 10), None, "size"),
        (SIZE, pd.DataFrame({"image_id": ["x"]}), "no column cluster"),
        (SIZE, pd.DataFrame({"image_id": ["x", "x"], "cluster": [1, 1]}), "x twice"),
    ],
)
def test_bad_input_is_refused(size, patches, message):
    with pytest.raises(InputError, match=message):
        concentrate(marked(), size, patches)
