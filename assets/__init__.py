"""The Dagster layer: the stage table as assets, checks, jobs and automation. No logic of the chain lives here."""

import os

# Dagster reports usage to its makers unless told otherwise, also from commands that read no dagster.yaml.
os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "yes")
