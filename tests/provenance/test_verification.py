"""Every tampering is refused with its own reason code, and the untouched chain passes."""

import base64
import datetime as dt
import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_chain import CONTENT, NOW, SPECS

from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.errors import AttestationError
from secpipeline.provenance import envelopes, layout, trust
from secpipeline.provenance.evidence import SignedEvidence
from secpipeline.provenance.report import REASONS


def codes(report):
    assert report.codes <= REASONS.keys()
    return set(report.codes)


def resign(chain, step, *, link=None, statement=None, role=None, witness=None):
    """Change what a step says and sign it again with a key; the log records it like any other evidence."""
    spec = chain.spec(step)
    signer = chain.ring.signer(role or spec.role)
    current = chain.store.current(step)
    say = envelopes.read_unverified(current.statement)
    did = envelopes.read_unverified(current.links[0])
    if statement:
        statement(say)
    signed = envelopes.sign(canonical_json(say), envelopes.PAYLOAD_TYPE, [signer])
    did["products"][spec.attestation] = {"sha256": sha256_bytes(signed)}
    if link:
        link(did)
    links = [envelopes.sign(canonical_json(did), envelopes.PAYLOAD_TYPE, [signer])]
    if spec.witness:
        second = chain.ring.signer(witness or spec.witness)
        links.append(envelopes.sign(canonical_json(did), envelopes.PAYLOAD_TYPE, [second]))
    chain.record(step, SignedEvidence(signed, tuple(links)))


def test_the_untouched_chain_verifies(chain):
    report = chain.verify()
    assert report.ok, report.text()
    assert report.files == sum(len(files) for files in CONTENT.values())
    assert report.log_size == len(SPECS) + 1
    report.require()


def edit_box_table(chain):
    (chain.artifacts / "ingest/boxes.parquet").write_bytes(b"boxEs")


def remove_file(chain):
    (chain.artifacts / "ingest/images.parquet").unlink()


def add_file(chain):
    (chain.artifacts / "deploy/backdoor.onnx").write_bytes(b"!")


def rename_file(chain):
    (chain.artifacts / "train/detector.safetensors").rename(chain.artifacts / "train/model.safetensors")


def swap_for_link(chain):
    path = chain.artifacts / "train/detector.safetensors"
    path.rename(chain.root / "elsewhere")
    path.symlink_to(chain.root / "elsewhere")


def edit_statement(chain):
    resign_only = chain.store.current("gate")
    forged = json.loads(resign_only.statement)
    payload = json.loads(base64.b64decode(forged["payload"]))
    payload["predicate"] = {"result": "PASSED"}
    forged["payload"] = base64.b64encode(canonical_json(payload)).decode()
    chain.record("gate", replace(resign_only, statement=canonical_json(forged)))


def other_roles_key(chain):
    resign(chain, "gate", role="trainer")


def link_of_another_step(chain):
    resign(chain, "train", link=lambda link: link.update(name="gate"))


def another_command(chain):
    resign(chain, "train", link=lambda link: link.update(command=["python", "evil.py"]))


def failed_command(chain):
    resign(chain, "train", link=lambda link: link["byproducts"].update({"return-value": 1}))


def md5_only(chain):
    resign(chain, "ingest", statement=lambda s: s["subject"][0].update(digest={"md5": "0" * 32}))


def empty_digest(chain):
    resign(chain, "train", link=lambda link: link["materials"].update({"ingest/boxes.parquet": {}}))


def product_not_in_statement(chain):
    resign(chain, "train", link=lambda link: link["products"].update({"train/x": {"sha256": "0" * 64}}))


def no_subject(chain):
    resign(chain, "train", statement=lambda s: s.update(subject=[]))


def foreign_subject(chain):
    resign(chain, "train", statement=lambda s: s["subject"][0].update(name="deploy/detector.onnx"))


