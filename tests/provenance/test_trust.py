"""The owners' word: which key counts when, and every document that is properly signed and says nonsense."""

import copy
import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from secpipeline.digests import canonical_json
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance import envelopes, merkle, statements, trust
from secpipeline.provenance.keys import FUNCTIONARIES, public_pem
from secpipeline.provenance.log import CHECKPOINT_TYPE, Log
from secpipeline.provenance.trust import KeyPeriod, Revocation, Trust

TIME = "2026-11-24T07:47:26Z"


def code(action):
    with pytest.raises(AttestationError) as raised:
        action()
    assert "\n" not in str(raised.value)
    return raised.value.code


@pytest.fixture(scope="module")
def signers():
    return [CryptoSigner.generate_ecdsa() for _ in range(3)]


@pytest.fixture(scope="module")
def said(ring, signers):
    """A document in which everything occurs: a rotated key, a revoked one, a new one, two revocations."""
    old, stolen, new = (signer.public_key for signer in signers)
    periods = (
        KeyPeriod(old, 0, 10, "rotated", "a new key"),
        KeyPeriod(stolen, 10, 20, "revoked", "laptop stolen"),
        KeyPeriod(new, 30),
    )
    first = trust.first(ring)
    revoked = (Revocation("source", "vendor-ç", "sold twice", TIME), Revocation("file", "ab" * 32, "leaked", TIME))
    return Trust(7, first.log, {**first.roles, "trainer": periods}, revoked, 40, "cd" * 32)


def content_of(said, ring):
    return envelopes.read_unverified(trust.sign(said, {"root.layout": "ab" * 32}, ring))


def signed(content, ring):
    """The same signed by two owners, whatever it says."""
    owners = [ring.signer("owner-1"), ring.signer("owner-3")]
    return envelopes.sign(json.dumps(content).encode(), envelopes.PAYLOAD_TYPE, owners)


def test_what_two_owners_signed_is_read_back_as_it_was_said(ring, said):
    assert trust.read(trust.sign(said, {}, ring), ring.owners()) == said
    assert trust.read(signed(content_of(said, ring), ring), ring.owners()) == said


def test_one_owner_is_not_enough_and_a_stranger_is_none(ring, strangers, said):
    content = canonical_json(content_of(said, ring))
    for signers in ([ring.signer("owner-2")], [ring.signer("trainer"), ring.signer("owner-2")], []):
        data = envelopes.sign(content, envelopes.PAYLOAD_TYPE, signers)
        assert code(lambda data=data: trust.read(data, ring.owners())) == "trust-signature"
    assert code(lambda: trust.read(trust.sign(said, {}, strangers), ring.owners())) == "trust-signature"


