"""The log: nothing is lost, nothing in its past changes unnoticed, and whatever breaks is one clear error."""

import datetime as dt
import json
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tiny_chain import SPECS

from secpipeline.digests import canonical_json
from secpipeline.errors import AttestationError
from secpipeline.provenance import envelopes, log, merkle
from secpipeline.provenance.log import CHECKPOINT_TYPE, Checkpoint, Log

SIGNER = CryptoSigner.generate_ecdsa()
STRANGER = CryptoSigner.generate_ecdsa()
KEYS = [SIGNER.public_key]
NAME = "0" * 32


def entry(number):
    return {"kind": "run", "number": number}


@pytest.fixture
def kept(tmp_path):
    """A log of five entries."""
    found = Log(tmp_path / "evidence")
    for number in range(5):
        found.append(entry(number), SIGNER, NAME)
    return found


def state(found):
    return found.path.read_bytes(), found.checkpoint_path.read_bytes()


def put(found, pair):
    found.path.write_bytes(pair[0])
    found.checkpoint_path.write_bytes(pair[1])


def code(action):
    with pytest.raises(AttestationError) as raised:
        action()
    assert "\n" not in str(raised.value)
    return raised.value.code


def read_code(found, keys=KEYS, name=NAME):
    return code(lambda: found.read(keys, name))


def numbers(found):
    return [line["number"] for line in found.read(KEYS, NAME).entries]


def sign_checkpoint(found, lines, signer=SIGNER, **changes):
    """Write lines and a checkpoint over them, as somebody who holds a key could; keyword arguments lie."""
    frontier = merkle.frontier([merkle.leaf_hash(line) for line in lines])
    content = {
        "bytes": len(b"".join(lines)),
        "frontier": [digest.hex() for digest in frontier.hashes],
        "origin": NAME,
        "root": frontier.root().hex(),
        "size": len(lines),
        "time": "2026-11-24T07:47:26Z",
    }
    content |= changes
    payload = json.dumps(content).encode()
    found.path.parent.mkdir(exist_ok=True)
    found.path.write_bytes(b"".join(lines))
    found.checkpoint_path.write_bytes(envelopes.sign(payload, CHECKPOINT_TYPE, [signer]))


TEXTS = st.text(max_size=20) | st.sampled_from(["\n", "\r", "\r\n", "\u2028", "\x85", "\x0b", '"}\n{"'])
STEPS = st.lists(st.one_of(st.just("refresh"), st.dictionaries(TEXTS, TEXTS, max_size=3)), min_size=1, max_size=20)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, data=st.data())
def test_any_sequence_of_appends_is_the_tree_over_the_lines_and_proves_itself(tmp_path_factory, steps, data):
    found = Log(tmp_path_factory.mktemp("log"))
    wanted, roots = [], []
    for step in [{"first": ""}, *steps]:
        if step == "refresh":
            found.refresh(SIGNER)
        else:
            assert found.append(step, SIGNER, NAME) == len(wanted)
            wanted.append(step)
            roots.append(found.read(KEYS, NAME).checkpoint.root)
    view = found.read(KEYS, NAME)
    assert list(view.entries) == wanted
    assert list(view.lines) == [canonical_json(step) for step in wanted]
    leaves = [merkle.leaf_hash(line) for line in found.path.read_bytes().splitlines(keepends=True)]
    size, root = len(wanted), merkle.root_hash(leaves)
    assert view.checkpoint.frontier == merkle.frontier(leaves)
    assert (view.checkpoint.size, view.checkpoint.root) == (size, root.hex()) == (found.size(), view.root_at(size))
    assert view.checkpoint.length == found.path.stat().st_size
    number = data.draw(st.integers(0, size - 1))
    proof = [bytes.fromhex(digest) for digest in view.inclusion(number)]
    assert merkle.verify_inclusion(leaves[number], number, size, proof, root)
    earlier = data.draw(st.integers(1, size))
    assert view.root_at(earlier) == roots[earlier - 1]
    proof = [bytes.fromhex(digest) for digest in view.consistency(earlier)]
    assert merkle.verify_consistency(earlier, size, proof, bytes.fromhex(roots[earlier - 1]), root)


