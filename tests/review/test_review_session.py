import io
import json

import numpy as np
import pytest
from PIL import Image
from small_review import CORNERS, Clock, answer, finding, write_artifacts

from secpipeline.errors import InputError, IntegrityError
from secpipeline.review import session as sessions
from secpipeline.review.budget import BudgetRule
from secpipeline.review.data import ReviewData
from secpipeline.review.journal import read
from secpipeline.review.session import Session, Stale

RULE = BudgetRule(items=16)


def some(images, boxes):
    boxes = boxes[~boxes["ignore"]]
    counts = boxes.groupby("image_id").size()
    chosen = counts[counts >= 2].index[:4]
    rows = [finding(chosen[0], "cleanlab", 0.9)]
    for image_id in chosen:
        own = boxes[boxes["image_id"] == image_id]
        rows.append(finding(image_id, "missing", 0.9, predicted=(5.0, 5.0, 25.0, 60.0)))
        rows.append(finding(image_id, "ghost", 0.85, box=own.iloc[0]))
        rows.append(finding(image_id, "location", 0.7, box=own.iloc[1], predicted=(50.0, 20.0, 80.0, 70.0)))
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return ReviewData.read(*write_artifacts(tmp_path_factory.mktemp("artifacts"), some), image_score=0.8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "decisions.jsonl"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def session(data, path, clock):
    with Session.open(path, data, "reviewer one", RULE, 4, clock) as session:
        yield session


def now(session):
    return session.view()["item"]


def until(session, wanted):
    """Skip to the first item that is wanted."""
    while not wanted(now(session)):
        session.decide(now(session)["id"], "skip")
    return now(session)


def decisions(path):
    return read(path.read_bytes()).decisions


def test_answers_are_written_one_after_the_other(session, path, clock):
    first = now(session)
    clock.seconds += 7.25
    session.decide(first["id"], "accept-label")
    second = now(session)
    clock.seconds += 2
    session.decide(second["id"], "skip")
    found = decisions(path)
    assert [d.item.item_id for d in found] == [first["id"], second["id"]]
    assert [d.verdict for d in found] == ["accept-label", "skip"]
    assert [d.seconds for d in found] == [7.2, 2.0]
    assert [d.time for d in found] == ["2026-11-24T08:56:47Z", "2026-11-24T08:56:49Z"]
    assert {d.reviewer for d in found} == {"reviewer one"}
    view = session.view()
    assert (view["done"], view["last"]) == (2, second["id"])


def test_all_answers_lead_to_a_summary(session, path):
    total = session.view()["total"]
    for number in range(total):
        view = session.view()
        assert (view["done"], view["total"], view["summary"]) == (number, total, None)
        assert not session.finished
        session.decide(view["item"]["id"], "accept-suggestion" if view["item"]["suggestion"] else "accept-label")
    view = session.view()
    assert session.finished
    assert view["item"] is view["next"] is None
    assert view["summary"]["decided"] == total
    assert view["summary"]["agreement"]["share"] == 1
    assert view["summary"]["residual_error"]["estimate"] == 0
    with pytest.raises(Stale):
        session.decide(view["last"], "skip")


def test_the_next_item_is_the_one_that_comes_next(session):
    while (view := session.view())["next"]:
        session.decide(view["item"]["id"], "skip")
        assert now(session)["id"] == view["next"]


def test_undo_takes_the_last_answer_back(session, path, clock):
    first = now(session)
    session.decide(first["id"], "accept-label")
    clock.seconds += 50
    session.undo(first["id"])
    assert session.view()["last"] is None
    assert now(session)["id"] == first["id"]
    clock.seconds += 3
    session.decide(first["id"], "skip")
    (decision,) = decisions(path)
    assert (decision.verdict, decision.seconds) == ("skip", 3.0)


def test_what_is_not_asked_now_cannot_be_answered_or_taken_back(session, path):
    first, following = now(session)["id"], session.view()["next"]
    for call in (lambda: session.decide(following, "skip"), lambda: session.undo(first)):
        with pytest.raises(Stale):
            call()
    session.decide(first, "skip")
    for call in (lambda: session.decide(first, "accept-label"), lambda: session.undo(following)):
        with pytest.raises(Stale):
            call()
    assert len(decisions(path)) == 1


def test_a_review_goes_on_where_it_was(data, path, clock):
    with Session.open(path, data, "reviewer one", RULE, 4, clock) as session:
        for _ in range(3):
            session.decide(now(session)["id"], "skip")
        before = session.view()
    with Session.open(path, data, "reviewer two", clock=clock) as session:
        assert session.view() == before
        session.decide(now(session)["id"], "accept-label")
    assert [d.reviewer for d in decisions(path)] == ["reviewer one"] * 3 + ["reviewer two"]


def test_without_a_seed_it_cannot_be_foreseen(data, tmp_path):
    seeds = set()
    for number in range(3):
        with Session.open(tmp_path / f"{number}.jsonl", data, "reviewer one"):
            seeds.add(read((tmp_path / f"{number}.jsonl").read_bytes()).header.seed)
    assert len(seeds) == 3


def test_a_review_of_something_else_is_not_gone_on_with(data, path, clock):
    with Session.open(path, data, "reviewer one", RULE, 4, clock) as session:
        session.decide(now(session)["id"], "skip")
    before = path.read_bytes()
    other = ReviewData(
        data.release, data.findings, data.quarantine, {**data.digests, "ingest/dataset.sha256": "0" * 64}
    )
    none = ReviewData(data.release, (), data.quarantine, data.digests)
    for again, facts, says in (
        (other, {}, "another release"),
        (none, {}, "planned by another version"),
        (data, {"seed": 5}, "another budget or seed"),
        (data, {"rule": BudgetRule(items=17)}, "another budget or seed"),
    ):
        with pytest.raises(InputError, match=says):
            Session.open(path, again, "reviewer one", **facts)
    assert path.read_bytes() == before
    Session.open(path, data, "reviewer one", RULE, 4).__exit__()  # what was refused holds no lock


def test_answers_to_other_questions_are_not_gone_on_with(data, path, clock):
    with Session.open(path, data, "reviewer one", RULE, 4, clock) as session:
        for _ in range(2):
            session.decide(now(session)["id"], "skip")
    header, first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + second + first)
    with pytest.raises(InputError, match="what was not asked"):
        Session.open(path, data, "reviewer one")


