import copy
import json

import pytest
from attestation_schemas import accepted_damages, numbers_in, schema
from jsonschema import ValidationError
from securesystemslib.signer import CryptoSigner
from small_review import DIGESTS, answer, box_table, decide, image_table, one_of_each, skip, tables

from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance import envelopes
from secpipeline.review.attestation import DECISIONS, PREDICATE, open_review, sign
from secpipeline.review.budget import BudgetRule, choose
from secpipeline.review.data import FINDINGS, RELEASE
from secpipeline.review.journal import Header, Journal
from secpipeline.review.records import SKIP, Item

AUDITOR, STRANGER = CryptoSigner.generate_ecdsa(), CryptoSigner.generate_ecdsa()
IMAGES = image_table(30)
BOXES = box_table(IMAGES)
RULE = BudgetRule(items=30)
PLAN = choose(tables(IMAGES, BOXES, [r for i in IMAGES["image_id"][:9] for r in one_of_each(BOXES, i, 0.9)]), RULE, 3)


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    path = tmp_path_factory.mktemp("review") / "decisions.jsonl"
    with Journal.begin(path, Header.of(DIGESTS, RULE, 3, PLAN)) as journal:
        for number, item in enumerate(PLAN.items[:-2]):
            journal.decide(skip(item) if number % 7 == 0 else answer(item, number % 2))
    return path.read_bytes()


@pytest.fixture(scope="module")
def envelope(journal):
    return sign(journal, AUDITOR)


def statement(envelope):
    return envelopes.read_unverified(envelope)


def signed(content, signer=AUDITOR):
    return envelopes.sign(canonical_json(content), envelopes.PAYLOAD_TYPE, [signer])


def refused(envelope, journal, digests=DIGESTS, keys=None):
    with pytest.raises(AttestationError) as refusal:
        open_review(envelope, journal, keys or [AUDITOR.public_key], digests)
    return refusal.value.code


def test_a_signed_review_is_read_again(envelope, journal):
    found = open_review(envelope, journal, [STRANGER.public_key, AUDITOR.public_key], DIGESTS)
    assert [decision.item for decision in found.decisions] == list(PLAN.items[:-2])


def test_the_statement_is_about_the_decisions_and_names_what_they_are_about(envelope, journal):
    content = statement(envelope)
    assert content["subject"] == [{"name": DECISIONS, "digest": {"sha256": sha256_bytes(journal)}}]
    assert content["predicateType"] == PREDICATE
    predicate = content["predicate"]
    materials = {entry["name"]: entry["digest"]["sha256"] for entry in predicate["materials"]}
    assert materials == DIGESTS
    assert predicate["reviewers"] == ["reviewer one"]
    assert predicate["plan"]["seed"] == "3"
    assert predicate["result"]["open"] == "2"
    assert int(predicate["result"]["decided"]) == len(PLAN.items) - 2
    assert predicate["result"]["residual_error"]["population"] == str(PLAN.population)


def test_the_statement_fits_its_schema_and_holds_no_number(envelope):
    content = statement(envelope)
    schema("statement-v1").validate(content)
    schema("review-v0.1").validate(content["predicate"])
    assert not list(numbers_in(content))


def test_the_schema_lets_nothing_pass_that_is_missing_unknown_numeric_or_misspelt(envelope):
    assert accepted_damages(schema("review-v0.1"), statement(envelope)["predicate"]) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("reviewers",), []),
        (("reviewers",), [" "]),
        (("materials",), []),
        (("result", "residual_error", "high"), "1.5"),
        (("result", "residual_error", "low"), "-0.1"),
        (("result", "decided"), "1.0"),
        (("result", "agreement", "kappa"), "high"),
        (("finishedOn",), "2026-11-24"),
        (("plan", "budget", "sample_share"), "20 %"),
    ],
)
def test_the_schema_refuses_wrong_values(envelope, path, value):
    predicate = copy.deepcopy(statement(envelope)["predicate"])
    place = predicate
    for key in path[:-1]:
        place = place[key]
    assert path[-1] in place
    place[path[-1]] = value
    with pytest.raises(ValidationError):
        schema("review-v0.1").validate(predicate)


