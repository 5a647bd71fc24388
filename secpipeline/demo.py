"""The main job, told as a story: poison found, a weak detector refused, a robust one deployed, a forgery refused.

>>> from secpipeline import demo
>>> from secpipeline.workspace import Workspace
>>> demo.main(Workspace.open(), None)                       # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from secpipeline import audit, runner, versioning
from secpipeline.assurance import report
from secpipeline.digests import sha256_bytes
from secpipeline.errors import InputError
from secpipeline.runner import Run
from secpipeline.stages.context import read_report
from secpipeline.stages.deploy import verify_deployment
from secpipeline.stages.ingest import planted
from secpipeline.workspace import Workspace

_WIDTH = 14
_SHOWN_NUMBERS = 4
_ORDER = (
    "clean AP50", "clean MR-2", "attacked AP50", "attacked MR-2", "attacked miss rate", "attacked FPPI",
    "corrupted AP50",
)  # fmt: skip
# These carry the gate's reasons on; once is enough for a reader.
_REPEATS_REASONS = ("release", "deploy")


def print_run(outcome: Run) -> None:
    """One line about a stage that has just run."""
    state = "reused " if outcome.reused else f"{outcome.seconds:5.1f} s"
    numbers = [
        f"{name} {_short(value)}"
        for name, value in outcome.summary.items()
        if isinstance(value, (int, float, str)) and len(str(value)) <= 24
    ]
    print(f"  {outcome.stage.name:{_WIDTH}} {state:>8}  {', '.join(numbers[:_SHOWN_NUMBERS])}", flush=True)
    if outcome.stage.name not in _REPEATS_REASONS:
        for reason in _brief(outcome.refusal):
            print(f"  {'':{_WIDTH}} {'refused':>8}  {reason}", flush=True)


def _brief(reasons: Sequence[str]) -> list[str]:
    """The reasons, those that the exported artifact shares with the detector summed up in one line."""
    shared = [reason for reason in reasons if "artifact: " in reason]
    if not shared or len(shared) == len(reasons):
        return list(reasons)
    rest = [reason for reason in reasons if reason not in shared]
    return [*rest, f"the same of the exported artifact ({len(shared)} reasons)"]


def _shown(path: Path) -> str:
    """A path as short as it can be typed from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def main(workspace: Workspace, dataset: Path | None) -> int:
    """Run the demo on the embedded data, or the chain on ``dataset``; 0 if a detector was deployed and all verified."""
    started = time.monotonic()
    if dataset is not None:
        return _own_data(workspace, dataset)
    print("1. A standard detector, trained on data in which one vendor planted poison")
    standard = runner.run_chain(workspace, {"train.recipe": "standard"}, report=print_run)
    refused = _outcome(standard)
    print("2. The same data, adversarial training")
    robust = runner.run_chain(workspace, report=print_run)
    print("3. One flipped byte in a copy of what was deployed")
    forgery = flip_a_byte(workspace)
    print(f"  {forgery}")
    print("4. Everything verified again, from the evidence alone")
    verification = audit.verify_everything(workspace)
    print(f"  {verification.summary()}")
    page = report.write(workspace, {"standard": refused, "robust": _outcome(robust)}, forgery, verification)
    print(f"  {versioning.snapshot(workspace) or 'DVC is not installed: artifacts are not versioned'}")
    _table(
        workspace,
        refused,
        _outcome(robust),
        forgery,
        verification,
        page,
        [*standard, *robust],
        time.monotonic() - started,
    )
    shown = [
        _poison_named(workspace),
        refused["verdict"] != "pass",
        not any(run.refusal for run in robust),
        "refused" in forgery,
        verification.ok,
    ]
    return 0 if all(shown) else 5


def _own_data(workspace: Workspace, dataset: Path) -> int:
    path = dataset.resolve()
    if not path.exists():
        raise InputError(f"{dataset}: not found; give the path of the annotations, a file or a folder")
    if workspace.home == workspace.root / "build":
        # The embedded demo's chain stays as it is: every data set has a workspace of its own.
        name = f"{path.parent.name}-{sha256_bytes(str(path).encode())[:8]}"
        workspace = dataclasses.replace(workspace, home=workspace.home / "datasets" / name)
    print(f"The chain on {path}; artifacts and evidence in {workspace.home}")
    runs = runner.run_chain(workspace, {"data.dataset": str(path), "data.poison": None}, report=print_run)
    outcome = _outcome(runs)
    verification = audit.verify_everything(workspace)
    page = report.write(workspace, {"detector": outcome}, None, verification)
    _table(workspace, None, outcome, None, verification, page, runs, sum(run.seconds for run in runs))
    runs[-2].require()
    return 0 if verification.ok else 4


def _outcome(runs: list[Run]) -> dict[str, Any]:
    """What a finished chain says about its detector."""
    by_name = {run.stage.name: run for run in runs}
    summaries: Mapping[str, Mapping[str, Any]] = {name: run.summary for name, run in by_name.items()}
    return {
        "recipe": summaries["train"]["recipe"],
        "verdict": summaries["gate"]["verdict"],
        "reasons": list(summaries["gate"]["reasons"]),
        "deployment": summaries["deploy"]["outcome"],
        "numbers": {name: value for name, value in summaries["attack"].items() if name != "pictures"},
        "files": {name: dict(run.files) for name, run in by_name.items()},
        "reused": all(run.reused for run in runs),
    }


