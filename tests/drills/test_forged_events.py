"""What is reported to Dagster is not evidence: the deployment asks the signed verdict."""

import attackers
import dagster as dg
import pytest

from assets.chain import ASSETS
from assets.resources import WorkspaceResource
from secpipeline.digests import canonical_json
from secpipeline.stages import deploy


@pytest.fixture
def instance():
    """An event log that says that the gate passed and everything is deployed."""
    with dg.DagsterInstance.ephemeral() as instance:
        attackers.forge_events(instance, "gate_verdict", "verdict_is_pass", verdict="pass")
        attackers.forge_events(instance, "deployment", "evidence_verifies", outcome="deployed")
        yield instance


@pytest.fixture
def materialize(chain, instance, monkeypatch):
    """Materialize the deployment alone, as an operator can."""
    monkeypatch.setenv("SECPIPELINE_KEYS", str(chain.workspace.keys))
    (chain.workspace.root / "params.yaml").write_text("deploy: {channel: production}\n")
    workspace = WorkspaceResource(project=str(chain.workspace.root), home=str(chain.workspace.home))
    return lambda: dg.materialize(
        ASSETS, selection="deployment", resources={"workspace": workspace}, instance=instance, raise_on_error=False
    )


def test_forged_events_do_not_deploy_what_the_gate_failed(chain, materialize):
    reasons = [{"code": "miss-rate", "text": "too many are missed"}]
    verdict = {"checks": [], "reasons": reasons, "verdict": "fail"}
    (chain.artifacts / "gate/verdict.json").write_bytes(canonical_json(verdict))
    chain.run("gate", "release", "deploy")
    result = materialize()
    assert not result.success
    failure = result.get_step_failure_events()[0].event_specific_data.user_failure_data
    assert "gate fail: too many are missed" in failure.description
    assert deploy.serving(chain.workspace) == ()


def test_forged_events_do_not_hide_a_flipped_verdict(chain, materialize):
    (chain.artifacts / "gate/verdict.json").write_bytes(b'{"checks":[],"reasons":[],"verdict":"passed"}\n')
    result = materialize()
    assert not result.success
    failure = result.get_step_failure_events()[0].event_specific_data.user_failure_data
    assert "changed-file" in failure.description
    assert deploy.serving(chain.workspace) == ()


def test_what_passed_is_deployed(chain, materialize):
    assert materialize().success
    assert deploy.serving(chain.workspace) == ("production",)
    assert deploy.verify_channel(chain.workspace, "production").ok
