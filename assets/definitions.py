"""Everything Dagster loads."""

from __future__ import annotations

import dagster as dg

from assets.automation import JOBS, SCHEDULES, SENSORS
from assets.chain import ASSETS
from assets.checks import CHECKS
from assets.resources import WorkspaceResource

defs = dg.Definitions(
    assets=ASSETS,
    asset_checks=CHECKS,
    jobs=JOBS,
    schedules=SCHEDULES,
    sensors=SENSORS,
    resources={"workspace": WorkspaceResource()},
    # One process: stages hold the workspace's lock anyway, and spawning one a step costs seconds.
    executor=dg.in_process_executor,
)
