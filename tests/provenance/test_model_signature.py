"""The signature convinces the model-signing tool itself; a changed folder or signature convinces neither it nor us."""

import base64
import json
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_signing import signing

from secpipeline.digests import sha256_bytes
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance.model_signature import sign, verify

CONTENT = {"detector.onnx": b"graph" * 1000, "detector.json": b'{"threshold":0.4}\n', "deployment.json": b"{}\n"}


def write_keys(directory, name, private):
    secret, public = directory / f"{name}.pem", directory / f"{name}.pub"
    secret.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return secret, public


@pytest.fixture
def keys(tmp_path):
    return write_keys(tmp_path, "releaser", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def deployed(tmp_path, keys):
    """A signed folder: the folder, the signature beside it, the public key."""
    directory = tmp_path / "files"
    directory.mkdir()
    for name, data in CONTENT.items():
        (directory / name).write_bytes(data)
    sign(directory, tmp_path / "files.sig", keys[0])
    return directory, tmp_path / "files.sig", keys[1]


def model_signing(directory, signature, key, *flags):
    command = [sys.executable, "-m", "model_signing", "verify", "key", directory, "--signature", signature]
    command += ["--public_key", key, *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def change_byte(directory):
    path = directory / "detector.onnx"
    path.write_bytes(path.read_bytes().replace(b"g", b"G", 1))


def add_file(directory):
    (directory / "backdoor.py").write_bytes(b"")


def add_git_file(directory):
    (directory / ".gitattributes").write_bytes(b"*.onnx filter=evil\n")


def add_file_in_git_directory(directory):
    (directory / ".git").mkdir()
    (directory / ".git/config").write_bytes(b"[core]\n")


def remove_file(directory):
    (directory / "deployment.json").unlink()


def rename_file(directory):
    (directory / "detector.json").rename(directory / "card.json")


def swap_two_files(directory):
    one, other = directory / "detector.json", directory / "deployment.json"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def link_to_the_same_bytes(directory):
    path = directory / "detector.onnx"
    path.rename(directory.parent / "elsewhere")
    path.symlink_to(directory.parent / "elsewhere")


CHANGES = [
    change_byte,
    add_file,
    add_git_file,
    add_file_in_git_directory,
    remove_file,
    rename_file,
    swap_two_files,
    link_to_the_same_bytes,
]


def test_the_untouched_folder_verifies_here_and_with_the_tools_own_command(deployed):
    verify(*deployed)
    answer = model_signing(*deployed, "--no-ignore-git-paths")
    assert answer.returncode == 0, answer.stderr
    assert "Verification succeeded" in answer.stdout


def test_the_folder_may_be_moved(deployed, tmp_path):
    directory, signature, key = deployed
    verify(directory.rename(tmp_path / "elsewhere"), signature, key)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_folder_is_refused(deployed, change):
    change(deployed[0])
    with pytest.raises(AttestationError, match="model-signature") as refusal:
        verify(*deployed)
    assert "\n" not in str(refusal.value)


def test_the_refusal_names_the_file_that_was_changed(deployed):
    change_byte(deployed[0])
    with pytest.raises(AttestationError, match=r"detector\.onnx: signed with sha256 [0-9a-f]{64}, found"):
        verify(*deployed)


def test_the_tools_own_command_refuses_a_git_file_only_with_the_flag_that_the_guide_gives(deployed):
    add_git_file(deployed[0])
    assert model_signing(*deployed, "--no-ignore-git-paths").returncode == 1
    assert model_signing(*deployed).returncode == 0


def test_another_key_is_refused(deployed, tmp_path):
    _, stranger = write_keys(tmp_path, "stranger", ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(AttestationError, match="model-signature"):
        verify(deployed[0], deployed[1], stranger)


def test_another_key_that_calls_itself_the_signers_is_refused(deployed, tmp_path):
    directory, signature, key = deployed
    hint = json.loads(signature.read_bytes())["verificationMaterial"]
    secret, _ = write_keys(tmp_path, "stranger", ec.generate_private_key(ec.SECP256R1()))
    sign(directory, signature, secret)
    forged = json.loads(signature.read_bytes())
    signature.write_text(json.dumps({**forged, "verificationMaterial": hint}))
    with pytest.raises(AttestationError, match="is not of the key"):
        verify(directory, signature, key)


def test_a_signature_that_passes_over_git_files_is_refused(deployed, keys):
    """As the tool's own command makes it by default."""
    directory, signature, public = deployed
    command = [sys.executable, "-m", "model_signing", "sign", "key", directory, "--private_key", keys[0]]
    subprocess.run([*command, "--signature", signature], check=True, capture_output=True)
    with pytest.raises(AttestationError, match="covers not all"):
        verify(directory, signature, public)


def signed_by(key, statement):
    """A bundle around any statement, as the format asks for it (DSSE, https://github.com/secure-systems-lab/dsse)."""
    private = load_pem_private_key(key.read_bytes(), None)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    kind, payload = "application/vnd.in-toto+json", json.dumps(statement).encode()
    signed = private.sign(b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload), ec.ECDSA(SHA256()))
    envelope = {"payload": base64.b64encode(payload).decode(), "payloadType": kind}
    envelope["signatures"] = [{"sig": base64.b64encode(signed).decode(), "keyid": ""}]
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": sha256_bytes(public)}, "tlogEntries": []},
        "dsseEnvelope": envelope,
    }


def claims(signature):
    return json.loads(base64.b64decode(json.loads(signature.read_bytes())["dsseEnvelope"]["payload"]))


def claim_another_digest(statement):
    statement["predicate"]["resources"][0]["digest"] = "0" * 64


def claim_less(statement):
    statement["predicate"]["resources"].pop()


def ignore_a_file(statement):
    statement["predicate"]["serialization"]["ignore_paths"] = ["backdoor.py"]


def be_of_another_kind(statement):
    statement["predicateType"] = "https://model_signing/Digests/v0.1"


def name_a_file_twice(statement):
    statement["predicate"]["resources"] *= 2


def lack_the_resources(statement):
    del statement["predicate"]["resources"]


EDITS = [claim_another_digest, claim_less, ignore_a_file, be_of_another_kind, name_a_file_twice, lack_the_resources]


def with_the_digest_over_all(statement):
    digests = b"".join(bytes.fromhex(entry["digest"]) for entry in statement["predicate"].get("resources", ()))
    statement["subject"][0]["digest"]["sha256"] = sha256_bytes(digests)
    return statement


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edited_claim_is_refused(deployed, edit):
    directory, signature, key = deployed
    bundle, statement = json.loads(signature.read_bytes()), claims(signature)
    edit(statement)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    signature.write_text(json.dumps(bundle))
    with pytest.raises(AttestationError, match="model-signature"):
        verify(directory, signature, key)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_a_claim_that_falls_short_is_refused_even_from_the_right_key(deployed, keys, edit):
    directory, signature, key = deployed
    statement = claims(signature)
    signature.write_text(json.dumps(signed_by(keys[0], statement)))
    verify(directory, signature, key)
    edit(statement)
    signature.write_text(json.dumps(signed_by(keys[0], with_the_digest_over_all(statement))))
    with pytest.raises(AttestationError, match="model-signature"):
        verify(directory, signature, key)


@pytest.mark.parametrize("field", ["verificationMaterial", "dsseEnvelope", "mediaType"])
def test_a_signature_without_a_part_is_refused(deployed, field):
    directory, signature, key = deployed
    bundle = json.loads(signature.read_bytes())
    del bundle[field]
    signature.write_text(json.dumps(bundle))
    with pytest.raises(AttestationError, match="model-signature"):
        verify(directory, signature, key)


def test_a_signature_that_names_no_key_is_refused_without_a_word_on_the_screen(deployed, capfd):
    directory, signature, key = deployed
    bundle = json.loads(signature.read_bytes())
    bundle["verificationMaterial"]["publicKey"] = {}
    signature.write_text(json.dumps(bundle))
    with pytest.raises(AttestationError, match="model-signature"):
        verify(directory, signature, key)
    assert capfd.readouterr().out == ""


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.floats(0, 1, exclude_max=True))
def test_a_truncated_signature_is_refused(deployed, kept):
    directory, signature, key = deployed
    data = signature.read_bytes()
    cut = signature.with_name("cut.sig")
    cut.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(AttestationError, match="model-signature"):
        verify(directory, cut, key)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200) | st.recursive(st.none() | st.text(), st.lists, max_leaves=5).map(json.dumps))
