"""What attestations are checked against: our schemas, and the protos that in-toto publishes."""

import base64
import copy
import json
import re
from pathlib import Path

from google.protobuf.json_format import MessageToDict, ParseDict
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.predicates.test_result.v0.test_result_pb2 import TestResult
from in_toto_attestation.predicates.vsa.v1.vsa_pb2 import VerificationSummary
from in_toto_attestation.v1.statement_pb2 import Statement
from jsonschema import Draft202012Validator

from secpipeline.digests import sha256_bytes
from secpipeline.stages.table import LABEL_AUDIT, PROVENANCE, ROBUSTNESS, TEST_RESULT, VERIFICATION_SUMMARY

FOLDER = Path(__file__).parents[1] / "docs/predicates"
PROTOS = {PROVENANCE: Provenance, TEST_RESULT: TestResult, VERIFICATION_SUMMARY: VerificationSummary}
OWN = {LABEL_AUDIT: "label-audit-v0.1", ROBUSTNESS: "robustness-v0.1"}


def schema(name):
    found = json.loads((FOLDER / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(found)
    return Draft202012Validator(found)


def check(statement):
    """Raise unless a Statement and its predicate are what their specifications and schemas say."""
    schema("statement-v1").validate(statement)
    same_as_proto(statement, Statement())
    assert not list(numbers_in(statement))
    kind, predicate = statement["predicateType"], statement["predicate"]
    if kind in OWN:
        schema(OWN[kind]).validate(predicate)
    else:
        same_as_proto(as_published(kind, predicate), PROTOS[kind]())
    for descriptor in descriptors(predicate):
        assert descriptor.keys() & {"uri", "digest", "content"}


def as_published(kind, predicate):
    """The predicate as the proto of in-toto-attestation 0.9.3 can read it.

    Its verification summary lacks ``verifier.version``, which SLSA 1.1 added, and has one string for
    ``verifiedLevels``, which SLSA always defined as an array. SLSA 1.1 says that its text decides, not the protos, so
    both are checked here by hand and the rest by the proto.
    """
    predicate = copy.deepcopy(predicate)
    if kind == VERIFICATION_SUMMARY:
        version = predicate["verifier"].pop("version")
        assert version
        assert all(isinstance(item, str) for pair in version.items() for item in pair)
        (predicate["verifiedLevels"],) = predicate["verifiedLevels"]
    return predicate


def same_as_proto(value, message):
    """Raise unless a proto knows every field, under exactly this name, and gives every value back.

    An empty list and an absent one are the same to protobuf, and by SLSA's parsing rules.
    """
    ParseDict(value, message, ignore_unknown_fields=False)
    assert MessageToDict(message) == {name: item for name, item in value.items() if item != []}


def numbers_in(value, where="$"):
    """The place of every JSON number."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numbers_in(item, f"{where}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from numbers_in(item, f"{where}[{index}]")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield where


def accepted_damages(validator, document):
    """What a schema lets pass of: a key removed, a key added, a text number as a JSON number, a digest misspelt.

    One line each, such as ``removed result.findings``; a strict schema lets only what it declares free pass.
    """
    assert validator.is_valid(document)
    tried = list(damages(document))
    assert len(tried) > 4
    return [what for what, damaged in tried if validator.is_valid(damaged)]


def damages(document):
    for path, value in places(document):
        where = ".".join(map(str, path))
        if isinstance(value, dict):
            yield f"added {where}", changed(document, path, {**value, "unknown": "x"})
            for key in value:
                rest = {name: item for name, item in value.items() if name != key}
                yield f"removed {where}.{key}".replace(" .", " "), changed(document, path, rest)
        elif isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]+)?", value):
            yield f"number {where}", changed(document, path, float(value))
        elif isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
            for misspelt in (value.upper(), value[1:], value + "0", value + "\n", "g" + value[1:]):
                yield f"digest {where}", changed(document, path, misspelt)


def places(value, path=()):
    """Every value in a JSON document with the keys that lead to it."""
    yield path, value
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


def changed(value, path, new):
    """A copy of a JSON document with another value in one place."""
    if not path:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = changed(value[path[0]], path[1:], new)
    return copied


def descriptors(predicate):
    """The materials of a predicate, whatever it calls them."""
    definition = predicate.get("buildDefinition", {})
    return [
        *predicate.get("configuration", []),
        *definition.get("resolvedDependencies", []),
        *predicate.get("inputAttestations", []),
    ]


def materials(predicate):
    """SHA-256, or git commit, by name."""
    return {entry["name"]: next(iter(entry["digest"].values())) for entry in descriptors(predicate)}


def carried(predicate):
    """The documents that a predicate carries, by name, once their digests are checked."""
    found = {}
    for entry in descriptors(predicate):
        if "content" in entry:
            data = base64.b64decode(entry["content"], validate=True)
            assert sha256_bytes(data) == entry["digest"]["sha256"]
            found[entry["name"]] = json.loads(data)
    return found
