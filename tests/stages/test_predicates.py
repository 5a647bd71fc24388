import base64
import copy
import json
import re

import pytest
from attestation_schemas import OWN, accepted_damages, carried, check, materials, numbers_in, schema
from jsonschema import ValidationError

from secpipeline import environment
from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance import statements
from secpipeline.provenance.evidence import EvidenceStore
from secpipeline.provenance.statements import VERIFICATION_SUMMARY
from secpipeline.stages import predicates
from secpipeline.stages.context import StageResult
from secpipeline.stages.table import BY_NAME, PROVENANCE, STAGES, TEST_RESULT, upstream

DIGEST = "ab" * 32
ENVIRONMENT = {
    "accelerator": "cuda",
    "gpu": "NVIDIA H100 80GB HBM3",
    "gpu-count": "1",
    "cuda": "13.0",
    "nvidia-driver": "570.86.10",
    "platform": "Linux-x86_64",
    "python": "3.11.7",
    "secpipeline": "0.1.0",
    "torch": "2.14.1",
}
DETAILS = {
    "audit_labels": {
        "judges": 2,
        "out_of_fold_predictions": 9,
        "findings": 3,
        "strong_findings": {"ghost": 1},
        "named_sources": [],
        "attribution": "decided",
    },
    "release": {
        "artifact": {"name": "export/detector.onnx", "sha256": DIGEST},
        "policy": {"name": "policies/default.yaml", "sha256": DIGEST},
        "verdict": "pass",
    },
}
TESTED = {"result": "PASSED", "passedTests": ["brightness"], "failedTests": []}
SEEDS = {
    "ingest": {"splits", "synthetic", "poison"},
    "audit_labels": {"folds", "judges"},
    "train": {"training"},
    "attack": {"attack"},
}


def facts(name, **changes):
    stage = BY_NAME[name]
    params = {key: {"seed": 7, "share": 0.25} for key in stage.params}
    arguments = {
        "stage": stage,
        "params": params,
        "materials": {"code/" + name: DIGEST, "policies/default.yaml": DIGEST, "export/detector.onnx": DIGEST},
        "attestations": {earlier.name: DIGEST for earlier in upstream(name)},
        "environment": ENVIRONMENT,
        "source": {"gitCommit": "c" * 40, "dirty": "false"},
        "lock": {"requirements.lock": DIGEST},
        "started": 1795510600.9,
        "finished": 1795510601.2,
    }
    return predicates.Facts(**{**arguments, **changes})


def build(name, result=None, **changes):
    result = result or StageResult({}, details=DETAILS.get(name, TESTED), seeds=dict.fromkeys(SEEDS.get(name, ()), 7))
    return predicates.build(facts(name, **changes), result)


@pytest.fixture(scope="session")
def payloads(finished_chain):
    """The signed bytes of every stage's Statement in a real chain."""
    store = EvidenceStore(finished_chain / "project/build/evidence")
    envelopes = {stage.name: store.current(stage.name).statement for stage in STAGES}
    return {name: base64.b64decode(json.loads(envelope)["payload"]) for name, envelope in envelopes.items()}


@pytest.fixture
def signed(payloads):
    return {name: json.loads(payload) for name, payload in payloads.items()}


@pytest.mark.parametrize("name", [stage.name for stage in STAGES if stage.name != "attack"])
def test_every_kind_of_predicate_fits_its_specification(name):
    predicate = build(name)
    check(statements.statement({f"{name}/summary.json": DIGEST}, BY_NAME[name].predicate, predicate))


