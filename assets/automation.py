"""Jobs, the weekly retraining, and the reaction to a new release."""

from __future__ import annotations

import dagster as dg

from assets.resources import WorkspaceResource
from secpipeline.errors import SecpipelineError
from secpipeline.freshness import refresh
from secpipeline.stages.table import BY_NAME

RAW_RELEASE = dg.AssetKey(BY_NAME["ingest"].asset)

full_chain = dg.define_asset_job(
    "full_chain", dg.AssetSelection.all(), description="From images to a watched detector."
)
retrain = dg.define_asset_job(
    "retrain",
    dg.AssetSelection.assets(RAW_RELEASE).downstream(),
    description="Ingest without what was revoked, audit the labels, train, attack, gate, and deploy what passes.",
)
audit = dg.define_asset_job(
    "audit",
    dg.AssetSelection.all_asset_checks(),
    description="Re-check every signature, link and byte, and show every verdict, without computing anything.",
)

weekly_retraining = dg.ScheduleDefinition(
    name="weekly_retraining",
    job=retrain,
    cron_schedule="0 3 * * 1",
    execution_timezone="UTC",
    description="Mondays at 03:00 UTC; unchanged inputs are recognised and cost nothing.",
)


@dg.sensor(
    job=retrain, minimum_interval_seconds=60, description="Retrains when a release with new content was ingested."
)
def new_release(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Ask for one retraining per data version of the raw release."""
    event = context.instance.get_latest_data_version_record(RAW_RELEASE)
    if event is None:
        return dg.SkipReason("nothing was ingested yet")
    version = (event.event_log_entry.tags or {}).get("dagster/data_version", str(event.storage_id))
    if version == context.cursor:
        return dg.SkipReason(f"release {version[:12]} was handled already")
    context.update_cursor(version)
    return dg.RunRequest(run_key=version)


@dg.op(description="Signs the log's checkpoint and every channel's timestamp anew, changing nothing else.")
def sign_freshness(workspace: WorkspaceResource) -> None:
    """Say again that nothing is newer."""
    try:
        for line in refresh(workspace.open()):
            dg.get_dagster_logger().info(line)
    except SecpipelineError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


@dg.job(name="refresh", description="A channel speaks for a week; readers take older ones for held back.")
def refresh_job() -> None:
    """The one step of the daily job."""
    sign_freshness()


daily_refresh = dg.ScheduleDefinition(
    name="daily_refresh", job=refresh_job, cron_schedule="0 2 * * *", execution_timezone="UTC"
)

JOBS = [full_chain, retrain, audit, refresh_job]
SCHEDULES = [weekly_retraining, daily_refresh]
SENSORS = [new_release]
