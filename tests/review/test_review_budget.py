import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_review import CORNERS, box_table, finding, image_table, one_of_each, tables

from secpipeline.errors import InputError
from secpipeline.review.budget import BudgetRule, HarmRule, choose
from secpipeline.review.records import Item

IMAGES = image_table(60)
BOXES = box_table(IMAGES)


def some_findings(count, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for image_id in IMAGES["image_id"].iloc[:count]:
        rows += one_of_each(BOXES, image_id, float(rng.uniform(0, 1)))
    return rows


def by_image(plan):
    return {item.image_id: item for item in plan.items}


def test_the_budget_is_shared_between_findings_sample_and_repetitions():
    plan = choose(tables(IMAGES, BOXES, some_findings(60)), BudgetRule(items=100), seed=1)
    sampled = {item.image_id for item in plan.items if item.sampled}
    repeated = [item for item in plan.items if item.repeats]
    asked = [item for item in plan.items if not item.sampled and not item.repeats]
    assert len(sampled) == plan.sampled == 20
    assert len(repeated) == 5
    assert 30 <= len(asked) <= 75  # those of drawn images are asked about with the sample
    assert not sampled & {item.image_id for item in asked}
    assert plan.images == 60
    assert len({item.item_id for item in plan.items}) == len(plan.items)


def test_equal_seeds_give_equal_plans_and_other_seeds_other_ones():
    data = tables(IMAGES, BOXES, some_findings(40))
    plans = [choose(data, BudgetRule(items=50), seed) for seed in (3, 3, 4)]
    assert plans[0] == plans[1]
    assert plans[0].digest() == plans[1].digest() != plans[2].digest()


scores = st.floats(0, 1)
shares = st.floats(0.01, 2)
rules = st.builds(HarmRule, *[st.floats(0.05, 1)] * 8)


@given(rules, shares, shares, st.floats(0, 1), st.floats(0, 1))
def test_harm_grows_with_height_and_visibility_and_is_a_share(rule, height, other, visibility, seen):
    low, high = sorted([height, other])
    dim, clear = sorted([visibility, seen])
    for kind in ("missing", "ghost", "location", "cleanlab"):
        assert 0 < rule.weigh(kind, low, dim) <= rule.weigh(kind, high, clear) <= 1
        assert rule.weigh(kind, high, clear, held_source=True) <= rule.weigh(kind, high, clear)


@given(shares, st.floats(0, 1))
def test_missing_people_weigh_more_than_ghosts_and_ghosts_more_than_bad_places(height, visibility):
    missing, ghost, location = (HarmRule().weigh(kind, height, visibility) for kind in ("missing", "ghost", "location"))
    assert missing > ghost > location


def test_what_is_unknown_counts_fully():
    rule = HarmRule()
    assert rule.weigh("missing", float("nan"), float("nan")) == rule.weigh("missing", 1, 1) == 1


def test_declaring_people_invisible_hides_their_labels_by_a_bounded_factor():
    rule = HarmRule()
    assert rule.weigh("ghost", 0.3, 0.0) == rule.least_visibility * rule.weigh("ghost", 0.3, 1.0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(scores, st.sampled_from(["missing", "ghost", "location"])), min_size=1, max_size=25))
def test_the_worst_findings_are_asked_first(given_findings):
    rows, weights = [], {}
    for number, (score, kind) in enumerate(given_findings):
        image_id = IMAGES["image_id"].iloc[number]
        box = BOXES[BOXES["image_id"] == image_id].iloc[0]
        predicted = (10.0, 10.0, 30.0, 90.0)
        rows.append(
            finding(
                image_id, kind, score, box=None if kind == "missing" else box,
                predicted=None if kind == "ghost" else predicted,
            )
        )  # fmt: skip
        height = {"missing": 80.0, "ghost": box["height"], "location": 80.0}[kind] / 160
        weights[image_id] = score * HarmRule().weigh(kind, height, 1.0)
    data = tables(IMAGES, BOXES, rows)
    rule = BudgetRule(items=12, sample_share=0.0, duplicate_share=0.0)
    asked = [item.image_id for item in choose(data, rule, seed=0).items]
    assert len(asked) == min(12, len(rows))
    order = [weights[image] for image in asked]
    assert order == sorted(order, reverse=True)
    assert min(order) >= max((w for image, w in weights.items() if image not in asked), default=0)


def test_who_is_drawn_has_the_probability_that_is_stated_and_the_ranking_does_not_depend_on_it():
    data = tables(IMAGES, BOXES, some_findings(20))
    rule = BudgetRule(items=40)
    times = dict.fromkeys(IMAGES["image_id"], 0)
    populations = set()
    for seed in range(300):
        plan = choose(data, rule, seed)
        populations.add((plan.images, plan.sampled, plan.population))
        for item in plan.items:
            times[item.image_id] += item.sampled and not item.repeats
    assert populations == {(60, 8, next(iter(populations))[2])}
    # Chi-squared with 59 degrees of freedom, shrunk by the sampling fraction: beyond 100 once in 2,000 runs.
    expected = 300 * 8 / 60
    assert sum((count - expected) ** 2 / expected for count in times.values()) / (1 - 8 / 60) < 100


