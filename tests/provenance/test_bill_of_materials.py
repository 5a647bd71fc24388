"""The bill says what the evidence says, the same bytes each time; a bill that says anything else is found."""

import copy
import functools
import importlib.metadata
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cyclonedx.schema import _res
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.errors import AttestationError
from secpipeline.provenance import bill_of_materials
from secpipeline.provenance.bill_of_materials import build, check, covered, environment, read
from secpipeline.provenance.envelopes import read_unverified
from secpipeline.robustness.measures import MEASURES
from secpipeline.workspace import Workspace

INPUTS = {
    "ingest": (),
    "validate": ("ingest",),
    "audit_labels": ("ingest",),
    "curate": ("ingest", "validate", "audit_labels"),
    "train": ("ingest", "curate"),
    "export": ("ingest", "curate", "train"),
    "attack": ("ingest", "curate", "train", "export"),
    "gate": ("validate", "audit_labels", "curate", "train", "export", "attack"),
    "release": ("export", "gate"),
    "deploy": ("export", "gate", "release"),
    "monitor": ("deploy",),
}
VERSIONS = {"python": "3.11.7", "torch": "2.14.1+cpu", "scikit_learn": "1.7.0", "accelerator": "cpu"}
CLEAN = {"value": 0.8125, "low": 0.75, "high": 0.875}
ATTACKED = {"value": 0.1 + 0.2, "low": 0.25, "high": 0.4}


def condition(kind, measured, **facts):
    return {"kind": kind, **facts, "ap50": measured, "mr2": None, "miss_rate": measured, "fppi": {"value": 2}}


REPORT = {
    **{"images": 160, "people": 439, "subset": "visible", "threshold": 0.39, "corrupted_mean_ap50": None},
    "conditions": {
        "clean": condition("clean", CLEAN),
        "pgd": condition("attack", ATTACKED, objective="detection_loss", epsilon=4 / 255, steps=10),
        "fog-3": condition("corruption", {"value": 0.046, "low": 0.03, "high": 0.07}),
    },
    "black_box": {"conditions": {"pgd": condition("attack", CLEAN)}, "corrupted_mean_ap50": CLEAN},
}
CARD = {"name": "csp_tiny", "recipe": "adversarial", "input_size": [144, 192], "threshold": 0.39, "nms_iou": 0.5}
CONTENT = {
    "ingest": {
        "dataset.sha256": "…",
        "images.parquet": "images",
        "summary.json": {"images": 2400, "boxes": 10351, "pictures": ["preview.png"]},
    },
    "validate": {"report.json": {}},
    "audit_labels": {"report.json": {}, "sources.json": {"rows": [{"source": "b"}, {"source": "a"}, {"source": "b"}]}},
    "curate": {"dataset.sha256": "……", "summary.json": {"images": 2086, "held sources": ["vendor-c", "vendor-d"]}},
    "train": {"detector.safetensors": "weights", "summary.json": {"parameters": 193557}},
    "export": {"detector.onnx": "graph", "detector.json": CARD},
    "attack": {"report.json": REPORT},
    "gate": {"verdict.json": {"verdict": "pass"}},
    "release": {"release.json": {}},
    "deploy": {
        "detector.onnx": "graph",
        "detector.json": CARD,
        "deployment.json": {"outcome": "deployed", "channel": "production"},
    },
    "monitor": {"report.json": {}},
}


def predicate(stage, sources):
    entries = [{"name": name, "digest": {"sha256": digest}} for name, digest in sources.items()]
    if stage in ("validate", "gate"):
        return {"result": "PASSED", "configuration": entries}
    if stage == "release":
        return {"timeVerified": "2026-11-24T07:25:34Z"}
    if stage in ("attack", "audit_labels"):
        return {"configuration": entries, "startedOn": "2026-11-24T07:00:00Z", "finishedOn": "2026-11-24T07:01:00Z"}
    commit = {"name": "source", "digest": {"gitCommit": "ab" * 20}, "annotations": {"secpipeline_dirty": False}}
    times = {"startedOn": "2026-11-24T07:25:30Z", "finishedOn": "2026-11-24T07:25:34Z"}
    return {
        "buildDefinition": {
            "externalParameters": {"data": {"dataset": "synthetic"}, "python": "9", "torch": "9"},
            "internalParameters": {"environment": VERSIONS if stage == "train" else {}},
            "resolvedDependencies": [*entries, commit],
        },
        "runDetails": {"builder": {"version": {"python": "3.11.7"}}, "metadata": times},
    }


