import json

import numpy as np
import pandas as pd
import pytest
from label_simulation import draw_street, poison

from secpipeline.digests import canonical_json
from secpipeline.poisoning.attribution import AttributionRule, attribute
from secpipeline.poisoning.audit import audit_labels
from secpipeline.poisoning.label_scores import score_labels
from secpipeline.poisoning.pairs import judge


def attribution_of(street, boxes=None):
    boxes = street.boxes if boxes is None else boxes
    return attribute(score_labels(judge(street.images, boxes, street.predictions)))


def counted(events, exposure=200, scenes=10):
    """Tests of one kind with these numbers of strong ones per source, spread evenly over its scenes."""
    rows = []
    for source, number in events.items():
        strong = np.linspace(0, exposure - 1, number).astype(int)
        evidence = np.where(np.isin(np.arange(exposure), strong), 0.9, 0.0)
        rows += [(source, str(n * scenes // exposure), "ghost", e) for n, e in enumerate(evidence)]
    return pd.DataFrame(rows, columns=["source", "scene", "kind", "evidence"])


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


@pytest.mark.parametrize("judge_name", ["strong", "middling", "weak"])
def test_honest_sources_that_differ_a_little_are_not_named(judge_name):
    named = [attribution_of(draw_street(seed + 50, judge_name)).named for seed in range(3)]

    assert named == [()] * 3


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
    tests = counted({"a": 0, "b": 0, "c": 0}).assign(kind="cleanlab")

    assert "nothing was tested" in attribute(tests).undecided


def test_one_bad_scene_does_not_name_a_source():
    tests = counted({"a": 4, "b": 4, "c": 4, "d": 4})
    statue = (tests["source"] == "a") & (tests["scene"] == "3")
    spread_out = (tests["source"] == "a") & (np.arange(len(tests)) % 10 == 0)

    assert attribute(tests.assign(evidence=tests["evidence"].mask(statue, 0.9))).named == ()
    assert attribute(tests.assign(evidence=tests["evidence"].mask(spread_out, 0.9))).named == ("a",)


def test_a_rate_below_twice_that_of_the_peers_names_nobody():
    tests = counted({"a": 300, "b": 190, "c": 190, "d": 190, "e": 190}, exposure=4000, scenes=100)

    found = attribute(tests, AttributionRule(unevenness=0.0))

    row = found.table.set_index("source").loc["a"]
    assert row["q_value"] < 0.05
    assert 1 < row["rate_ratio"] < 2
    assert found.named == ()


def test_more_errors_never_make_a_source_less_suspicious():
    p_values = [
        attribute(counted({"a": events, "b": 5, "c": 6, "d": 4})).table.set_index("source").loc["a", "p_value"]
        for events in range(5, 60, 5)
    ]

    assert p_values == sorted(p_values, reverse=True)
    assert p_values[-1] < 0.001


def test_the_record_is_json_and_never_speaks_of_intent():
    street = draw_street(1, "strong")
    boxes, _ = poison(street, 2, "vendor-c", 0.12, 0.12, 0.12)

    audit = audit_labels(street.images, boxes, street.predictions)
    record = json.loads(canonical_json(audit.attribution.to_json()))

    assert list(record["named"]) == ["vendor-c"]
    assert len(record["rows"]) == 8 * 3
    assert "malicious" not in record["named"]["vendor-c"]
    assert set(audit.findings["kind"]) == {"missing", "ghost", "location", "cleanlab"}
