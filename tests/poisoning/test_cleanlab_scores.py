import numpy as np
import pytest
from cleanlab.object_detection.filter import find_label_issues
from cleanlab.object_detection.rank import get_label_quality_scores
from label_simulation import draw_street, poison

from secpipeline.poisoning.cleanlab_scores import image_quality, score_images
from secpipeline.poisoning.pairs import corners, judge


def poisoned(seed=3, **shares):
    street = draw_street(seed, "strong", sources=3, scenes=8, frames=4)
    boxes, truth = poison(street, 7, "vendor-c", **shares)
    return judge(street.images, boxes, street.predictions), truth


def as_cleanlab_wants(judged):
    labels, predictions = [], []
    for image in range(len(judged.images)):
        boxes = corners(judged.labels[judged.labels["image"] == image])
        found = judged.predictions[judged.predictions["image"] == image]
        labels.append({"bboxes": boxes, "labels": np.zeros(len(boxes), dtype=int)})
        one_class = np.empty(1, dtype=object)
        one_class[0] = np.column_stack([corners(found), found["score"].to_numpy(dtype="float64")])
        predictions.append(one_class)
    return labels, predictions


def test_quality_and_issues_are_those_of_cleanlab():
    judged, _ = poisoned(removed=0.2, shifted=0.2, ghost=0.2)
    labels, predictions = as_cleanlab_wants(judged)

    quality, overlooked, badly_located = image_quality(judged)

    assert quality == pytest.approx(get_label_quality_scores(labels, predictions, verbose=False), abs=1e-9)
    assert ((overlooked | badly_located) == find_label_issues(labels, predictions)).all()
    assert overlooked.any()
    assert badly_located.any()


def test_images_without_boxes_or_predictions_are_scored_too():
    judged, _ = poisoned()
    counts = judged.labels["image"].value_counts().reindex(range(len(judged.images)), fill_value=0)
    assert (counts == 0).any()

    tests = score_images(judged)

    assert len(tests) == len(judged.images)
    assert tests["evidence"].between(0, 1).all()


def test_only_flagged_images_carry_evidence_and_words():
    judged, truth = poisoned(removed=0.3)
    tests = score_images(judged)
    flagged = tests[tests["evidence"] > 0]

    assert len(flagged) > 0
    assert flagged["image_id"].isin(truth["image_id"]).mean() > 0.5
    assert flagged["detail"].str.contains("a person overlooked").any()
    assert (tests.loc[tests["evidence"] == 0, "detail"] == "").all()


def test_no_predictions_at_all_are_no_issue():
    street = draw_street(0, sources=1, scenes=2)
    judged = judge(street.images, street.boxes, street.predictions.head(0))

    assert (score_images(judged)["evidence"] == 0).all()
