"""The bill says what the evidence says, the same bytes each time."""

import copy
import importlib.metadata
import json
import shutil
from dataclasses import replace

import pytest
from bill_evidence import INPUTS, REPORT, VERSIONS, Evidence, component, make, metrics, places, put
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.errors import AttestationError
from secpipeline.provenance.bill_of_materials.checking import check
from secpipeline.provenance.bill_of_materials.document import build
from secpipeline.provenance.bill_of_materials.environment import training_environment
from secpipeline.provenance.bill_of_materials.facts import DOCUMENTS
from secpipeline.provenance.envelopes import read_unverified
from secpipeline.workspace import Workspace

pytestmark = pytest.mark.usefixtures("each_address_is_parsed_once")


def test_a_bill_passes_its_own_check(finished):
    data, files = finished
    assert check(data, files) == []
    assert data == canonical_json(json.loads(data))


def test_equal_evidence_gives_equal_bytes_in_whatever_order_it_comes(evidence, finished):
    shuffled = replace(
        evidence,
        statements=dict(reversed(evidence.statements.items())),
        digests=dict(reversed(evidence.digests.items())),
        links=dict(reversed(evidence.links.items())),
    )
    assert build(shuffled.read()) == build(evidence.read()) == finished[0]


def test_another_deployment_has_another_serial_number(evidence, bill):
    evidence.digests["deploy"] = "ab" * 32
    evidence.links["deploy"]["products"]["attestations/deploy.dsse.json"] = {"sha256": "ab" * 32}
    other = json.loads(build(evidence.read()))
    assert other["serialNumber"] != bill["serialNumber"]
    assert other["metadata"]["timestamp"] == bill["metadata"]["timestamp"] == "2026-11-24T07:25:34+00:00"


def test_photographs_are_not_called_rendered(evidence):
    evidence.statements["ingest"]["predicate"]["buildDefinition"]["externalParameters"]["data"]["dataset"] = "/a.json"
    data = build(evidence.read())
    assert b"rendered" not in data
    assert b"/a.json" not in data


def test_the_releases_are_data_with_their_sources(bill):
    (raw,) = component(bill, "ingest/dataset.sha256")["data"]
    said = [(entry["name"], entry["value"]) for entry in raw["contents"]["properties"]]
    assert raw["type"] == "dataset"
    assert ("secpipeline:images", "2400") in said
    assert [value for name, value in said if name == "secpipeline:source"] == ["a", "b"]
    assert not any("pictures" in name for name, _ in said)
    (curated,) = component(bill, "curate/dataset.sha256")["data"]
    said = [(entry["name"], entry["value"]) for entry in curated["contents"]["properties"]]
    assert [value for name, value in said if name == "secpipeline:held sources"] == ["vendor-c", "vendor-d"]


def test_the_packages_are_those_of_the_training_statement_and_not_of_this_machine(bill):
    purls = {entry["purl"]: entry["version"] for entry in bill["components"] if entry["type"] == "library"}
    assert purls == {"pkg:pypi/torch@2.14.1%2Bcpu": "2.14.1+cpu", "pkg:pypi/scikit-learn@1.7.0": "1.7.0"}
    (python,) = [entry for entry in bill["components"] if entry["type"] == "platform"]
    assert python["version"] == "3.11.7"
    used = {entry["ref"]: entry.get("dependsOn", []) for entry in bill["dependencies"]}
    assert purls.keys() <= set(used[component(bill, "train/detector.safetensors")["bom-ref"]])


def test_two_versions_of_one_file_are_two_components(bill):
    found = [entry for entry in bill["components"] if entry["name"] == "requirements.lock"]
    assert len({entry["hashes"][0]["content"] for entry in found}) == 2


