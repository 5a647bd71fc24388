import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, hypergeom
from sklearn.metrics import cohen_kappa_score
from small_review import answer, box_table, decide, finding, image_table, skip, tables

from secpipeline.errors import InputError
from secpipeline.review.budget import BudgetRule, choose
from secpipeline.review.quality import agreement, outcome, residual_error, same_answer, share_interval, summary
from secpipeline.review.records import ACCEPT_LABEL, REDRAW, Change, Item

IMAGES = image_table(400)
BOXES = box_table(IMAGES, 1)


def item(number, **facts):
    defaults = {"image_id": "street-0000", "kind": "sample", "whole": True, "sampled": True, "counted": True}
    return Item(f"{number:016x}", **{**defaults, **facts})


def test_the_estimate_is_unbiased_and_its_interval_holds_the_truth_often_enough():
    """Reviews of one release by somebody who is always right, with errors that findings hint at."""
    rng = np.random.default_rng(5)
    wrong = set(rng.choice(IMAGES["image_id"], 60, replace=False))
    hints = [finding(image, "missing", float(rng.uniform(0.3, 1)), predicted=(9.0, 9.0, 50.0, 90.0)) for image in wrong]
    data = tables(IMAGES, BOXES, hints[:30])
    plan = choose(data, BudgetRule(items=100), 0)
    asked = {entry.image_id for entry in choose(data, BudgetRule(items=75, sample_share=0, duplicate_share=0), 0).items}
    held = {
        image for image, decision in data.quarantine.table[["image_id", "decision"]].to_numpy() if decision == "hold"
    }
    unseen = set(IMAGES["image_id"]) - asked - held
    truth = len(wrong & unseen) / len(unseen)
    assert plan.population == len(unseen)
    assert 0.05 < truth < 0.12
    whole, stopped, covered = [], [], 0
    for seed in range(250):
        plan = choose(data, BudgetRule(items=100), seed)
        decisions = [answer(entry, entry.image_id in wrong) for entry in plan.items]
        found = residual_error(decisions, plan.population)
        whole.append(found.estimate)
        covered += found.low <= truth <= found.high
        stopped.append(residual_error(decisions[: len(decisions) // 2], plan.population).estimate)
    for estimates in (whole, stopped):
        known = [estimate for estimate in estimates if estimate is not None]
        assert abs(np.mean(known) - truth) < 3 * np.std(known) / len(known) ** 0.5
    assert covered / 250 >= 0.95


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_interval_covers_every_truth_at_least_as_often_as_it_says(population, data, confidence):
    n = data.draw(st.integers(0, population))
    intervals = [share_interval(k, k, n, population, confidence) for k in range(n + 1)]
    for wrong in range(population + 1):
        chances = hypergeom.pmf(range(n + 1), population, wrong, n)
        coverage = sum(
            chance for chance, (low, high) in zip(chances, intervals, strict=True) if low <= wrong / population <= high
        )
        assert coverage >= confidence - 1e-9


@pytest.mark.parametrize(("wrong", "n"), [(0, 20), (1, 20), (3, 50), (50, 50), (20, 40)])
def test_for_a_large_population_the_interval_is_that_of_clopper_and_pearson(wrong, n):
    low, high = share_interval(wrong, wrong, n, 10_000_000)
    assert low == pytest.approx(beta.ppf(0.025, wrong, n - wrong + 1) if wrong else 0, abs=1e-5)
    assert high == pytest.approx(beta.ppf(0.975, wrong + 1, n - wrong) if wrong < n else 1, abs=1e-5)


def test_a_census_leaves_no_doubt_and_no_sample_all():
    assert share_interval(3, 3, 12, 12) == (0.25, 0.25)
    assert share_interval(0, 0, 0, 12) == (0.0, 1.0)
    assert share_interval(0, 0, 0, 0) == (0.0, 0.0)
    with pytest.raises(InputError, match="is no sample"):
        share_interval(3, 3, 20, 10)


def test_skipped_images_widen_the_interval_whatever_they_are():
    answers = [answer(item(number), number < 4) for number in range(20)] + [
        skip(item(number)) for number in range(20, 30)
    ]
    found = residual_error(answers, 1000)
    assert (found.n, found.errors, found.undecided, found.estimate) == (30, 4, 10, 0.2)
    assert found.low == share_interval(4, 4, 30, 1000)[0]
    assert found.high == share_interval(14, 14, 30, 1000)[1]


def test_only_first_answers_to_counted_images_count():
    answers = [
        answer(item(1), True),
        answer(item(2), False),
        answer(item(3, counted=False), True),
        answer(item(4, repeats=f"{2:016x}"), True),
        answer(Item(f"{5:016x}", "street-0001", "ghost", False, "b", (1.0, 1.0, 9.0, 9.0)), False),
    ]
    found = residual_error(answers, 50)
    assert (found.n, found.errors, found.estimate) == (2, 1, 0.5)
    assert residual_error([], 50).estimate is None


def pairs(answers):
    firsts = [reply(item(number)) for number, (reply, _) in enumerate(answers)]
    seconds = [reply(item(1000 + number, repeats=f"{number:016x}")) for number, (_, reply) in enumerate(answers)]
    return firsts + seconds


replies = st.sampled_from([lambda i: answer(i, True), lambda i: answer(i, False), skip])


@given(st.lists(st.tuples(replies, replies), min_size=1, max_size=30))
def test_agreement_and_kappa_are_those_of_the_textbook(answers):
    decisions = pairs(answers)
    found = agreement(decisions)
    first, second = ([outcome(d) for d in half] for half in (decisions[: len(answers)], decisions[len(answers) :]))
    assert (found.pairs, found.agreed) == (len(answers), sum(a == b for a, b in zip(first, second, strict=True)))
    assert found.low <= found.share <= found.high
    if len({*first, *second}) > 1:
        assert found.kappa == pytest.approx(cohen_kappa_score(first, second))
    else:
        assert found.kappa is None


def test_without_pairs_nothing_is_known_of_consistency():
    found = agreement([answer(item(1), True), answer(item(2, repeats="f" * 16), True)])
    assert (found.pairs, found.share, found.low, found.high, found.kappa) == (0, None, 0.0, 1.0, None)


def redrawn(*changes):
    return decide(item(1), REDRAW, changes)


BOX = (10.0, 10.0, 20.0, 40.0)
TWO = [Change("a", BOX, None), Change("", None, BOX)]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (redrawn(Change("", None, BOX)), redrawn(Change("", None, (11.0, 10.0, 21.0, 40.0))), True),
        (redrawn(Change("", None, BOX)), redrawn(Change("", None, (18.0, 10.0, 28.0, 40.0))), False),
        (redrawn(Change("a", BOX, None)), redrawn(Change("a", BOX, None)), True),
        (redrawn(Change("a", BOX, None)), redrawn(Change("b", BOX, None)), False),
        (redrawn(Change("a", BOX, None)), redrawn(Change("a", BOX, (10.0, 10.0, 21.0, 40.0))), False),
        (redrawn(Change("a", BOX, None)), redrawn(Change("a", BOX, None), Change("", None, BOX)), False),
        (redrawn(*TWO), redrawn(*reversed(TWO)), True),
        (redrawn(Change("a", BOX, None)), decide(item(1), ACCEPT_LABEL), False),
        (skip(item(1)), decide(item(1), ACCEPT_LABEL), False),
        (skip(item(1)), skip(item(1)), True),
    ],
)  # fmt: skip
def test_two_answers_are_the_same_if_they_lead_to_the_same_labels(first, second, same):
    assert same_answer(first, second) is same
    assert same_answer(second, first) is same


def test_the_summary_counts_first_answers_only_once():
    change = Change("", None, BOX)
    decisions = [redrawn(change), decide(item(2, repeats=f"{1:016x}"), REDRAW, [change], seconds=9.0), skip(item(3))]
    found = summary(decisions, 10)
    assert found["decided"] == 3
    assert found["verdicts"] == {"accept-label": 0, "accept-suggestion": 0, "redraw": 2, "skip": 1}
    assert found["changes"] == {"removed": 0, "added": 1, "moved": 0}
    assert found["seconds"] == 1.5
    assert found["agreement"]["agreed"] == 1
    assert found["residual_error"]["errors"] == 1
