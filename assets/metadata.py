"""A stage's summary as Dagster metadata: numbers that plot over time, tables, and small pictures."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from secpipeline.assurance.pictures import thumbnail
from secpipeline.runner import Run

# Files of a stage that hold rows worth a table, with the key of the rows.
_TABLES: Mapping[str, tuple[str, str]] = {
    "audit_labels": ("sources.json", "rows"),
    "attack": ("report.json", "table"),
    "monitor": ("report.json", "statistics"),
    "gate": ("verdict.json", "checks"),
}


def describe(outcome: Run, artifacts: Path) -> dict[str, dg.MetadataValue]:
    """Everything the asset's page shows for one materialization."""
    directory = artifacts / outcome.stage.name
    entries: dict[str, dg.MetadataValue] = {
        _label(name): _value(value) for name, value in outcome.summary.items() if name != "pictures"
    }
    entries["evidence"] = dg.MetadataValue.text("reused, unchanged" if outcome.reused else "computed and signed")
    entries["sha256"] = dg.MetadataValue.text(outcome.digest)
    entries["files"] = dg.MetadataValue.path(str(directory))
    rows = _rows(outcome.stage.name, directory)
    if rows:
        entries["table"] = dg.MetadataValue.table([dg.TableRecord(row) for row in rows])
    for name in outcome.summary.get("pictures", []):
        entries[Path(name).stem] = picture(directory / name)
    return entries


def picture(path: Path) -> dg.MetadataValue:
    """A picture small enough for the event log, as Markdown."""
    encoded = base64.b64encode(thumbnail(path.read_bytes())).decode()
    return dg.MetadataValue.md(f"![{path.stem}](data:image/jpeg;base64,{encoded})")


def _label(name: str) -> str:
    return name.replace(" ", "_").replace("-", "_")


def _value(value: Any) -> dg.MetadataValue:
    if isinstance(value, bool):
        return dg.MetadataValue.bool(value)
    if isinstance(value, int):
        return dg.MetadataValue.int(value)
    if isinstance(value, float):
        return dg.MetadataValue.float(value)
    if isinstance(value, (list, tuple)):
        return dg.MetadataValue.md("\n".join(f"- {item}" for item in value) or "none")
    return dg.MetadataValue.text(str(value))


def _rows(stage: str, directory: Path) -> list[dict[str, Any]]:
    if stage not in _TABLES:
        return []
    name, key = _TABLES[stage]
    rows = json.loads((directory / name).read_bytes())[key]
    return [{column: _cell(value) for column, value in row.items()} for row in rows]


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    return value if isinstance(value, (str, int, bool)) else json.dumps(value)
