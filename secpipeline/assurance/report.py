"""The report of a chain: one self-contained HTML page with its pictures inside, made from verified artifacts.

>>> report.write(workspace, {"robust": outcome}, None, audit.verify_everything(workspace))     # doctest: +SKIP
PosixPath('.../build/report/index.html')
"""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from secpipeline.digests import sha256_bytes
from secpipeline.errors import SecpipelineError
from secpipeline.provenance import authority
from secpipeline.provenance.lineage.picture import svg
from secpipeline.provenance.lineage.reading import read_history
from secpipeline.stages.table import STAGES
from secpipeline.store import write_atomic
from secpipeline.workspace import step_specs

_PICTURES = {
    "ingest": {"preview.png": "Two images of every source, with the labels as delivered (blue; grey: ignored)"},
    "audit_labels": {
        "findings.png": "The strongest findings: labels blue, the judges' opinion yellow, the finding orange",
        "triggers.png": "Triggers: patches that one source repeats where its labels are disputed",
    },
    "train": {
        "predictions.png": "Calibration images: label blue, detections at the deployed threshold yellow",
        "curve.png": "Training loss",
    },
    "attack": {
        "conditions.png": "Average precision under every condition, with 95 % bootstrap intervals over images",
        "gallery.png": "Clean and attacked images: label blue, detections at the deployed threshold",
    },
    "monitor": {"drift.png": "Drift of the replayed window against the calibration data"},
}


def write(workspace: Any, outcomes: Mapping[str, Mapping[str, Any]], forgery: str | None, verification: Any) -> Path:
    """Render ``<home>/report/index.html`` and lay the pictures beside it.

    Parameters
    ----------
    workspace
        Whose chain.
    outcomes
        What the demo learned of each detector: recipe, verdict, reasons, numbers, files.
    forgery
        What happened to the flipped byte, or none.
    verification
        The audit.

    Returns
    -------
    Path
        The page.
    """
    directory = workspace.home / "report"
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("secpipeline", "assurance"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html.j2").render(
        made=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        outcomes=outcomes,
        forgery=forgery,
        verification=verification,
        lineage=_lineage(workspace),
        stages=[_stage(workspace, stage) for stage in STAGES],
        sources=_json(workspace, "audit_labels", "sources.json"),
        held=_held(workspace),
        review=_json(workspace, "curate", "review.json"),
        galleries=_galleries(workspace, outcomes),
        evaluations=_evaluations(workspace, outcomes),
    )
    write_atomic(directory / "index.html", page.encode())
    return Path(directory / "index.html")


def _lineage(workspace: Any) -> dict[str, Any]:
    """The picture of what the last deployment rests on and of what rests on it, or why there is none."""
    store = workspace.evidence
    try:
        # The owners' word as it lies there: asking the workspace would sign a first one where it is lost.
        history = read_history(store, authority.said(store, workspace.ring()), step_specs())
        current = store.current("deploy")
        statement = sha256_bytes(current.statement) if current else ""
        deployed = [run for run in history.runs if run.statement == statement]
        if not deployed:
            return {"problem": "no deployment has signed evidence yet"}
        runs = (*history.origins(deployed), *history.reached(deployed))
        picture = svg(history, runs, step_specs())
    except (SecpipelineError, OSError) as error:
        return {"problem": f"the evidence cannot be read: {error}"}
    return {"problem": "", "picture": picture, "against": history.against(deployed[0])}


def _stage(workspace: Any, stage: Any) -> dict[str, Any]:
    directory = workspace.store.artifacts / stage.name
    summary = _json(workspace, stage.name, "summary.json") or {}
    pictures = [
        {"source": _inline(path.read_bytes()), "caption": caption}
        for name, caption in _PICTURES.get(stage.name, {}).items()
        if (path := directory / name).is_file()
    ]
    shown = {key: value for key, value in summary.items() if key != "pictures"}
    return {"name": stage.name, "text": stage.summary, "role": stage.role, "summary": shown, "pictures": pictures}


def _held(workspace: Any) -> list[dict[str, Any]]:
    """What became of every source, for the table of quarantine; nothing before the first curation."""
    path = workspace.store.artifacts / "curate/source_decisions.parquet"
    rows = pd.read_parquet(path).to_dict("records") if path.is_file() else []
    return [{str(name): value for name, value in row.items()} for row in rows]


def _galleries(workspace: Any, outcomes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """The attack gallery of every detector, also of the one whose outputs are no longer the current ones."""
    pictures = [(outcome["recipe"], _attack_file(workspace, outcome, "gallery.png")) for outcome in outcomes.values()]
    return [{"recipe": recipe, "source": _inline(png)} for recipe, png in pictures if png is not None]


def _evaluations(workspace: Any, outcomes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The evaluation of every detector with the picture of its scores, as :func:`_galleries`."""
    found = []
    for outcome in outcomes.values():
        report = _attack_file(workspace, outcome, "evaluation.json")
        if report is not None:
            png = _attack_file(workspace, outcome, "reliability.png")
            picture = None if png is None else _inline(png)
            found.append({**json.loads(report), "recipe": outcome["recipe"], "picture": picture})
    return found


def _attack_file(workspace: Any, outcome: Mapping[str, Any], name: str) -> bytes | None:
    """A file that the attack stage made for an outcome, from the store."""
    digest = outcome["files"].get("attack", {}).get(name)
    path = None if digest is None else Path(workspace.store.object_path(digest))
    return path.read_bytes() if path is not None and path.is_file() else None


def _json(workspace: Any, stage: str, name: str) -> Any:
    path = workspace.store.artifacts / stage / name
    return json.loads(path.read_bytes()) if path.is_file() else None


def _inline(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
