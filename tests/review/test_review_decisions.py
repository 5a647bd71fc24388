import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_review import CORNERS, answer, box_table, decide, finding, image_table, one_of_each, skip, tables

from secpipeline.datasets.tables import annotation_digests
from secpipeline.errors import InputError
from secpipeline.poisoning.quarantine import curate
from secpipeline.review.budget import BudgetRule, choose
from secpipeline.review.decisions import CHANGE_COLUMNS, apply
from secpipeline.review.quality import UNDECIDED, outcome
from secpipeline.review.records import ACCEPT_LABEL, REDRAW, Change, Item

IMAGES = image_table(24)
BOXES = box_table(IMAGES)
NOTHING_ELSE = BudgetRule(items=500, sample_share=0, duplicate_share=0)
NEW = (40.0, 30.0, 60.0, 90.0)


def reviewed(data, decisions):
    return apply(data.release.images, data.release.boxes, decisions, data.quarantine)


def asked(data, image_id=None, rule=NOTHING_ELSE, seed=0):
    return [item for item in choose(data, rule, seed).items if image_id in (None, item.image_id)]


def state(result, image_id="street-0000"):
    return result.quarantine.set_index("image_id").loc[image_id, "decision"]


def held(*rows, **facts):
    return tables(IMAGES, BOXES, rows, **facts)


def test_an_accepted_label_releases_its_image_and_changes_no_box():
    data = held(finding("street-0000", "ghost", 0.9, box=BOXES.iloc[0]))
    result = reviewed(data, [decide(item, ACCEPT_LABEL) for item in asked(data)])
    assert data.quarantine.table["decision"].value_counts().to_dict() == {"accept": 23, "hold": 1}
    assert set(result.quarantine["decision"]) == {"accept"}
    assert result.quarantine["reason"].iloc[0] == "reviewed by reviewer one"
    pd.testing.assert_frame_equal(result.boxes, BOXES)
    assert result.changes.empty
    images, boxes = curate(result.images.assign(split="train"), result.boxes, result.quarantine)
    assert (len(images), len(boxes)) == (24, 72)


def test_skipped_images_stay_held():
    data = held(finding("street-0000", "ghost", 0.9, box=BOXES.iloc[0]))
    result = reviewed(data, [skip(item) for item in asked(data)])
    pd.testing.assert_frame_equal(result.quarantine, data.quarantine.table)


def test_accepted_suggestions_remove_add_and_move_boxes_and_tell_what_was_there():
    data = held(*one_of_each(BOXES, "street-0000", 0.9))
    result = reviewed(data, [answer(item, True) for item in asked(data)])
    boxes = result.boxes.set_index("box_id")
    assert "street-0000#0" not in boxes.index
    assert boxes.loc["street-0000#1", CORNERS].tolist() == [43.0, 18.0, 63.0, 78.25]
    assert boxes.loc["street-0000#1", "height"] == 60.25
    added = boxes.loc["street-0000#review-0"]
    assert added[CORNERS].tolist() == [120.0, 20.0, 150.0, 100.0]
    assert (added["label"], added["ignore"], added["height"]) == ("pedestrian", False, 80.0)
    assert np.isnan(added["visibility"])
    assert state(result) == "accept"
    changes = result.changes.set_index("change")
    assert tuple(result.changes.columns) == CHANGE_COLUMNS
    assert changes.loc["removed", [f"old_{c}" for c in CORNERS]].tolist() == BOXES.iloc[0][CORNERS].tolist()
    assert changes.loc["removed", CORNERS].isna().all()
    assert changes.loc["moved", [f"old_{c}" for c in CORNERS]].tolist() == BOXES.iloc[1][CORNERS].tolist()
    assert changes.loc["moved", CORNERS].tolist() == [43.0, 18.0, 63.0, 78.25]
    assert changes.loc["added", "box_id"] == "street-0000#review-0"
    assert set(changes["reviewer"]) == {"reviewer one"}
    assert result.boxes.dtypes.to_dict() == BOXES.dtypes.to_dict()