# What each of these sets the predicate, or a part of it, to.
NONSENSE = {
    "roles a list": (("roles",), []),
    "roles text": (("roles",), "trainer"),
    "no roles": (("roles",), {}),
    "no such role": (("roles", "boss"), [{}]),
    "periods text": (("roles", "trainer"), "x"),
    "periods none": (("roles", "trainer"), []),
    "periods null": (("roles", "trainer"), None),
    "period text": (("roles", "trainer", 0), "x"),
    "period a number": (("roles", "trainer", 0), 7),
    "key a number": (("roles", "trainer", 0, "public"), 7),
    "key empty": (("roles", "trainer", 0, "public"), ""),
    "key not PEM": (("roles", "trainer", 0, "public"), "😀 -----BEGIN PUBLIC KEY-----"),
    "key id of another": (("roles", "trainer", 0, "keyid"), "ab" * 32),
    "key id a list": (("roles", "trainer", 0, "keyid"), []),
    "scheme weaker": (("roles", "trainer", 0, "scheme"), "none"),
    "from a number": (("roles", "trainer", 0, "from"), 0),
    "from negative": (("roles", "trainer", 0, "from"), "-1"),
    "from not canonical": (("roles", "trainer", 0, "from"), "00"),
    "from Arabic": (("roles", "trainer", 0, "from"), "٣"),
    "from with a newline": (("roles", "trainer", 0, "from"), "0\n"),
    "from huge": (("roles", "trainer", 2, "from"), "9" * 17),
    "from endless": (("roles", "trainer", 2, "from"), "9" * 5000),
    "until a float": (("roles", "trainer", 0, "until"), 1.5),
    "until null": (("roles", "trainer", 0, "until"), None),
    "until before from": (("roles", "trainer", 1, "until"), "9"),
    "until after the next": (("roles", "trainer", 0, "until"), "11"),
    "last before the first": (("roles", "trainer", 2, "from"), "19"),
    "ended otherwise": (("roles", "trainer", 0, "ended"), "lost"),
    "ended a map": (("roles", "trainer", 0, "ended"), {}),
    "reason a list": (("roles", "trainer", 0, "reason"), ["x"]),
    "reason two lines": (("roles", "trainer", 0, "reason"), "x\n[ok] verified"),
    "reason a terminal's": (("roles", "trainer", 0, "reason"), "x\x1b[2J"),
    "ended without until": (("roles", "trainer", 2, "ended"), "rotated"),
    "reason without until": (("roles", "trainer", 2, "reason"), "x"),
    "more than is known": (("roles", "trainer", 0, "weight"), "3"),
    "more above": (("expires",), "never"),
    "version a number": (("version",), 7),
    "version huge": (("version",), "1" + "0" * 16),
    "version empty": (("version",), ""),
    "log a list": (("log",), []),
    "log a path": (("log",), "../../etc"),
    "log with NUL": (("log",), "0" * 31 + "\x00"),
    "log size a number": (("logSize",), 40),
    "log root short": (("logRoot",), "cd"),
    "log root null": (("logRoot",), None),
    "revoked a map": (("revoked",), {"kind": "file"}),
    "revoked text": (("revoked",), "file"),
    "revocation text": (("revoked", 0), "source"),
    "kind unknown": (("revoked", 0, "kind"), "vendor"),
    "kind a list": (("revoked", 0, "kind"), ["source"]),
    "name a number": (("revoked", 0, "name"), 5),
    "name empty": (("revoked", 0, "name"), " "),
    "name with NUL": (("revoked", 0, "name"), "vendor\x00c"),
    "name half a character": (("revoked", 0, "name"), "vendor\ud800"),
    "name no digest": (("revoked", 1, "name"), "AB" * 32),
    "name a digest and a newline": (("revoked", 1, "name"), "ab" * 32 + "\n"),
    "why a map": (("revoked", 0, "reason"), {"text": "x"}),
    "why empty": (("revoked", 0, "reason"), ""),
    "time a number": (("revoked", 0, "revokedOn"), 1764000000),
    "time a list": (("revoked", 0, "revokedOn"), []),
    "time not UTC": (("revoked", 0, "revokedOn"), "2026-11-24T07:47:26+01:00"),
    "revocation longer": (("revoked", 0, "until"), TIME),
}


def put(value, path, new):
    for step in path[:-1]:
        value = value[step]
    value[path[-1]] = new


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_that_two_owners_signed_is_refused(ring, said, case):
    content = content_of(said, ring)
    path, value = NONSENSE[case]
    put(content["predicate"], path, value)
    assert code(lambda: trust.read(signed(content, ring), ring.owners())) == "trust-malformed"


@pytest.mark.parametrize("name", ["version", "log", "logSize", "logRoot", "roles", "revoked"])
def test_a_document_that_lacks_a_part_is_refused(ring, said, name):
    content = content_of(said, ring)
    del content["predicate"][name]
    assert code(lambda: trust.read(signed(content, ring), ring.owners())) == "trust-malformed"


