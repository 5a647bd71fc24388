"""What was once seen here is not shown older again; and a memory that is damaged is never taken for none."""

import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_chain import SPECS

from secpipeline.digests import canonical_json
from secpipeline.errors import AttestationError
from secpipeline.provenance import authority
from secpipeline.provenance.evidence import EvidenceStore
from secpipeline.provenance.memory import Memory
from secpipeline.provenance.trust import Revocation

VENDOR = Revocation("source", "vendor-x", "sold twice", "2026-11-24T07:47:26Z")


@pytest.fixture
def memory(tmp_path):
    return Memory(tmp_path / "seen")


def codes(chain, memory):
    return set(chain.verify(memory=memory).codes)


def code(action):
    with pytest.raises(AttestationError) as raised:
        action()
    assert "\n" not in str(raised.value)
    return raised.value.code


def files(chain):
    return {path: path.read_bytes() for path in chain.store.directory.rglob("*") if path.is_file()}


def put_back(chain, saved):
    for path in set(files(chain)) - set(saved):
        path.unlink()
    for path, data in saved.items():
        path.unlink(missing_ok=True)
        path.write_bytes(data)


def view(chain, store=None):
    said = chain.trust()
    return (store or chain.store).read_log(said.keys("log"), said.log), said


def again(chain):
    chain.sign("train", materials={"recipes/other.yaml": os.urandom(32).hex()})
    chain.sign("gate")
    chain.sign("release")
    chain.sign("deploy")


def only_file(memory):
    (path,) = memory.directory.iterdir()
    return path


def test_a_log_that_grew_is_accepted_and_remembered(chain, memory):
    assert chain.verify(memory=memory).ok
    assert only_file(memory).name == f"{chain.trust().log}.json"
    assert only_file(memory).stat().st_mode & 0o777 == 0o600
    before = only_file(memory).read_bytes()
    again(chain)
    assert chain.verify(memory=memory).ok
    assert only_file(memory).read_bytes() != before


def test_an_older_pair_of_log_and_checkpoint_is_refused_however_valid(chain, memory):
    older = files(chain)
    again(chain)
    assert chain.verify(memory=memory).ok
    seen = only_file(memory).read_bytes()
    put_back(chain, older)
    assert chain.verify().ok
    assert "log-rewound" in codes(chain, memory)
    assert only_file(memory).read_bytes() == seen


def test_a_log_that_took_another_way_is_refused_also_where_it_is_longer(chain, memory):
    older = files(chain)
    again(chain)
    assert chain.verify(memory=memory).ok
    put_back(chain, older)
    for _ in range(2):
        again(chain)
    assert chain.verify().ok
    assert "log-forked" in codes(chain, memory)
    assert "log-forked" in codes(chain, memory)


def test_what_the_owners_said_before_is_refused_with_its_own_log(chain, memory):
    older = files(chain)
    authority.revoke(chain.store, chain.ring, SPECS, VENDOR)
    assert chain.verify(memory=memory).ok
    put_back(chain, older)
    assert chain.verify().ok
    assert "trust-rewound" in codes(chain, memory)


def test_refused_evidence_is_remembered_too_if_log_and_owners_are_genuine(chain, memory):
    (chain.artifacts / "train/detector.safetensors").write_bytes(b"other")
    older = files(chain)
    again(chain)
    (chain.artifacts / "train/detector.safetensors").write_bytes(b"weights")
    assert codes(chain, memory) >= {"changed-file"}
    put_back(chain, older)
    assert codes(chain, memory) >= {"log-rewound"}


def test_what_nobody_signed_is_not_remembered(chain, memory):
    chain.store.log.checkpoint_path.write_bytes(chain.store.log.checkpoint_path.read_bytes().replace(b"sig", b"sgi"))
    assert not chain.verify(memory=memory).ok
    assert not memory.directory.exists()