def test_nobody_reviews_without_a_name(data, path):
    with pytest.raises(InputError, match="say who reviews"):
        Session.open(path, data, " ")
    assert not path.exists()


def test_the_second_showing_looks_like_the_first(data, path, session):
    seen = {}
    while item := now(session):
        session.decide(item["id"], "skip")
        shown = json.dumps({**item, "id": ""})
        seen.setdefault(shown, []).append((item["id"], session.picture(item["id"])))
    twice = [showings for showings in seen.values() if len(showings) == 2]
    assert len(twice) == sum(bool(d.item.repeats) for d in decisions(path)) == 1
    for (first_id, first), (second_id, second) in twice:
        assert first_id != second_id
        assert first == second
    words = " ".join(seen)
    assert "sampled" not in words
    assert "repeats" not in words
    assert "counted" not in words


def test_pictures_are_decoded_and_written_anew(session, data):
    item = now(session)
    png = session.picture(item["id"])
    assert png.startswith(b"\x89PNG")
    image_id = session._images[item["id"]]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), data.release.decode(image_id))
    with pytest.raises(InputError, match="no such item"):
        session.picture("0" * 16)


def test_large_pictures_are_shrunk(session, monkeypatch):
    monkeypatch.setattr(sessions, "MAX_SHOWN_SIDE", 64)
    assert Image.open(io.BytesIO(session.picture(now(session)["id"]))).size == (64, 48)


def test_a_damaged_picture_is_not_shown(tmp_path):
    ingest, audit = write_artifacts(tmp_path, some)
    shard = next((ingest / "shards").glob("*.tar"))
    data = bytearray(shard.read_bytes())
    for start in range(700, len(data), 512):
        data[start] ^= 1
    shard.write_bytes(bytes(data))
    found = ReviewData.read(ingest, audit, image_score=0.8)
    with Session.open(tmp_path / "d.jsonl", found, "reviewer one", RULE, 4) as session, pytest.raises(IntegrityError):
        session.picture(now(session)["id"])


def ghost(item):
    return item["kind"] == "ghost" and not item["whole"]


def missing(item):
    return item["kind"] == "missing" and not item["whole"]


def whole(item):
    return item["whole"] and len(item["labels"]) > 1


NEW = [10, 11.5, 30, 60.25]


def test_a_label_is_redrawn(session, path):
    item = until(session, ghost)
    session.decide(item["id"], "redraw", [{"box_id": item["box_id"], "new": NEW}])
    (change,) = decisions(path)[-1].changes
    assert (change.box_id, change.new) == (item["box_id"], (10.0, 11.5, 30.0, 60.25))
    assert change.old == tuple(item["label"])


