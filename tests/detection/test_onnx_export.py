import math
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from scattered_detector import scattered

from secpipeline.detection.export import agreement, to_onnx
from secpipeline.detection.inference import predict
from secpipeline.detection.onnx_detector import OnnxDetector
from secpipeline.detection.postprocess import MAX_DETECTIONS, non_maximum_suppression, postprocess
from secpipeline.detection.registry import build
from secpipeline.detection.tables import PREDICTION_COLUMNS, prediction_table
from secpipeline.errors import InputError

SIZE = (96, 128)
FLOOR = 0.02


@pytest.fixture(scope="module")
def detector():
    return scattered()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, detector):
    path = tmp_path_factory.mktemp("onnx") / "detector.onnx"
    to_onnx(detector, path, SIZE)
    return path.read_bytes()


@pytest.fixture(scope="module")
def served(artifact):
    return OnnxDetector(artifact, SIZE, 0.5)


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, *SIZE), dtype=np.uint8)


def names(count):
    return [f"i{index}" for index in range(count)]


def test_the_artifact_finds_what_the_detector_finds(detector, served):
    images = pictures(6)
    trained = predict(detector, images, names(6), score_threshold=FLOOR)
    exported = served.predict(images, names(6), score_threshold=FLOOR)
    assert trained["score"].std() > 0.01
    assert (trained["x2"] - trained["x1"]).std() > 1
    found = agreement(trained, exported, FLOOR)
    assert found["unmatched"] == 0
    assert found["compared"] == len(trained) > 100
    assert found["max_box_difference"] < 0.01
    assert found["max_score_difference"] < 1e-4
    other = predict(scattered(1), images, names(6), score_threshold=FLOOR)
    assert agreement(other, exported, FLOOR)["unmatched"] > 0


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_artifact_takes_any_number_of_images_and_each_is_seen_alone(served, count):
    images = pictures(3)[:count]
    found = served.detect(images, FLOOR)
    assert len(found) == count
    by_two = served.detect(images, FLOOR, batch_size=2)
    for one, other in zip(found, by_two, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_bytes_and_floats_are_the_same_pictures(served):
    images = pictures(1)
    from_bytes, from_floats = served.detect(images, FLOOR)[0], served.detect(images / 255, FLOOR)[0]
    assert len(from_bytes.scores) > 5
    np.testing.assert_allclose(from_bytes.scores, from_floats.scores, atol=1e-6)


def test_equal_weights_are_equal_bytes_and_tell_nothing_of_the_machine(detector, artifact, tmp_path):
    again = build(detector.name, detector.config, seed=5)
    again.load_state_dict(detector.state_dict())
    to_onnx(again, tmp_path / "again.onnx", SIZE)
    assert (tmp_path / "again.onnx").read_bytes() == artifact
    for place in (Path.cwd(), Path(torch.__file__).parent, Path(__file__)):
        assert str(place).encode() not in artifact


@pytest.mark.slow
def test_a_detector_that_cannot_be_exported_is_one_clear_error_and_leaves_no_file(tmp_path):
    detector = build("fasterrcnn_mobilenet_v3_large_320_fpn", {"proposals": 10}, seed=0)
    with pytest.raises(InputError, match=r"fasterrcnn.* cannot be exported to ONNX .* csp_tiny"):
        to_onnx(detector, tmp_path / "detector.onnx", SIZE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_cut_off_artifact_is_refused(artifact, cut):
    with pytest.raises(InputError, match="not an ONNX model"):
        OnnxDetector(artifact[:cut], SIZE, 0.5)


@pytest.mark.parametrize("content", [b"no model", b"PK\x03\x04" + bytes(100), b"\x80\x04." + bytes(100)])
def test_bytes_that_are_no_onnx_model_are_refused(content):
    with pytest.raises(InputError, match="not an ONNX model"):
        OnnxDetector(content, SIZE, 0.5)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [(["pixels"], ["boxes", "scores"]), (["images"], ["scores", "boxes"]), (["images"], ["boxes"])],
)
def test_a_model_with_other_inputs_or_outputs_is_refused(inputs, outputs):
    def value(name):
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None])

    nodes = [onnx.helper.make_node("Identity", inputs, [name]) for name in outputs]
    graph = onnx.helper.make_graph(nodes, "other", list(map(value, inputs)), list(map(value, outputs)))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(InputError, match="expected images to boxes and scores"):
        OnnxDetector(model.SerializeToString(), SIZE, 0.5)