@pytest.mark.parametrize("predicate", [None, [], "x", 7, {}])
def test_a_predicate_that_is_none_is_refused(ring, said, predicate):
    content = {**content_of(said, ring), "predicate": predicate}
    assert code(lambda: trust.read(signed(content, ring), ring.owners())) == "trust-malformed"
    del content["predicate"]
    assert code(lambda: trust.read(signed(content, ring), ring.owners())) == "trust-malformed"


def test_a_statement_of_the_owners_about_something_else_is_no_trust_document(ring, said):
    content = {**content_of(said, ring), "predicateType": "https://slsa.dev/provenance/v1"}
    assert code(lambda: trust.read(signed(content, ring), ring.owners())) == "trust-malformed"
    data = envelopes.sign(
        canonical_json(content_of(said, ring)), "text/plain", [ring.signer("owner-1"), ring.signer("owner-2")]
    )
    assert code(lambda: trust.read(data, ring.owners())) == "trust-payload-type"


def test_what_is_revoked_twice_is_refused_in_a_document_and_as_a_change(ring, said):
    content = content_of(said, ring)
    again = {**content["predicate"]["revoked"][0], "reason": "once more"}
    content["predicate"]["revoked"].append(again)
    assert code(lambda: trust.read(signed(content, ring), ring.owners())) == "trust-malformed"
    with pytest.raises(InputError, match="revoked already"):
        said.with_revocation(Revocation("source", "vendor-ç", "once more", TIME))
    assert said.with_revocation(Revocation("detector", "ab" * 32, "the same digest, another kind", TIME)).version == 8


@pytest.mark.parametrize("other", ["red-team", "owner-2"])
def test_one_key_in_two_roles_is_neither_signed_nor_read(ring, said, other):
    shared = replace(said, roles={**said.roles, "trainer": (KeyPeriod(ring.public(other), 0),)})
    assert code(lambda: trust.sign(shared, {}, ring)) == "trust-shared-key"
    content = statements.statement({}, trust.PREDICATE, content_of(said, ring)["predicate"])
    content["predicate"]["roles"]["trainer"] = [
        {
            "keyid": ring.public(other).keyid,
            "keytype": "ecdsa",
            "scheme": "ecdsa-sha2-nistp256",
            "public": public_pem(ring.public(other)).decode(),
            "from": "0",
        }
    ]
    assert code(lambda: trust.read(signed(content, ring), ring.owners())) == "trust-shared-key"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def places(value, where=()):
    """The path of every value in a document."""
    yield where
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in items:
        yield from places(inner, (*where, step))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_stands_anywhere_in_a_document_it_is_read_in_full_or_refused(ring, said, data):
    content = copy.deepcopy(content_of(said, ring))
    path = data.draw(st.sampled_from([place for place in places(content) if place]))
    put(content, path, data.draw(JSON | st.sampled_from(["0", "5", "rotated", "ab" * 32, TIME])))
    envelope = signed(content, ring)
    try:
        said_then = content_of(trust.read(envelope, ring.owners()), ring)["predicate"]
    except AttestationError as error:
        said_then = error.code
    assert said_then in (content.get("predicate"), "trust-malformed", "trust-shared-key")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_garbage_is_no_trust_document(ring, data):
    assert code(lambda: trust.read(data, ring.owners())).startswith("trust-")
    payload = envelopes.sign(data, envelopes.PAYLOAD_TYPE, [ring.signer("owner-1"), ring.signer("owner-2")])
    assert code(lambda: trust.read(payload, ring.owners())).startswith("trust-")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("vendor", "x", "why", TIME), "cannot be revoked"),
        (("file", "x", "why", TIME), "SHA-256"),
        (("release", "AB" * 32, "why", TIME), "SHA-256"),
        (("detector", "ab" * 32 + "\n", "why", TIME), "SHA-256"),
        (("source", "", "why", TIME), "on one line"),
        (("source", "x", " ", TIME), "on one line"),
        (("source", "x\ny", "why", TIME), "on one line"),
        (("source", "x\x00", "why", TIME), "on one line"),
        (("source", "x", "why\r[ok] all is well", TIME), "on one line"),
        (("source", "x", "why\u202e", TIME), "on one line"),
        (("source", "x", "why", "yesterday"), "a time is written"),
        (("source", "x", "why", TIME + "\n"), "a time is written"),
    ],
)
def test_a_revocation_that_says_too_little_or_hides_something_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        Revocation(*arguments)
    assert "vendor c" in str(Revocation("source", "vendor c", "sold twice", TIME))


