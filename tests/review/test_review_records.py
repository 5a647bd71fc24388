import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_review import NOW

from secpipeline.digests import canonical_json
from secpipeline.errors import InputError
from secpipeline.review.records import ACCEPT_LABEL, ACCEPT_SUGGESTION, REDRAW, SKIP, Change, Decision, Finding, Item

corner = st.floats(0, 500, allow_nan=False)
boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), corner, corner, *[st.floats(2, 90)] * 2)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ids = st.integers(0, 2**64 - 1).map("{:016x}".format)
changes = st.one_of(
    st.builds(
        lambda box_id, old, new: Change(box_id, old, None if new == old else new), words.filter(bool), boxes, boxes
    ),
    st.builds(Change, st.just(""), st.none(), boxes),
)


@st.composite
def decisions(draw):
    whole = draw(st.booleans())
    label = draw(boxes)
    own = Change("b", label, draw((boxes | st.none()).filter(lambda box: box != label)))
    suggestion = draw(st.lists(changes, max_size=3)) if whole else [own]
    item = Item(
        item_id=draw(ids),
        image_id=draw(words),
        kind=draw(words),
        whole=whole,
        box_id="" if whole else "b",
        label=None if whole else label,
        prediction=draw(boxes | st.none()),
        suggestion=tuple(suggestion),
        score=draw(st.floats(0, 1) | st.none()),
        reasons=tuple(draw(st.lists(words, max_size=2))),
        sampled=draw(st.booleans()),
        counted=draw(st.booleans()),
        repeats=draw(ids | st.just("")),
    )
    verdict = draw(st.sampled_from([ACCEPT_LABEL, SKIP, REDRAW] + [ACCEPT_SUGGESTION] * bool(suggestion)))
    drawn = draw(st.lists(changes, min_size=1, max_size=3)) if whole else [own]
    said = {ACCEPT_SUGGESTION: suggestion, REDRAW: drawn}.get(verdict, [])
    seconds = draw(st.floats(0, 10_000))
    return Decision(item, verdict, tuple(said), draw(st.sampled_from(["reviewer one", "Ø. Prüferin"])), seconds, NOW)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(decisions())
def test_decisions_are_read_as_they_were_written(decision):
    assert Decision.parse(json.loads(canonical_json(decision.to_json()))) == decision


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def places(value, path=()):
    yield path
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(decisions(), st.data())
def test_whatever_stands_in_a_record_is_read_or_refused(decision, data):
    record = json.loads(canonical_json(decision.to_json()))
    path = data.draw(st.sampled_from(sorted(places(record), key=str)))
    strange = data.draw(json_values)
    holder = [copy.deepcopy(record)]
    inside = holder
    for key in (0, *path)[:-1]:
        inside = inside[key]
    inside[(0, *path)[-1]] = strange
    try:
        found = Decision.parse(holder[0])
    except InputError:
        return
    assert Decision.parse(json.loads(canonical_json(found.to_json()))) == found


@given(json_values)
def test_records_of_any_json_are_refused(value):
    for record in (Decision, Item, Change):
        with pytest.raises(InputError):
            record.parse(value)


@pytest.mark.parametrize("field", Item.__dataclass_fields__)
def test_no_field_may_be_missing_or_unknown(field):
    record = Item("0" * 16, "street", "sample", True).to_json()
    assert Item.parse(record)
    for damaged in ({**record, "unknown": 1}, {key: value for key, value in record.items() if key != field}):
        with pytest.raises(InputError, match="fields"):
            Item.parse(damaged)


def test_text_that_no_file_can_hold_is_refused():
    record = Item("0" * 16, "street", "sample", True).to_json()
    with pytest.raises(InputError, match="image_id must be text"):
        Item.parse({**record, "image_id": json.loads('"\\ud800"')})


BOX, OTHER = (1.0, 1.0, 9.0, 9.0), (2.0, 2.0, 9.0, 9.0)
GHOST = Item("0" * 16, "street", "ghost", False, "b", BOX, None, (Change("b", BOX, None),))
WHOLE = Item("0" * 16, "street", "sample", True)


@pytest.mark.parametrize(
    ("item", "verdict", "said"),
    [
        (GHOST, "accept", ()),
        (GHOST, ACCEPT_LABEL, (Change("b", BOX, None),)),
        (GHOST, SKIP, (Change("b", BOX, None),)),
        (GHOST, ACCEPT_SUGGESTION, ()),
        (GHOST, ACCEPT_SUGGESTION, (Change("b", BOX, OTHER),)),
        (GHOST, REDRAW, ()),
        (GHOST, REDRAW, (Change("c", BOX, OTHER),)),
        (GHOST, REDRAW, (Change("", None, OTHER),)),
        (GHOST, REDRAW, (Change("b", BOX, OTHER), Change("b", BOX, None))),
        (WHOLE, ACCEPT_SUGGESTION, ()),
    ],
)
def test_an_answer_that_does_not_fit_its_question_is_refused(item, verdict, said):
    with pytest.raises(InputError, match="decision about item 0000"):
        Decision(item, verdict, said, "reviewer one", 1.0, NOW)


@pytest.mark.parametrize("reviewer", ["", "  ", "two\nlines", "x" * 101, "bell\x07"])
def test_somebody_must_be_named(reviewer):
    with pytest.raises(InputError, match="say who reviews"):
        Decision(WHOLE, SKIP, (), reviewer, 1.0, NOW)


@pytest.mark.parametrize(("seconds", "time"), [(-1.0, NOW), (1.0, "yesterday"), (1.0, NOW + "\n")])
def test_times_are_times(seconds, time):
    with pytest.raises(InputError, match="seconds at"):
        Decision(WHOLE, SKIP, (), "reviewer one", seconds, time)


@pytest.mark.parametrize("change", [("", None, None), ("b", BOX, BOX), ("b", None, OTHER), ("", BOX, OTHER)])
def test_changes_that_are_none_are_refused(change):
    with pytest.raises(InputError, match="is none"):
        Change(*change)


def test_findings_suggest_what_they_are_about():
    facts = {"image_id": "street", "score": 0.9, "evidence": 0.9, "reason": ""}
    assert Finding(kind="missing", prediction=BOX, **facts).suggestion() == Change("", None, BOX)
    assert Finding(kind="ghost", box_id="b", label=BOX, **facts).suggestion() == Change("b", BOX, None)
    assert Finding(kind="location", box_id="b", label=BOX, prediction=OTHER, **facts).suggestion() == Change(
        "b", BOX, OTHER
    )
    assert Finding(kind="location", box_id="b", label=BOX, **facts).suggestion() is None
    assert Finding(kind="location", box_id="b", label=BOX, prediction=BOX, **facts).suggestion() is None
    assert Finding(kind="cleanlab", **facts).suggestion() is None