def test_two_logs_are_remembered_apart(chain, memory, tmp_path):
    assert chain.verify(memory=memory).ok
    other = replace(chain, root=tmp_path / "other")
    authority.found(EvidenceStore(tmp_path / "other/evidence"), chain.ring, SPECS)
    log, said = view(other)
    memory.check(log, said)
    memory.remember(log, said)
    assert len(list(memory.directory.iterdir())) == 2
    assert chain.verify(memory=memory).ok


def test_one_who_looked_longer_does_not_bring_the_memory_back(chain, memory):
    slow = view(chain)
    authority.revoke(chain.store, chain.ring, SPECS, VENDOR)
    assert chain.verify(memory=memory).ok
    seen = only_file(memory).read_bytes()
    memory.remember(*slow)
    assert only_file(memory).read_bytes() == seen
    memory.remember(slow[0], replace(view(chain)[1]))
    memory.remember(view(chain)[0], slow[1])
    assert only_file(memory).read_bytes() == seen


GOOD = {"root": "ab" * 32, "size": 3, "trust": 1}
DAMAGE = {
    "empty": b"",
    "half": canonical_json(GOOD)[:20],
    "not UTF-8": b"\xff\xfe",
    "a list": b"[]",
    "deep": b'{"root":' * 99 + b"1" + b"}" * 99,
    "more": canonical_json({**GOOD, "note": "x"}),
    "less": canonical_json({"root": "ab" * 32, "size": 3}),
    "root a number": canonical_json({**GOOD, "root": 7}),
    "root short": canonical_json({**GOOD, "root": "ab"}),
    "root and a newline": canonical_json({**GOOD, "root": "ab" * 32 + "\n"}),
    "size negative": canonical_json({**GOOD, "size": -1}),
    "size true": canonical_json({**GOOD, "size": True}),
    "size a float": canonical_json({**GOOD, "size": 3.0}),
    "size text": canonical_json({**GOOD, "size": "3"}),
    "trust null": canonical_json({**GOOD, "trust": None}),
    "twice": b'{"root":"' + b"ab" * 32 + b'","size":3,"size":0,"trust":1}',
    "large": b'{"root":"' + b"x" * (17 << 20) + b'"}',
}


def remembers(memory, chain, data):
    memory.directory.mkdir(exist_ok=True)
    path = memory.directory / f"{chain.trust().log}.json"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_memory_is_refused_and_left_as_it_is(chain, memory, case):
    path = remembers(memory, chain, DAMAGE[case])
    assert "memory" in codes(chain, memory)
    assert code(lambda: memory.remember(*view(chain))) == "memory"
    assert path.read_bytes() == DAMAGE[case]
    with pytest.raises(AttestationError, match=path.name):
        memory.check(*view(chain))


@pytest.mark.parametrize("kind", ["directory", "pipe", "dangling link", "loop"])
def test_a_memory_that_is_no_file_is_not_taken_for_none(chain, memory, kind):
    path = remembers(memory, chain, b"")
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path.symlink_to(memory.directory / "gone")
    if kind == "dangling link":  # as good as nothing: what is remembered takes its place
        assert chain.verify(memory=memory).ok
        assert path.is_file()
        assert not path.is_symlink()
    else:
        assert "memory" in codes(chain, memory)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=60).filter(lambda data: data != b"")
    | st.dictionaries(
        st.sampled_from(["root", "size", "trust", "more"]),
        st.none() | st.booleans() | st.integers(-2, 9) | st.text(max_size=3) | st.just("ab" * 32) | st.lists(st.none()),
    ).map(canonical_json)
)
def test_whatever_is_in_a_memory_it_answers_or_refuses(built, tmp_path_factory, content):
    memory = Memory(tmp_path_factory.getbasetemp() / "any-memory")
    remembers(memory, built, content)
    try:
        memory.check(*view(built))
        answer = "fine"
    except AttestationError as error:
        answer = error.code
    assert answer in ("fine", "memory", "log-rewound", "log-forked", "trust-rewound")
    assert answer != "fine" or b'"size":0' in content


def test_a_memory_of_a_log_without_entries_matches_any(chain, memory):
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    remembers(memory, chain, canonical_json({"root": empty, "size": 0, "trust": 1}))
    assert chain.verify(memory=memory).ok