def judged(said, role, signer, entry):
    data = envelopes.sign(b"{}", envelopes.PAYLOAD_TYPE, [signer])
    try:
        said.open(data, role, entry)
    except AttestationError as error:
        return error.code
    return "counts"


def test_a_key_counts_from_its_first_entry_until_before_its_end(said, signers):
    old, stolen, new = signers
    assert [judged(said, "trainer", old, entry) for entry in (0, 9, 10, 99)] == [
        "counts", "counts", "key-retired", "key-retired",
    ]  # fmt: skip
    assert [judged(said, "trainer", stolen, entry) for entry in (9, 10, 19, 20)] == [
        "key-retired", "counts", "counts", "key-revoked",
    ]  # fmt: skip
    assert [judged(said, "trainer", new, entry) for entry in (0, 29, 30, 10**9)] == [
        "key-retired", "key-retired", "counts", "counts",
    ]  # fmt: skip
    assert judged(said, "red-team", new, 40) == "signature"
    assert said.current("trainer").keyid == new.public_key.keyid


def test_a_message_says_which_key_and_which_entries(said, signers):
    data = envelopes.sign(b"{}", envelopes.PAYLOAD_TYPE, [signers[1]])
    with pytest.raises(AttestationError, match=r"entry 25 .* trainer .* revoked at entry 20 \(laptop stolen\)"):
        said.open(data, "trainer", 25)
    with pytest.raises(AttestationError, match=r"entry 3 .* counts from entry 10 on"):
        said.open(data, "trainer", 3)


def test_an_envelope_of_another_type_or_none_keeps_its_own_reason(said, signers):
    data = envelopes.sign(b"{}", "text/plain", [signers[0]])
    assert code(lambda: said.open(data, "trainer", 0)) == "payload-type"
    assert code(lambda: said.open(b"{", "trainer", 0)) == "malformed"
    assert code(lambda: said.open(envelopes.sign(b"{}", envelopes.PAYLOAD_TYPE, []), "trainer", 0)) == "signature"


@pytest.mark.parametrize(
    ("entry", "ends"),
    [
        (0, [0, 20, None]),
        (9, [9, 20, None]),
        (10, [10, 10, None]),
        (15, [10, 15, None]),
        (30, [10, 20, 30]),
        (99, [10, 20, 99]),
    ],
)
def test_the_key_that_counted_for_the_entry_is_revoked_and_no_other(said, entry, ends):
    after = said.key_revoked("trainer", entry, "found out later")
    assert [period.end for period in after.roles["trainer"]] == ends
    (changed,) = [p for p, before in zip(after.roles["trainer"], said.roles["trainer"], strict=True) if p != before]
    assert (changed.ended, changed.reason) == ("revoked", "found out later")
    assert after.version == said.version + 1
    assert {role: after.roles[role] for role in FUNCTIONARIES if role != "trainer"} == {
        role: said.roles[role] for role in FUNCTIONARIES if role != "trainer"
    }


