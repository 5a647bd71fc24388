"""The Dagster layer equals the stage table, and every verdict blocks."""

import dagster as dg
import pytest

from assets.automation import refresh_job
from assets.chain import ASSETS
from assets.definitions import defs
from assets.resources import WorkspaceResource
from secpipeline import audit
from secpipeline.stages import deploy
from secpipeline.stages.table import BY_NAME, STAGES


@pytest.fixture(scope="module")
def graph():
    return defs.resolve_asset_graph()


def test_the_asset_graph_is_the_stage_table(graph):
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == {stage.asset for stage in STAGES}
    for stage in STAGES:
        node = graph.get(dg.AssetKey(stage.asset))
        parents = {key.to_user_string() for key in node.parent_keys}
        assert parents == {BY_NAME[name].asset for name in stage.inputs}
        assert node.group_name == stage.group
        assert node.description == stage.summary
        assert set(node.owners) == {f"team:{stage.role}"}


def test_groups_sort_in_the_order_of_the_flow():
    groups = [stage.group for stage in STAGES]
    assert groups == sorted(groups)


def test_every_check_but_the_drift_warning_blocks(graph):
    checks = {(key.asset_key.to_user_string(), key.name): graph.get_check_spec(key) for key in graph.asset_check_keys}
    assert {asset for asset, name in checks if name == "evidence_verifies"} == {stage.asset for stage in STAGES}
    assert ("gate_verdict", "verdict_is_pass") in checks
    lenient = {name for (_, name), spec in checks.items() if not spec.blocking}
    assert lenient == {"no_open_incidents"}


def test_jobs_schedule_and_sensor_are_there():
    assert {job.name for job in defs.jobs} == {"full_chain", "retrain", "audit", "refresh"}
    assert [schedule.cron_schedule for schedule in defs.schedules] == ["0 3 * * 1", "0 2 * * *"]
    assert [sensor.name for sensor in defs.sensors] == ["new_release"]
    retrain = {key.to_user_string() for key in defs.resolve_job_def("retrain").asset_layer.executable_asset_keys}
    assert retrain == {stage.asset for stage in STAGES}


def workspace_of(chain):
    return {"workspace": WorkspaceResource(project=str(chain.root), home=str(chain.home))}


def test_the_deployment_alone_with_a_failed_gate_is_refused_and_deploys_nothing(chain):
    result = dg.materialize([*ASSETS], selection="deployment", resources=workspace_of(chain), raise_on_error=False)
    assert not result.success
    failure = result.get_step_failure_events()[0].event_specific_data
    assert "inconclusive" in failure.user_failure_data.description
    assert not list(chain.channels.glob("*/1.root.json"))


def test_a_verdict_other_than_pass_fails_its_blocking_check_with_the_reasons(chain):
    from assets.checks import CHECKS

    result = dg.materialize(
        [*ASSETS, *CHECKS], selection="gate_verdict", resources=workspace_of(chain), raise_on_error=False
    )
    evaluations = {e.check_name: e for e in result.get_asset_check_evaluations()}
    assert evaluations["evidence_verifies"].passed
    verdict = evaluations["verdict_is_pass"]
    assert not verdict.passed
    assert verdict.severity == dg.AssetCheckSeverity.ERROR
    assert "inconclusive" in verdict.metadata["reasons"].value


def test_a_materialization_shows_numbers_pictures_and_its_digest(chain):
    result = dg.materialize([*ASSETS], selection="raw_release", resources=workspace_of(chain))
    event = result.asset_materializations_for_node("raw_release")[0]
    assert event.metadata["images"].value == 48
    assert event.metadata["preview"].value.startswith("![preview](data:image/jpeg;base64,")
    assert len(event.metadata["preview"].value) < 70_000
    assert event.tags["dagster/data_version"] == event.metadata["sha256"].value


def test_the_daily_job_signs_freshness_anew_and_changes_nothing_else(deployment, monkeypatch):
    monkeypatch.setenv("SECPIPELINE_HOME", str(deployment.home))
    before = deploy.active(deployment, "production")
    entries = deployment.evidence.log.path.read_bytes()
    resources = {"workspace": WorkspaceResource(project=str(deployment.root), home=str(deployment.home))}
    assert refresh_job.execute_in_process(resources=resources).success
    after = deploy.active(deployment, "production")
    assert after.metadata["timestamp"] == before.metadata["timestamp"] + 1
    assert after.version == before.version
    assert deployment.evidence.log.path.read_bytes() == entries
    assert audit.verify_everything(deployment).ok