class Killed(BaseException):
    """What no handler takes for an error of its own."""


def deadly(*_, **__):
    raise Killed


@pytest.mark.parametrize("size", [0, 1, 5])
def test_killed_between_an_entry_and_its_checkpoint_the_entry_does_not_count_and_is_written_over(tmp_path, size):
    found = Log(tmp_path)
    for number in range(size):
        found.append(entry(number), SIGNER, NAME)
    before = found.read(KEYS, NAME).checkpoint.root if size else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "write_atomic", deadly)
        with pytest.raises(Killed):
            found.append(entry("lost"), SIGNER, NAME)
    assert b"lost" in found.path.read_bytes()
    if size:
        assert found.read(KEYS, NAME).checkpoint.root == before
    else:
        assert read_code(found) == "log-missing"
    assert found.size() == size
    assert found.append(entry("kept"), SIGNER, NAME) == size
    assert numbers(found) == [*range(size), "kept"]
    assert b"lost" not in found.path.read_bytes()


@pytest.mark.parametrize("left", [b"{", b'{"kind":"run"', b"\x00" * 5000, b'{"a":1}\n' * 3, b"\n"])
def test_bytes_that_no_checkpoint_covers_are_ignored_and_written_over(kept, left):
    kept.path.write_bytes(kept.path.read_bytes() + left)
    assert numbers(kept) == [0, 1, 2, 3, 4]
    kept.append(entry(5), SIGNER)
    assert numbers(kept) == [0, 1, 2, 3, 4, 5]
    assert kept.path.stat().st_size == kept.read(KEYS, NAME).checkpoint.length


def test_a_log_shorter_than_its_checkpoint_is_refused_and_nothing_is_added(kept):
    data = kept.path.read_bytes()
    for length in (0, 1, len(data) - 1):
        kept.path.write_bytes(data[:length])
        assert read_code(kept) == "log-truncated"
        assert code(lambda: kept.append(entry(5), SIGNER)) == "log-truncated"
        assert code(lambda: kept.refresh(SIGNER)) == "log-truncated"
        assert kept.path.read_bytes() == data[:length]


def test_a_log_that_lost_its_checkpoint_is_refused_and_not_begun_anew(kept):
    kept.checkpoint_path.unlink()
    data = kept.path.read_bytes()
    assert read_code(kept) == "log-missing"
    for act in (lambda: kept.append(entry(5), SIGNER, NAME), lambda: kept.refresh(SIGNER), kept.size):
        assert code(act) == "log-missing"
    assert kept.path.read_bytes() == data
    assert not kept.checkpoint_path.exists()


def test_a_checkpoint_that_lost_its_log_is_refused(kept):
    kept.path.unlink()
    assert read_code(kept) == "log-missing"
    assert code(lambda: kept.append(entry(5), SIGNER, NAME)) == "log-truncated"


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[]", b'{"payload":"","payloadType":"x","signatures":[]}'])
def test_a_checkpoint_that_is_none_is_refused_by_name(kept, content):
    kept.checkpoint_path.write_bytes(content)
    assert read_code(kept).startswith("checkpoint-")
    with pytest.raises(AttestationError, match=r"checkpoint\.dsse\.json"):
        kept.append(entry(5), SIGNER)


def test_no_entry_can_be_edited_moved_or_taken_out(kept):
    lines = kept.path.read_bytes().splitlines(keepends=True)
    for forged in (
        [lines[0].replace(b"0", b"9"), *lines[1:]],
        [*lines[:4], lines[4].replace(b"4", b"9")],
        [lines[1], lines[0], *lines[2:]],
        [lines[0], *lines],
        [*lines[:2], lines[2].replace(b":", b": "), *lines[3:]],
    ):
        kept.path.write_bytes(b"".join(forged))
        assert read_code(kept) == "log-changed"