def other_predicate(chain):
    resign(chain, "gate", statement=lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"))


def not_a_statement(chain):
    resign(chain, "gate", statement=lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"))


def material_left_out(chain):
    resign(chain, "train", link=lambda link: link["materials"].pop("ingest/boxes.parquet"))


def undeclared_material(chain):
    chain.sign("train", materials={"secret/labels.json": "0" * 64})
    chain.sign("gate")
    chain.sign("deploy")


def newer_input(chain):
    (chain.artifacts / "train/detector.safetensors").write_bytes(b"better weights")
    chain.sign("train")


def forged_input_name(chain):
    resign(chain, "train", link=lambda link: link["materials"].update({"ingest/extra": {"sha256": "0" * 64}}))


def evidence_lost(chain):
    (chain.store.directory / "current/gate.json").unlink()


def history_changed(chain):
    for path in (chain.store.directory / "history").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(path.read_bytes() + b" ")


def log_line_changed(chain):
    lines = chain.store.log.path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"stage":"train"', b'"stage":"gate1"')
    chain.store.log.path.write_bytes(b"".join(lines))


def log_reordered(chain):
    lines = chain.store.log.path.read_bytes().splitlines(keepends=True)
    chain.store.log.path.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))


def log_truncated(chain):
    lines = chain.store.log.path.read_bytes().splitlines(keepends=True)
    chain.store.log.path.write_bytes(b"".join(lines[:-1]))


def log_removed(chain):
    chain.store.log.path.unlink()


def layout_missing(chain):
    chain.store.layout.unlink()


def layout_expired(chain):
    chain.sign_layout(now=NOW - dt.timedelta(days=31))


def weaker_layout(chain):
    specs = [replace(spec, inputs=()) if spec.name == "train" else spec for spec in SPECS]
    chain.sign_layout(tuple(specs))


def layout_without_a_step(chain):
    chain.sign_layout(tuple(spec for spec in SPECS if spec.name != "gate"))


def layout_by_one_owner(chain):
    layout = json.loads(chain.store.layout.read_bytes())
    layout["signatures"] = layout["signatures"][:1]
    chain.store.layout.write_bytes(canonical_json(layout))


def one_owner_twice(chain):
    layout = json.loads(chain.store.layout.read_bytes())
    layout["signatures"] = layout["signatures"][:2]
    layout["signatures"][1]["sig"] = layout["signatures"][0]["sig"]
    chain.store.layout.write_bytes(canonical_json(layout))


def layout_edited(chain):
    layout = json.loads(chain.store.layout.read_bytes())
    payload = json.loads(base64.b64decode(layout["payload"]))
    payload["expires"] = "2099-01-01T00:00:00Z"
    layout["payload"] = base64.b64encode(canonical_json(payload)).decode()
    chain.store.layout.write_bytes(canonical_json(layout))


def layout_duplicate_key(chain):
    data = chain.store.layout.read_bytes()
    chain.store.layout.write_bytes(b'{"payloadType":"x",' + data[1:])


def layout_other_payload_type(chain):
    chain.store.layout.write_bytes(chain.store.layout.read_bytes().replace(b"vnd.in-toto", b"vnd.in-tote"))


def pointer_deep(chain):
    (chain.store.directory / "current/gate.json").write_bytes(b'{"a":' * 10_000 + b"1" + b"}" * 10_000)


def pointer_not_utf8(chain):
    (chain.store.directory / "current/gate.json").write_bytes(b'{"statement":"\xff"}')


def pointer_large(chain):
    (chain.store.directory / "current/gate.json").write_bytes(b'{"a":"' + b"x" * (17 << 20) + b'"}')


def pointer_path_traversal(chain):
    (chain.store.directory / "current/gate.json").write_bytes(b'{"links":["../../../etc/passwd"],"statement":"../x"}')


def pointer_wrong_types(chain):
    (chain.store.directory / "current/gate.json").write_bytes(b'{"links":1,"statement":[]}')


TAMPERINGS = {
    edit_box_table: "changed-file",
    remove_file: "missing-file",
    add_file: "unexpected-file",
    rename_file: "unexpected-file",
    swap_for_link: "missing-file",
    edit_statement: "signature",
    other_roles_key: "signature",
    link_of_another_step: "link-name",
    another_command: "link-command",
    failed_command: "link-return-value",
    md5_only: "digest",
    empty_digest: "digest",
    product_not_in_statement: "link-products",
    no_subject: "subject",
    foreign_subject: "subject",
    other_predicate: "predicate-type",
    not_a_statement: "statement-type",
    material_left_out: "stale",
    undeclared_material: "undeclared-material",
    newer_input: "stale",
    forged_input_name: "stale",
    evidence_lost: "evidence-missing",
    history_changed: "evidence-missing",
    log_line_changed: "log-changed",
    log_reordered: "log-changed",
    log_truncated: "log-truncated",
    log_removed: "log-missing",
    layout_missing: "layout-missing",
    layout_expired: "layout-expired",
    weaker_layout: "layout-differs",
    layout_without_a_step: "layout-differs",
    layout_by_one_owner: "layout-signature",
    one_owner_twice: "layout-signature",
    layout_edited: "layout-signature",
    layout_duplicate_key: "layout-malformed",
    layout_other_payload_type: "layout-payload-type",
    pointer_deep: "malformed",
    pointer_not_utf8: "malformed",
    pointer_large: "malformed",
    pointer_path_traversal: "evidence-missing",
    pointer_wrong_types: "malformed",
}


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__)
def test_every_tampering_is_refused_by_its_code(chain, tamper):
    tamper(chain)
    report = chain.verify()
    assert TAMPERINGS[tamper] in codes(report), report.text()
    with pytest.raises(AttestationError):
        report.require()