@pytest.mark.parametrize("shape", [(1, 3, 96, 112), (1, 3, 128, 96), (1, 1, 96, 128), (3, 96, 128), (1, 96, 128, 3)])
def test_images_of_another_size_are_refused(served, shape):
    with pytest.raises(InputError, match=r"takes \(N, 3, 96, 128\)"):
        served.detect(np.zeros(shape, np.uint8))


def table(*rows):
    return pd.DataFrame(rows, columns=list(PREDICTION_COLUMNS))


FIRST, SECOND = ("a", 10.0, 10.0, 30.0, 60.0, 0.9), ("a", 50.0, 10.0, 70.0, 60.0, 0.6)
ELSEWHERE = ("b", 10.0, 10.0, 30.0, 60.0, 0.9)
SAME = {"max_box_difference": 0.0, "max_score_difference": 0.0, "unmatched": 0, "compared": 3}


def test_equal_tables_agree_in_any_order():
    assert agreement(table(FIRST, SECOND, ELSEWHERE), table(ELSEWHERE, SECOND, FIRST)) == SAME


@pytest.mark.parametrize("side", [0, 1])
def test_a_shifted_box_is_noticed(side):
    tables = [table(FIRST, SECOND, ELSEWHERE), table(FIRST, ("a", 51.5, 10.0, 71.5, 60.0, 0.6), ELSEWHERE)]
    assert agreement(tables[side], tables[1 - side]) == {**SAME, "max_box_difference": 1.5}


@pytest.mark.parametrize("corner", range(4))
def test_a_change_of_any_one_side_of_a_box_is_noticed(corner):
    moved = list(SECOND)
    moved[1 + corner] += 2
    found = agreement(table(FIRST, SECOND, ELSEWHERE), table(FIRST, tuple(moved), ELSEWHERE))
    assert found == {**SAME, "max_box_difference": 2.0}


def test_a_changed_score_is_noticed():
    found = agreement(table(FIRST, SECOND, ELSEWHERE), table(FIRST, (*SECOND[:5], 0.35), ELSEWHERE))
    assert found == {**SAME, "max_score_difference": pytest.approx(0.25)}


@pytest.mark.parametrize("side", [0, 1])
def test_a_missing_detection_is_noticed_on_either_side(side):
    for missing in (FIRST, SECOND, ELSEWHERE):
        rows = [row for row in (FIRST, SECOND, ELSEWHERE) if row != missing]
        tables = [table(FIRST, SECOND, ELSEWHERE), table(*rows)]
        assert agreement(tables[side], tables[1 - side]) == {**SAME, "unmatched": 1, "compared": 2}


def test_a_box_that_went_elsewhere_or_to_another_image_is_missing_and_extra():
    far = ("a", 50.0, 40.0, 70.0, 90.0, 0.6)
    assert agreement(table(FIRST, SECOND, ELSEWHERE), table(FIRST, far, ELSEWHERE)) == {
        **SAME,
        "unmatched": 2,
        "compared": 2,
    }
    other = ("b", *SECOND[1:])
    assert agreement(table(FIRST, SECOND, ELSEWHERE), table(FIRST, other, ELSEWHERE))["unmatched"] == 2


def test_a_detection_both_sides_share_is_compared_whatever_else_each_side_found():
    # One unshared detection a side, left and right of the shared one.
    left, right = ("a", 0.0, 10.0, 8.0, 60.0, 0.5), ("a", 62.0, 10.0, 70.0, 60.0, 0.5)
    shared, again = ("a", 31.0, 10.0, 39.0, 60.0, 0.9), ("a", 30.5, 10.0, 38.5, 60.0, 0.9)
    found = agreement(table(left, shared), table(again, right))
    assert found == {"max_box_difference": 0.5, "max_score_difference": 0.0, "unmatched": 2, "compared": 1}


