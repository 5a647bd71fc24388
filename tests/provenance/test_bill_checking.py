"""A bill that says anything else than the evidence is found."""

import json
from pathlib import Path

import pytest
from bill_evidence import component, metrics, places
from cyclonedx.schema import _res

from secpipeline.digests import canonical_json
from secpipeline.provenance.bill_of_materials.checking import REFERENCES, check

pytestmark = pytest.mark.usefixtures("each_address_is_parsed_once")


def dangling_dataset(bill):
    component(bill, "deploy/detector.onnx")["modelCard"]["modelParameters"]["datasets"][0]["ref"] = "nope"


def dangling_dependency(bill):
    bill["dependencies"][1].setdefault("dependsOn", []).append("nope")


def dependency_of_nothing(bill):
    bill["dependencies"].append({"ref": "nope"})


def dangling_input(bill):
    bill["formulation"][0]["workflows"][0]["tasks"][3]["inputs"][0]["resource"]["ref"] = "nope"


def dangling_output(bill):
    bill["formulation"][0]["workflows"][0]["tasks"][3]["outputs"][0]["resource"]["ref"] = "nope"


def dangling_task(bill):
    bill["formulation"][0]["workflows"][0]["taskDependencies"][3]["dependsOn"].append("nope")


def task_for_a_component(bill):
    bill["compositions"][0]["assemblies"].append("task/train")


def component_for_a_task(bill):
    bill["formulation"][0]["workflows"][0]["taskDependencies"][3]["dependsOn"].append("deployment")


def dangling_composition(bill):
    bill["compositions"][1]["dependencies"].append("nope")


def dangling_annotation(bill):
    note = {"subjects": ["nope"], "annotator": {"individual": {"name": "x"}}, "text": "x"}
    bill["annotations"] = [{**note, "timestamp": "2026-11-24T07:25:34Z"}]


def reference_to_another_document(bill):
    urn = "urn:cdx:f08a6ccd-4dce-4759-bd84-c626675d60a7/1#x"
    component(bill, "deploy/detector.onnx")["modelCard"]["modelParameters"]["datasets"][0]["ref"] = urn


def two_of_one_name(bill):
    component(bill, "train/detector.safetensors")["components"].append(
        {**component(bill, "recipes/a.yaml"), "type": "file", "name": "again"}
    )


def swapped_hashes(bill):
    one, other = component(bill, "train/detector.safetensors"), component(bill, "deploy/detector.onnx")
    one["hashes"], other["hashes"] = other["hashes"], one["hashes"]


def invented_hash(bill):
    component(bill, "curate/dataset.sha256")["hashes"][0]["content"] = "0" * 64


def hash_of_the_same_beginning(bill):
    (entry,) = component(bill, "curate/dataset.sha256")["hashes"]
    entry["content"] = entry["content"][:12] + "0" * 52


def reference_of_other_bytes(bill):
    reference = component(bill, "recipes/a.yaml")["bom-ref"]
    text = json.dumps(bill).replace(reference, "recipes/a.yaml@" + "0" * 12)
    bill.clear()
    bill.update(json.loads(text))


def weaker_hash(bill):
    (entry,) = component(bill, "curate/dataset.sha256")["hashes"]
    entry["alg"] = "SHA3-256"


def invented_attestation(bill):
    component(bill, "deploy/detector.onnx")["externalReferences"][0]["hashes"][0]["content"] = "0" * 64


def attestations_of_each_other(bill):
    one, other = component(bill, "deploy/detector.onnx")["externalReferences"][:2]
    one["url"], other["url"] = other["url"], one["url"]


def hash_in_a_task(bill):
    task = bill["formulation"][0]["workflows"][0]["tasks"][0]
    task["outputs"][1]["resource"]["externalReference"]["hashes"][0]["content"] = "0" * 64


def no_hash(bill):
    del component(bill, "curate/dataset.sha256")["hashes"]


def file_left_out(bill):
    raw = component(bill, "ingest/dataset.sha256")
    raw["components"] = [part for part in raw["components"] if part["name"] != "ingest/images.parquet"]


def file_added(bill):
    digest = "1" * 64
    entry = {"type": "file", "name": "x", "bom-ref": f"x@{digest[:12]}", "hashes": [{"alg": "SHA-256"}]}
    entry["hashes"][0]["content"] = digest
    bill["components"].append(entry)


def unknown_field(bill):
    component(bill, "deploy/detector.onnx")["modelCard"]["trustworthy"] = True


def number_for_text(bill):
    next(iter(metrics(bill).values()))["value"] = 0.9


def other_version(bill):
    bill["specVersion"] = "1.5"


BAD_BILLS = {
    **dict.fromkeys(
        [
            dangling_dataset,
            dangling_dependency,
            dependency_of_nothing,
            dangling_input,
            dangling_output,
            dangling_task,
            task_for_a_component,
            component_for_a_task,
            dangling_composition,
            dangling_annotation,
            reference_to_another_document,
        ],
        "points at nothing",
    ),
    two_of_one_name: "two elements have this bom-ref",
    **dict.fromkeys(
        [swapped_hashes, invented_hash, hash_of_the_same_beginning, invented_attestation, hash_in_a_task, file_added],
        "no evidence gives it",
    ),
    attestations_of_each_other: "no evidence gives it",
    **dict.fromkeys([weaker_hash, reference_of_other_bytes], "is not the SHA-256"),
    no_hash: "has no hash",
    file_left_out: "left out",
    **dict.fromkeys([unknown_field, number_for_text, other_version], "not CycloneDX 1.6"),
}


@pytest.mark.parametrize("spoil", BAD_BILLS, ids=lambda spoil: spoil.__name__)
def test_a_bill_that_says_anything_else_is_found(bill, finished, spoil):
    spoil(bill)
    problems = check(canonical_json(bill), finished[1])
    assert any(BAD_BILLS[spoil] in problem for problem in problems), problems


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b'{"a":1,"a":2}', b"[" * 100_000, b'{"bomFormat":"CycloneDX"}'])
def test_anything_else_as_a_bill_is_a_problem_and_no_traceback(finished, data):
    assert check(data, finished[1])


def test_a_bill_is_held_against_the_evidence_of_its_own_deployment(evidence, finished):
    evidence.write("train/detector.safetensors", "other weights")
    problems = check(finished[0], evidence.covered())
    assert any(problem.startswith("train/detector.safetensors: no evidence gives it") for problem in problems)
    assert any(problem.startswith("train/detector.safetensors: left out") for problem in problems)


def test_every_reference_that_cyclonedx_knows_is_followed():
    schema = json.loads(Path(_res.__file__).with_name("bom-1.6.SNAPSHOT.schema.json").read_bytes())
    links = {"#/definitions/refLinkType", "#/definitions/bomLinkElementType"}
    found = {
        next(key for key in reversed(path[:-1]) if isinstance(key, str) and key not in ("items", "anyOf", "oneOf"))
        for path in places(schema)
        if path and path[-1] == "$ref" and _at(schema, path) in links
    }
    # The first names a type and the others may hold any address.
    assert found - {"bomLink", "source", "destination"} <= REFERENCES
    assert {"ref", "dependsOn", "assemblies", "subjects"} <= found


def _at(value, path):
    for key in path:
        value = value[key]
    return value
