"""What each stage's attestation says, by predicate type."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secpipeline.provenance import statements
from secpipeline.stages.context import StageResult
from secpipeline.stages.table import (
    LABEL_AUDIT,
    PROVENANCE,
    ROBUSTNESS,
    TEST_RESULT,
    VERIFICATION_SUMMARY,
    Stage,
)


@dataclass(frozen=True)
class Facts:
    """What the runner knows about one computation, whatever the stage.

    Attributes
    ----------
    stage, params, materials
        What was run, with which parameters, on which bytes.
    attestations
        SHA-256 of the statement of each earlier stage.
    environment, source, lock
        Versions, git revision and lock file digest.
    started, finished
        Seconds since the epoch.
    """

    stage: Stage
    params: Mapping[str, Any]
    materials: Mapping[str, str]
    attestations: Mapping[str, str]
    environment: Mapping[str, str]
    source: Mapping[str, str]
    lock: Mapping[str, str]
    started: float
    finished: float


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, to the second."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
