"""An auditor with a bundle, the owners' keys and public tools: what is true convinces, one changed byte does not."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from secpipeline import bundling, runner
from secpipeline.audit import Asked, verify_bundle
from secpipeline.cli import main
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance.report import REASONS
from secpipeline.stages import deploy

PUBLIC_TOOLS = f"{Path(sys.executable).parent}:/usr/bin:/bin"


@pytest.fixture(scope="session")
def audited(deployed_chain, tmp_path_factory):
    """A bundle that no test changes, and the workspace that it came from."""
    from secpipeline.workspace import Workspace

    patch = pytest.MonkeyPatch()
    patch.setenv("SECPIPELINE_KEYS", str(deployed_chain / "keys"))
    workspace = Workspace.open(deployed_chain / "project")
    out = tmp_path_factory.mktemp("audit") / "bundle"
    bundling.export(workspace, "production", out)
    patch.undo()
    return workspace, out


@pytest.fixture
def bundle(audited, tmp_path):
    shutil.copytree(audited[1], tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def refuse(audited, bundle):
    """Verify the changed bundle and return the codes of its refusals."""

    def codes():
        report = verify_bundle(bundle, audited[0].ring().owners(), Asked()).report
        assert report.codes <= REASONS.keys()
        return report.codes

    return codes


def sections(bundle):
    """The shell commands of the guide by the heading they stand under."""
    found, heading = {}, ""
    for line in re.split(r"^## \d\. (.*)$", (bundle / "VERIFY.md").read_text(), flags=re.MULTILINE)[1:]:
        if "```" in line or "\n" in line:
            found[heading] = re.findall(r"```sh\n(.*?)```", line, re.DOTALL)
        else:
            heading = line
    return found


def run(bundle, heading):
    """The exit codes of the commands under a heading; a function of an earlier section is known in later ones."""
    known, codes = "", []
    for name, blocks in sections(bundle).items():
        for block in blocks:
            if name == heading:
                command, environment = ["bash", "-c", known + block], {"PATH": PUBLIC_TOOLS}
                found = subprocess.run(command, cwd=bundle, capture_output=True, env=environment, check=False)
                codes.append(found.returncode)
            known += "".join(re.findall(r"^t=.*\n|^\w+\(\) \{.*?^\}\n", block, re.DOTALL | re.MULTILINE))
    return codes


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


HEADINGS = ("Whose keys these are", "The bytes", "The chain", "The attestations", "The log", "The model")


def test_every_command_of_the_guide_succeeds_and_so_does_our_own(bundle, refuse):
    assert {name: run(bundle, name) for name in HEADINGS} == {
        "Whose keys these are": [0],
        "The bytes": [0, 0],
        "The chain": [0],
        "The attestations": [0, 0],
        "The log": [0],
        "The model": [0],
    }
    assert refuse() == set()


@pytest.mark.parametrize(
    ("name", "failing"),
    [
        ("deploy/detector.onnx", {"The bytes", "The chain", "The model"}),
        ("gate/verdict.json", {"The bytes", "The chain"}),
        ("attestations/train.dsse.json", {"The bytes", "The chain", "The attestations"}),
        ("root.layout", {"The bytes", "The chain"}),
        ("links/train.*.link", {"The bytes", "The chain"}),
        ("log/train.proof.json", {"The bytes", "The log"}),
        ("checkpoint.dsse.json", {"The bytes", "The log"}),
        ("trust.dsse.json", {"The bytes", "The attestations"}),
        ("manifests/train.sha256", {"The bytes", "The attestations"}),
        ("model.sig", {"The bytes", "The model"}),
        ("SHA256SUMS", {"The bytes"}),
        ("SHA256SUMS.sig", {"The bytes"}),
        ("bill-of-materials.cdx.json", {"The bytes"}),
    ],
)
def test_after_one_byte_each_relevant_command_fails(bundle, refuse, name, failing):
    (path,) = bundle.glob(name)
    flip(path)
    assert {heading for heading in failing if not any(run(bundle, heading))} == set()
    assert refuse()


def test_a_file_added_or_taken_away_is_noticed(bundle, refuse):
    (bundle / "deploy/extra.onnx").write_bytes(b"!")
    assert refuse() >= {"bundle-file", "unexpected-file"}
    (bundle / "deploy/extra.onnx").unlink()
    (bundle / "policies/default.yaml").unlink()
    assert refuse() == {"bundle-file"}
    assert any(run(bundle, "The bytes"))


def test_a_list_signed_by_another_role_is_refused(audited, bundle, refuse):
    sums = bundle / "SHA256SUMS"
    signature = audited[0].ring().signer("trainer").sign(sums.read_bytes()).signature
    (bundle / "SHA256SUMS.sig").write_bytes(bytes.fromhex(signature))
    assert refuse() == {"bundle-signature"}


def test_the_owners_keys_are_the_readers_own(bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SECPIPELINE_KEYS", str(tmp_path / "strangers"))
    assert main(["verify", str(bundle), "--owners", str(bundle / "keys")]) == 0
    (tmp_path / "others").mkdir()
    for number in (1, 2, 3):
        shutil.copy(bundle / "keys/trainer.pem", tmp_path / f"others/owner-{number}.pem")
    assert main(["verify", str(bundle), "--owners", str(tmp_path / "others")]) == 4
    assert "trust-signature" in capsys.readouterr().out
    assert main(["verify", str(bundle), "--owners", str(tmp_path)]) == 2


def test_a_bundle_can_prove_that_the_log_only_grew(deployment, bundle, tmp_path):
    runner.run(deployment, "monitor", {"monitor.window": 20})
    runner.run(deployment, "monitor")
    bundling.export(deployment, "production", tmp_path / "later", bundle / "checkpoint.dsse.json")
    proof = json.loads((tmp_path / "later/log/consistency.json").read_bytes())
    assert proof["from"]["size"] < proof["to"]["size"]
    forged = tmp_path / "forged.dsse.json"
    shutil.copy(tmp_path / "later/checkpoint.dsse.json", forged)
    with pytest.raises(AttestationError, match="log-forked"):
        bundling.export(deployment, "production", tmp_path / "more", rewritten(forged))
    assert not (tmp_path / "more").exists()


def rewritten(path):
    """A checkpoint whose root is another's."""
    import base64

    envelope = json.loads(path.read_bytes())
    payload = json.loads(base64.b64decode(envelope["payload"]))
    from secpipeline.provenance import merkle

    tree = merkle.frontier([merkle.leaf_hash(bytes([n])) for n in range(payload["size"])])
    payload.update(frontier=[h.hex() for h in tree.hashes], root=tree.root().hex())
    envelope["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    path.write_text(json.dumps(envelope))
    return path


def test_a_deployment_that_monitoring_never_saw_says_so(deployment, tmp_path):
    pointer = deployment.home / "evidence/current/monitor.json"
    log = [json.loads(line) for line in (deployment.home / "evidence/log.jsonl").read_bytes().splitlines()]
    assert pointer.is_file()
    assert any(entry.get("stage") == "monitor" for entry in log)
    runner.run(deployment, "train", {"train.recipe": "standard"})
    for stage in ("export", "attack", "gate", "release", "deploy"):
        runner.run(deployment, stage, {"train.recipe": "standard"})
    with pytest.raises(InputError, match="monitor has not run on this deployment"):
        bundling.export(deployment, "production", tmp_path / "bundle")


def test_a_directory_in_use_and_an_unknown_channel_are_one_clear_error(deployment, bundle, capsys):
    options = ["--project", str(deployment.root)]
    assert main([*options, "bundle", "production", "--to", str(bundle)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert main([*options, "bundle", "staging"]) == 2
    assert "nothing is deployed there" in capsys.readouterr().err
    assert any(bundle.iterdir())


def test_a_reader_with_an_earlier_checkpoint_is_shown_a_log_that_continues_it(deployment, bundle, tmp_path, capsys):
    runner.run(deployment, "monitor", {"monitor.window": 20})
    runner.run(deployment, "monitor")
    later, mine = tmp_path / "later", str(bundle / "checkpoint.dsse.json")
    bundling.export(deployment, "production", later)
    options = ["--project", str(deployment.root), "verify"]
    assert main([*options, str(later), "--since", mine]) == 0
    assert main([*options, str(bundle), "--since", str(later / "checkpoint.dsse.json")]) == 4
    assert "log-rewound" in capsys.readouterr().out
    assert main([*options, str(later), "--since", str(rewritten(bundle / "checkpoint.dsse.json"))]) == 4
    assert "log-forked" in capsys.readouterr().out
    assert main([*options, "--at-least-version", "3"]) == 2


def test_an_auditor_may_hold_two_owners_keys_of_three(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("SECPIPELINE_KEYS", str(tmp_path / "strangers"))
    (tmp_path / "two").mkdir()
    for number in (1, 3):
        shutil.copy(bundle / f"keys/owner-{number}.pem", tmp_path / "two")
    assert main(["verify", str(bundle), "--owners", str(tmp_path / "two")]) == 0


def test_a_renewed_layout_reaches_the_channel_at_once(deployment):
    before = deploy.active(deployment, "production").evidence
    assert main(["--project", str(deployment.root), "layout"]) == 0
    after = deploy.active(deployment, "production").evidence
    assert (after / "root.layout").read_bytes() == deployment.evidence.layout.read_bytes()
    assert (after / "root.layout").read_bytes() != (before / "root.layout").read_bytes()
