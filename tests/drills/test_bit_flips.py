"""No single bit of the evidence can change without a refusal."""

import attackers
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secpipeline.errors import AttestationError
from secpipeline.provenance import envelopes
from secpipeline.provenance.keys import LOG
from secpipeline.provenance.log import CHECKPOINT_TYPE, Checkpoint
from secpipeline.provenance.verification import Expectations, verify_chain

QUIET = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


def accepts(chain):
    """Evidence alone: no artifact and no memory comes to its help."""
    expect = Expectations(whole_history=True)
    return verify_chain(chain.store, None, chain.ring.owners(), chain.specs, expect=expect).ok


def refuse_a_flip(chain, data):
    files = attackers.evidence_files(chain.store)
    path = data.draw(st.sampled_from(files), label="file")
    bit = data.draw(st.integers(0, path.stat().st_size * 8 - 1), label="bit")
    with attackers.flipped(path, bit):
        assert not accepts(chain), f"bit {bit} of {path.relative_to(chain.store.directory)}"


@settings(max_examples=300, **QUIET)
@given(data=st.data())
def test_no_flipped_bit_is_accepted(built, data):
    refuse_a_flip(built, data)


@pytest.mark.slow
@settings(max_examples=3000, **QUIET)
@given(data=st.data())
def test_none_of_thousands_of_flipped_bits_is_accepted(built, data):
    refuse_a_flip(built, data)


def test_what_is_flipped_back_is_accepted(built):
    assert accepts(built)
    files = {path.name for path in attackers.evidence_files(built.store)}
    assert {"log.jsonl", "checkpoint.dsse.json", "root.layout", "trust.dsse.json", "gate.json"} <= files


def test_no_bit_at_all_of_the_checkpoint_is_accepted(built):
    """No other file holds its digest, so each of its bits must matter by itself."""
    keys = [built.ring.public(LOG)]
    data = built.store.log.checkpoint_path.read_bytes()
    assert Checkpoint.parse(envelopes.verify(data, keys, 1, CHECKPOINT_TYPE)).size == built.store.log.size()
    accepted = []
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            Checkpoint.parse(envelopes.verify(bytes(flipped), keys, 1, CHECKPOINT_TYPE))
        except AttestationError:
            continue
        accepted.append(bit)
    assert accepted == []
