"""The gate needs two runs by two roles that read and made the same; what falls short of that is refused."""

import shutil
from dataclasses import replace

import pytest

from secpipeline.digests import canonical_json
from secpipeline.errors import AttestationError
from secpipeline.provenance import envelopes
from secpipeline.provenance.evidence import SignedEvidence, attest, countersign


def sign(payload, signer):
    return envelopes.sign(canonical_json(payload), envelopes.PAYLOAD_TYPE, [signer])


def codes(chain):
    return set(chain.verify().codes)


def record(chain, *links, statement=None, step="gate"):
    current = chain.store.current(step)
    chain.record(step, SignedEvidence(statement or current.statement, links))


def links_of(chain):
    return chain.store.current("gate").links


def second(chain, change, role="safety"):
    """The witness's link with something changed."""
    link = envelopes.read_unverified(links_of(chain)[1])
    change(link)
    record(chain, links_of(chain)[0], sign(link, chain.ring.signer(role)))


def test_two_runs_by_two_roles_verify(chain):
    assert len(links_of(chain)) == 2
    assert chain.verify().ok
    second(chain, lambda link: link.update(environment={"python": "another machine's"}))
    assert chain.verify().ok


def one_run(chain):
    record(chain, links_of(chain)[0])


def the_witness_alone(chain):
    record(chain, links_of(chain)[1])


def three_runs(chain):
    record(chain, *links_of(chain), links_of(chain)[0])


def two_runs_where_one_is_asked_for(chain):
    (link,) = chain.store.current("train").links
    record(chain, link, link, step="train")


def the_same_link_twice(chain):
    record(chain, links_of(chain)[0], links_of(chain)[0])


def the_same_role_twice(chain):
    second(chain, lambda link: None, role="red-team")


def a_third_role(chain):
    second(chain, lambda link: None, role="trainer")


def the_roles_exchanged(chain):
    record(chain, *reversed(links_of(chain)))


def the_witness_speaks_for_both(chain):
    statement = envelopes.read_unverified(chain.store.current("gate").statement)
    record(chain, *links_of(chain), statement=sign(statement, chain.ring.signer("safety")))


def one_link_signed_by_both(chain):
    link = envelopes.read_unverified(links_of(chain)[0])
    signers = [chain.ring.signer("red-team"), chain.ring.signer("safety")]
    record(chain, envelopes.sign(canonical_json(link), envelopes.PAYLOAD_TYPE, signers))


def other_material(chain):
    second(chain, lambda link: link["materials"].update({"train/detector.safetensors": {"sha256": "0" * 64}}))


def material_left_out(chain):
    second(chain, lambda link: link["materials"].pop("train/detector.safetensors"))


def material_more(chain):
    second(chain, lambda link: link["materials"].update({"secret": {"sha256": "0" * 64}}))


def other_product(chain):
    second(chain, lambda link: link["products"].update({"gate/verdict.json": {"sha256": "0" * 64}}))


def product_left_out(chain):
    second(chain, lambda link: link["products"].pop("gate/verdict.json"))


def other_statement(chain):
    second(chain, lambda link: link["products"].update({"attestations/gate.dsse.json": {"sha256": "0" * 64}}))


def other_command(chain):
    second(chain, lambda link: link.update(command=["true"]))


def other_step(chain):
    second(chain, lambda link: link.update(name="train"))


def failed(chain):
    second(chain, lambda link: link["byproducts"].update({"return-value": 1}))


def not_a_link(chain):
    second(chain, lambda link: link.update(_type="layout"))


def link_of_an_earlier_run(chain):
    earlier = links_of(chain)[1]
    (chain.artifacts / "gate/verdict.json").write_bytes(b'{"reasons":["x"],"verdict":"fail"}\n')
    chain.sign("gate")
    record(chain, links_of(chain)[0], earlier)