@pytest.mark.parametrize("name", [stage.name for stage in STAGES if stage.predicate != VERIFICATION_SUMMARY])
def test_everything_that_a_result_depends_on_is_a_material(name):
    outside = StageResult({}, details=TESTED, seeds={"draw": 7}, materials={"delivery/instances.json": DIGEST})
    found = materials(build(name, outside))
    assert found["source"] == "c" * 40
    same = {f"code/{name}", "policies/default.yaml", "export/detector.onnx", "requirements.lock"}
    assert {found[material] for material in (*same, "delivery/instances.json")} == {DIGEST}
    assert found[f"params/{name}.json"] == sha256_bytes(canonical_json(facts(name).params))
    assert found[f"environment/{name}.json"] == sha256_bytes(canonical_json(ENVIRONMENT))
    assert found[f"seeds/{name}.json"] == sha256_bytes(canonical_json({"draw": "7"}))


@pytest.mark.parametrize("name", ["train", "audit_labels", "monitor"])
def test_the_environment_and_the_seeds_can_be_read(name):
    predicate = build(name)
    if name == "train":
        readable = predicate["buildDefinition"]["internalParameters"]
    elif name == "audit_labels":
        readable = predicate
    else:
        readable = {key.partition("/")[0]: value for key, value in carried(predicate).items()}
        assert readable["params"] == facts(name).params
    assert readable["environment"] == ENVIRONMENT
    assert readable["seeds"] == dict.fromkeys(SEEDS.get(name, ()), "7")


def test_the_builder_is_only_what_runs_and_signs():
    assert build("train")["runDetails"]["builder"]["version"] == {"python": "3.11.7", "secpipeline": "0.1.0"}
    assert build("release")["verifier"]["version"] == {"python": "3.11.7", "secpipeline": "0.1.0"}


def test_a_dirty_checkout_is_flagged_and_a_missing_one_left_out():
    dirty = build("train", source={"gitCommit": "c" * 40, "dirty": "true"})
    (source,) = [entry for entry in dirty["buildDefinition"]["resolvedDependencies"] if entry["name"] == "source"]
    assert source["annotations"]["secpipeline_dirty"] is True
    assert "source" not in materials(build("train", source={}, lock={}))


def test_two_computations_never_share_an_invocation():
    invocations = {build("train")["runDetails"]["metadata"]["invocationId"] for _ in range(100)}
    assert len(invocations) == 100
    assert all(invocation.startswith("urn:uuid:") for invocation in invocations)


@pytest.mark.parametrize(("verdict", "result"), [("pass", "PASSED"), ("fail", "FAILED"), ("inconclusive", "FAILED")])
def test_only_a_pass_is_summed_up_as_passed(verdict, result):
    details = {**DETAILS["release"], "verdict": verdict}
    predicate = build("release", StageResult({}, details=details))
    assert predicate["verificationResult"] == result
    assert [entry["uri"] for entry in predicate["inputAttestations"]] == [
        f"pkg:generic/attestations/{earlier.name}.dsse.json" for earlier in upstream("release")
    ]


def test_what_cannot_be_said_is_refused():
    with pytest.raises(InputError, match=r"\$\.findings"):
        build("audit_labels", StageResult({}, details={"findings": float("nan")}))
    with pytest.raises(AttestationError, match="predicate"):
        build("gate", StageResult({}, details={"result": "PASSED", "passedTests": [], "failedTests": ["x"]}))


@pytest.mark.parametrize("name", [stage.name for stage in STAGES])
def test_a_real_statement_is_canonical_and_fits_its_specification(payloads, name):
    statement = json.loads(payloads[name])
    assert canonical_json(statement) == payloads[name]
    assert statement["predicateType"] == BY_NAME[name].predicate
    assert not list(numbers_in(statement))
    check(statement)