def test_a_missing_person_is_drawn(session, path):
    item = until(session, missing)
    session.decide(item["id"], "redraw", [{"box_id": "", "new": NEW}])
    (change,) = decisions(path)[-1].changes
    assert (change.kind, change.new) == ("added", (10.0, 11.5, 30.0, 60.25))


def test_a_whole_image_is_corrected_in_several_places(session, path):
    item = until(session, whole)
    first, second = (label["box_id"] for label in item["labels"][:2])
    drawn = [{"box_id": first, "new": None}, {"box_id": second, "new": NEW}, {"box_id": "", "new": [1, 1, 9, 9]}]
    session.decide(item["id"], "redraw", drawn)
    assert [change.kind for change in decisions(path)[-1].changes] == ["removed", "moved", "added"]


def test_a_suggestion_is_accepted_as_it_was_made(session, path):
    item = until(session, ghost)
    session.decide(item["id"], "accept-suggestion")
    decision = decisions(path)[-1]
    assert decision.changes == decision.item.suggestion
    assert decision.changes == answer(decision.item, True).changes


@pytest.mark.parametrize(
    ("wanted", "verdict", "drawn", "says"),
    [
        (ghost, "delete", [], "no verdict"),
        (ghost, "accept-label", [{"box_id": "", "new": NEW}], "only a redraw"),
        (ghost, "redraw", [], "draw at least one"),
        (ghost, "redraw", 7, "must be a list"),
        (ghost, "redraw", "text", "must be a list"),
        (ghost, "redraw", [7], "fields"),
        (ghost, "redraw", [{"box_id": "own", "new": NEW, "old": NEW}], "fields"),
        (ghost, "redraw", [{"box_id": "", "new": NEW}], "other boxes"),
        (ghost, "redraw", [{"box_id": "other", "new": NEW}], "no label"),
        (ghost, "redraw", [{"box_id": "own", "new": [1, 2, 3]}], "four corners"),
        (ghost, "redraw", [{"box_id": "own", "new": [1, 2, 3, "4"]}], "number"),
        (ghost, "redraw", [{"box_id": "own", "new": [1, 2, 3, 10**400]}], "number"),
        (ghost, "redraw", [{"box_id": "own", "new": [30, 10, 10, 60]}], "no area"),
        (ghost, "redraw", [{"box_id": "own", "new": [1, 1, 2.5, 60]}], "less than 2"),
        (ghost, "redraw", [{"box_id": "own", "new": [100, 10, 128.5, 60]}], "leaves the image"),
        (ghost, "redraw", [{"box_id": "own", "new": [-1, 10, 20, 60]}], "leaves the image"),
        (missing, "redraw", [{"box_id": "", "new": None}], "none"),
        (whole, "accept-suggestion", [], "no suggestion"),
        (whole, "redraw", [{"box_id": "", "new": NEW}] * 501, "the most"),
        (whole, "redraw", [{"box_id": "own", "new": NEW}, {"box_id": "own", "new": None}], "changed twice"),
    ],
)
def test_answers_that_do_not_fit_are_refused_and_change_nothing(session, path, wanted, verdict, drawn, says):
    item = until(session, lambda item: wanted(item) and (says != "no suggestion" or not item["suggestion"]))
    if isinstance(drawn, list):
        own = item["box_id"] or item["labels"][0]["box_id"]
        drawn = [{**d, "box_id": own} if isinstance(d, dict) and d["box_id"] == "own" else d for d in drawn]
    before, view = path.read_bytes(), session.view()
    with pytest.raises(InputError, match=says):
        session.decide(item["id"], verdict, drawn)
    assert path.read_bytes() == before
    assert session.view() == view
    session.decide(item["id"], "skip")


def test_ignored_regions_are_shown_but_are_no_labels(data, path):
    boxes = data.release.boxes
    ignored = boxes[boxes["ignore"]]
    assert not ignored.empty
    rule = BudgetRule(items=40, sample_share=0.5, duplicate_share=0)
    with Session.open(path, data, "reviewer one", rule, 1) as session:
        while item := now(session):
            image_id = session._images[item["id"]]
            own = boxes[boxes["image_id"] == image_id]
            assert item["ignored"] == own.loc[own["ignore"], CORNERS].to_numpy().tolist()
            assert [label["box_id"] for label in item["labels"]] == own.loc[~own["ignore"], "box_id"].tolist()
            session.decide(item["id"], "skip")
