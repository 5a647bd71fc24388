import json
import os

import pytest
from small_review import DIGESTS, answer, box_table, image_table, one_of_each, tables

from secpipeline.digests import canonical_json
from secpipeline.errors import InputError
from secpipeline.review import journal as journals
from secpipeline.review.budget import BudgetRule, choose
from secpipeline.review.journal import Header, Journal, read

IMAGES = image_table(12)
BOXES = box_table(IMAGES)
RULE = BudgetRule(items=12)
PLAN = choose(tables(IMAGES, BOXES, [r for i in IMAGES["image_id"][:4] for r in one_of_each(BOXES, i, 0.9)]), RULE, 3)
HEADER = Header.of(DIGESTS, RULE, 3, PLAN)
ANSWERS = [answer(item, number % 2) for number, item in enumerate(PLAN.items[:5])]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "review/decisions.jsonl"


def written(path, answers=ANSWERS):
    with Journal.begin(path, HEADER) as journal:
        for decision in answers:
            journal.decide(decision)
    return path.read_bytes()


def test_what_was_decided_is_read_again(path):
    found = read(written(path))
    assert found.header == HEADER
    assert list(found.decisions) == ANSWERS


def test_a_decision_that_is_taken_back_stays_in_the_file(path):
    with Journal.begin(path, HEADER) as journal:
        for decision in ANSWERS[:3]:
            journal.decide(decision)
        journal.undo(ANSWERS[2])
        journal.undo(ANSWERS[1])
        journal.decide(ANSWERS[1])
    assert list(read(path.read_bytes()).decisions) == ANSWERS[:2]
    assert [next(iter(json.loads(line))) for line in path.read_bytes().splitlines()] == [
        "review", "decision", "decision", "decision", "undo", "undo", "decision",
    ]  # fmt: skip


def test_cut_off_anywhere_nothing_that_was_finished_is_lost_and_the_review_goes_on(path):
    whole = written(path)
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10]
    for cut in {
        *range(ends[0], len(whole), 61),
        *ends,
        *(end + 1 for end in ends[:-1]),
        *(end - 1 for end in ends[1:]),
    }:
        path.write_bytes(whole[:cut])
        journal, found = Journal.resume(path)
        finished = sum(end <= cut for end in ends) - 1
        assert list(found.decisions) == ANSWERS[:finished]
        with journal:
            for decision in ANSWERS[finished:]:
                journal.decide(decision)
        assert path.read_bytes() == whole


def test_every_line_is_on_the_disk_before_the_answer_counts(path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(journals.os, "fsync", lambda file: synced.append(os.fstat(file).st_size) or real(file))
    with Journal.begin(path, HEADER) as journal:
        for decision in ANSWERS:
            journal.decide(decision)
            assert synced[-1] == path.stat().st_size


@pytest.mark.parametrize("failing", ["write", "short", "fsync"])
def test_a_full_disk_is_refused_and_leaves_no_half_line(path, monkeypatch, failing):
    before = written(path, ANSWERS[:2])
    journal, _ = Journal.resume(path)
    real = os.write

    def fail(descriptor, line=b""):
        if failing == "short":
            return real(descriptor, line[: len(line) // 2])
        raise OSError(28, "No space left on device")

    with journal:
        with monkeypatch.context() as patch:
            patch.setattr(journals.os, "fsync" if failing == "fsync" else "write", fail)
            with pytest.raises(InputError, match="make room"):
                journal.decide(ANSWERS[2])
        assert path.read_bytes() == before
        journal.decide(ANSWERS[2])
    assert list(read(path.read_bytes()).decisions) == ANSWERS[:3]


def test_two_reviews_cannot_write_one_file(path):
    with Journal.begin(path, HEADER), pytest.raises(InputError, match="another review"):
        Journal.resume(path)
    Journal.resume(path)[0].close()


def test_a_review_is_not_begun_over_another_one(path):
    before = written(path)
    with pytest.raises(InputError, match="already"):
        Journal.begin(path, HEADER)
    assert path.read_bytes() == before


def test_a_link_is_not_followed(path, tmp_path):
    path.parent.mkdir()
    (tmp_path / "other").write_bytes(canonical_json({"review": HEADER.to_json()}))
    path.symlink_to(tmp_path / "other")
    with pytest.raises(InputError, match="cannot be opened"):
        Journal.resume(path)


def lines(path):
    return written(path).splitlines(keepends=True)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda found: [], "empty"),
        (lambda found: found[1:], "line 1"),
        (lambda found: [found[0], b"\n"], "line 2: not JSON"),
        (lambda found: [found[0], found[1].replace(b'"seconds":1.5', b'"seconds":1.50')], "line 2: not written"),
        (lambda found: [found[0], found[1].replace(b":", b": ", 1)], "line 2: not written"),
        (lambda found: [found[0], b'{"decision":1,' + found[1][1:]], "line 2: not JSON|line 2: a key"),
        (lambda found: [*found[:3], canonical_json({"undo": ANSWERS[0].item.item_id})], "line 4: takes back"),
        (lambda found: [found[0], canonical_json({"undo": "x"})], "line 2"),
        (lambda found: [found[0], canonical_json({"decision": json.loads(found[1])["decision"], "more": 1})], "line 2"),
        (lambda found: [found[0].replace(b'"seed":3', b'"seed":-3')], "line 1: seed"),
        (lambda found: [found[0].replace(b'"items":12', b'"items":true')], "line 1: items"),
        (lambda found: [found[0].replace(b"ab" * 32, b"AB" * 32)], "line 1.*SHA-256"),
        (lambda found: [found[0].replace(b"ingest/dataset.sha256", b"other")], "line 1"),
    ],
)
def test_damaged_files_are_refused_by_the_line(path, damage, says):
    data = b"".join(damage(lines(path)))
    with pytest.raises(InputError, match=says):
        read(data)
    path.write_bytes(data)
    with pytest.raises(InputError, match=says):
        Journal.resume(path)
    assert path.read_bytes() == data