@pytest.mark.parametrize("name", [stage.name for stage in STAGES if stage.predicate != VERIFICATION_SUMMARY])
def test_a_real_statement_names_all_that_it_rests_on(signed, name):
    predicate = signed[name]["predicate"]
    found = materials(predicate)
    for step in BY_NAME[name].inputs:
        made = {entry["name"]: entry["digest"]["sha256"] for entry in signed[step]["subject"]}
        assert made.items() <= found.items()
    assert f"code/{name}" in found
    assert {f"{kind}/{name}.json" for kind in ("params", "environment", "seeds")} <= found.keys()
    described = environment.describe()
    assert found[f"environment/{name}.json"] == sha256_bytes(canonical_json(described))
    if BY_NAME[name].predicate == TEST_RESULT:
        assert carried(predicate)[f"environment/{name}.json"] == described
    if BY_NAME[name].predicate == PROVENANCE:
        internal = predicate["buildDefinition"]["internalParameters"]
        assert found[f"seeds/{name}.json"] == sha256_bytes(canonical_json(internal["seeds"]))


@pytest.mark.parametrize("name", SEEDS)
def test_a_stage_that_draws_says_from_which_seeds(signed, name):
    predicate = signed[name]["predicate"]
    seeds = predicate["seeds"] if "seeds" in predicate else predicate["buildDefinition"]["internalParameters"]["seeds"]
    assert seeds.keys() == SEEDS[name]
    assert all(seed.isdigit() for seed in seeds.values())


def test_the_summary_lists_the_attestation_of_every_earlier_stage(finished_chain, signed):
    store = EvidenceStore(finished_chain / "project/build/evidence")
    listed = {entry["uri"]: entry["digest"]["sha256"] for entry in signed["release"]["predicate"]["inputAttestations"]}
    assert listed == {
        f"pkg:generic/attestations/{stage.name}.dsse.json": sha256_bytes(store.current(stage.name).statement)
        for stage in upstream("release")
    }


def test_what_the_owners_of_a_real_chain_say_fits_its_schema(finished_chain):
    envelope = json.loads((finished_chain / "project/build/evidence/trust.dsse.json").read_bytes())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    schema("statement-v1").validate(statement)
    schema("trust-v0.1").validate(statement["predicate"])


# What our schemas leave to others: other packages, parameters of the project, conditions of a suite, kinds of findings.
FREE = re.compile(
    r"added (parameters|environment)(\..*)?|removed parameters\..*"
    r"|removed environment\.(?!(accelerator|platform|python|secpipeline|torch)$)[^.]*"
    r"|removed result\.(black_box\.)?conditions\.(?!clean$)[^.]*"
    r"|removed result\.(strong_findings\..*|health\.sanity_epsilon)"
)


def shortened(predicate):
    """One material and one condition of each form are enough to break."""
    result = predicate["result"]
    first = {entry["name"].partition("/")[0]: entry for entry in predicate["configuration"]}
    predicate["configuration"] = list(first.values())
    if "conditions" in result:
        kept = ("clean", "noise", "grey_patch", "pgd", "fog-1")
        result["conditions"] = {name: result["conditions"][name] for name in kept}
        result["black_box"]["conditions"] = {name: result["black_box"]["conditions"][name] for name in kept[:2]}
    return predicate


@pytest.mark.parametrize("name", ["audit_labels", "attack"])
def test_our_schemas_refuse_every_missing_unknown_or_numeric_field_and_every_bad_digest(signed, name):
    predicate = shortened(signed[name]["predicate"])
    predicate["configuration"] += statements.revision({"gitCommit": "c" * 40, "dirty": "true"})
    passed = accepted_damages(schema(OWN[BY_NAME[name].predicate]), predicate)
    assert [what for what in passed if not FREE.fullmatch(what)] == []


def pgd(predicate):
    return predicate["result"]["conditions"]["pgd"]


def keep_materials(predicate, without):
    predicate["configuration"] = [
        found for found in predicate["configuration"] if not found["name"].startswith(without)
    ]