@pytest.mark.parametrize("share", [0, 1, 0.25, 1 / 3, 1e-5, 5e-324, 0.1 + 0.2, 0.9999999999999999])
def test_the_schema_takes_every_share(envelope, share):
    predicate = copy.deepcopy(statement(envelope)["predicate"])
    predicate["result"]["residual_error"]["low"] = repr(float(share))
    schema("review-v0.1").validate(predicate)


def test_another_signer_is_refused(envelope, journal):
    assert refused(sign(journal, STRANGER), journal) == "signature"
    assert refused(envelope, journal, keys=[STRANGER.public_key]) == "signature"


def test_decisions_that_changed_after_signing_are_refused(envelope, journal):
    assert refused(envelope, journal.replace(b'"accept-label"', b'"skip"', 1)) == "changed-file"
    assert refused(envelope, b"".join(journal.splitlines(keepends=True)[:-1])) == "changed-file"


@pytest.mark.parametrize("name", [RELEASE, FINDINGS])
def test_decisions_about_something_else_are_refused(envelope, journal, name):
    assert refused(envelope, journal, {**DIGESTS, name: "ef" * 32}) == "review-stale"
    assert refused(envelope, journal, {key: value for key, value in DIGESTS.items() if key != name}) == "review-stale"


def test_a_statement_that_says_something_else_than_its_decisions_is_refused(envelope, journal):
    for path, value in ((("result", "residual_error", "estimate"), "0.0"), (("reviewers",), ["somebody else"])):
        content = copy.deepcopy(statement(envelope))
        place = content["predicate"]
        for key in path[:-1]:
            place = place[key]
        assert place[path[-1]] != value
        place[path[-1]] = value
        assert refused(signed(content), journal) == "predicate"
    content = statement(envelope)
    assert refused(signed({**content, "predicate": {**content["predicate"], "materials": []}}), journal) == "predicate"


def test_another_kind_of_statement_is_refused(envelope, journal):
    content = statement(envelope)
    assert refused(signed({**content, "predicateType": "https://slsa.dev/provenance/v1"}), journal) == "predicate-type"
    assert refused(signed({**content, "_type": "https://in-toto.io/Statement/v0.1"}), journal) == "predicate"


def test_a_file_that_is_no_review_is_neither_signed_nor_opened(envelope, journal):
    content = statement(envelope)
    for junk in (b"", b"{}\n", journal[:-1], journal + b"x"):
        with pytest.raises(InputError, match=r"decisions\.jsonl"):
            sign(junk, AUDITOR)
        content["subject"][0]["digest"]["sha256"] = sha256_bytes(junk)
        assert refused(signed(content), junk) == "malformed"
    assert refused(b"junk", journal) == "malformed"


def test_a_review_without_an_answer_is_not_signed(journal):
    with pytest.raises(InputError, match="nothing to sign"):
        sign(journal.splitlines(keepends=True)[0], AUDITOR)


def test_what_was_taken_back_is_signed_but_does_not_count(tmp_path):
    path = tmp_path / "decisions.jsonl"
    with Journal.begin(path, Header.of(DIGESTS, RULE, 3, PLAN)) as journal:
        first = answer(PLAN.items[0], True)
        for decision in (first, answer(PLAN.items[1], True)):
            journal.decide(decision)
        journal.undo(answer(PLAN.items[1], True))
    envelope = sign(path.read_bytes(), AUDITOR)
    assert open_review(envelope, path.read_bytes(), [AUDITOR.public_key], DIGESTS).decisions == (first,)
    assert statement(envelope)["predicate"]["result"]["decided"] == "1"


def test_names_in_reviews_are_text_and_stay_text(tmp_path):
    item = Item("0" * 16, "street", "sample", True)
    path = tmp_path / "decisions.jsonl"
    with Journal.begin(path, Header.of(DIGESTS, RULE, 3, PLAN)) as journal:
        journal.decide(decide(item, SKIP, reviewer='Ø "quoted" <b>'))
    content = statement(sign(path.read_bytes(), AUDITOR))
    assert json.loads(json.dumps(content))["predicate"]["reviewers"] == ['Ø "quoted" <b>']