def test_every_stage_is_a_task_with_its_inputs_and_its_attestation(bill, evidence):
    (workflow,) = bill["formulation"][0]["workflows"]
    tasks = {task["name"]: task for task in workflow["tasks"]}
    assert tasks.keys() == INPUTS.keys() - {"monitor"}
    order = list(tasks)
    for task in workflow["taskDependencies"]:
        name = task["ref"].removeprefix("task/")
        assert task["dependsOn"] == [f"task/{stage}" for stage in sorted(INPUTS[name])]
        assert all(order.index(stage) < order.index(name) for stage in INPUTS[name])
    for name, task in tasks.items():
        signed = task["outputs"][1]["resource"]["externalReference"]
        assert signed["url"] == f"attestations/{name}.dsse.json"
        assert signed["hashes"][0]["content"] == evidence.digests[name]
    refs = [entry["resource"]["ref"].partition("@")[0] for entry in tasks["release"]["inputs"]]
    assert refs == ["export/detector.onnx", "gate/verdict.json", "params/release.json", "recipes/a.yaml"]
    times = [tasks[name].get("timeStart") for name in ("train", "attack", "gate")]
    assert times == ["2026-11-24T07:25:30Z", "2026-11-24T07:00:00Z", None]


# Evidence that a bill must not be made from.


def no_stage(evidence):
    del evidence.statements["curate"]


def no_deployment(evidence):
    del evidence.statements["deploy"]


def no_link(evidence):
    del evidence.links["gate"]


def changed_report(evidence):
    path = evidence.artifacts / "attack/report.json"
    path.write_bytes(path.read_bytes().replace(b"0.30000000000000004", b"0.90000000000000004"))


def missing_report(evidence):
    (evidence.artifacts / "train/summary.json").unlink()


def report_not_covered(evidence):
    statement, link = evidence.statements["ingest"], evidence.links["ingest"]
    statement["subject"] = [entry for entry in statement["subject"] if entry["name"] != "ingest/summary.json"]
    for part in [link["products"], *(other["materials"] for other in evidence.links.values())]:
        part.pop("ingest/summary.json", None)


def nothing_deployed(evidence):
    evidence.write("deploy/deployment.json", {"outcome": "refused", "channel": "production"})


def another_artifact_attacked(evidence):
    evidence.write("deploy/detector.onnx", "other graph")


def stale(evidence):
    evidence.links["attack"]["materials"]["train/detector.safetensors"] = {"sha256": "0" * 64}


def another_statement(evidence):
    evidence.digests["train"] = "0" * 64


def link_and_statement_differ(evidence):
    evidence.statements["gate"]["subject"][0]["digest"] = {"sha256": "0" * 64}


def circle(evidence):
    evidence.links["ingest"]["materials"] |= evidence.links["deploy"]["products"]
    del evidence.links["ingest"]["materials"]["attestations/deploy.dsse.json"]


def another_chain(evidence):
    for link in evidence.links.values():
        link["materials"] = {name: d for name, d in link["materials"].items() if not name.startswith("validate/")}


def no_versions(evidence):
    evidence.statements["train"]["predicate"]["buildDefinition"]["internalParameters"] = {}


def two_answers(evidence):
    run = evidence.statements["train"]["predicate"]["runDetails"]
    run["builder"]["version"] = {"python": "3.12.0", "torch": "2.0"}


def version_that_is_no_text(evidence):
    evidence.statements["train"]["predicate"]["buildDefinition"]["internalParameters"] = {
        "environment": {**VERSIONS, "torch": 2}
    }


def metric_that_is_no_number(evidence):
    report = copy.deepcopy(REPORT)
    report["conditions"]["pgd"]["ap50"]["value"] = "0.9"
    evidence.write("attack/report.json", report)


def report_of_another_version(evidence):
    evidence.write("attack/report.json", {key: value for key, value in REPORT.items() if key != "subset"})


def report_read_in_two_ways(evidence):
    evidence.write("gate/verdict.json", '{"verdict":"fail","verdict":"pass"}')


def no_time(evidence):
    evidence.statements["deploy"]["predicate"]["runDetails"]["metadata"] = {}


BAD_EVIDENCE = {
    no_stage: "curate: no verified evidence",
    no_deployment: "the statements: has no deploy",
    no_link: "has no gate",
    changed_report: r"attack/report\.json: expected sha256",
    missing_report: r"train/summary\.json: cannot be read",
    report_not_covered: r"ingest/summary\.json: no evidence covers",
    nothing_deployed: "nothing was deployed",
    another_artifact_attacked: "not the file that was attacked",
    stale: r"attack read another train/detector\.safetensors",
    another_statement: "train: its link is not about its statement",
    link_and_statement_differ: "gate: its link and its statement",
    circle: "each read what the next one made",
    another_chain: "validate: no verified evidence",
    no_versions: "which python and torch",
    two_answers: "which python and torch",
    version_that_is_no_text: "which python and torch",
    metric_that_is_no_number: "'0.9' is no number",
    report_of_another_version: r"attack/report\.json: has no subset",
    report_read_in_two_ways: r"gate/verdict\.json: a key is there twice",
    no_time: "does not say when",
}


