import json
import math
import re

import numpy as np
import pytest
from attestation_schemas import (
    FOLDER,
    accepted_damages,
    as_published,
    carried,
    check,
    numbers_in,
    same_as_proto,
    schema,
)
from google.protobuf.json_format import ParseDict, ParseError
from hypothesis import given
from hypothesis import strategies as st
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.predicates.vsa.v1.vsa_pb2 import VerificationSummary
from jsonschema import ValidationError
from packageurl import PackageURL

from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance import statements
from secpipeline.stages.table import PROVENANCE, STAGES, VERIFICATION_SUMMARY

DIGEST = "ab" * 32
NOW = "2026-11-24T08:56:40Z"
PEM = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"
NUMBER = re.compile(schema("robustness-v0.1").schema["$defs"]["number"]["pattern"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
# One part of a safe file name: no slash, no control character, not "." or "..".
PART = st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters="/\\"), min_size=1).filter(
    lambda part: part.strip(".")
)


def provenance(**changes):
    arguments = {
        "stage": "train",
        "external": {"train": {"recipe": "adversarial", "max_fppi": 0.5}},
        "internal": {"environment": {"python": "3.11.7"}, "seeds": {"training": 1}},
        "dependencies": statements.resources({"recipes/adversarial.yaml": DIGEST}),
        "platform": {"secpipeline": "0.1.0"},
        "invocation": "urn:uuid:7e3e573a-6a4b-4da7-88a1-ac5943b5369e",
        "started": NOW,
        "finished": NOW,
    }
    return statements.slsa_provenance(**{**arguments, **changes})


def summary(passed=True):
    return statements.verification_summary(
        passed,
        artifact=("export/detector.onnx", DIGEST),
        policy=("policies/default.yaml", DIGEST),
        attestations={"attestations/gate.dsse.json": DIGEST},
        verified=NOW,
        platform={"secpipeline": "0.1.0"},
    )


@given(json_values)
def test_no_number_is_left_and_the_bytes_are_canonical(value):
    converted = statements.text_numbers(value)
    assert not list(numbers_in(converted))
    encoded = canonical_json(converted)
    assert canonical_json(json.loads(encoded)) == encoded


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**64))
def test_a_number_reads_back_to_itself_and_fits_the_schemas(number):
    text = statements.text_numbers(number)
    assert type(number)(text) == number
    assert NUMBER.search(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(np.float64(0.1), "0.1"), (np.int64(7), "7"), (np.float32(0.5), "0.5"), (2**70, str(2**70)), (-0.0, "-0.0")],
)
def test_numbers_of_numpy_and_large_ones_are_exact(value, text):
    assert statements.text_numbers({"x": [value]}) == {"x": [text]}


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32("nan"), {1, 2}, b"x", np.arange(2)])
def test_what_json_cannot_say_is_refused_by_its_place(value):
    with pytest.raises(InputError, match=r"\$\.a\[1\]"):
        statements.text_numbers({"a": [1, value]})


def test_resources_are_sorted_and_carry_what_they_are_given():
    document = canonical_json({"seed": 1})
    files = {"b.json": sha256_bytes(document), "a.bin": DIGEST}
    found = statements.resources(files, {"b.json": document})
    assert [entry["name"] for entry in found] == ["a.bin", "b.json"]
    assert found[0] == {"name": "a.bin", "digest": {"sha256": DIGEST}}
    assert carried({"configuration": found}) == {"b.json": {"seed": 1}}


@pytest.mark.parametrize(("dirty", "flag"), [("true", True), ("false", False), ("unknown", True)])
def test_a_checkout_is_named_by_its_commit_and_only_a_clean_one_is_called_clean(dirty, flag):
    (found,) = statements.revision({"gitCommit": "c" * 40, "dirty": dirty})
    assert found["digest"] == {"gitCommit": "c" * 40}
    assert found["annotations"] == {"secpipeline_dirty": flag}
    assert statements.revision({}) == []


@given(st.lists(PART, min_size=1, max_size=3))
def test_resource_uris_are_package_urls_that_lead_back_to_the_name(parts):
    name = "/".join(parts)
    parsed = PackageURL.from_string(statements.resource_uri(name, DIGEST))
    assert "/".join(filter(None, (parsed.namespace, parsed.name))) == name
    assert parsed.qualifiers == {"checksum": f"sha256:{DIGEST}"}


