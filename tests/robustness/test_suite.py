import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bright_detector import BrightDetector, street

from secpipeline.detection.inference import predict
from secpipeline.digests import canonical_json
from secpipeline.errors import InputError
from secpipeline.robustness.gate import decide
from secpipeline.robustness.policy import load_policy
from secpipeline.robustness.suite import load_suite, run_suite

POLICIES = Path(__file__).parents[2] / "policies"
SUITE = dataclasses.replace(load_suite(POLICIES / "attacks.yaml"), resamples=100, gallery=3)
POLICY = load_policy(POLICIES / "default.yaml")
SHORT = dataclasses.replace(SUITE, corruptions=("jpeg",), severities=(1,))
COUNT = 150


def measure(detector, black_box=None, count=COUNT, people=(0, 3), suite=SUITE, seed=5):
    images, truth, boxes, names = street(count, people=people)
    return run_suite(detector, images, truth, boxes, names, 0.5, suite, seed, black_box)


def same_detector(images, image_ids):
    return predict(BrightDetector(), images, image_ids)


def sleeping(images, image_ids):
    return predict(BrightDetector(), images, image_ids).iloc[:0]


@pytest.fixture(scope="module")
def outcome():
    return measure(BrightDetector(), same_detector)


def value(report, condition, measure):
    return report["conditions"][condition][measure]["value"]


def test_every_condition_of_the_suite_is_measured_with_intervals(outcome):
    report = outcome.report
    assert tuple(report["conditions"]) == SUITE.condition_names()
    for found in report["conditions"].values():
        for name in ("ap50", "mr2", "miss_rate", "fppi"):
            assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    assert report["images"] == COUNT
    assert report["people"] == len(street(COUNT)[2])
    assert [row["condition"] for row in report["table"]] == list(report["conditions"])


def test_each_condition_has_its_known_effect(outcome):
    report = outcome.report
    for harmless in ("clean", "noise"):
        assert value(report, harmless, "ap50") == pytest.approx(1.0)
        assert value(report, harmless, "miss_rate") == 0
    assert value(report, "vanish", "miss_rate") == 1
    assert value(report, "vanish", "fppi") == 0
    assert value(report, "fabricate", "miss_rate") == 0
    assert value(report, "fabricate", "fppi") > 5
    assert value(report, "low_light-3", "ap50") == 0


def test_rates_see_what_average_precision_is_blind_to(outcome):
    # The order of the scores survives both attacks, and precision looks at nothing else.
    assert value(outcome.report, "vanish", "ap50") == value(outcome.report, "fabricate", "ap50") == pytest.approx(1.0)


def test_attacks_report_their_strength_and_soundness(outcome):
    for spec in SUITE.attacks:
        facts = outcome.report["conditions"][spec.name]
        assert (facts["epsilon"], facts["steps"], facts["objective"]) == (
            spec.epsilon,
            spec.steps,
            spec.objective,
        )
        assert facts["zero_gradient_share"] == facts["non_finite_share"] == 0
        assert spec.epsilon - 1e-6 <= facts["largest_change"] <= spec.epsilon + 1e-6
    health = outcome.report["health"]
    assert health["images"] == SUITE.health.images
    assert health["sanity_ap50"] < 0.15
    # One step is as good as many against a detector that is linear in the pixels.
    assert health["doubling_gain"] == health["single_step_advantage"] == pytest.approx(0)


def test_the_artifact_sees_the_same_images(outcome):
    black_box = outcome.report["black_box"]
    assert black_box["agreement"]["max_ap50_difference"] == 0
    for name, found in black_box["conditions"].items():
        assert found["ap50"] == outcome.report["conditions"][name]["ap50"]


def test_an_artifact_that_differs_is_seen():
    report = measure(BrightDetector(), sleeping, suite=SHORT).report
    assert report["black_box"]["agreement"] == {
        "max_ap50_difference": pytest.approx(1.0),
        "at_condition": "clean",
    }
    reasons = {reason.code for reason in decide(POLICY, {"robustness": report}).reasons}
    assert {"artifact-agreement", "artifact-clean-ap50"} <= reasons