def test_a_drawn_box_takes_the_place_of_the_label_and_of_a_suggestion():
    data = held(*one_of_each(BOXES, "street-0000", 0.9))
    decisions = [decide(item, REDRAW, [Change(item.box_id, item.label, NEW)]) for item in asked(data)]
    boxes = reviewed(data, decisions).boxes.set_index("box_id")
    for box_id in ("street-0000#0", "street-0000#1", "street-0000#review-0"):
        assert tuple(boxes.loc[box_id, CORNERS]) == NEW


def test_an_image_is_released_only_when_every_finding_that_holds_it_is_answered():
    data = held(
        *one_of_each(BOXES, "street-0000", 0.9),
        finding("street-0000", "missing", 0.9, predicted=NEW),
        finding("street-0000", "ghost", 0.5, box=BOXES.iloc[2]),
    )
    items = asked(data)
    strong = [item for item in items if item.score == 0.9]
    assert len(strong) == 4
    for left_out in strong:
        answers = [answer(item, True) for item in strong if item is not left_out]
        assert state(reviewed(data, answers)) == "hold"
        assert state(reviewed(data, [*answers, skip(left_out)])) == "hold"
    assert state(reviewed(data, [answer(item, False) for item in strong])) == "accept"


def test_an_image_of_a_held_source_is_released_only_as_a_whole():
    data = held(*one_of_each(BOXES, "street-0000", 0.9), named=["vendor-a"])
    boxes = [answer(item, False) for item in asked(held(*one_of_each(BOXES, "street-0000", 0.9)))]
    assert len(boxes) == 3
    assert state(reviewed(data, boxes)) == "hold"
    (whole,) = asked(data)
    for wrong in (False, True):
        result = reviewed(data, [answer(whole, wrong)])
        assert state(result) == "accept"
        assert state(result, "street-0004") == "hold"
        assert len(result.changes) == (3 if wrong else 0)


def test_a_rejected_image_is_never_released():
    data = held(integrity={"street-0000": "its bytes changed"})
    whole = Item("1" * 16, "street-0000", "sample", True, sampled=True)
    assert state(reviewed(data, [decide(whole, ACCEPT_LABEL)])) == "reject"


@pytest.mark.parametrize("second", [False, None])
def test_two_answers_that_differ_leave_everything_as_it_was(second):
    data = held(finding("street-0000", "ghost", 0.9, box=BOXES.iloc[0]))
    (first,) = asked(data)
    again = Item(**{**vars(first), "item_id": "2" * 16, "repeats": first.item_id})
    other = skip(again) if second is None else answer(again, second)
    result = reviewed(data, [answer(first, True), other])
    pd.testing.assert_frame_equal(result.quarantine, data.quarantine.table)
    pd.testing.assert_frame_equal(result.boxes, BOXES)
    result = reviewed(data, [answer(first, True), answer(again, True)])
    assert state(result) == "accept"
    assert len(result.changes) == 1


