import re
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from street_chain import SPECS, STAGES

from secpipeline.digests import sha256_bytes
from secpipeline.errors import InputError
from secpipeline.provenance.layout import StepSpec
from secpipeline.provenance.lineage.graph import History, TracedRun
from secpipeline.provenance.lineage.picture import svg

SVG = "{http://www.w3.org/2000/svg}"
RED = "#c81e1e"
CARD, BOX = 112, 102


def chain_of(steps, specs=SPECS, **against):
    """The history of runs that each read what every input of theirs made last; ``against`` by position, ``on3``."""
    made, runs = {}, []
    for number, name in enumerate(steps):
        spec = next(spec for spec in specs if spec.name == name)
        read = frozenset().union(*(made.get(input_, frozenset()) for input_ in spec.inputs))
        made[name] = frozenset({(f"{name}/out", sha256_bytes(f"{number}".encode()))})
        time = f"2026-11-24T{number // 60 % 24:02}:{number % 60:02}:00Z"
        run = TracedRun(name, sha256_bytes(f"run {number}".encode()), (number,), time, read, made[name])
        runs.append(replace(run, **against.get(f"on{number}", {})))
    return History(runs)


def drawn(history, specs=SPECS, **keywords):
    return ET.fromstring(svg(history, history.runs, specs, **keywords))


def rectangles(picture, width):
    """Left, top, right and bottom of those of one width."""
    found = [[float(rect.get(name)) for name in ("x", "y", "width", "height")] for rect in placed(picture)]
    return [(x, y, x + w, y + h) for x, y, w, h in found if w == width]


def placed(picture):
    return [rect for rect in picture.iter(f"{SVG}rect") if rect.get("x")]


def words(picture):
    return [element.text for element in picture.iter(f"{SVG}text")]


def apart(one, other):
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def inside(inner, outer):
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def wires(picture):
    """Start and end of each arrow from run to run, and its colour."""
    curves = [path for path in picture.iter(f"{SVG}path") if "C" in path.get("d")]
    ends = [[float(number) for number in path.get("d").replace("M", "").replace("C", " ").split()] for path in curves]
    return [(points[:2], points[-2:], path.get("stroke")) for points, path in zip(ends, curves, strict=True)]


def check_layout(picture):
    width, height = float(picture.get("width")), float(picture.get("height"))
    cards, boxes = rectangles(picture, CARD), rectangles(picture, BOX)
    assert all(inside(card, (0, 0, width, height)) for card in cards)
    assert all(apart(one, other) for one, other in combinations(cards, 2))
    assert all(apart(one, other) for one, other in combinations(boxes, 2))
    assert all(sum(inside(box, card) for card in cards) == 1 for box in boxes)
    ends = {}
    for circle in picture.iter(f"{SVG}circle"):
        ends.setdefault(float(circle.get("cy")), []).append(float(circle.get("cx")))
        assert float(circle.get("cy")) < min(top for _, top, _, _ in cards)
        assert not any(left <= float(circle.get("cx")) <= right for left, _, right, _ in cards)
    rails = [re.search(r"V([\d.]+)q0 -5 5 -5H([\d.]+)$", path.get("d")) for path in picture.iter(f"{SVG}path")]
    assert {float(rail[1]) - 5: float(rail[2]) for rail in rails if rail} == {y: max(xs) for y, xs in ends.items()}
    for start, end, _ in wires(picture):
        assert start[0] < end[0]
        assert any(box[2] == start[0] and box[1] < start[1] < box[3] for box in boxes)
        assert any(box[0] - 6 == end[0] and box[1] < end[1] < box[3] for box in boxes)
    return cards, boxes


def test_one_chain_is_a_card_a_stage_in_the_order_of_the_data():
    history = chain_of(STAGES)
    picture = drawn(history)
    cards, boxes = check_layout(picture)
    assert len(cards) == len(boxes) == len(STAGES)
    left = {name: cards[number][0] for number, name in enumerate(STAGES)}
    assert all(left[input_] < left[spec.name] for spec in SPECS for input_ in spec.inputs)
    assert left["validate"] == left["audit_labels"]
    middles = [
        (min(card[1] for card in layer) + max(card[3] for card in layer)) / 2
        for layer in ([card for card in cards if card[0] == x] for x in set(left.values()))
    ]
    assert len(set(middles)) == 1
    text = words(picture)
    for run in history.runs:
        assert {run.stage, run.statement[:12], run.time[:16].replace("T", " ")} <= set(text)
    assert "red-team + safety" in text


def test_arrows_lead_from_run_to_run_and_rails_from_stage_to_stage():
    picture = drawn(chain_of(STAGES))
    # Two ways lead from ingest to curation and one from there to the end; all else skips a layer.
    assert len(wires(picture)) == 4 + 7
    stations = Counter(circle.get("cy") for circle in picture.iter(f"{SVG}circle"))
    skipping = sum(len(spec.inputs) for spec in SPECS) - 4 - 7
    assert sum(stations.values()) == skipping
    assert max(stations.values()) == sum("ingest" in spec.inputs for spec in SPECS) - 2


def test_two_detectors_on_one_release_share_what_they_rest_on():
    picture = drawn(chain_of([*STAGES, *STAGES[4:]]))
    _, boxes = check_layout(picture)
    assert len(boxes) == len(STAGES) + 7
    starts = Counter(tuple(start) for start, _, _ in wires(picture))
    assert max(starts.values()) == 2


