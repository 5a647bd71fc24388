import numpy as np
import pandas as pd
import pytest
from label_simulation import draw_street, poison

from secpipeline.poisoning.canaries import Canaries, canary_evidence
from secpipeline.poisoning.error_model import ErrorModel, count_evidence
from secpipeline.poisoning.label_scores import STRATA, Learned, Tally, score_labels
from secpipeline.poisoning.pairs import judge, match_one_to_one

CANARIES = Canaries(share=0.04, copies=1)


def learned_from(street, boxes=None):
    judged = judge(street.images, street.boxes if boxes is None else boxes, street.predictions)
    return judged, Learned.of(Tally.of(judged, match_one_to_one(judged)))


def test_canaries_leave_far_more_evidence_than_honest_labels():
    street = draw_street(0, "strong")
    judged, learned = learned_from(street)

    planted = canary_evidence(judged, learned, CANARIES, seed=1)

    honest = score_labels(judged, learned)
    for kind in ("missing", "ghost", "location"):
        assert planted[planted["kind"] == kind]["evidence"].median() > 0.4
        assert honest[honest["kind"] == kind]["evidence"].median() < 0.1


def test_the_labels_themselves_are_left_alone():
    judged, learned = learned_from(draw_street(0, sources=2, scenes=4))
    before = judged.labels.copy(deep=True)

    canary_evidence(judged, learned, CANARIES, seed=1)

    pd.testing.assert_frame_equal(judged.labels, before)


def test_another_seed_has_other_victims_and_the_same_seed_the_same():
    judged, learned = learned_from(draw_street(0, sources=3, scenes=6))

    first, again, other = (canary_evidence(judged, learned, CANARIES, seed=seed) for seed in (1, 1, 2))

    pd.testing.assert_frame_equal(first, again)
    assert not np.isin(other["evidence"], first["evidence"]).all()


@pytest.mark.parametrize(("labels", "copies"), [(100, 4), (50_000, 1), (1_000_000, 1)])
def test_large_releases_get_as_many_canaries_as_are_needed(labels, copies):
    canaries = Canaries.for_labels(labels)

    assert canaries.copies == copies
    assert canaries.share * labels <= 2000


def counts(rows):
    table = pd.DataFrame(rows, columns=["kind", "source", "stratum", "evidence", "count"])
    table = table.loc[table.index.repeat(table["count"])].assign(strength=lambda rows: rows["evidence"])
    return count_evidence(table)


def asked(kind="missing", source="a", stratum=4, evidence=0.97):
    return pd.DataFrame(
        {"kind": [kind], "source": [source], "stratum": [stratum], "evidence": [evidence], "strength": [evidence]}
    )


CANARY_COUNTS = counts([("missing", "a", 4, e, n) for e, n in ((0.97, 400), (0.6, 100), (0.2, 50))])


def test_what_only_one_source_has_scores_high_and_what_peers_have_too_low():
    usual = [("missing", name, 4, e, n) for name in "bcdefgh" for e, n in ((0.2, 300), (0.6, 10), (0.97, 1))]
    tests = counts([*usual, ("missing", "a", 4, 0.97, 40), ("missing", "a", 4, 0.2, 300)])

    model = ErrorModel.fit(tests, CANARY_COUNTS)

    assert model.probability(asked("missing", "a"))[0] > 0.95
    assert model.probability(asked("missing", "b"))[0] < 0.1


def test_errors_that_all_sources_share_are_found_and_honest_doubts_are_not():
    falling = [(0.2, 300), (0.45, 60), (0.6, 15), (0.75, 5), (0.87, 2)]
    honest = [("missing", name, 4, e, n) for name in "abcdefgh" for e, n in falling]
    shared = [("missing", name, 4, 0.97, 40) for name in "abcdefgh"]

    clean = ErrorModel.fit(counts(honest), CANARY_COUNTS)
    poisoned = ErrorModel.fit(counts(honest + shared), CANARY_COUNTS)

    assert clean.shared["missing"] == 0
    assert poisoned.shared["missing"] == pytest.approx(40 / 422, rel=0.5)
    assert clean.probability(asked())[0] < 0.3
    assert poisoned.probability(asked())[0] > 0.8


@pytest.mark.parametrize("seed", range(3))
def test_scores_never_fall_as_evidence_rises(seed):
    rng = np.random.default_rng(seed)
    rows = [
        ("location", name, int(rng.integers(STRATA)), float(e), int(n))
        for name in "abc"
        for e, n in zip(rng.random(60), rng.integers(1, 30, 60), strict=True)
    ]
    model = ErrorModel.fit(counts(rows), counts([("location", "a", s, e, n) for _, _, s, e, n in rows[:60]]))

    for table in (*model.table.values(), *model.odds.values()):
        assert (np.diff(table, axis=1) >= -1e-12).all()
        assert (table >= 0).all()


def test_a_sparse_stratum_is_judged_by_all_of_them():
    usual = [("missing", name, 4, e, n) for name in "abcd" for e, n in ((0.2, 300), (0.6, 30), (0.97, 3))]
    lonely = [("missing", "a", 9, 0.2, 1)]

    odds = ErrorModel.fit(counts(usual + lonely), CANARY_COUNTS).odds["missing"]

    assert odds[9] == pytest.approx(odds[7], rel=0.2)
    assert odds[9][-1] > 3 > odds[9][4]


def test_without_canaries_nothing_is_scored():
    tests = counts([("missing", "a", 4, 0.97, 40), ("missing", "b", 4, 0.2, 40)])

    model = ErrorModel.fit(tests, counts([("missing", "a", 4, 0.97, 3)]))

    assert model.probability(asked())[0] == 0


def test_planted_errors_of_every_source_are_estimated_from_the_labels():
    street = draw_street(2, "strong")
    boxes = street.boxes
    for n, source in enumerate(street.images["source"].unique()):
        boxes = poison(street_with(street, boxes), n, source, removed=0.1)[0]
    judged, learned = learned_from(street, boxes)
    planted = canary_evidence(judged, learned, CANARIES, seed=1)

    model = ErrorModel.fit(count_evidence(score_labels(judged, learned)), count_evidence(planted[planted["found"]]))

    assert model.shared["missing"] > 0.1


def street_with(street, boxes):
    return type(street)(street.images, boxes, street.predictions)