def test_the_gallery_shows_images_with_people_clean_attacked_and_with_controls(outcome):
    assert len(outcome.gallery) == SUITE.gallery
    shown = {"clean", "noise", "grey_patch", *(spec.name for spec in SUITE.attacks)}
    for example in outcome.gallery:
        assert set(example.pictures) == set(example.detections) == shown
        assert len(example.truth.boxes) == len(example.detections["clean"]) > 0
        assert len(example.detections["vanish"]) == 0
        difference = example.pictures["pgd"].astype(int) - example.pictures["clean"]
        assert 0 < np.abs(difference).max() <= 4


def test_predictions_are_kept_clean_attacked_and_under_controls_but_not_of_corruptions(outcome):
    kept = outcome.predictions
    assert list(kept) == ["clean", "noise", "grey_patch", *(spec.name for spec in SUITE.attacks)]
    images, _, _, names = street(COUNT)
    pd.testing.assert_frame_equal(kept["clean"], predict(BrightDetector(), images, names))
    assert (kept["vanish"]["score"] < 0.5).all()


def test_the_report_is_json_and_the_same_for_the_same_seed():
    first, again, other = (measure(BrightDetector(), count=20, suite=SHORT, seed=seed).report for seed in (5, 5, 6))
    assert canonical_json(first) == canonical_json(again)
    assert canonical_json(first) != canonical_json(other)


def test_the_gate_fails_a_detector_that_the_suite_broke(outcome):
    others = {
        "validation": {"result": "PASSED", "failedTests": []},
        "label_audit": {"attribution": "decided"},
        "export": {"max_box_difference": 0.0, "max_score_difference": 0.0, "unmatched": 0},
    }
    report = json.loads(canonical_json(outcome.report))
    verdict = decide(POLICY, {**others, "robustness": report})
    assert verdict.verdict == "fail"
    codes = {reason.code for reason in verdict.reasons}
    assert {"attacked-miss-rate", "attacked-fppi", "artifact-attacked-miss-rate"} <= codes
    assert not codes & {"clean-ap50", "coverage", "enough-people", "artifact-agreement"}


def test_a_detector_without_gradients_is_found_unsound_not_robust():
    class Masked(BrightDetector):
        """Scores are rounded to yes or no, and the gradient is gone."""

        def logits(self, images):
            return super().logits(images).detach() * 1.0 + 0.0 * images.sum()

    report = measure(Masked(), same_detector, suite=SHORT).report
    assert report["conditions"]["pgd"]["zero_gradient_share"] == 1
    assert value(report, "pgd", "ap50") > 0.9
    codes = {reason.code for reason in decide(POLICY, {"robustness": report}).reasons}
    assert {"pgd-gradient", "sanity-ap50"} <= codes


def test_images_without_people_are_measured_as_far_as_possible_and_decide_nothing():
    report = measure(BrightDetector(), same_detector, count=8, people=(0, 0), suite=SHORT).report
    assert report["people"] == 0
    assert report["conditions"]["clean"]["ap50"] is None
    assert report["conditions"]["clean"]["fppi"]["value"] == 0
    assert report["corrupted_mean_ap50"] is None
    assert report["health"]["sanity_ap50"] is None
    assert decide(POLICY, {"robustness": json.loads(canonical_json(report))}).verdict == "inconclusive"


def test_without_an_artifact_the_report_says_so_and_the_gate_does_not_pass():
    report = measure(BrightDetector(), count=6, suite=SHORT).report
    assert report["black_box"] is None
    assert decide(POLICY, {"robustness": report}).verdict == "inconclusive"


def test_the_detector_keeps_its_mode():
    detector = BrightDetector().train()
    measure(detector, count=2, people=(1, 1), suite=SHORT)
    assert detector.training


def test_unusable_images_are_refused():
    images, truth, boxes, names = street(3)
    rest = (boxes, names, 0.5, SUITE, 0)
    with pytest.raises(InputError, match="float32"):
        run_suite(BrightDetector(), images.astype(np.float32), truth, *rest)
    with pytest.raises(InputError, match="at least one"):
        run_suite(BrightDetector(), images[:0], [], pd.DataFrame(), [], 0.5, SUITE, 0)
    with pytest.raises(InputError, match="truth for 2"):
        run_suite(BrightDetector(), images, truth[:2], *rest)