def test_answers_count_for_the_estimate_only_where_nobody_would_have_looked():
    rows = [row for image in IMAGES["image_id"].iloc[:10] for row in one_of_each(BOXES, image, 0.9)]
    data = tables(IMAGES, BOXES, [*rows, finding("street-0030", "missing", 0.7, predicted=(5.0, 5.0, 50.0, 90.0))])
    plan = choose(data, BudgetRule(items=80, sample_share=0.5), seed=2)
    for item in plan.items:
        unseen = int(item.image_id[-4:]) >= 10 and item.image_id != "street-0030"
        assert item.counted == (item.sampled and unseen)
    assert plan.population == 49


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 120))
def test_repetitions_are_told_from_first_showings_by_nothing_and_come_much_later(seed, items):
    plan = choose(tables(IMAGES, BOXES, some_findings(30)), BudgetRule(items=items), seed)
    place = {item.item_id: number for number, item in enumerate(plan.items)}
    firsts = [item for item in plan.items if not item.repeats]
    for item in plan.items:
        assert len(item.item_id) == 16
        if item.repeats:
            first = plan.items[place[item.repeats]]
            assert not first.repeats
            assert place[item.item_id] - place[first.item_id] > max(1, len(firsts) // 3)
            same = [{**entry.to_json(), "item_id": "", "repeats": ""} for entry in (item, first)]
            assert json.dumps(same[0]) == json.dumps(same[1])
    assert len(plan.items) - len(firsts) == min(
        BudgetRule(items=items).duplicates, len(firsts) - max(1, len(firsts) // 3)
    )


def test_a_box_is_asked_about_once_by_its_strongest_finding():
    box = BOXES.iloc[0]
    predicted = tuple(box[c] + 3.0 for c in CORNERS)
    rows = [
        finding("street-0000", "ghost", 0.9, box=box),
        finding("street-0000", "location", 0.95, box=box, predicted=predicted),
    ]
    (item,) = choose(tables(IMAGES, BOXES, rows), BudgetRule(items=5, sample_share=0, duplicate_share=0), 0).items
    assert (item.kind, item.box_id, item.whole) == ("ghost", "street-0000#0", False)  # 0.9 × 0.7 > 0.95 × 0.4
    (change,) = item.suggestion
    assert (change.kind, change.old) == ("removed", tuple(box[c] for c in CORNERS))


def test_images_of_held_sources_and_findings_without_a_box_are_asked_about_as_a_whole():
    rows = [
        *one_of_each(BOXES, "street-0000", 0.9),
        finding("street-0000", "missing", 0.2, predicted=(60.0, 60.0, 80.0, 100.0)),
        *one_of_each(BOXES, "street-0001", 0.6),
        finding("street-0001", "cleanlab", 0.85),
        *one_of_each(BOXES, "street-0002", 0.6),
    ]
    data = tables(IMAGES, BOXES, rows, named=["vendor-a"])
    plan = choose(data, BudgetRule(items=20, sample_share=0, duplicate_share=0), 0)
    whole = {item.image_id: item for item in plan.items if item.whole}
    assert set(whole) == {"street-0000", "street-0001"}
    assert [change.kind for change in whole["street-0000"].suggestion] == ["added", "removed", "moved"]
    assert len(whole["street-0000"].reasons) == 3  # what is weaker than the rule's score is no suggestion
    assert whole["street-0001"].score == 0.6  # 0.6 × 1 for the missing person, 0.85 × 0.5 for the image
    assert len([item for item in plan.items if item.image_id == "street-0002"]) == 3


def test_held_sources_do_not_crowd_out_what_would_be_trained_on():
    rows = [row for image in IMAGES["image_id"].iloc[::4] for row in one_of_each(BOXES, image, 0.95)]
    rows += [row for image in ("street-0001", "street-0002") for row in one_of_each(BOXES, image, 0.7)]
    data = tables(IMAGES, BOXES, rows, named=["vendor-a"])
    plan = choose(data, BudgetRule(items=6, sample_share=0, duplicate_share=0), 0)
    assert [item.image_id for item in plan.items[:2]] == ["street-0001", "street-0002"]


def test_damaged_images_are_not_shown():
    data = tables(IMAGES, BOXES, some_findings(60), integrity={"street-0003": "changed"})
    plan = choose(data, BudgetRule(items=500, sample_share=0.5), 0)
    assert plan.images == plan.sampled == 59
    assert "street-0003" not in by_image(plan)
    assert "street-0004" in by_image(plan)


def test_without_findings_only_a_sample_is_asked_about_and_without_either_nothing():
    data = tables(IMAGES, BOXES, [])
    plan = choose(data, BudgetRule(items=50), 0)
    assert {item.kind for item in plan.items} == {"sample"}
    assert isinstance(plan.items[0], Item)
    with pytest.raises(InputError, match="nothing to review"):
        choose(data, BudgetRule(items=50, sample_share=0), 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: BudgetRule(items=0),
        lambda: BudgetRule(items=10**6),
        lambda: BudgetRule(sample_share=0.6),
        lambda: BudgetRule(duplicate_share=-0.1),
        lambda: BudgetRule(suggestion_score=float("nan")),
        lambda: HarmRule(ghost=0),
        lambda: HarmRule(full_height=1.5),
        lambda: HarmRule(location=float("nan")),
    ],
)
def test_rules_out_of_range_are_refused(make):
    with pytest.raises(InputError, match=r"must be|cannot be planned"):
        make()