def test_what_is_in_doubt_or_revoked_is_red_with_all_that_rests_on_it_and_nothing_else():
    doubted = chain_of([*STAGES, *STAGES[4:]], on4={"doubt": "[key-revoked] signed by a key that was stolen"})
    text = Counter(words(drawn(doubted)))
    assert (text["in doubt"], text["affected"], text["revoked"]) == (1, 6, 0)
    assert [colour for _, _, colour in wires(drawn(doubted))].count(RED) == 6
    revoked = drawn(chain_of(STAGES, on0={"revoked": "source vendor-c was revoked: poisoned"}))
    text = Counter(words(revoked))
    assert (text["revoked"], text["affected"]) == (1, len(STAGES) - 1)
    assert any("poisoned" in title.text for title in revoked.iter(f"{SVG}title"))
    assert RED not in svg(chain_of(STAGES), chain_of(STAGES).runs, SPECS)


def test_many_runs_of_a_stage_are_stacked_and_the_last_box_stands_for_those_without_room():
    steps = [*STAGES[:4], *STAGES[4:] * 60]
    history = chain_of(steps, on4={"doubt": "key revoked"})
    picture = drawn(history, limit=24)
    cards, boxes = check_layout(picture)
    assert len(cards) == len(STAGES)
    per_card = [sum(inside(box, card) for box in boxes) for card in cards]
    assert per_card == [1] * 4 + [24] * 7
    text = Counter(words(picture))
    assert text["37 more runs"] == 7
    assert (text["in doubt"], text["affected"]) == (1, 6)
    assert {history.runs[4].statement[:12], history.runs[-1].statement[:12]} <= set(text)
    assert history.runs[11].statement[:12] not in text


def test_more_runs_in_doubt_than_there_is_room_for_stay_red():
    steps = ["ingest"] * 6
    against = {f"on{number}": {"doubt": "key revoked"} for number in range(6)}
    text = Counter(words(drawn(chain_of(steps, **against), limit=3)))
    assert text["4 more runs"] == 1
    assert text["in doubt"] == 3


def test_a_part_of_a_history_is_drawn_without_the_rest():
    history = chain_of(STAGES)
    deployed = [run for run in history.runs if run.stage == "deploy"]
    upward = ET.fromstring(svg(history, history.origins(deployed), SPECS))
    assert "monitor" not in words(upward)
    assert len(check_layout(upward)[0]) == len(STAGES) - 1
    alone = ET.fromstring(svg(history, deployed, SPECS))
    assert len(check_layout(alone)[0]) == 1
    assert not wires(alone)


def test_equal_runs_give_equal_bytes_in_whatever_order_they_are_named():
    history = chain_of([*STAGES, *STAGES[4:]])
    assert svg(history, history.runs, SPECS) == svg(history, history.runs[::-1], SPECS)


def test_the_picture_of_a_signed_chain_names_its_statements(street):
    street.take_in("7", ["vendor-a"])
    statement, _ = street.train("robust")
    assert statement[:12] in words(drawn(street.history()))


HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "a" * 5000,
    "W" * 40,
    "]]>&amp;<!--",
    "\u202egnp.exe",
    "line\nbreak\x00\x1b[31m",
    "half\ud800",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_and_reasons_are_text_that_fits(name):
    specs = [StepSpec(name, name, (), (), "x"), StepSpec("next", "trainer", (name,), (), "x", witness=name)]
    history = chain_of([name, "next"], specs, on0={"doubt": name})
    markup = svg(history, history.runs, specs)
    markup.encode()
    picture = ET.fromstring(markup)
    assert {element.tag.removeprefix(SVG) for element in picture.iter()} <= {
        "svg", "g", "rect", "path", "circle", "text", "title"
    }  # fmt: skip
    check_layout(picture)
    notes = [text for text in words(picture) if not text.startswith(("Each", "An arrow", "Red"))]
    shown = words(picture)[:2]
    assert all(len(text) <= 18 for text in shown)
    assert all(character.isprintable() or character == "\n" for text in notes for character in text)


def test_the_picture_needs_nothing_from_outside():
    history = chain_of(STAGES, on0={"revoked": "x"})
    markup = svg(history, history.runs, SPECS)
    assert not any(word in markup for word in ("<script", "<style", "href", "url(", "@import", "<image", "<a "))
    assert not re.search(r"\son\w+=", markup)
    assert markup.count("http") == 1  # the name of the language


def test_nothing_to_draw_and_unknown_stages_are_one_clear_error():
    history = chain_of(STAGES)
    with pytest.raises(InputError, match="no runs"):
        svg(history, [], SPECS)
    with pytest.raises(InputError, match="monitor: a run of no step"):
        svg(history, history.runs, SPECS[:-1])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(STAGES), min_size=1, max_size=40), st.integers(1, 6), st.integers(0, 39))
def test_any_history_has_a_picture_without_overlaps(steps, limit, doubted):
    history = chain_of(steps, **{f"on{doubted}": {"doubt": "key revoked"}})
    _, boxes = check_layout(drawn(history, limit=limit))
    counts = Counter(steps)
    assert len(boxes) == sum(min(limit, number) for number in counts.values())