@pytest.mark.parametrize("spoil", BAD_EVIDENCE, ids=lambda spoil: spoil.__name__)
def test_no_bill_is_made_from_evidence_that_does_not_hold(evidence, spoil):
    spoil(evidence)
    with pytest.raises(AttestationError, match=BAD_EVIDENCE[spoil]) as refusal:
        build(evidence.read())
    assert refusal.value.code == "bill-of-materials"
    assert "\n" not in str(refusal.value)


def test_the_environment_is_found_where_older_statements_have_it():
    assert training_environment({"predicate": {"runDetails": {"builder": {"version": VERSIONS}}}}) == VERSIONS


junk = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just([]) | st.just({}) | st.just([[1]])


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_evidence_of_any_shape_is_a_bill_or_one_clear_refusal(evidence, data):
    spoilt = copy.deepcopy({"statements": evidence.statements, "links": evidence.links, "digests": evidence.digests})
    path = data.draw(st.sampled_from([path for path in places(spoilt) if len(path) > 1]))
    put(spoilt, path, data.draw(junk))
    try:
        build(replace(evidence, **spoilt).read())
    except AttestationError as refusal:
        assert refusal.code == "bill-of-materials"  # noqa: PT017 - a bill is as good an outcome


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_reports_of_any_shape_are_a_bill_or_one_clear_refusal(tmp_path, data):
    evidence = make(tmp_path)
    name = data.draw(st.sampled_from(DOCUMENTS))
    report = json.loads((evidence.artifacts / name).read_bytes())
    put(report, data.draw(st.sampled_from([path for path in places(report) if path])), data.draw(junk))
    evidence.write(name, report)
    if name == "deploy/detector.json":
        evidence.write("export/detector.json", report)
    try:
        build(evidence.read())
    except AttestationError as refusal:
        assert refusal.code == "bill-of-materials"  # noqa: PT017 - a bill is as good an outcome


def test_what_real_stages_sign_makes_a_bill(finished_chain, tmp_path):
    """The small chain is refused for too few images, so its deployment alone is made up here."""
    workspace = Workspace.open(finished_chain / "project")
    signed = {stage: workspace.evidence.current(stage) for stage in INPUTS}
    evidence = Evidence(
        statements={stage: read_unverified(found.statement) for stage, found in signed.items()},
        digests={stage: sha256_bytes(found.statement) for stage, found in signed.items()},
        links={stage: read_unverified(found.links[0]) for stage, found in signed.items()},
        artifacts=shutil.copytree(workspace.store.artifacts, tmp_path / "artifacts"),
    )
    with pytest.raises(AttestationError, match="nothing was deployed"):
        evidence.read()
    for name in ("detector.onnx", "detector.json"):
        digest = evidence.links["export"]["products"][f"export/{name}"]
        evidence.links["deploy"]["products"][f"deploy/{name}"] = digest
        evidence.statements["deploy"]["subject"].append({"name": f"deploy/{name}", "digest": digest})
        shutil.copy(evidence.artifacts / "export" / name, evidence.artifacts / "deploy" / name)
    (evidence.artifacts / "deploy/deployment.json").chmod(0o644)
    evidence.write("deploy/deployment.json", {"outcome": "deployed", "channel": "production"})
    data = build(evidence.read())
    assert check(data, evidence.covered()) == []
    report = json.loads((evidence.artifacts / "attack/report.json").read_bytes())
    found = metrics(json.loads(data))
    for name, measured in report["conditions"].items():
        assert found["AP50", name]["value"] == repr(measured["ap50"]["value"])
    purls = {entry["purl"] for entry in json.loads(data)["components"] if "purl" in entry}
    assert f"pkg:pypi/numpy@{importlib.metadata.version('numpy')}" in purls
