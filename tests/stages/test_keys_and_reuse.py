"""Evidence that no longer counts is not reused, and a key that no longer counts signs nothing."""

import shutil

import pytest

from secpipeline import runner
from secpipeline.errors import AttestationError
from secpipeline.provenance import authority
from secpipeline.workspace import step_specs

UPSTREAM = ("ingest", "validate")


def rotate(workspace, role):
    return authority.rotate(workspace.evidence, workspace.ring(), step_specs(), role)


def edit(workspace):
    path = workspace.root / "expectations/images.json"
    path.write_text(path.read_text() + "\n")


def codes(workspace):
    return set(runner.verify(workspace, UPSTREAM).codes)


def test_evidence_whose_key_was_revoked_before_is_made_again(chain):
    authority.revoke_key(chain.evidence, chain.ring(), step_specs(), "validator", "stolen", 0)
    assert "key-revoked" in codes(chain)
    with pytest.raises(AttestationError, match="keys rotate validator") as raised:
        runner.run(chain, "validate")
    assert raised.value.code == "key-retired"
    rotate(chain, "validator")
    assert not runner.run(chain, "validate").reused
    assert not codes(chain)
    assert runner.run(chain, "validate").reused


def test_evidence_of_a_rotated_key_is_reused(chain):
    for role in ("validator", "log"):
        rotate(chain, role)
        assert runner.run(chain, "validate").reused
        assert not codes(chain)


def test_a_key_from_before_the_rotation_signs_nothing_and_its_evidence_is_not_reused(chain, tmp_path):
    shutil.copytree(chain.keys, tmp_path / "old")
    rotate(chain, "validator")
    shutil.copytree(chain.keys, tmp_path / "new")
    for part in ("public", "private"):
        shutil.copy2(tmp_path / f"old/{part}/validator.pem", chain.keys / f"{part}/validator.pem")
    edit(chain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_require_key", lambda *_: None)
        runner.run(chain, "validate")
    assert codes(chain) == {"key-retired"}
    for part in ("public", "private"):
        shutil.copy2(tmp_path / f"new/{part}/validator.pem", chain.keys / f"{part}/validator.pem")
    assert not runner.run(chain, "validate").reused
    assert not codes(chain)


def test_evidence_that_a_restored_log_lacks_is_logged_again(chain):
    log = chain.evidence.log
    older = {path: path.read_bytes() for path in (log.path, log.checkpoint_path)}
    edit(chain)
    runner.run(chain, "validate")
    shutil.rmtree(chain.memory)
    for path, data in older.items():
        path.write_bytes(data)
    assert codes(chain) & {"not-logged", "superseded"}
    assert runner.run(chain, "validate").reused
    assert not codes(chain)


def test_evidence_that_was_logged_and_never_made_current_does_not_stand_in_the_way(chain):
    current = chain.evidence.current("validate")
    edit(chain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secpipeline.provenance.evidence.write_atomic", _die_at("validate.json"))
        with pytest.raises(KeyboardInterrupt):
            runner.run(chain, "validate")
    path = chain.root / "expectations/images.json"
    path.write_text(path.read_text()[:-1])
    assert chain.evidence.current("validate") == current
    assert codes(chain) == {"superseded"}
    assert runner.run(chain, "validate").reused
    assert not codes(chain)


def _die_at(name):
    from secpipeline.store import write_atomic

    def write(path, data, **keywords):
        if path.name == name:
            raise KeyboardInterrupt
        write_atomic(path, data, **keywords)

    return write