OWN_PREDICATES = [
    *(lambda p, kind=kind: keep_materials(p, f"{kind}/") for kind in ("code", "params", "environment", "seeds")),
    lambda p: p["configuration"].append(p["configuration"][0]),
    lambda p: p["configuration"].append("policies/default.yaml"),
    lambda p: p["configuration"].append({"name": "../x", "digest": {"sha256": DIGEST}}),
    lambda p: p["configuration"][-1].update(name="sources"),
    lambda p: p["configuration"][-1].update(digest={"gitCommit": "main"}),
    lambda p: p["configuration"][-1].update(annotations={"secpipeline_dirty": "false"}),
    lambda p: p["environment"].update(accelerator="cuda", gpu="NVIDIA L4"),
    lambda p: p["environment"].update({"accelerator": "cuda", "gpu-count": "1"}),
    lambda p: p["environment"].update(accelerator="cuda", **{"gpu": "NVIDIA L4", "gpu-count": "none"}),
    lambda p: p["environment"].update(accelerator="abacus"),
    lambda p: p["environment"].update(gpu="NVIDIA L4"),
    lambda p: p["environment"].update(torch=""),
    lambda p: p.update(finishedOn="yesterday"),
    lambda p: p.update(finishedOn="2026-11-24T08:56:40+01:00"),
    lambda p: p["seeds"].update({next(iter(p["seeds"])): "-1"}),
]
AUDIT = [
    *(lambda p, text=text: p["result"].update(findings=text) for text in ("3.5", "3\n", "-3", "03", "", "three")),
    lambda p: p["result"].update(strong_findings={"malice": "1"}),
    lambda p: p["result"].update(strong_findings={"ghost": 1}),
    lambda p: p["result"].update(named_sources="vendor-c"),
    lambda p: p["result"].update(named_sources=["vendor-c", "vendor-c"]),
    lambda p: p["result"].update(attribution=""),
]
ATTACK = [
    *(lambda p, text=text: p["result"].update(threshold=text) for text in ("nan", "inf", "0,5", ".5", "1e", "1_0")),
    lambda p: p["result"].update(subset="all people"),
    lambda p: p["result"]["conditions"].update({"a b": pgd(p)}),
    lambda p: p["result"]["conditions"].update(clean=pgd(p)),
    lambda p: p["result"]["conditions"]["clean"].update(ap50="0.7"),
    lambda p: p["result"]["conditions"]["clean"].update(kind="attack"),
    lambda p: p["result"]["conditions"]["noise"].update(kind="clean"),
    lambda p: p["result"]["conditions"]["fog-1"].update(kind="clean"),
    lambda p: p["result"]["black_box"]["conditions"].update({"a b": p["result"]["black_box"]["conditions"]["clean"]}),
    lambda p: pgd(p).update(kind="control"),
    lambda p: pgd(p).update(random_start="true"),
    lambda p: pgd(p).update(steps="ten"),
    lambda p: p["result"]["conditions"]["noise"].update(fraction="0.2"),
    lambda p: p["result"]["black_box"]["conditions"]["noise"].update(kind="noise"),
    lambda p: p["result"]["black_box"]["agreement"].update(at_condition=""),
]


@pytest.mark.parametrize(
    ("name", "break_it"),
    [
        *(("audit_labels", change) for change in (*OWN_PREDICATES, *AUDIT)),
        *(("attack", change) for change in (*OWN_PREDICATES, *ATTACK)),
    ],
)
def test_our_schemas_refuse_wrong_values(signed, name, break_it):
    validator = schema(OWN[BY_NAME[name].predicate])
    predicate = signed[name]["predicate"]
    predicate["configuration"] += statements.revision({"gitCommit": "c" * 40, "dirty": "true"})
    validator.validate(predicate)
    broken = copy.deepcopy(predicate)
    break_it(broken)
    assert broken != predicate
    with pytest.raises(ValidationError):
        validator.validate(broken)


def test_a_gpu_and_a_measure_that_cannot_be_taken_fit_too(signed):
    predicate = signed["attack"]["predicate"]
    predicate["environment"] = ENVIRONMENT
    predicate["result"]["conditions"]["clean"]["ap50"] = None
    predicate["result"]["black_box"] = None
    schema("robustness-v0.1").validate(predicate)
