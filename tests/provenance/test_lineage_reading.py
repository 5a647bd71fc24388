"""A log or a link that is broken, missing or signed by another role gives no lineage."""

import shutil
from dataclasses import replace

import pytest
from tiny_chain import SPECS

from secpipeline.digests import canonical_json
from secpipeline.errors import AttestationError
from secpipeline.provenance import authority, envelopes
from secpipeline.provenance.evidence import SignedEvidence
from secpipeline.provenance.keys import LOG
from secpipeline.provenance.lineage.reading import read_history


def test_a_link_of_another_role_is_refused(chain):
    specs = [replace(spec, role="red-team") if spec.name == "train" else spec for spec in SPECS]
    with pytest.raises(AttestationError, match="signature"):
        read_history(chain.store, chain.trust(), specs)


def test_a_link_under_another_stages_name_is_refused(chain):
    chain.record("release", chain.store.current("deploy"))
    with pytest.raises(AttestationError, match=r"link-name.*deploy"):
        chain.history()


@pytest.mark.parametrize("number", [0, 2])
def test_a_broken_log_is_refused(chain, number):
    lines = chain.store.log.path.read_bytes().splitlines(keepends=True)
    del lines[number]
    chain.store.log.path.write_bytes(b"".join(lines))
    with pytest.raises(AttestationError, match="log"):
        chain.history()


def test_a_log_older_than_the_owners_word_is_refused(chain, ring):
    log = chain.store.log
    older = [(path, path.read_bytes()) for path in (log.path, log.checkpoint_path)]
    chain.sign("deploy")
    authority.publish(chain.store, ring, SPECS, chain.trust().key_revoked("trainer", 2, "laptop stolen"))
    chain.history()
    for path, data in older:
        path.write_bytes(data)
    with pytest.raises(AttestationError, match="log-rewound"):
        chain.history()


def test_missing_envelopes_are_refused(chain):
    shutil.rmtree(chain.store.directory / "history")
    with pytest.raises(AttestationError, match="evidence-missing"):
        chain.history()


def relink(chain, stage, change, *, role=None):
    """The current evidence of a stage with another link, signed by its role; the Statement stays."""
    evidence = chain.store.current(stage)
    link = envelopes.read_unverified(evidence.links[0])
    change(link)
    signer = chain.ring.signer(role or chain.spec(stage).role)
    signed = envelopes.sign(canonical_json(link), envelopes.PAYLOAD_TYPE, [signer])
    return SignedEvidence(evidence.statement, (signed, *evidence.links[1:]))


def test_a_second_link_about_the_same_statement_takes_nothing_back(chain):
    chain.record("train", relink(chain, "train", lambda link: link["materials"].pop("ingest/sources/vendor-c.sha256")))
    (trained,) = (run for run in chain.history().runs if run.stage == "train")
    assert "ingest/sources/vendor-c.sha256" in dict(trained.materials)
    chain.record("train", relink(chain, "train", lambda link: link["materials"].update({"x/y": {"sha256": "a" * 64}})))
    (trained,) = (run for run in chain.history().runs if run.stage == "train")
    assert ("x/y", "a" * 64) in trained.materials
    assert len(trained.logged) == 3


def test_a_second_link_by_another_role_is_refused(chain):
    chain.record("train", relink(chain, "train", lambda link: None, role="red-team"))
    with pytest.raises(AttestationError, match=r"\[signature\]"):
        chain.history()


def test_a_witness_link_by_another_role_is_refused(chain):
    gate = chain.store.current("gate")
    forged = relink(chain, "gate", lambda link: None, role="trainer").links[0]
    chain.record("gate", SignedEvidence(gate.statement, (gate.links[0], forged)))
    with pytest.raises(AttestationError, match=r"\[signature\].*safety"):
        chain.history()


def test_a_link_that_is_paired_with_another_statement_is_refused(chain):
    train = chain.store.current("train")
    chain.record("train", SignedEvidence(chain.store.current("deploy").statement, train.links))
    with pytest.raises(AttestationError, match=r"\[link-products\]"):
        chain.history()


def test_more_links_than_roles_are_refused(chain):
    train = chain.store.current("train")
    chain.record("train", SignedEvidence(train.statement, train.links * 2))
    with pytest.raises(AttestationError, match=r"\[threshold\]"):
        chain.history()


@pytest.mark.parametrize(
    "change",
    [
        lambda link: link["materials"].update({"x/y": {"md5": "0" * 32}}),
        lambda link: link["materials"].update({"x/y": {"sha256": "0" * 63}}),
        lambda link: link["materials"].update({"x/y": {"sha256": 7}}),
        lambda link: link["products"].update({"x/y": None}),
        lambda link: link.pop("materials"),
        lambda link: link.update(products=[]),
        lambda link: link.pop("name"),
    ],
)
def test_a_malformed_link_is_one_clear_error(chain, change):
    evidence = relink(chain, "train", change)
    chain.record("train", evidence)
    with pytest.raises(AttestationError, match=r"\[malformed\] log entry 6"):
        chain.history()


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "run"},
        {"kind": "run", "stage": ["train"], "statement": "0" * 64, "links": ["0" * 64], "time": 0},
        {"kind": "run", "stage": "train", "statement": 7, "links": ["0" * 64], "time": 0},
    ],
)
def test_a_malformed_entry_is_one_clear_error(chain, entry):
    chain.store.log.append(entry, chain.ring.signer(LOG))
    with pytest.raises(AttestationError, match="malformed"):
        chain.history()


def test_an_entry_at_an_impossible_time_is_one_clear_error(chain):
    train = chain.store.current("train")
    entry = {"kind": "run", "stage": "train", **train.digests(), "time": 10**30}
    chain.store.log.append(entry, chain.ring.signer(LOG))
    with pytest.raises(AttestationError, match=r"\[malformed\] log entry 6"):
        chain.history()