def test_provenance_is_what_the_published_proto_says():
    predicate = provenance()
    same_as_proto(predicate, Provenance())
    assert predicate["buildDefinition"]["internalParameters"]["seeds"] == {"training": "1"}
    assert not list(numbers_in(predicate))


@pytest.mark.parametrize(
    "break_it",
    [
        lambda p: p.update(materials=[]),
        lambda p: p["buildDefinition"].update(seeds={}),
        lambda p: p["runDetails"]["metadata"].update(startedOn=1795505548),
        lambda p: p["runDetails"]["builder"].update(version=["0.1.0"]),
        lambda p: p["buildDefinition"]["resolvedDependencies"][0].update(sha256=DIGEST),
        lambda p: p["buildDefinition"].update(resolved_dependencies=p["buildDefinition"].pop("resolvedDependencies")),
    ],
)
def test_the_proto_refuses_other_fields_names_and_types(break_it):
    predicate = provenance()
    break_it(predicate)
    with pytest.raises((ParseError, AssertionError)):
        same_as_proto(predicate, Provenance())


def test_a_test_result_is_what_the_published_proto_says():
    configuration = statements.resources({"policies/default.yaml": DIGEST})
    same_as_proto(statements.test_result("WARNED", configuration, ["a"], ["b"], []), test_result_pb2.TestResult())


@pytest.mark.parametrize(
    ("result", "warned", "failed", "word"),
    [("PASS", [], [], "PASS"), ("PASSED", [], ["x"], "x"), ("WARNED", [], ["x"], "x"), ("PASSED", ["y"], [], "y")],
)
def test_a_result_that_contradicts_its_tests_is_refused(result, warned, failed, word):
    with pytest.raises(AttestationError, match=word) as refusal:
        statements.test_result(result, [], ["a"], warned, failed)
    assert refusal.value.code == "predicate"


@pytest.mark.parametrize(
    ("passed", "word", "levels"), [(True, "PASSED", ["SLSA_BUILD_LEVEL_1"]), (False, "FAILED", ["FAILED"])]
)
def test_a_summary_states_a_level_only_of_what_passed(passed, word, levels):
    predicate = summary(passed)
    assert (predicate["verificationResult"], predicate["verifiedLevels"]) == (word, levels)
    assert DIGEST in predicate["resourceUri"]
    same_as_proto(as_published(VERIFICATION_SUMMARY, predicate), VerificationSummary())


@pytest.mark.parametrize("field", ["verifier", "verifiedLevels"])
def test_the_published_proto_still_refuses_what_slsa_allows(field):
    """Once this fails, ``as_published`` has become needless for that field."""
    with pytest.raises(ParseError):
        ParseDict({field: summary()[field]}, VerificationSummary(), ignore_unknown_fields=False)


def test_statements_of_the_chain_fit_their_schema():
    statement = statements.statement({"train/detector.safetensors": DIGEST}, PROVENANCE, provenance())
    schema("statement-v1").validate(statement)
    bill = statements.statement({"b.json": DIGEST}, "https://cyclonedx.org/bom", {"specVersion": "1.6", "version": 1})
    schema("statement-v1").validate(bill)


def test_the_statement_schema_refuses_every_missing_or_unknown_field_and_every_bad_digest():
    statement = statements.statement({"train/detector.safetensors": DIGEST}, PROVENANCE, {"seed": "1"})
    assert accepted_damages(schema("statement-v1"), statement) == ["added predicate"]


@pytest.mark.parametrize(
    "break_it",
    [
        lambda s: s.update(subject=[]),
        lambda s: s.update(subject=s["subject"][0]),
        lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda s: s.update(predicateType="provenance"),
        lambda s: s.update(predicateType=7),
        lambda s: s.update(predicate={}),
        lambda s: s["predicate"].update(epochs=3),
        lambda s: s["subject"][0]["digest"].update(md5="0" * 32),
        lambda s: s["subject"].append(s["subject"][0]),
        *(
            lambda s, name=name: s["subject"][0].update(name=name)
            for name in ("", "/etc/passwd", "../x", "a/../b", "a/.", "a//b", "a\\b", "a\nb", "a\n")
        ),
    ],
)
def test_the_statement_schema_refuses_what_is_broken(break_it):
    statement = statements.statement({"train/detector.safetensors": DIGEST}, PROVENANCE, provenance())
    break_it(statement)
    with pytest.raises(ValidationError):
        schema("statement-v1").validate(statement)