def test_nothing_found_on_both_sides_is_nothing_to_compare():
    assert agreement(table(), table()) == {**SAME, "compared": 0}
    assert agreement(table(), table(FIRST)) == {**SAME, "compared": 0, "unmatched": 1}


def test_detections_that_both_sides_score_low_are_left_out():
    low, high = (*FIRST[:5], 0.09), (*SECOND[:5], 0.11)
    assert agreement(table(low, high), table(high)) == {**SAME, "compared": 1}


@pytest.mark.parametrize("scores", [(0.1001, 0.0999), (0.0999, 0.1001)])
def test_scores_on_both_sides_of_the_floor_are_one_detection_with_two_scores(scores):
    found = agreement(*(table((*FIRST[:5], score)) for score in scores))
    assert found == {**SAME, "max_score_difference": pytest.approx(0.0002), "compared": 1}


@st.composite
def overlapping(draw):
    count = draw(st.integers(0, 30))
    sides = st.integers(0, 24)
    corners = [[draw(sides), draw(sides), draw(st.integers(1, 24)), draw(st.integers(1, 24))] for _ in range(count)]
    boxes = np.array(corners, np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    # Few different scores, so that there are ties.
    scores = np.array([draw(st.integers(0, 12)) for _ in range(count)], np.float32) / 12
    return boxes, scores


# Thresholds that floats hold exactly, because torchvision compares a rounded quotient and overlaps do reach them.
@settings(max_examples=200, deadline=None)
@given(overlapping(), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
def test_suppression_equals_torchvisions(found, iou):
    boxes, scores = found
    expected = torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), iou)
    assert non_maximum_suppression(boxes, scores, iou).tolist() == expected.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_suppression_equals_torchvisions_on_many_boxes(seed):
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(0, 100, (300, 4)).astype(np.float32)
    boxes[:, 2:] = boxes[:, :2] + rng.uniform(5, 60, (300, 2))
    scores = rng.random(300).astype(np.float32)
    expected = torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.5).tolist()
    assert 20 < len(expected) < 250
    assert non_maximum_suppression(boxes, scores, 0.5).tolist() == expected


def apart(count):
    corner = np.arange(count, dtype=np.float32) * 20
    return np.stack([corner, corner * 0, corner + 10, corner * 0 + 30], 1)


def test_a_score_at_the_threshold_counts_and_one_below_does_not():
    scores = np.array([0.5, 0.49999, 0.7], np.float32)
    found = postprocess(apart(3), scores, 0.5, 0.5)
    assert found.scores.tolist() == pytest.approx([0.7, 0.5])
    assert found.boxes.tolist() == apart(3)[[2, 0]].tolist()


def test_the_best_hundred_are_kept():
    scores = np.linspace(0.2, 0.9, 150, dtype=np.float32)
    found = postprocess(apart(150), scores, 0.05, 0.5)
    assert found.scores.tolist() == scores[::-1][:MAX_DETECTIONS].tolist()


def test_a_predictions_table_has_a_row_a_detection_in_the_order_of_the_images():
    found = prediction_table(["b", "none", "a"], [apart(2), apart(0), apart(1)], [[0.9, 0.8], [], [0.7]])
    assert list(found.columns) == list(PREDICTION_COLUMNS)
    assert found["image_id"].tolist() == ["b", "b", "a"]
    assert found["score"].tolist() == [0.9, 0.8, 0.7]
    assert found["x1"].tolist() == [0, 20, 0]
    assert len(prediction_table([], [], [])) == 0


def test_predicting_in_batches_is_predicting_one_by_one_and_leaves_the_mode_alone(detector):
    images = pictures(5)
    detector.train()
    whole = predict(detector, images, names(5), batch_size=2, score_threshold=FLOOR)
    assert detector.training
    assert set(whole["image_id"]) == set(names(5))
    single = predict(detector.eval(), images[3:4], ["i3"], score_threshold=FLOOR)
    assert not detector.training
    part = whole[whole["image_id"] == "i3"].reset_index(drop=True)
    assert len(part) == len(single) > 0
    assert math.isclose(part["score"].sum(), single["score"].sum(), rel_tol=1e-5)