def test_another_key_cannot_cover_what_it_changed(kept):
    lines = kept.path.read_bytes().splitlines(keepends=True)
    sign_checkpoint(kept, [lines[0].replace(b"0", b"9"), *lines[1:]], STRANGER)
    assert read_code(kept) == "checkpoint-signature"
    assert kept.read([STRANGER.public_key], NAME).entries[0]["number"] == 9


def test_nobody_signs_on_top_of_a_past_that_somebody_else_wrote(kept):
    lines = kept.path.read_bytes().splitlines(keepends=True)
    forged = [lines[0].replace(b"0", b"9"), *lines[1:]]
    sign_checkpoint(kept, forged, STRANGER)
    before = state(kept)
    for act in (
        lambda: kept.append(entry(5), SIGNER),
        lambda: kept.append(entry(5), SIGNER, NAME),
        lambda: kept.refresh(SIGNER),
        lambda: kept.hand_over(KEYS, [SIGNER, STRANGER]),
    ):
        assert code(act) == "checkpoint-signature"
        assert state(kept) == before
    payload = envelopes.read_unverified(before[1], CHECKPOINT_TYPE)
    kept.checkpoint_path.write_bytes(envelopes.sign(canonical_json(payload), CHECKPOINT_TYPE, []))
    assert code(lambda: kept.append(entry(5), SIGNER)) == "checkpoint-signature"


def test_a_key_that_was_handed_the_log_goes_on_with_it_and_no_other(kept):
    assert code(lambda: kept.append(entry(5), STRANGER)) == "checkpoint-signature"
    before = kept.read(KEYS, NAME).checkpoint
    kept.hand_over(KEYS, [SIGNER, STRANGER])
    for keys in (KEYS, [STRANGER.public_key]):
        view = kept.read(keys, NAME)
        assert (view.checkpoint.root, view.checkpoint.size) == (before.root, before.size)
    kept.append(entry(5), STRANGER)
    assert code(lambda: kept.append(entry(6), SIGNER)) == "checkpoint-signature"
    assert [line["number"] for line in kept.read([STRANGER.public_key], NAME).entries] == [0, 1, 2, 3, 4, 5]


def test_an_older_pair_is_valid_and_only_a_later_root_tells(kept):
    older = state(kept)
    seen = kept.read(KEYS, NAME)
    kept.append(entry(5), SIGNER)
    later = kept.read(KEYS, NAME)
    put(kept, older)
    assert numbers(kept) == [0, 1, 2, 3, 4]
    kept.append(entry("other"), SIGNER)
    forked = kept.read(KEYS, NAME)
    assert forked.root_at(5) == seen.checkpoint.root
    assert forked.root_at(6) != later.checkpoint.root


def test_the_log_of_another_chain_is_refused(tmp_path, kept):
    assert read_code(kept, name="1" * 32) == "log-origin"
    assert code(lambda: kept.append(entry(5), SIGNER, "1" * 32)) == "log-origin"
    assert numbers(kept) == [0, 1, 2, 3, 4]
    other = Log(tmp_path / "other")
    other.append(entry(0), SIGNER, "1" * 32)
    put(kept, state(other))
    assert read_code(kept) == "log-origin"


def test_a_log_without_a_name_is_not_begun(tmp_path):
    found = Log(tmp_path)
    assert found.size() == 0
    for act in (lambda: found.append(entry(0), SIGNER), lambda: found.refresh(SIGNER)):
        assert code(act) == "log-missing"
    assert read_code(found) == "log-missing"
    found.append(entry(0), SIGNER, NAME)
    assert numbers(found) == [0]


