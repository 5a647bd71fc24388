"""THE table of stages.

Everything that must agree about the chain is rendered from here: `dvc.yaml`, the Dagster asset graph, the in-toto
layout, the runner's inputs and code versions. To add a stage, add a row and a module of the same name that has a
function ``run(context) -> StageResult``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secpipeline.digests import canonical_json, sha256_bytes, sha256_file
from secpipeline.errors import InputError
from secpipeline.provenance.statements import VERIFICATION_SUMMARY
from secpipeline.stages.context import StageContext, StageResult

PACKAGE = Path(__file__).resolve().parents[1]

PROVENANCE = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
LABEL_AUDIT = "https://github.com/secpipeline/predicates/label-audit/v0.1"
ROBUSTNESS = "https://github.com/secpipeline/predicates/robustness/v0.1"

# The material that tells which sources' images a stage left out because the owners revoked them.
REVOKED_SOURCES = "revocations/sources.json"
# What people decided about labels, and their signature; there is none until somebody has reviewed.
REVIEW = ("review/decisions.jsonl", "review/decisions.dsse.json")
REVIEWED = "review/*"


@dataclass(frozen=True)
class Stage:
    """One row.

    Attributes
    ----------
    name
        The stage's name, and that of its module, its artifact directory and its step in the layout.
    asset
        What Dagster calls the thing that the stage makes.
    summary
        One sentence for people.
    inputs
        The stages whose artifacts it reads.
    role
        Whose key signs.
    witness
        The role that runs the stage a second time and signs that it made the same; empty where one run is enough.
    group
        The phase of the flow it belongs to.
    predicate
        The type of its attestation.
    params
        Dotted keys of ``params.yaml`` it depends on.
    files
        Project files it reads, as glob patterns relative to the project.
    code
        Modules and packages of the library that its result depends on, beside its own module.
    kinds
        The tools behind it, shown as badges.
    pool
        The Dagster concurrency pool that bounds it, or none.
    about
        The inputs that its attestation is about, beside its own outputs: what was judged.
    outside
        Patterns of materials from outside the project that it may record.
    incremental
        Whether it is given what it made last time, to save work; what it makes must not depend on that.
    """

    name: str
    asset: str
    summary: str
    inputs: tuple[str, ...]
    role: str
    group: str
    predicate: str
    params: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    pool: str | None = None
    outside: tuple[str, ...] = ()
    witness: str = ""
    about: tuple[str, ...] = ()
    incremental: bool = False

    @property
    def command(self) -> tuple[str, ...]:
        """What a person types to run it; recorded in the link."""
        return ("secpipeline", "run", self.name)

    def compute(self, context: StageContext) -> StageResult:
        """Run the stage's module."""
        module = importlib.import_module(f"secpipeline.stages.{self.name}")
        run: Callable[[StageContext], StageResult] = module.run
        return run(context)

    def after(self, workspace: Any) -> None:
        """Let the stage act on the world once its evidence is signed; only deployment does."""
        hook = getattr(importlib.import_module(f"secpipeline.stages.{self.name}"), "after", None)
        if hook is not None:
            hook(workspace)

    def outside_files(self, params: Mapping[str, Any]) -> dict[str, str]:
        """SHA-256 by name of what the stage reads from outside the project and the chain."""
        if not self.outside:
            return {}
        named = getattr(importlib.import_module(f"secpipeline.stages.{self.name}"), "outside_files", None)
        return dict(named(params)) if named else {}

    def code_files(self) -> tuple[Path, ...]:
        """The library's source files that the result depends on, sorted."""
        found = {PACKAGE / "stages" / f"{self.name}.py", PACKAGE / "stages" / "context.py"}
        for entry in self.code:
            path = PACKAGE / entry
            found |= set(path.rglob("*.py")) if path.is_dir() else {path}
        return tuple(sorted(found))

    def code_version(self) -> str:
        """SHA-256 over the names and bytes of :meth:`code_files`."""
        digests = {path.relative_to(PACKAGE).as_posix(): sha256_file(path) for path in self.code_files()}
        return sha256_bytes(canonical_json(digests))

    def project_files(self, root: Path) -> dict[str, str]:
        """SHA-256 of each declared project file by its relative name.

        Raises
        ------
        InputError
            If a pattern matches nothing.
        """
        digests: dict[str, str] = {}
        for pattern in self.files:
            matches = sorted(root.glob(pattern))
            if not matches:
                raise InputError(f"{root / pattern}: not found; the stage {self.name} needs it")
            digests |= {path.relative_to(root).as_posix(): sha256_file(path) for path in matches}
        return digests


