"""The one door: every stage runs through :func:`run`, whoever asked (command line, DVC, Dagster).

A run (1) verifies the evidence and the bytes of everything upstream, (2) computes in a scratch directory, (3) moves
the outputs into the store, (4) signs a Statement and a Link with the stage's role key and logs both, (5) publishes the
outputs. A stage with a witness is computed a second time and countersigned only if both runs agree. A computation is
named by its stage, code, parameters and inputs: if its signed evidence and its outputs are still there it is not
repeated, and the result says so. Killed anywhere, the next run finishes the work.

>>> from secpipeline import runner
>>> from secpipeline.workspace import Workspace
>>> runner.run(Workspace.open(), "ingest").summary          # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secpipeline import environment, params
from secpipeline.digests import canonical_json, sha256_bytes, sha256_file, tree_digest, tree_files
from secpipeline.errors import AttestationError, GateRefused, SecpipelineError
from secpipeline.provenance.evidence import RUN, SignedEvidence, attest, countersign
from secpipeline.provenance.keys import LOG
from secpipeline.provenance.layout import StepSpec
from secpipeline.provenance.memory import Memory
from secpipeline.provenance.report import Report
from secpipeline.provenance.statements import VERIFICATION_SUMMARY
from secpipeline.provenance.trust import Trust
from secpipeline.provenance.verification import Expectations, revocation_of, verify_chain
from secpipeline.review.attestation import ROLE as LABEL_AUDITOR
from secpipeline.stages import predicates
from secpipeline.stages.context import StageContext, StageResult
from secpipeline.stages.localise import explain
from secpipeline.stages.table import (
    REVIEW,
    REVIEWED,
    REVOKED_SOURCES,
    STAGES,
    Stage,
    stage_named,
    upstream,
)
from secpipeline.store import write_atomic
from secpipeline.workspace import Workspace, step_specs


@dataclass(frozen=True)
class Run:
    """The outcome of one stage.

    Attributes
    ----------
    stage
        Its row in the table.
    files
        SHA-256 of each output by its name.
    summary
        What the stage says about its outputs.
    reused
        True if nothing was computed because the evidence still holds.
    refusal
        Why the chain must not go on; empty if it may.
    seconds
        Wall time.
    cpu_seconds, evidence_cpu_seconds
        Processor time of all of it, and of all but the stage's own computing: what verifying, storing, signing and
        logging cost.
    """

    stage: Stage
    files: Mapping[str, str]
    summary: Mapping[str, Any]
    reused: bool
    refusal: tuple[str, ...]
    seconds: float
    cpu_seconds: float
    evidence_cpu_seconds: float

    @property
    def digest(self) -> str:
        """One digest for all outputs."""
        return tree_digest(self.files)

    def require(self) -> Run:
        """Return itself, or raise :class:`GateRefused` with the reasons."""
        if self.refusal:
            raise GateRefused(self.refusal)
        return self


@dataclass(frozen=True)
class _Computation:
    """A stage bound to exactly what it depends on."""

    workspace: Workspace
    stage: Stage
    params: Mapping[str, Any]
    files: Mapping[str, str]
    inputs: Mapping[str, Mapping[str, str]]
    attestations: Mapping[str, str]
    trust: Trust
    clock: _Clock

    @property
    def materials(self) -> dict[str, str]:
        """SHA-256 by name of everything that is read."""
        read = {f"{name}/{file}": digest for name, files in self.inputs.items() for file, digest in files.items()}
        own = {
            f"code/{self.stage.name}": self.stage.code_version(),
            f"params/{self.stage.name}.json": sha256_bytes(canonical_json(self.params)),
        }
        return {**read, **self.files, **own}

    @property
    def spec(self) -> StepSpec:
        """The stage as a step of the layout."""
        return next(spec for spec in step_specs() if spec.name == self.stage.name)

    @property
    def key(self) -> str:
        """The digest that names the computation."""
        description = {
            "stage": self.stage.name,
            "code": self.stage.code_version(),
            "params": self.params,
            "files": self.files,
            "inputs": {name: tree_digest(files) for name, files in self.inputs.items()},
        }
        if self.stage.predicate == VERIFICATION_SUMMARY:
            description["attestations"] = self.attestations  # a summary is of attestations, not of files alone
        return sha256_bytes(canonical_json(description))

    @property
    def record_path(self) -> Path:
        return self.workspace.home / "runs" / f"{self.key}.json"


class _Clock:
    """Processor time of this process and its children, and how much of it went into computing."""

    def __init__(self) -> None:
        self._started = _cpu_seconds()
        self.computing_seconds = 0.0

    @property
    def seconds(self) -> float:
        return _cpu_seconds() - self._started

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        started = _cpu_seconds()
        try:
            yield
        finally:
            self.computing_seconds += _cpu_seconds() - started


def _cpu_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


@dataclass(frozen=True)
class _Begun:
    """What is read before a stage computes, because code that is edited meanwhile is not the code that runs."""

    time: float
    source: Mapping[str, str]
    materials: Mapping[str, str]


def run(workspace: Workspace, name: str, overrides: Mapping[str, Any] | None = None) -> Run:
    """Run one stage, or reuse its evidence.

    Parameters
    ----------
    workspace
        Where the chain lives.
    name
        A stage of the table.
    overrides
        Parameters by dotted key that replace those of ``params.yaml`` for this run; recorded in the evidence.

    Raises
    ------
    AttestationError
        If anything upstream is missing, changed, stale or not signed by its role.
    InputError, IntegrityError
        If what the stage reads cannot be used.
    """
    started, clock = time.monotonic(), _Clock()
    stage = stage_named(name)
    with workspace.lock():
        computation = _bind(workspace, stage, overrides, clock)
        record = _reusable(computation)
        reused = record is not None
        if record is None:
            record = _compute(computation)
        if len(record["links"]) < len(computation.spec.roles) and workspace.ring().uri(stage.witness):
            record = _witness(computation, record)
        _refuse_revoked(computation, record)
        _publish(computation, record)
    refusal = tuple(record["refusal"])
    spent = clock.seconds
    return Run(
        stage=stage,
        files=record["files"],
        summary=record["summary"],
        reused=reused,
        refusal=refusal,
        seconds=time.monotonic() - started,
        cpu_seconds=spent,
        evidence_cpu_seconds=spent - clock.computing_seconds,
    )


def run_chain(
    workspace: Workspace,
    overrides: Mapping[str, Any] | None = None,
    last: str | None = None,
    report: Any = None,
) -> list[Run]:
    """Run every stage in order, up to ``last``; ``report`` is called with each :class:`Run`.

    A refusal does not stop the chain: the stages after it record that nothing was deployed, so that no stale
    deployment record stays behind.
    """
    runs = []
    for stage in STAGES:
        outcome = run(workspace, stage.name, overrides)
        runs.append(outcome)
        if report is not None:
            report(outcome)
        if stage.name == last:
            break
    return runs


def verify(
    workspace: Workspace,
    stages: tuple[str, ...] | None = None,
    expect: Expectations | None = None,
    *,
    full: bool = False,
) -> Report:
    """Re-check the evidence and the bytes of ``stages`` (all by default) and of everything between them.

    Bytes that were hashed before and have not been touched since are not hashed again, unless ``full`` is asked for.
    """
    cache = workspace.digest_cache(full=full)
    report = verify_chain(
        workspace.evidence,
        workspace.store.artifacts,
        workspace.ring().owners(),
        step_specs(),
        only=stages,
        expect=expect or Expectations(memory=Memory(workspace.memory)),
        hashes=cache.sha256,
        explain=lambda stage, name: explain(workspace.store.artifacts, stage, name),
    )
    cache.save()
    return report


def _bind(workspace: Workspace, stage: Stage, overrides: Mapping[str, Any] | None, clock: _Clock) -> _Computation:
    trust = workspace.trust()
    earlier = upstream(stage.name)
    chain = verify(workspace, tuple(step.name for step in earlier)) if earlier else None
    if chain is not None:
        chain.require()
    current = {step.name: _current(workspace, step) for step in earlier}
    values = params.select(params.load(workspace.root / "params.yaml", overrides), stage.params)
    files = stage.project_files(workspace.root) | stage.outside_files(values)
    if REVIEWED in stage.outside and workspace.review is not None:
        files |= {name: sha256_file(workspace.home / name) for name in REVIEW}
    if REVOKED_SOURCES in stage.outside:
        files[REVOKED_SOURCES] = sha256_bytes(canonical_json(sorted(trust.revoked_sources())))
    return _Computation(
        workspace=workspace,
        stage=stage,
        params=values,
        files=files,
        inputs={name: current[name].files(name) for name in stage.inputs},
        attestations={name: sha256_bytes(evidence.statement) for name, evidence in current.items()},
        trust=trust,
        clock=clock,
    )


def _current(workspace: Workspace, stage: Stage) -> SignedEvidence:
    evidence = workspace.evidence.current(stage.name)
    if evidence is None:
        raise AttestationError("evidence-missing", f"{stage.name}: no evidence yet; run `secpipeline run {stage.name}`")
    return evidence


def _reusable(computation: _Computation) -> dict[str, Any] | None:
    """The record of an earlier, identical computation whose outputs and signed evidence are all still there."""
    path = computation.record_path
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        evidence = computation.workspace.evidence.find(record)
    except (ValueError, KeyError, TypeError, SecpipelineError):
        return None  # a damaged record saves no work; computing again replaces it
    if evidence is None or not computation.workspace.store.has(record["files"]):
        return None
    # What a revoked key signed before it was revoked still counts, but nobody should go on resting on it.
    if evidence.signers() & computation.trust.revoked_keys() or not _counts(computation, evidence):
        return None
    return record


def _logged(computation: _Computation) -> dict[int, Mapping[str, Any]]:
    """The entries of the log that are of this stage, by their numbers."""
    trust = computation.trust
    entries = computation.workspace.evidence.read_log(trust.keys(LOG), trust.log).entries
    wanted = {"kind": RUN, "stage": computation.stage.name}.items()
    return {number: entry for number, entry in enumerate(entries) if wanted <= entry.items()}


def _counts(computation: _Computation, evidence: SignedEvidence) -> bool:
    """Whether the keys that signed it counted when it was logged, or count now if the log has lost it."""
    trust, roles, digests = computation.trust, computation.spec.roles, evidence.digests().items()
    holding = [number for number, entry in _logged(computation).items() if digests <= entry.items()]
    number = holding[0] if holding else computation.workspace.evidence.log.size()
    try:
        for data, role in [(evidence.statement, roles[0]), *zip(evidence.links, roles, strict=False)]:
            trust.open(data, role, number)
    except AttestationError:
        return False
    return True


def _require_key(computation: _Computation, role: str) -> None:
    """Refuse a key that counts no longer before the work is done, not after."""
    if computation.trust.current(role) != computation.workspace.ring().public(role):
        raise AttestationError(
            "key-retired", f"{role}: the key here is not the one that counts; run `secpipeline keys rotate {role}`"
        )


def _compute(computation: _Computation) -> dict[str, Any]:
    workspace, stage = computation.workspace, computation.stage
    _require_key(computation, stage.role)
    begun = _Begun(time.time(), environment.source_revision(workspace.root), computation.materials)
    with workspace.store.scratch(stage.name) as scratch:
        result, summary = _outputs(computation, scratch)
        files = workspace.store.put(scratch)
    evidence = _sign(computation, result, files, begun)
    record = {
        "stage": stage.name,
        "files": files,
        "summary": summary,
        "refusal": list(result.refusal),
    }
    return _keep(computation, record, evidence)


def _witness(computation: _Computation, record: Mapping[str, Any]) -> dict[str, Any]:
    """Compute once more from the same verified inputs and countersign if the outputs are the same to the byte."""
    workspace, stage = computation.workspace, computation.stage
    _require_key(computation, stage.witness)
    first = workspace.evidence.find(record)
    if first is None:
        raise AttestationError("evidence-missing", f"{stage.name}: the evidence of its first run is gone; run it again")
    with workspace.store.scratch(stage.name) as scratch:
        _outputs(computation, scratch)
        files = tree_files(scratch)
    subjects = {f"{stage.name}/{name}": digest for name, digest in files.items()}
    evidence = countersign(
        workspace.ring(), computation.spec, first, subjects, computation.materials, environment.describe()
    )
    return _keep(computation, record, evidence)


def _outputs(computation: _Computation, out: Path) -> tuple[StageResult, dict[str, Any]]:
    """Let the stage write its outputs into ``out``."""
    workspace, stage = computation.workspace, computation.stage
    context = StageContext(
        root=workspace.root,
        inputs={name: workspace.store.artifacts / name for name in stage.inputs},
        out=out,
        params=computation.params,
        resume=workspace.home / "resume" / computation.key,
        attestations=computation.attestations,
        files=computation.files,
        revoked_sources=computation.trust.revoked_sources(),
        previous=_previous(workspace, stage),
        review=workspace.home if REVIEW[0] in computation.files else None,
        review_keys=computation.trust.unrevoked_keys(LABEL_AUDITOR),
    )
    with computation.clock.computing():
        result = stage.compute(context)
    summary = {**result.summary, "pictures": list(result.pictures)}
    context.write_json("summary.json", summary)
    return result, summary


def _previous(workspace: Workspace, stage: Stage) -> Path | None:
    """What an incremental stage made last time, if its evidence and its bytes still verify."""
    if stage.incremental and workspace.evidence.current(stage.name) and verify(workspace, (stage.name,)).ok:
        return workspace.store.artifacts / stage.name
    return None


def _keep(computation: _Computation, record: Mapping[str, Any], evidence: SignedEvidence) -> dict[str, Any]:
    """Log the evidence, then remember the computation by it."""
    workspace = computation.workspace
    workspace.evidence.record(computation.stage.name, evidence, workspace.ring().signer(LOG))
    kept = {**record, **evidence.digests()}
    write_atomic(computation.record_path, canonical_json(kept))
    shutil.rmtree(workspace.home / "resume" / computation.key, ignore_errors=True)
    return kept


def _sign(computation: _Computation, result: StageResult, files: Mapping[str, str], begun: _Begun) -> SignedEvidence:
    stage, root = computation.stage, computation.workspace.root
    facts = predicates.Facts(
        stage=stage,
        params=computation.params,
        materials=begun.materials,
        attestations=computation.attestations,
        environment=environment.describe(),
        source=begun.source,
        lock=environment.lock_file(root),
        started=begun.time,
        finished=time.time(),
    )
    return attest(
        computation.workspace.ring(),
        computation.spec,
        subjects={f"{stage.name}/{name}": digest for name, digest in files.items()},
        materials=begun.materials,
        predicate=predicates.build(facts, result),
        environment=facts.environment,
    )


def _refuse_revoked(computation: _Computation, record: Mapping[str, Any]) -> None:
    """Stop where a revoked thing was made again, not at the stage that would read it."""
    stage = computation.stage
    for name, digest in record["files"].items():
        if revocation := revocation_of(computation.trust.revoked, f"{stage.name}/{name}", digest):
            raise AttestationError("revoked", f"{stage.name}/{name}: {revocation}; change the data or the recipe")


def _publish(computation: _Computation, record: Mapping[str, Any]) -> None:
    """Make the recorded evidence and outputs the current ones; a killed run is finished here by the next."""
    workspace, name = computation.workspace, computation.stage.name
    evidence = workspace.evidence.find(record)
    if evidence is None:
        raise AttestationError("evidence-missing", f"{name}: its signed evidence vanished while it ran; run it again")
    last = [*_logged(computation).values()][-1:]
    if workspace.evidence.current(name) != evidence or not (last and evidence.digests().items() <= last[0].items()):
        workspace.evidence.record(name, evidence, workspace.ring().signer(LOG))
    if not workspace.store.is_published(name, record["files"]):
        workspace.store.publish(name, record["files"])
    computation.stage.after(workspace)