def test_a_changed_file_is_named_with_both_digests_and_the_explanation(chain):
    edit_box_table(chain)
    (refusal,) = chain.verify(explain=lambda stage, name: f"look at {stage} {name}").refusals
    assert refusal.name == "ingest/boxes.parquet"
    assert (refusal.expected, refusal.found) == (sha256_bytes(b"boxes"), sha256_bytes(b"boxEs"))
    assert "look at ingest boxes.parquet" in str(refusal)


def test_strangers_cannot_sign_a_chain_of_their_own(chain, strangers):
    said = chain.trust()
    keys = {role: said.keys(role) for spec in SPECS for role in spec.roles}
    signed = layout.sign(SPECS, keys, strangers, NOW)
    document = trust.sign(trust.renumbered(said), {"root.layout": sha256_bytes(signed)}, strangers)
    chain.store.record_authority(signed, document, said.log, chain.ring.signer("log"))
    assert codes(chain.verify()) >= {"trust-signature"}


def test_one_owner_under_two_ids_is_one_owner(chain, ring):
    from securesystemslib.signer import CryptoSigner, SSlibKey

    key = ring.public("owner-1")
    alias = SSlibKey("ab" * 32, key.keytype, key.scheme, key.keyval)
    signer = CryptoSigner(ring.signer("owner-1")._private_key, alias)
    for path in (chain.store.layout, chain.store.trust):
        payload = base64.b64decode(json.loads(path.read_bytes())["payload"])
        path.write_bytes(envelopes.sign(payload, envelopes.PAYLOAD_TYPE, [ring.signer("owner-1"), signer]))
    assert codes(chain.verify(owners=[key, alias])) == {"trust-signature"}


def test_a_part_of_the_chain_can_be_verified_alone_but_not_without_its_inputs(chain):
    assert chain.verify(only=("ingest", "train")).ok
    assert "input-unverified" in codes(chain.verify(only=("train",)))
    assert not chain.verify(only=()).ok


def test_files_elsewhere_are_held_to_the_same_digests(chain, tmp_path):
    place = tmp_path / "deployed"
    place.mkdir()
    for name, data in CONTENT["deploy"].items():
        (place / name).write_bytes(data)
    assert chain.verify(artifacts=None, files={"deploy": place}).ok
    (place / "detector.onnx").write_bytes(b"grapH")
    assert codes(chain.verify(artifacts=None, files={"deploy": place})) == {"changed-file"}


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_single_flipped_bit_in_the_evidence_is_accepted(built, data):
    paths = [
        built.store.layout,
        built.store.log.path,
        built.store.log.checkpoint_path,
        built.store.trust,
        *(p for p in (built.store.directory / "history").rglob("*") if p.is_file()),
    ]
    path = data.draw(st.sampled_from(sorted(paths)))
    original = path.read_bytes()
    position = data.draw(st.integers(0, len(original) * 8 - 1))
    flipped = bytearray(original)
    flipped[position // 8] ^= 1 << position % 8
    mode = path.stat().st_mode
    path.chmod(0o644)
    try:
        path.write_bytes(flipped)
        assert not built.verify().ok, f"bit {position} of {path.name}"
    finally:
        path.write_bytes(original)
        path.chmod(mode)


@given(st.binary(max_size=2000))
def test_garbage_evidence_is_refused_and_never_crashes(data):
    with pytest.raises(AttestationError):
        envelopes.parse_object(b"x" + data)
    try:
        value = envelopes.parse_object(data)
    except AttestationError:
        return
    assert isinstance(value, dict)