verdicts = st.sampled_from([lambda item: answer(item, True), lambda item: answer(item, False), skip])


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 1000), st.booleans())
def test_a_review_changes_what_was_decided_and_nothing_else(draw, seed, source_held):
    scores = draw.draw(st.lists(st.floats(0, 1), min_size=1, max_size=10))
    rows = [row for number, score in enumerate(scores) for row in one_of_each(BOXES, IMAGES["image_id"][number], score)]
    data = tables(IMAGES, BOXES, rows, named=["vendor-b"] if source_held else [])
    items = choose(data, BudgetRule(items=30), seed).items
    decisions = [draw.draw(verdicts)(item) for item in items[: draw.draw(st.integers(0, len(items)))]]
    result = reviewed(data, decisions)
    before, after = (table.set_index("box_id") for table in (BOXES, result.boxes))
    touched = {change.box_id for decision in decisions for change in decision.changes}
    assert set(before.index) - set(after.index) <= touched
    untouched = [box for box in before.index if box not in touched]
    pd.testing.assert_frame_equal(after.loc[untouched], before.loc[untouched])
    assert result.boxes["box_id"].is_unique
    assert (result.boxes["height"] == result.boxes["y2"] - result.boxes["y1"]).all()
    # Played backwards from what is recorded, the changes give the old labels.
    restored = after.drop(index=result.changes.loc[result.changes["change"] == "added", "box_id"])
    assert len(before) - len(restored) == (result.changes["change"] == "removed").sum()
    old = result.changes[result.changes["change"] != "added"].set_index("box_id")[[f"old_{c}" for c in CORNERS]]
    assert (old.to_numpy() == before.loc[old.index, CORNERS].to_numpy()).all()
    assert result.images["annotations_sha256"].tolist() == annotation_digests(IMAGES["image_id"], result.boxes)
    answered = {decision.item.image_id for decision in decisions if outcome(decision) != UNDECIDED}
    for was, now in zip(data.quarantine.table.itertuples(), result.quarantine.itertuples(), strict=True):
        assert now.decision == was.decision or (was.decision, now.decision) == ("hold", "accept")
        assert now.decision == was.decision or was.image_id in answered


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_the_order_of_decisions_does_not_matter_to_what_becomes_of_images(seed):
    data = held(*(row for image in IMAGES["image_id"][:8] for row in one_of_each(BOXES, image, 0.9)))
    decisions = [answer(item, int(item.item_id, 16) % 2) for item in choose(data, BudgetRule(items=40), seed).items]
    shuffled = [decisions[row] for row in np.random.default_rng(seed).permutation(len(decisions))]
    first, second = reviewed(data, decisions), reviewed(data, shuffled)
    pd.testing.assert_frame_equal(first.quarantine, second.quarantine)
    places = [
        sorted(result.boxes[["image_id", *CORNERS]].itertuples(index=False, name=None)) for result in (first, second)
    ]
    assert places[0] == places[1]


def test_added_boxes_get_ids_that_nothing_else_has():
    boxes = BOXES.copy()
    boxes.loc[0, "box_id"] = "street-0000#review-0"
    data = tables(IMAGES, boxes, [finding("street-0000", "missing", 0.9, predicted=NEW)])
    whole = Item("1" * 16, "street-0000", "sample", True, sampled=True)
    two = [Change("", None, NEW), Change("", None, (1.0, 1.0, 9.0, 9.0))]
    result = reviewed(data, [decide(whole, REDRAW, two)])
    assert result.boxes["box_id"].tolist()[-2:] == ["street-0000#review-1", "street-0000#review-2"]


BOX = tuple(BOXES.iloc[0][CORNERS])
OF_BOX = {"kind": "ghost", "whole": False, "box_id": "street-0000#0", "label": BOX}


def of(number=1, image_id="street-0000", **facts):
    return Item(f"{number:016x}", image_id, **{"kind": "sample", "whole": True, **facts})


@pytest.mark.parametrize(
    ("decisions", "says"),
    [
        ([decide(of(image_id="elsewhere"), ACCEPT_LABEL)], "does not hold"),
        ([decide(of(), REDRAW, [Change("street-0001#0", BOX, None)])], "not there"),
        ([decide(of(), REDRAW, [Change("street-0000#9", BOX, None)])], "not there"),
        ([decide(of(), REDRAW, [Change("street-0000#0", NEW, None)])], "not there"),
        ([decide(of(), REDRAW, [Change("", None, (190.0, 1.0, 201.0, 9.0))])], "leaves the image"),
        ([decide(of(), REDRAW, [Change("", None, (-1.0, 1.0, 20.0, 9.0))])], "leaves the image"),
        ([decide(of(), REDRAW, [Change("street-0000#0", BOX, new) for new in (None, NEW)])], "two decisions"),
        ([decide(of(n, **OF_BOX), REDRAW, [Change("street-0000#0", BOX, NEW)]) for n in (1, 2)], "two decisions"),
        ([decide(of(), ACCEPT_LABEL), decide(of(), ACCEPT_LABEL)], "decided twice"),
    ],
)  # fmt: skip
def test_decisions_that_do_not_fit_the_release_are_refused(decisions, says):
    with pytest.raises(InputError, match=says):
        reviewed(held(), decisions)