def test_a_refreshed_checkpoint_differs_in_its_time_alone(kept, monkeypatch):
    before = kept.read(KEYS, NAME).checkpoint
    later = before.time + dt.timedelta(days=1)
    monkeypatch.setattr(log, "_now", lambda: later)
    kept.refresh(SIGNER)
    after = kept.read(KEYS, NAME).checkpoint
    assert after.time == later
    assert (after.root, after.size, after.length, after.origin) == (
        before.root, before.size, before.length, before.origin,
    )  # fmt: skip


def test_entries_are_listed_latest_first_and_only_those_that_are_covered(kept):
    kept.path.write_bytes(kept.path.read_bytes() + b"{left over")
    assert [line["number"] for line in kept.unverified()] == [4, 3, 2, 1, 0]


PROGRAM = """
import sys
from pathlib import Path
from securesystemslib.signer import CryptoSigner
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from secpipeline.provenance.log import Log

directory, pem, name, who, many = sys.argv[1:]
signer = CryptoSigner(load_pem_private_key(Path(pem).read_bytes(), None))
for number in range(int(many)):
    Log(Path(directory)).append({"who": who, "number": number}, signer, name)
"""


def appender(found, pem, who, many):
    command = [sys.executable, "-c", PROGRAM, str(found.path.parent), str(pem), NAME, who, str(many)]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def test_several_processes_at_once_lose_no_entry(tmp_path):
    found, pem = Log(tmp_path / "log"), tmp_path / "key.pem"
    pem.write_bytes(SIGNER.private_bytes)
    started = [appender(found, pem, who, 15) for who in "abc"]
    for process in started:
        assert process.wait(timeout=60) == 0, process.stderr.read().decode()
    entries = found.read(KEYS, NAME).entries
    assert len(entries) == 45
    for who in "abc":
        assert [line["number"] for line in entries if line["who"] == who] == list(range(15))


def test_a_process_that_is_killed_among_others_takes_no_entry_with_it(tmp_path):
    found, pem = Log(tmp_path / "log"), tmp_path / "key.pem"
    pem.write_bytes(SIGNER.private_bytes)
    victim, other = appender(found, pem, "victim", 10_000), appender(found, pem, "other", 20)
    assert other.wait(timeout=60) == 0, other.stderr.read().decode()
    victim.kill()
    victim.wait(timeout=60)
    found.append({"who": "me", "number": 0}, SIGNER, NAME)
    entries = found.read(KEYS, NAME).entries
    assert [line["number"] for line in entries if line["who"] == "other"] == list(range(20))
    mine = [line["number"] for line in entries if line["who"] == "victim"]
    assert mine == list(range(len(mine)))
    assert entries[-1]["who"] == "me"


# What each of these sets a signed checkpoint's field to.
NONSENSE = {
    "origin": [None, 7, [], {}],
    "size": [None, -1, True, 5.0, "5", 4, 10**30, []],
    "bytes": [None, -1, False, 1.5, "9"],
    "frontier": [None, {}, "ab", ["ab"], [7, 7], ["AB" * 32, "cd" * 32], ["ab" * 32] * 3, [["ab" * 32]] * 2],
    "root": [None, 7, "", "ab" * 32, []],
    "time": [None, 7, "", [], "yesterday", "2026-13-01T00:00:00Z", "2026-11-24T07:47:26+00:00"],
    "note": ["more"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in NONSENSE for value in NONSENSE[name]])
def test_a_signed_checkpoint_that_says_nonsense_is_refused(tmp_path, name, value):
    found = Log(tmp_path)
    lines = [canonical_json(entry(number)) for number in range(5)]
    sign_checkpoint(found, lines)
    assert numbers(found) == [0, 1, 2, 3, 4]
    sign_checkpoint(found, lines, **{name: value})
    assert read_code(found) == "checkpoint-malformed"
    assert code(lambda: found.append(entry(5), SIGNER)) == "checkpoint-malformed"