REVOCATION = {"kind": "source", "name": "vendor-c", "reason": "planted labels", "revokedOn": NOW}
PERIOD = {"keyid": DIGEST, "keytype": "ecdsa", "scheme": "ecdsa-sha2-nistp256", "public": PEM, "from": "0"}
ENDED = {**PERIOD, "until": "57", "ended": "revoked", "reason": "laptop stolen"}
LOG = {"log": "0d" * 16, "logSize": "57", "logRoot": DIGEST}
GOOD = {
    "trust-v0.1": [
        {"version": "3", **LOG, "roles": {"trainer": [ENDED, PERIOD]}, "revoked": [REVOCATION]},
        {"version": "1", **LOG, "roles": {"trainer": [PERIOD]}, "revoked": []},
    ],
}
ROLES = [
    {},
    {"trainer": []},
    {"trainer": PERIOD},
    {"Trainer!": [PERIOD]},
    *(
        {"trainer": [{**PERIOD, **change}]}
        for change in (
            {"from": "-1"},
            {"from": "01"},
            {"keytype": "two words"},
            {"public": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"},
            {"ended": "revoked"},
            {"until": "5", "reason": "x"},
            {"until": "5", "ended": "lost", "reason": "x"},
            {"until": "5", "ended": "revoked", "reason": " "},
        )
    ),
]
TIMES = ["2026-11-24", "2026-11-24T08:56:40+01:00", "2026-13-24T08:56:40Z", f"{NOW}\n", 1795505548]
REVOCATIONS = [
    {"kind": "vendor", "name": DIGEST},
    {"kind": "detector"},
    {"name": ""},
    {"reason": " "},
    {"reason": 7},
    *({"revokedOn": time} for time in TIMES),
]
BAD = [
    *(("trust-v0.1", {"roles": roles}) for roles in ROLES),
    *(("trust-v0.1", {"revoked": [{**REVOCATION, **change}]}) for change in REVOCATIONS),
    ("trust-v0.1", {"revoked": [REVOCATION, REVOCATION]}),
    ("trust-v0.1", {"revoked": REVOCATION}),
    ("trust-v0.1", {"log": "production"}),
    ("trust-v0.1", {"roles": {"trainer": [{**PERIOD, "until": "5"}]}}),
]


@pytest.mark.parametrize("name", GOOD)
def test_the_owners_words_fit_their_schemas(name):
    for predicate in GOOD[name]:
        schema(name).validate(predicate)


@pytest.mark.parametrize("name", GOOD)
def test_the_owners_schemas_refuse_every_missing_unknown_or_numeric_field_and_every_bad_digest(name):
    for predicate in GOOD[name][:1]:
        assert sorted(accepted_damages(schema(name), predicate)) == []


@pytest.mark.parametrize(("name", "change"), BAD)
def test_the_owners_schemas_refuse_wrong_values(name, change):
    with pytest.raises(ValidationError):
        schema(name).validate({**GOOD[name][0], **change})


def test_schemas_share_their_definitions_and_refer_to_nothing_outside():
    seen = {}
    names = sorted(path.name.removesuffix(".schema.json") for path in FOLDER.glob("*.schema.json"))
    assert {"label-audit-v0.1", "robustness-v0.1", "statement-v1", *GOOD} <= set(names)
    for name in names:
        found = schema(name).schema
        assert set(re.findall(r'"\$ref": "([^"]*)"', json.dumps(found))) <= {f"#/$defs/{key}" for key in found["$defs"]}
        for key in ("sha256", "count", "number", "time", "value", "file", "source", "configuration", "environment"):
            if key in found["$defs"]:
                assert seen.setdefault(key, found["$defs"][key]) == found["$defs"][key], f"{name}: {key}"


def test_the_examples_in_the_documentation_are_what_they_say():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    examples = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    assert {example["predicateType"] for example in examples} == {stage.predicate for stage in STAGES}
    for example in examples:
        check(example)
    for stage in STAGES:
        assert re.search(rf"^\|.*\b{stage.name}\b.*`{re.escape(stage.predicate)}`", text, re.MULTILINE), stage.name