def test_where_no_key_counts_there_is_none_to_revoke(said):
    for entry in (20, 29):
        with pytest.raises(InputError, match=f"trainer: no key of its own counts for entry {entry} "):
            said.key_revoked("trainer", entry, "why")
    for reason in ("", " ", "a\nb"):
        with pytest.raises(InputError, match="say on one line"):
            said.key_revoked("trainer", 40, reason)
    assert said.key_revoked("trainer", 40, "why").current("trainer") is None


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=6))
def test_any_sequence_of_rotations_and_revocations_is_read_back_and_one_key_counts_at_most(ring, steps):
    said, entry = trust.first(ring), 0
    for rotates, ahead in steps:
        entry += ahead
        if rotates:
            said = said.rotated("trainer", CryptoSigner.generate_ecdsa().public_key, entry)
        elif said.current("trainer") is not None:
            said = said.key_revoked("trainer", entry, "stolen")
    assert trust.read(trust.sign(said, {}, ring), ring.owners()) == said
    for number in range(entry + 2):
        assert sum(period.covers(number) for period in said.roles["trainer"]) <= 1


@pytest.fixture
def log(tmp_path, signers):
    """Five entries, the first three signed by one key of the log and the rest by the next."""
    log = Log(tmp_path)
    for number in range(3):
        log.append({"kind": "run", "number": number}, signers[0], "a" * 32)
    log.hand_over([signers[0].public_key], [signers[0], signers[1]])
    for number in range(3, 5):
        log.append({"kind": "run", "number": number}, signers[1])
    return log


@pytest.fixture
def about(ring, signers, log):
    """What the owners said when the log had three entries, and its key was about to change."""
    periods = (KeyPeriod(signers[0].public_key, 0, 3, "rotated", "a new key"), KeyPeriod(signers[1].public_key, 3))
    lines = log.path.read_bytes().splitlines(keepends=True)
    root = merkle.root_hash([merkle.leaf_hash(line) for line in lines[:3]]).hex()
    return Trust(2, "a" * 32, {**trust.first(ring).roles, "log": periods}, (), 3, root)


def view(log, about):
    return log.read(about.keys("log"), about.log)


def test_a_log_that_continues_what_the_owners_saw_is_accepted(log, about):
    trust.check_log(view(log, about), about)
    trust.check_log(view(log, about), replace(about, version=1, size=0, root=merkle.Frontier().root().hex()), about)


def test_a_checkpoint_signed_by_a_key_that_the_log_no_longer_has_is_refused(log, about, signers):
    content = envelopes.read_unverified(log.checkpoint_path.read_bytes(), CHECKPOINT_TYPE)
    log.checkpoint_path.write_bytes(envelopes.sign(canonical_json(content), CHECKPOINT_TYPE, [signers[0]]))
    found = view(log, about)
    assert code(lambda: trust.check_log(found, about)) == "key-retired"
    revoked = replace(about.roles["log"][0], ended="revoked", reason="stolen")
    later = replace(about, roles={**about.roles, "log": (revoked, about.roles["log"][1])})
    assert code(lambda: trust.check_log(found, about, later)) == "key-revoked"


def test_a_log_with_another_past_is_refused_even_if_the_present_key_signed_it(tmp_path, about, signers):
    forged = Log(tmp_path / "forged")
    for number in (0, 7, 2, 3, 4):
        forged.append({"kind": "run", "number": number}, signers[1], about.log)
    assert code(lambda: trust.check_log(view(forged, about), about)) == "log-forked"


def test_a_log_shorter_than_the_owners_saw_is_refused_unless_their_word_came_another_way(tmp_path, about, signers):
    forged = Log(tmp_path / "short")
    forged.append({"kind": "run", "number": 0}, signers[0], about.log)
    assert code(lambda: trust.check_log(view(forged, about), about)) == "log-rewound"
    earlier = replace(about, version=1, size=0, root=merkle.Frontier().root().hex())
    trust.check_log(view(forged, about), earlier, about)


def test_a_later_word_is_held_against_a_log_that_is_long_enough(tmp_path, about, signers):
    forged = Log(tmp_path / "long")
    for number in (0, 7, 2, 3, 4):
        forged.append({"kind": "run", "number": number}, signers[1], about.log)
    earlier = replace(about, version=1, size=0, root=merkle.Frontier().root().hex())
    assert code(lambda: trust.check_log(view(forged, about), earlier, about)) == "log-forked"