STAGES: tuple[Stage, ...] = (
    Stage(
        name="ingest",
        asset="raw_release",
        summary="Decode every delivered image, check it against its annotation, and freeze both as a release.",
        inputs=(),
        role="ingestor",
        group="1_datasets",
        predicate=PROVENANCE,
        params=("data", "splits"),
        code=("datasets", "poisoning/planters.py", "assurance/pictures.py", "stages/source_manifests.py"),
        kinds=("parquet", "coco"),
        outside=("delivery/*", REVOKED_SOURCES),
        incremental=True,
    ),
    Stage(
        name="validate",
        asset="validation_report",
        summary="Check the image and box tables against the Great Expectations suites; every check must run and hold.",
        inputs=("ingest",),
        role="validator",
        group="2_validation",
        predicate=TEST_RESULT,
        params=("validate.baseline", "splits.holdout_sources"),
        files=("expectations/*.json",),
        code=("validation", "datasets"),
        kinds=("greatexpectations",),
        outside=("baseline/*",),
    ),
    Stage(
        name="audit_labels",
        asset="label_audit",
        summary="Judge every label by detectors that never saw its source; name sources with more errors than peers.",
        inputs=("ingest",),
        role="label-auditor",
        group="3_poisoning",
        predicate=LABEL_AUDIT,
        params=("audit",),
        files=("recipes/judge.yaml", "expectations/predictions.json", "expectations/prediction_totals.json"),
        code=("poisoning", "detection", "datasets", "validation", "assurance/pictures.py", "judging.py"),
        kinds=("cleanlab", "pytorch"),
        pool="accelerator",
    ),
    Stage(
        name="curate",
        asset="curated_release",
        summary="Hold or reject what the audit found and publish the tables that training may read.",
        inputs=("ingest", "validate", "audit_labels"),
        role="label-auditor",
        group="3_poisoning",
        predicate=PROVENANCE,
        params=("quarantine",),
        code=("poisoning/quarantine.py", "review", "datasets", "stages/source_manifests.py"),
        kinds=("parquet",),
        outside=(REVIEWED,),
    ),
    Stage(
        name="train",
        asset="detector",
        summary="Train a pedestrian detector by the chosen recipe and set its operating threshold on calibration data.",
        inputs=("ingest", "curate"),
        role="trainer",
        group="4_detection",
        predicate=PROVENANCE,
        params=("train",),
        files=("recipes/*.yaml",),
        code=(
            *("detection", "datasets", "defended_training.py", "assurance/pictures.py"),
            *("robustness/adversaries.py", "robustness/attacks.py", "robustness/health.py"),
            *("robustness/objectives.py", "robustness/patches.py", "robustness/probes.py"),
        ),
        kinds=("pytorch", "safetensors"),
        pool="accelerator",
    ),
    Stage(
        name="export",
        asset="exported_detector",
        summary="Export the detector to ONNX and compare its predictions with those of the trained weights.",
        inputs=("ingest", "curate", "train"),
        role="trainer",
        group="4_detection",
        predicate=PROVENANCE,
        code=("detection", "datasets"),
        kinds=("onnx",),
    ),
    Stage(
        name="attack",
        asset="robustness_report",
        summary="Attack the detector, corrupt its images, and repeat the black-box part on the exported artifact.",
        inputs=("ingest", "curate", "train", "export"),
        role="red-team",
        group="5_robustness",
        predicate=ROBUSTNESS,
        params=("attack",),
        files=("policies/attacks.yaml",),
        code=("robustness", "detection", "datasets", "assurance/pictures.py"),
        kinds=("pytorch", "onnx"),
        pool="accelerator",
    ),
    Stage(
        name="gate",
        asset="gate_verdict",
        summary="Hold the reports against the policy: pass, fail, or inconclusive.",
        inputs=("validate", "audit_labels", "curate", "train", "export", "attack"),
        role="red-team",
        witness="safety",
        about=("export/detector.onnx",),
        group="6_release",
        predicate=TEST_RESULT,
        files=("policies/default.yaml",),
        code=("robustness", "detection"),
        kinds=("policy",),
    ),
    Stage(
        name="release",
        asset="release",
        summary="Sum up the verified evidence of every earlier stage in one signed statement about the artifact.",
        inputs=("export", "gate"),
        role="releaser",
        about=("export/detector.onnx",),
        group="6_release",
        predicate=VERIFICATION_SUMMARY,
        files=("policies/default.yaml",),
        kinds=("intoto",),
    ),
    Stage(
        name="deploy",
        asset="deployment",
        summary="Publish the released artifact to its channel, after verifying the whole chain on the bytes copied.",
        inputs=("export", "gate", "release"),
        role="releaser",
        group="7_deployment",
        predicate=PROVENANCE,
        params=("deploy",),
        kinds=("onnx", "fastapi"),
    ),
    Stage(
        name="monitor",
        asset="monitoring_report",
        summary="Replay frames through the deployed detector and compare inputs and outputs with the calibration data.",
        inputs=("ingest", "curate", "deploy"),
        role="monitor",
        group="8_monitoring",
        predicate=TEST_RESULT,
        params=("monitor",),
        code=("monitoring", "detection", "datasets", "assurance/pictures.py"),
        kinds=("onnxruntime",),
    ),
)

BY_NAME: dict[str, Stage] = {stage.name: stage for stage in STAGES}


def stage_named(name: str) -> Stage:
    """The row of a stage.

    Raises
    ------
    InputError
        If there is no such stage; the message lists those there are.
    """
    if name not in BY_NAME:
        raise InputError(f"{name}: no such stage; there are {', '.join(BY_NAME)}")
    return BY_NAME[name]


def upstream(name: str) -> tuple[Stage, ...]:
    """Every stage that ``name`` depends on, directly or not, in the order of the table."""
    wanted = set(stage_named(name).inputs)
    for stage in reversed(STAGES):
        if stage.name in wanted:
            wanted |= set(stage.inputs)
    return tuple(stage for stage in STAGES if stage.name in wanted)


def dvc_pipeline(root: Path) -> dict[str, Any]:
    """The content of ``dvc.yaml``: each stage runs through the one runner."""
    stages: dict[str, Any] = {}
    for stage in STAGES:
        code = [f"secpipeline/{entry}" for entry in (f"stages/{stage.name}.py", "stages/context.py", *stage.code)]
        deps = [*code, *stage.project_files(root), *(f"build/artifacts/{name}" for name in stage.inputs)]
        entry: dict[str, Any] = {"cmd": " ".join(stage.command), "deps": sorted(deps)}
        if stage.params:
            entry["params"] = list(stage.params)
        entry["outs"] = [f"build/artifacts/{stage.name}"]
        stages[stage.name] = entry
    return {"stages": stages}
