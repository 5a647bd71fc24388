"""From a file that changed to the images or rows that changed inside it."""

from __future__ import annotations

from pathlib import Path

from secpipeline.datasets.releases import Release
from secpipeline.errors import SecpipelineError

_SHOWN = 5


def explain(artifacts: Path, stage: str, name: str) -> str:
    """Name the damaged images of a release file, or return an empty string where there is nothing finer to say."""
    if stage not in ("ingest", "curate") or not name.endswith((".tar", ".parquet")):
        return ""
    try:
        damaged = Release(artifacts / stage, artifacts / "ingest").damaged()
    except SecpipelineError as error:
        return str(error)
    more = f" and {len(damaged) - _SHOWN} more" if len(damaged) > _SHOWN else ""
    return f"images affected: {', '.join(damaged[:_SHOWN])}{more}" if damaged else ""