REFUSED = {
    one_run: "threshold",
    the_witness_alone: "threshold",
    three_runs: "threshold",
    two_runs_where_one_is_asked_for: "threshold",
    one_link_signed_by_both: "threshold",
    the_same_link_twice: "signature",
    the_same_role_twice: "signature",
    a_third_role: "signature",
    the_roles_exchanged: "signature",
    the_witness_speaks_for_both: "signature",
    other_material: "runs-disagree",
    material_left_out: "runs-disagree",
    material_more: "runs-disagree",
    other_product: "link-products",
    product_left_out: "link-products",
    other_statement: "link-products",
    link_of_an_earlier_run: "link-products",
    other_command: "link-command",
    other_step: "link-name",
    failed: "link-return-value",
    not_a_link: "link-type",
}


@pytest.mark.parametrize("tamper", REFUSED, ids=lambda tamper: tamper.__name__)
def test_what_two_roles_did_not_do_alike_is_refused_by_its_code(chain, tamper):
    tamper(chain)
    assert REFUSED[tamper] in codes(chain)
    chain.sign("gate")
    chain.sign("train")
    assert REFUSED[tamper] not in codes(chain)


def test_one_key_in_both_roles_is_refused_before_anything_is_signed(chain, tmp_path, ring):
    shutil.copytree(ring.directory, tmp_path / "ring")
    one = replace(ring, directory=tmp_path / "ring")
    for part in ("public", "private"):
        shutil.copy2(one.directory / f"{part}/red-team.pem", one.directory / f"{part}/safety.pem")
    with pytest.raises(AttestationError, match=r"trust-shared-key.*red-team.*safety"):
        replace(chain, root=tmp_path / "new", ring=one).sign_layout()
    assert not (tmp_path / "new/evidence/trust.dsse.json").exists()


@pytest.fixture
def first(chain):
    """The gate's first run, and what it read and made."""
    spec = chain.spec("gate")
    made, read = {"gate/verdict.json": "aa" * 32, "gate/notes.md": "bb" * 32}, {"train/detector.safetensors": "cc" * 32}
    return spec, attest(chain.ring, spec, made, read, {"x": "1"}, {}), made, read


def test_a_second_run_that_agrees_is_added_and_one_that_runs_again_takes_its_place(chain, first):
    spec, evidence, made, read = first
    assert len(evidence.links) == 1
    both = countersign(chain.ring, spec, evidence, made, read, {"python": "x"})
    assert both.statement == evidence.statement
    assert both.links[0] == evidence.links[0]
    link = envelopes.verify(both.links[1], [chain.ring.public("safety")], 1)
    assert link["environment"] == {"python": "x"}
    assert {k: link[k] for k in ("materials", "products", "command", "name")} == {
        k: envelopes.read_unverified(both.links[0])[k] for k in ("materials", "products", "command", "name")
    }
    assert len(countersign(chain.ring, spec, both, made, read, {}).links) == 2


@pytest.mark.parametrize(
    ("made", "read", "named"),
    [
        ({"gate/verdict.json": "00" * 32}, {}, "gate/verdict.json"),
        ({"gate/notes.md": None}, {}, "gate/notes.md"),
        ({"gate/extra": "00" * 32}, {}, "gate/extra"),
        ({"gate/verdict.json": "00" * 32, "gate/notes.md": "00" * 32}, {}, "gate/notes.md"),
        ({}, {"train/detector.safetensors": "00" * 32}, "train/detector.safetensors"),
        ({}, {"train/detector.safetensors": None}, "train/detector.safetensors"),
        ({}, {"policies/default.yaml": "00" * 32}, "policies/default.yaml"),
    ],
)
def test_a_second_run_that_disagrees_signs_nothing_and_the_file_is_named(chain, first, made, read, named):
    spec, evidence, right_made, right_read = first
    found = [
        {name: digest for name, digest in {**right, **change}.items() if digest}
        for right, change in ((right_made, made), (right_read, read))
    ]
    with pytest.raises(AttestationError, match=named) as raised:
        countersign(chain.ring, spec, evidence, *found, {})
    assert raised.value.code == "runs-disagree"
