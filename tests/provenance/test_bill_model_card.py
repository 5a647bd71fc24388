"""The model card says what the report says, to the last digit."""

import json

import pytest
from bill_evidence import REPORT, component, metrics

from secpipeline.provenance.bill_of_materials.document import build
from secpipeline.provenance.bill_of_materials.model_card import MEASURES
from secpipeline.robustness import measures

pytestmark = pytest.mark.usefixtures("each_address_is_parsed_once")


def test_the_numbers_are_those_of_the_report_to_the_last_digit(bill):
    found = metrics(bill)
    assert found["AP50", "pgd"]["value"] == "0.30000000000000004"
    assert found["AP50", "pgd"]["confidenceInterval"] == {"lowerBound": "0.25", "upperBound": "0.4"}
    assert found["miss rate", "clean"]["value"] == "0.8125"
    assert found["AP50", "pgd on the exported artifact"]["value"] == "0.8125"
    assert found["AP50", "mean of all corruptions on the exported artifact"]["value"] == "0.8125"


def test_what_could_not_be_measured_is_left_out_and_an_interval_that_is_not_there_is_not_invented(bill):
    found = metrics(bill)
    assert not any(kind == "MR-2" for kind, _ in found)
    assert ("AP50", "mean of all corruptions") not in found
    assert found["FPPI", "pgd"] == {"type": "FPPI", "slice": "pgd", "value": "2"}


def test_a_report_without_the_artifact_gives_the_detectors_numbers_alone(evidence):
    evidence.write("attack/report.json", {**REPORT, "black_box": None})
    found = metrics(json.loads(build(evidence.read())))
    assert ("AP50", "pgd") in found
    assert not any("artifact" in condition for _, condition in found)


def test_the_measures_are_called_as_the_report_calls_them():
    assert MEASURES == measures.MEASURES


def test_the_model_card_says_what_limits_the_numbers(bill):
    card = component(bill, "deploy/detector.onnx")["modelCard"]
    words = " ".join(card["considerations"]["technicalLimitations"])
    assert "160 held-out images with 439 people of the subset visible" in words
    assert "Attacked by pgd;" in words
    assert "rendered scenes" in words
    assert card["considerations"]["performanceTradeoffs"] == [
        "Lowest AP50 of each kind of condition: clean 0.812, pgd 0.300, fog-3 0.046."
    ]
    assert card["modelParameters"]["modelArchitecture"] == "csp_tiny"
    assert "(N, 3, 144, 192)" in card["modelParameters"]["inputs"][0]["format"]


def test_the_attack_behind_a_slice_is_described(bill):
    entries = component(bill, "deploy/detector.onnx")["modelCard"]["properties"]
    found = {entry["name"]: entry["value"] for entry in entries}
    assert found["secpipeline:attack:pgd:epsilon"] == repr(4 / 255)
    assert found["secpipeline:gate:verdict"] == "pass"
    assert found["secpipeline:training:parameters"] == "193557"
