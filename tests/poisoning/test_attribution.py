import json

import numpy as np
import pandas as pd
import pytest
from label_simulation import draw_street, poison

from secpipeline.digests import canonical_json
from secpipeline.poisoning.attribution import AttributionRule, attribute, compare
from secpipeline.poisoning.audit import audit_labels
from secpipeline.poisoning.label_scores import score_labels
from secpipeline.poisoning.pairs import judge
from secpipeline.poisoning.yardsticks import MARKED_COLUMNS


def attribution_of(street, boxes=None):
    boxes = street.boxes if boxes is None else boxes
    return attribute(score_labels(judge(street.images, boxes, street.predictions)))


def marked(events, exposure=200, scenes=10, telling=1.0):
    """Marked tests of one kind with these numbers of events per source, spread evenly over its scenes."""
    rows = []
    for source, number in events.items():
        strong = np.linspace(0, exposure - 1, number).astype(int)
        event = np.isin(np.arange(exposure), strong)
        rows += [("ghost", source, str(n * scenes // exposure), True, e, False, telling) for n, e in enumerate(event)]
    return pd.DataFrame(rows, columns=MARKED_COLUMNS)


@pytest.mark.parametrize("judge_name", ["strong", "middling", "weak"])
def test_the_poisoned_source_is_named_and_no_honest_one(judge_name):
    for seed in range(3):
        street = draw_street(seed, judge_name)
        boxes, _ = poison(street, seed + 100, "vendor-c", 0.12, 0.12, 0.12)

        assert attribution_of(street, boxes).named == ("vendor-c",)


@pytest.mark.parametrize("kind", ["removed", "shifted", "ghost"])
def test_one_kind_of_poison_is_named_as_that_kind(kind):
    street = draw_street(5, "strong")
    boxes, _ = poison(street, 6, "vendor-e", **{kind: 0.2})

    found = attribution_of(street, boxes)

    word = {"removed": "missing boxes", "shifted": "badly placed boxes", "ghost": "ghost boxes"}[kind]
    assert found.named == ("vendor-e",)
    assert f"more {word} than its peers" in found.reasons()["vendor-e"]


def test_honest_sources_that_differ_are_named_in_few_releases():
    releases = [draw_street(seed + 50, name) for seed in range(2) for name in ("strong", "middling", "weak")]

    assert sum(bool(attribution_of(street).named) for street in releases) <= 1


@pytest.mark.parametrize("kind", ["missing", "ghost"])
def test_a_source_that_is_harder_to_judge_is_not_named_and_one_with_errors_is(kind):
    """Every score of vendor-b is far lower, as in the dark; that is no error of its labels."""
    street = draw_street(11, "middling")
    dark = street.predictions["image_id"].str.startswith("vendor-b/")
    score = street.predictions["score"]
    harder = type(street)(street.images, street.boxes, street.predictions.assign(score=score.where(~dark, score**1.5)))
    boxes, _ = poison(harder, 3, "vendor-d", **{"removed" if kind == "missing" else "ghost": 0.2})

    assert attribution_of(harder).named == ()
    assert attribution_of(harder, boxes).named == ("vendor-d",)


def test_two_bad_sources_do_not_hide_each_other():
    street = draw_street(7, "strong")
    boxes, _ = poison(street, 8, "vendor-b", 0.15, 0.15, 0.15)
    again = type(street)(street.images, boxes, street.predictions)
    boxes, _ = poison(again, 9, "vendor-g", 0.15, 0.15, 0.15)

    assert attribution_of(street, boxes).named == ("vendor-b", "vendor-g")


def test_two_sources_cannot_be_compared():
    street = draw_street(0, "strong", sources=2)
    boxes, _ = poison(street, 1, "vendor-a", removed=0.5)

    found = attribution_of(street, boxes)

    assert found.named == ()
    assert "at least 3" in found.undecided
    assert found.to_json()["rows"] == []


def test_nothing_tested_is_undecided():
    tests = pd.DataFrame({"source": list("abc"), "kind": "cleanlab"})

    assert "nothing was tested" in attribute(tests).undecided


def test_one_bad_scene_does_not_name_a_source():
    tests = marked({"a": 4, "b": 4, "c": 4, "d": 4})
    statue = (tests["source"] == "a") & (tests["scene"] == "3")
    spread_out = (tests["source"] == "a") & (np.arange(len(tests)) % 8 == 0)

    assert compare(tests.assign(event=tests["event"] | statue)).named == ()
    assert compare(tests.assign(event=tests["event"] | spread_out)).named == ("a",)


def test_a_rate_below_twice_that_of_the_peers_names_nobody():
    tests = marked({"a": 300, "b": 190, "c": 190, "d": 190, "e": 190}, exposure=4000, scenes=100)

    found = compare(tests, AttributionRule(unevenness=0.05))

    row = found.table.set_index("source").loc["a"]
    assert row["q_value"] < 0.05
    assert 1 < row["rate_ratio"] < 2
    assert found.named == ()


def test_more_errors_never_make_a_source_less_suspicious():
    p_values = [
        compare(marked({"a": events, "b": 5, "c": 6, "d": 4})).table.set_index("source").loc["a", "p_value"]
        for events in range(5, 60, 5)
    ]

    assert p_values == sorted(p_values, reverse=True)
    assert p_values[-1] < 0.001


def test_a_source_with_the_detectable_share_of_errors_is_named():
    honest = {"a": 10, "b": 10, "c": 11, "d": 9, "e": 10}
    share = compare(marked(honest, exposure=1000, scenes=100)).table.set_index("source").loc["a", "detectable_share"]

    assert 0.01 < share < 0.1
    planted = honest | {"a": 10 + int(np.ceil(share * 1000))}
    assert compare(marked(planted, exposure=1000, scenes=100)).named == ("a",)
    assert compare(marked(honest | {"a": 11}, exposure=1000, scenes=100)).named == ()


def test_blind_judges_can_show_no_share_and_say_so():
    found = compare(marked({"a": 1, "b": 1, "c": 1}, telling=0.0))

    assert found.limits()["a"] == "a: nothing named; no share of ghost boxes would be"
    assert found.to_json()["rows"][0]["detectable_share"] is None


def test_more_telling_labels_make_smaller_shares_detectable():
    shares = [
        compare(marked({"a": 5, "b": 5, "c": 5}, exposure=1000, telling=telling)).table["detectable_share"].iloc[0]
        for telling in (0.25, 0.5, 1.0)
    ]

    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(4 * shares[2])


def test_the_record_is_json_and_never_speaks_of_intent():
    street = draw_street(1, "strong")
    boxes, _ = poison(street, 2, "vendor-c", 0.12, 0.12, 0.12)

    audit = audit_labels(street.images, boxes, street.predictions)
    record = json.loads(canonical_json(audit.attribution.to_json()))

    assert list(record["named"]) == ["vendor-c"]
    assert len(record["rows"]) == 8 * 3
    assert "malicious" not in json.dumps(record)
    assert set(record["limits"]) == {f"vendor-{letter}" for letter in "abdefgh"}
    assert "a share of" in record["limits"]["vendor-a"]
    assert set(audit.findings["kind"]) == {"missing", "ghost", "location", "cleanlab"}