def flip_a_byte(workspace: Workspace) -> str:
    """Change one byte in a copy of the deployed model and try to have it verified; says what happened."""
    deployed = workspace.store.artifacts / "deploy"
    if not (deployed / "detector.onnx").is_file():
        return "nothing was deployed, so there was nothing to forge"
    with workspace.store.scratch("forgery") as scratch:
        copy = scratch / "deploy"
        shutil.copytree(deployed, copy)
        model = copy / "detector.onnx"
        model.chmod(0o644)
        data = bytearray(model.read_bytes())
        data[len(data) // 2] ^= 1
        model.write_bytes(data)
        refusals = verify_deployment(workspace, copy, workspace.home / "evidence").refusals
    if not refusals:
        return "ACCEPTED: the verifier did not notice"
    return f"refused {refusals[0]}"


def _poison_named(workspace: Workspace) -> bool:
    rows = planted(workspace.store.artifacts / "ingest")
    named = workspace.store.artifacts / "audit_labels" / "report.json"
    images = pd.read_parquet(workspace.store.artifacts / "ingest" / "images.parquet", columns=["source"])
    taken_in = {_source(row) for row in rows} & set(images["source"])  # revoked sources are not
    return taken_in == set(read_report(named)["named_sources"])


def _source(row: Mapping[str, Any]) -> str:
    return str(row["file_name"]).split("/", 1)[0]


def poison_score(workspace: Workspace) -> dict[str, int]:
    """How much of what was planted is out of the training data, and how much honest data went with it."""
    artifacts = workspace.store.artifacts
    rows = planted(artifacts / "ingest")
    images = pd.read_parquet(artifacts / "ingest" / "images.parquet", columns=["image_id", "file_name", "source"])
    decisions = pd.read_parquet(artifacts / "curate" / "decisions.parquet").set_index("image_id")["decision"]
    poisoned = {row["file_name"] for row in rows}
    guilty = {_source(row) for row in rows}
    accepted = set(images.loc[images["image_id"].map(decisions) == "accept", "file_name"])
    honest = set(images.loc[~images["source"].isin(guilty), "file_name"])
    out = (set(images["file_name"]) | poisoned) - accepted
    return {
        "planted": len(rows),
        "planted_out": sum(row["file_name"] in out for row in rows),
        "poisoned_images": len(poisoned),
        "poisoned_images_out": len(poisoned & out),
        "honest_images": len(honest),
        "honest_images_out": len(honest & out),
    }


def _table(
    workspace: Workspace,
    refused: Mapping[str, Any] | None,
    outcome: Mapping[str, Any],
    forgery: str | None,
    verification: audit.Verification,
    page: Path,
    runs: Sequence[Run],
    seconds: float,
) -> None:
    reused = all(detector["reused"] for detector in (refused, outcome) if detector)
    artifacts, program = workspace.store.artifacts, _shown(Path(sys.argv[0]).absolute())
    raw = read_report(artifacts / "ingest" / "summary.json")
    curated = read_report(artifacts / "curate" / "summary.json")
    rows = [
        ("data", f"{raw['images']} images, {raw['boxes']} boxes from {raw['sources']} sources; "
                 f"{curated['held images']} images held, {curated['rejected images']} rejected"),
    ]  # fmt: skip
    if planted(artifacts / "ingest"):
        score = poison_score(workspace)
        named = ", ".join(read_report(artifacts / "audit_labels" / "report.json")["named_sources"]) or "none"
        rows.append(("poison", f"{score['planted_out']} of {score['planted']} planted errors are out of training; "
                               f"source named: {named}; {score['honest_images_out']} of "
                               f"{score['honest_images']} honest images held"))  # fmt: skip
    for detector in filter(None, (refused, outcome)):
        rows.append((f"{detector['recipe']} detector", _numbers(detector["numbers"])))
        rows.append(("  verdict", f"{detector['verdict']}; {detector['deployment']}"))
        rows += [("", f"- {reason}") for reason in _brief(detector["reasons"])]
    if forgery:
        rows.append(("flipped byte", forgery))
    rows += [
        ("chain verified", f"{'yes' if verification.ok else 'NO'}: {verification.summary()}"),
        ("report", _shown(page)),
        ("evidence", _shown(workspace.home / "evidence")),
        ("evidence cost", _cost(runs)),
        ("took", f"{seconds:.0f} s" + (" (nothing had changed: evidence reused)" if reused else "")),
        ("next", f"{program} serve   |   make ui   |   {program} verify   |   {program} bundle --to audit"),
    ]
    print()
    for name, text in rows:
        print(f"{name:22} {text}")
    sys.stdout.flush()


def _cost(runs: Sequence[Run]) -> str:
    spent, evidence = sum(run.cpu_seconds for run in runs), sum(run.evidence_cpu_seconds for run in runs)
    return (
        f"{evidence:.1f} of {spent:.0f} s of processor time ({evidence / max(spent, 0.01):.1%}) to verify, sign and log"
    )


def _numbers(numbers: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_short(numbers[name])}" for name in _ORDER if isinstance(numbers.get(name), float))
