"""The bundle convinces in-toto's own verifier, and a changed byte does not."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_chain import SPECS

from secpipeline.errors import InputError
from secpipeline.provenance.bundle import export


@pytest.fixture
def bundle(chain, tmp_path):
    out = tmp_path / "bundle"
    export(chain.store.directory, chain.artifacts, out, SPECS, chain.ring.owners())
    return out


def in_toto_verify(bundle):
    command = [str(Path(sys.executable).with_name("in-toto-verify")), "--layout", "root.layout", "--link-dir", "links"]
    command += ["--verification-keys", "keys/owner-1.pem", "keys/owner-2.pem"]
    return subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_in_toto_verify_accepts_the_bundle_and_so_does_sha256sum(bundle):
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=bundle, capture_output=True, check=False)
    assert checked.returncode == 0
    answer = in_toto_verify(bundle)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(
    "name", ["deploy/detector.onnx", "gate/verdict.json", "attestations/train.dsse.json", "root.layout", "links"]
)
def test_in_toto_verify_refuses_one_flipped_byte(bundle, name):
    path = bundle / name
    flip(next(path.glob("train.*.link")) if path.is_dir() else path)
    assert in_toto_verify(bundle).returncode != 0


def test_in_toto_verify_refuses_a_verdict_that_is_no_pass(chain, tmp_path):
    (chain.artifacts / "gate/verdict.json").write_bytes(
        b'{"reasons":[{"text":"they said \\"verdict\\":\\"pass\\""}],"verdict":"fail"}\n'
    )
    for name in ("gate", "release", "deploy"):
        chain.sign(name)
    export(chain.store.directory, chain.artifacts, tmp_path / "bundle", SPECS, chain.ring.owners())
    assert in_toto_verify(tmp_path / "bundle").returncode != 0


def test_the_guide_names_the_command_that_was_just_run(bundle):
    guide = (bundle / "VERIFY.md").read_text()
    assert "in-toto-verify --layout root.layout --link-dir links --verification-keys keys/owner-1.pem" in guide


def test_a_directory_in_use_is_refused(chain, bundle):
    with pytest.raises(InputError, match="not empty"):
        export(chain.store.directory, chain.artifacts, bundle, SPECS, chain.ring.owners())
