"""The tree against a literal reading of RFC 6962, and proofs against every change of them."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secpipeline.provenance import merkle


def literal_root(entries):
    """RFC 6962, section 2.1, word for word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return hashlib.sha256(b"\x01" + literal_root(entries[:k]) + literal_root(entries[k:])).digest()


def hashed(entries):
    return [merkle.leaf_hash(entry) for entry in entries]


@given(st.lists(st.binary(max_size=8), max_size=40))
def test_the_root_is_that_of_the_rfc(entries):
    assert merkle.root_hash(hashed(entries)) == literal_root(entries)


def test_the_known_root_of_the_certificate_transparency_reference():
    # The eight entries and the root of the tests of the reference implementation of certificate transparency.
    entries = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    root = merkle.root_hash(hashed([bytes.fromhex(entry) for entry in entries]))
    assert root.hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@pytest.mark.parametrize("size", range(1, 34))
def test_every_inclusion_proof_holds_for_its_entry_and_for_no_other(size):
    leaves = hashed([bytes([number]) for number in range(size)])
    root = merkle.root_hash(leaves)
    for index in range(size):
        proof = merkle.inclusion_proof(leaves, index)
        for other in range(size):
            assert merkle.verify_inclusion(leaves[other], index, size, proof, root) == (other == index)
        assert not merkle.verify_inclusion(leaves[index], size, size, proof, root)
        assert not merkle.verify_inclusion(leaves[index], index, size, [*proof, root], root)
        if proof:
            assert not merkle.verify_inclusion(leaves[index], index, size, proof[:-1], root)


@pytest.mark.parametrize("size", range(1, 34))
def test_a_proof_can_be_followed_by_its_sides_alone(size):
    leaves = hashed([bytes([number]) for number in range(size)])
    for index in range(size):
        found = leaves[index]
        proof = merkle.inclusion_proof(leaves, index)
        for side, sibling in zip(merkle.proof_sides(index, size), proof, strict=True):
            found = merkle.node_hash(sibling, found) if side == "left" else merkle.node_hash(found, sibling)
        assert found == merkle.root_hash(leaves)


@pytest.mark.parametrize("size", range(1, 34))
def test_consistency_proofs_hold_for_a_prefix_and_not_for_a_rewritten_past(size):
    leaves = hashed([bytes([number]) for number in range(size)])
    root = merkle.root_hash(leaves)
    for old in range(1, size + 1):
        proof = merkle.consistency_proof(leaves, old)
        assert merkle.verify_consistency(old, size, proof, merkle.root_hash(leaves[:old]), root)
        rewritten = merkle.root_hash([*leaves[: old - 1], merkle.leaf_hash(b"rewritten")])
        assert not merkle.verify_consistency(old, size, proof, rewritten, root)
        assert not merkle.verify_consistency(old, size, [*proof, root], merkle.root_hash(leaves[:old]), root)
    assert not merkle.verify_consistency(0, size, [], merkle.root_hash([]), root)
    assert not merkle.verify_consistency(size + 1, size, [], root, root)


@given(st.data(), st.lists(st.binary(max_size=4), min_size=2, max_size=40))
def test_a_proof_with_one_bit_flipped_is_refused(data, entries):
    leaves = hashed(entries)
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof = merkle.inclusion_proof(leaves, index)
    position = data.draw(st.integers(0, len(proof) * 256 - 1))
    flipped = bytearray(b"".join(proof))
    flipped[position // 8] ^= 1 << position % 8
    broken = [bytes(flipped[start : start + 32]) for start in range(0, len(flipped), 32)]
    assert not merkle.verify_inclusion(leaves[index], index, len(leaves), broken, merkle.root_hash(leaves))