def test_anything_else_as_a_signature_is_one_clear_refusal(deployed, data):
    directory, signature, key = deployed
    other = signature.with_name("other.sig")
    other.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(AttestationError, match="model-signature"):
        verify(directory, other, key)


def test_what_is_missing_is_one_clear_refusal(deployed, tmp_path):
    directory, signature, key = deployed
    absent = tmp_path / "absent"
    for arguments in ((absent, signature, key), (directory, absent, key), (directory, signature, absent)):
        with pytest.raises(AttestationError, match=r"model-signature.*absent"):
            verify(*arguments)


def test_a_signature_inside_the_folder_it_covers_is_refused(deployed, keys):
    directory, _, _ = deployed
    with pytest.raises(InputError, match="beside the directory"):
        sign(directory, directory / "model.sig", keys[0])
    assert not (directory / "model.sig").exists()


def test_nothing_is_signed_that_is_not_plain_files(tmp_path, keys):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        with pytest.raises(InputError, match=name):
            sign(tmp_path / name, tmp_path / "x.sig", keys[0])
    (tmp_path / "empty/link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="link"):
        sign(tmp_path / "empty", tmp_path / "x.sig", keys[0])
    assert not (tmp_path / "x.sig").exists()


def test_a_file_that_changes_while_it_is_signed_leaves_the_old_signature(deployed, keys, monkeypatch):
    directory, signature, _ = deployed
    before, really_sign = signature.read_bytes(), signing.Config.sign

    def change_and_sign(config, model, written):
        change_byte(directory)
        really_sign(config, model, written)

    monkeypatch.setattr(signing.Config, "sign", change_and_sign)
    with pytest.raises(AttestationError, match=r"detector\.onnx"):
        sign(directory, signature, keys[0])
    assert signature.read_bytes() == before


def test_a_key_that_cannot_sign_leaves_the_old_signature(deployed, tmp_path):
    directory, signature, public = deployed
    before = signature.read_bytes()
    secret, _ = write_keys(tmp_path, "edwards", ed25519.Ed25519PrivateKey.generate())
    for key in (secret, public, tmp_path / "absent", signature):
        with pytest.raises(AttestationError, match="cannot be signed"):
            sign(directory, signature, key)
    assert signature.read_bytes() == before
    verify(*deployed)