@pytest.mark.parametrize("name", ["origin", "size", "bytes", "frontier", "root", "time"])
def test_a_signed_checkpoint_that_lacks_a_field_is_refused(kept, name):
    content = envelopes.read_unverified(kept.checkpoint_path.read_bytes(), CHECKPOINT_TYPE)
    del content[name]
    kept.checkpoint_path.write_bytes(envelopes.sign(canonical_json(content), CHECKPOINT_TYPE, [SIGNER]))
    assert read_code(kept) == "checkpoint-malformed"


def test_a_checkpoint_whose_length_or_size_is_not_that_of_its_entries_is_refused(kept):
    lines = kept.path.read_bytes().splitlines(keepends=True)
    for change in (-1, 1 - len(lines[-1])):
        sign_checkpoint(kept, lines, bytes=len(b"".join(lines)) + change)
        assert read_code(kept) == "log-changed"
    sign_checkpoint(kept, lines, size=6)
    assert read_code(kept) == "log-changed"
    for length in (len(b"".join(lines)) + 1, 2**62, 10**30):
        sign_checkpoint(kept, lines, bytes=length)
        assert read_code(kept) == "log-truncated"
        assert code(lambda: kept.append(entry(5), SIGNER)) == "log-truncated"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["ab" * 32, 5, NAME]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
FIELDS = st.sampled_from(["bytes", "frontier", "origin", "root", "size", "time", "more"])


@settings(max_examples=150, deadline=None)
@given(content=st.dictionaries(FIELDS, VALUES, max_size=7))
def test_whatever_is_in_a_checkpoint_it_is_read_in_full_or_refused(content):
    try:
        parsed = Checkpoint.parse(content)
    except AttestationError as error:
        content, parsed = error.code, None
    assert content == "checkpoint-malformed" or json.loads(parsed.to_bytes()) == content


@settings(max_examples=100, deadline=None)
@given(size=st.integers(0, 40), length=st.integers(0, 10**6), seconds=st.integers(0, 4 * 10**9), origin=st.text())
def test_a_checkpoint_is_read_back_as_it_was_signed(size, length, seconds, origin):
    frontier = merkle.frontier([merkle.leaf_hash(bytes([number])) for number in range(size)])
    checkpoint = Checkpoint(origin, size, length, frontier, dt.datetime.fromtimestamp(seconds, dt.UTC))
    assert Checkpoint.parse(envelopes.parse_object(checkpoint.to_bytes())) == checkpoint


@pytest.mark.parametrize(
    "line", [b"[]\n", b"7\n", b"\xff\n", b'{"a":1,"a":2}\n', b"\n", b'{"a":NaN}\n', b"[" * 99 + b"\n"]
)
def test_a_signed_entry_that_cannot_be_read_is_refused(tmp_path, line):
    found = Log(tmp_path)
    sign_checkpoint(found, [canonical_json(entry(0)), line])
    assert read_code(found) == "malformed"


SHAPES = [
    {},
    {"kind": "run"},
    {"kind": 7},
    {"kind": ["run"]},
    {"kind": "run", "stage": "train"},
    {"kind": "run", "stage": 7, "statement": 7, "links": 7, "time": "x"},
    {"kind": "run", "stage": ["train"], "statement": {}, "links": {}, "time": None},
    {"kind": "run", "stage": "train", "statement": "../x", "links": ["../../etc/passwd"], "time": 0},
    {"kind": "run", "stage": "train", "statement": "ab" * 32, "links": ["ab" * 32, 7], "time": 10**30},
    {"kind": "run", "stage": "train\x00", "statement": "ab" * 32, "links": ["ab" * 32], "time": -1},
    {"kind": "authority"},
    {"kind": "authority", "layout": 7, "trust": []},
    {"kind": "other", "statement": 7, "links": "abc"},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_entry_of_any_shape_that_the_logs_own_key_signed_is_never_a_traceback(chain, shape):
    chain.store.log.append(shape, chain.ring.signer("log"))
    report = chain.verify()
    assert not report.ok or report.log_size == len(SPECS) + 2
    try:
        chain.history()
    except AttestationError as error:
        assert error.code  # noqa: PT017 - either answer is one, a traceback is none