@dataclass(frozen=True)
class Evidence:
    """What a verifier hands over: payloads and digests by stage, and the artifacts."""

    statements: dict
    digests: dict
    links: dict
    artifacts: Path

    def read(self):
        return read(self.statements, self.digests, self.links, self.artifacts)

    def covered(self):
        return covered(self.statements, self.digests, self.links)

    def write(self, name, content):
        """Change a file and everything that is signed about it, here and where it is read."""
        data = content.encode() if isinstance(content, str) else canonical_json(content)
        (self.artifacts / name).write_bytes(data)
        digest = {"sha256": sha256_bytes(data)}
        for statement in self.statements.values():
            for entry in statement["subject"]:
                if entry["name"] == name:
                    entry["digest"] = digest
        for link in self.links.values():
            for part in (link["materials"], link["products"]):
                part.update({name: digest} if name in part else {})


def make(artifacts):
    made, statements, digests, links = {}, {}, {}, {}
    for stage, files in CONTENT.items():
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else canonical_json(content)
            (artifacts / stage).mkdir(parents=True, exist_ok=True)
            (artifacts / stage / name).write_bytes(data)
            made.setdefault(stage, {})[f"{stage}/{name}"] = {"sha256": sha256_bytes(data)}
        sources = {f"params/{stage}.json": sha256_bytes(stage.encode()), "recipes/a.yaml": sha256_bytes(b"recipe")}
        # The lock is in predicates alone, and may change between two stages.
        lock = {"requirements.lock": sha256_bytes(b"old" if stage == "ingest" else b"new")}
        read_files = {name: digest for step in INPUTS[stage] for name, digest in made[step].items()}
        statements[stage] = {
            "subject": [{"name": name, "digest": digest} for name, digest in made[stage].items()],
            "predicate": predicate(stage, {**sources, **lock}),
        }
        digests[stage] = sha256_bytes(canonical_json(statements[stage]))
        links[stage] = {
            "materials": {**read_files, **{name: {"sha256": digest} for name, digest in sources.items()}},
            "products": {**made[stage], f"attestations/{stage}.dsse.json": {"sha256": digests[stage]}},
            "command": ["secpipeline", "run", stage],
        }
    return Evidence(statements, digests, links, artifacts)


@pytest.fixture(scope="module", autouse=True)
def each_address_is_parsed_once():
    """The schema's check of an address takes ten milliseconds, and every bill here has the same ones."""
    checkers = Draft7Validator.FORMAT_CHECKER.checkers
    check_address, raises = checkers["iri-reference"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(checkers, "iri-reference", (functools.cache(check_address), raises))
        yield


@pytest.fixture
def evidence(tmp_path):
    return make(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A bill and the files that evidence covers; nobody changes them."""
    found = make(tmp_path_factory.mktemp("bill"))
    return build(found.read()), found.covered()


@pytest.fixture
def bill(finished):
    return json.loads(finished[0])


def component(bill, name):
    (found,) = [entry for entry in bill["components"] if entry["bom-ref"].startswith(f"{name}@")]
    return found


def metrics(bill):
    found = component(bill, "deploy/detector.onnx")["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    return {(entry["type"], entry["slice"]): entry for entry in found}


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
    assert bill_of_materials._MEASURES == MEASURES


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
    assert environment({"predicate": {"runDetails": {"builder": {"version": VERSIONS}}}}) == VERSIONS


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def put(value, path, new):
    *parents, last = path
    for key in parents:
        value = value[key]
    value[last] = new


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
    name = data.draw(st.sampled_from(bill_of_materials.DOCUMENTS))
    report = json.loads((evidence.artifacts / name).read_bytes())
    put(report, data.draw(st.sampled_from([path for path in places(report) if path])), data.draw(junk))
    evidence.write(name, report)
    if name == "deploy/detector.json":
        evidence.write("export/detector.json", report)
    try:
        build(evidence.read())
    except AttestationError as refusal:
        assert refusal.code == "bill-of-materials"  # noqa: PT017 - a bill is as good an outcome


# Bills that do not stand.


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
    assert found - {"bomLink", "source", "destination"} <= bill_of_materials._REFERENCES
    assert {"ref", "dependsOn", "assemblies", "subjects"} <= found


def _at(value, path):
    for key in path:
        value = value[key]
    return value


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
