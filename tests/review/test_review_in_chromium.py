"""A whole review as a person does it: keys and mouse in a real browser, then signed, verified and applied."""

import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from browser import CHROMIUM, SHIFT, Browser
from small_review import CORNERS, finding, write_artifacts

from secpipeline.datasets.geometry import overlap
from secpipeline.datasets.releases import Release, write_tables
from secpipeline.poisoning.quarantine import curate
from secpipeline.provenance.keys import KeyRing
from secpipeline.review.app import serve
from secpipeline.review.attestation import ROLE, open_review, sign
from secpipeline.review.budget import BudgetRule
from secpipeline.review.data import ReviewData
from secpipeline.review.decisions import apply
from secpipeline.review.session import Session

pytest.importorskip("websockets", reason="speaks with the browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

SIZES = [(1280, 800), (1920, 1080)]


def findings(images, boxes):
    """One image a kind, each held by one finding, and one of a held source."""
    boxes = boxes[~boxes["ignore"]]
    sources = dict(zip(images["image_id"], images["source"], strict=True))
    people = boxes.groupby("image_id").filter(lambda own: len(own) >= 2)
    free = [image for image in people["image_id"].unique() if sources[image] != "vendor-c"]
    ghost, location, missing, other = (people[people["image_id"] == image].iloc[0] for image in free[:4])
    moved = tuple(location[c] + (5.0 if c.startswith("x") else 0.0) for c in CORNERS)
    held = people[people["image_id"].map(sources) == "vendor-c"]["image_id"].iloc[0]
    return [
        finding(ghost["image_id"], "ghost", 0.99, box=ghost),
        finding(location["image_id"], "location", 0.97, box=location, predicted=moved),
        finding(missing["image_id"], "missing", 0.96, predicted=(70.0, 20.0, 90.0, 80.0)),
        finding(other["image_id"], "ghost", 0.95, box=other),
        finding(held, "missing", 0.9, predicted=(60.0, 25.0, 80.0, 85.0)),
        finding(held, "ghost", 0.8, box=people[people["image_id"] == held].iloc[0]),
    ]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    return write_artifacts(tmp_path_factory.mktemp("artifacts"), findings, named=["vendor-c"], width=256, height=192)


@contextmanager
def served(session):
    told, outcome = [], []
    thread = threading.Thread(target=lambda: outcome.append(serve(session, 0, told.append)), daemon=True)
    thread.start()
    while not told:
        time.sleep(0.01)
    yield told[0], outcome
    thread.join(20)
    assert not thread.is_alive()


class Reviewer:
    """What a person does at the page."""

    def __init__(self, browser):
        self.browser = browser
        self.settle()

    def settle(self):
        self.browser.wait("typeof state !== 'undefined' && state && !busy && (picture || !state.item)")

    def item(self):
        return self.browser.evaluate("state.item")

    def presses(self, *keys):
        for key in keys:
            self.browser.press(key)
            self.settle()

    def point(self, x, y):
        """Where a pixel of the image is on the screen."""
        return self.browser.evaluate(
            "((x, y) => { const c = $('picture'), b = c.getBoundingClientRect(), v = view(c, region);"
            " const r = c.width / b.width;"
            " return [b.left + (x * v.scale + v.left) / r, b.top + (y * v.scale + v.top) / r]; })"
            f"({x}, {y})"
        )

    def drags(self, box):
        self.browser.drag(self.point(*box[:2]), self.point(*box[2:]))

    def clicks(self, element):
        x, y = self.browser.evaluate(
            f"(b => [b.left + b.width / 2, b.top + b.height / 2])($('{element}').getBoundingClientRect())"
        )
        self.browser.click(x, y)
        self.settle()

    def shows(self, text):
        return text in self.browser.evaluate("document.body.innerText")


DRAWN = (100.0, 60.0, 130.0, 140.0)


def review(person):
    """Answer everything; returns what was done by kind of item."""
    done = {}
    while item := person.item():
        kind = ("whole " if item["whole"] else "") + item["kind"]
        if kind in ("whole sample", "whole missing") and kind not in done:
            correct_whole_image(person, item)
        elif kind == "location":
            person.presses("r")
            person.drags(DRAWN)
            person.presses("Enter")
        elif kind == "missing":
            person.presses("s")
        elif kind == "ghost" and kind in done:
            person.clicks("skip")
        else:
            person.presses("a")
        done.setdefault(kind, []).append(item)
    return done


def correct_whole_image(person, item):
    """Remove a label by a click and a key, take a suggestion if there is one, and draw a box."""
    person.presses("r")
    label = min(
        item["labels"], key=lambda label: (label["box"][2] - label["box"][0]) * (label["box"][3] - label["box"][1])
    )
    x1, y1, x2, y2 = label["box"]
    person.browser.click(*person.point((x1 + x2) / 2, (y1 + y2) / 2))
    person.presses("Delete")
    assert person.browser.evaluate("edits.length") == 1
    free = (4.0, 4.0, 20.0, 30.0)
    person.drags(free)
    assert person.browser.evaluate("edits.length") == 2 or person.browser.evaluate("edits[0].new !== null")
    person.presses("Enter")


def test_a_review_from_the_first_key_to_the_next_release(artifacts, tmp_path):
    data = ReviewData.read(*artifacts, image_score=0.8)
    path = tmp_path / "decisions.jsonl"
    rule = BudgetRule(items=12, sample_share=0.25)
    with (
        Session.open(path, data, "reviewer one", rule, 28) as session,
        served(session) as (address, outcome),
        Browser() as browser,
    ):
        browser.open(address)
        person = Reviewer(browser)
        assert person.shows("0 of")
        try_keys(person)
        done = review(person)
        assert person.shows(f"All {session.view()['total']} answered")
        person.presses("u", "k")
        assert person.shows("have a label error")
        finish(browser)
        assert browser.complaints() == []
        elsewhere = [url for url in browser.requests() if not url.startswith((address, "data:"))]
        assert [url for url in elsewhere if not url.endswith("/favicon.ico")] == []
    assert outcome == [True]
    assert {"ghost", "location", "missing", "whole missing", "whole sample"} <= set(done)
    sign_verify_and_apply(artifacts, tmp_path, data, path, done)


def finish(browser):
    browser.press("Enter")
    browser.wait("!document.getElementById('ended').hidden")


def try_keys(person):
    """Everything that changes nothing."""
    browser = person.browser
    before = browser.evaluate("JSON.stringify(state)")
    browser.press("?")
    assert browser.evaluate("document.getElementById('help').open")
    browser.press("a")
    browser.press("Escape")
    browser.wait("!document.getElementById('help').open")
    person.presses("+", "+")
    assert browser.evaluate("region.w < state.item.width")
    person.presses("ArrowRight", "z", "h", "u")
    person.presses("r")
    person.drags(DRAWN)
    person.presses("ArrowRight")
    browser.press("ArrowDown", SHIFT)
    (edit,) = browser.evaluate("edits")
    assert overlap(np.array(edit["new"]), np.array([101.0, 60.0, 131.0, 141.0])) > 0.9
    person.presses("Escape")
    assert browser.evaluate("edits === null && JSON.stringify(state)") == before


def sign_verify_and_apply(artifacts, tmp_path, data, path, done):
    ring = KeyRing.create(tmp_path / "keys")
    envelope = sign(path.read_bytes(), ring.signer(ROLE))
    review_ = open_review(envelope, path.read_bytes(), [ring.public(ROLE)], data.digests)
    assert [d.verdict for d in review_.decisions][-1] == "skip"
    assert sum(b'{"undo"' in line for line in path.read_bytes().splitlines()) == 1
    reviewed = apply(data.release.images, data.release.boxes, review_.decisions, data.quarantine)
    images, boxes = curate(reviewed.images, reviewed.boxes, reviewed.quarantine)
    (tmp_path / "curated").mkdir()
    write_tables(tmp_path / "curated", images, boxes)
    curated = Release(tmp_path / "curated", artifacts[0])
    assert curated.damaged() == []
    by_id = reviewed.boxes.set_index("box_id")
    (location,) = done["location"][:1]
    assert overlap(by_id.loc[location["box_id"], CORNERS].to_numpy(float), np.array(DRAWN)) > 0.9
    added = reviewed.changes[reviewed.changes["change"] == "added"]
    assert (70.0, 20.0, 90.0, 80.0) in added[CORNERS].itertuples(index=False, name=None)
    state = reviewed.quarantine.set_index("image_id")["decision"]
    first, second = (
        data.release.boxes.set_index("box_id").loc[item["box_id"], "image_id"] for item in done["ghost"][:2]
    )
    assert (state[first], state[second]) == ("accept", "hold")
    lifted = reviewed.quarantine.merge(data.quarantine.table, on="image_id").query("decision_x != decision_y")
    assert set(lifted["reason_x"]) == {"reviewed by reviewer one"}
    assert len(lifted) >= 4


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_nothing_is_cut_off_or_overlaps(artifacts, tmp_path, size):
    data = ReviewData.read(*artifacts, image_score=0.8)
    with (
        Session.open(tmp_path / "decisions.jsonl", data, "reviewer one", BudgetRule(items=12), 6) as session,
        served(session) as (address, _),
        Browser(*size) as browser,
    ):
        browser.open(address)
        person = Reviewer(browser)
        page = "(e => e.scrollHeight <= innerHeight && e.scrollWidth <= innerWidth)(document.documentElement)"
        assert browser.evaluate(page)
        while person.item():
            assert cut_off(browser) == []
            person.presses("r")
            assert cut_off(browser) == []
            person.presses("Escape", "k")
        assert cut_off(browser) == []
        finish(browser)


def cut_off(browser):
    """Visible texts that need more room than they have, or lie outside of the window."""
    return browser.evaluate(
        """[...document.querySelectorAll("h1, h2, dt, dd, b, small, kbd, li, figcaption, #count, #drawing")]
        .filter(e => e.checkVisibility() && !e.closest("dialog, #reasons"))
        .filter(e => {
          const b = e.getBoundingClientRect(), inline = getComputedStyle(e).display === "inline";
          const outside = b.right > innerWidth + 1 || b.bottom > innerHeight + 1 || b.left < -1 || b.top < -1;
          return outside || (!inline && e.scrollWidth > e.clientWidth + 1);
        })
        .map(e => e.id + ": " + e.textContent)"""
    )
