"""Revoke something, everywhere at once: in the chain's evidence and in every channel that serves.

>>> wanted = Revocation("source", "vendor-c", "labels were sold to us twice", "2026-11-24T10:00:00Z")
>>> print(reach(workspace, wanted).text())                               # doctest: +SKIP
>>> revoke(workspace, wanted)                                            # doctest: +SKIP
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from secpipeline.digests import sha256_bytes
from secpipeline.errors import InputError
from secpipeline.provenance import authority
from secpipeline.provenance.evidence import EvidenceStore
from secpipeline.provenance.lineage.graph import History, TracedRun
from secpipeline.provenance.lineage.queries import contributed, touched
from secpipeline.provenance.lineage.reading import read_history
from secpipeline.provenance.trust import SOURCE, Revocation
from secpipeline.stages import deploy
from secpipeline.stages.table import STAGES
from secpipeline.workspace import Workspace, step_specs


@dataclass(frozen=True)
class Reach:
    """What a revocation refuses.

    Attributes
    ----------
    runs
        Every logged run that took the thing in, made it, or rests on one that did, oldest first.
    channels
        The channels whose active deployment is among them.
    """

    runs: tuple[TracedRun, ...]
    channels: tuple[str, ...]

    def text(self) -> str:
        """For people: one line a stage, and the channels that will refuse to serve."""
        if not self.runs:
            return "reaches nothing that was ever logged here"
        counts = Counter(run.stage for run in self.runs)
        lines = [f"  {stage.name:14} {counts[stage.name]} runs" for stage in STAGES if counts[stage.name]]
        serving = ", ".join(self.channels) or "none"
        return "\n".join(["reaches", *lines, f"  channels that will refuse to serve: {serving}"])


def reach(workspace: Workspace, wanted: Revocation) -> Reach:
    """Everything that a revocation would refuse, from signed evidence alone.

    Raises
    ------
    AttestationError
        If the evidence does not verify.
    """
    history = read_history(workspace.evidence, workspace.trust(), step_specs())
    runs = history.reached(_roots(history, wanted))
    statements = {run.statement for run in runs}
    return Reach(runs, tuple(name for name in deploy.serving(workspace) if _deployed(workspace, name) in statements))


def _deployed(workspace: Workspace, channel: str) -> str:
    """SHA-256 of the Statement behind what a channel serves."""
    evidence = EvidenceStore(deploy.active(workspace, channel).evidence).current("deploy")
    return "" if evidence is None else sha256_bytes(evidence.statement)


def _roots(history: History, wanted: Revocation) -> tuple[TracedRun, ...]:
    if wanted.kind != SOURCE:
        return touched(history, wanted.name)
    try:
        return contributed(history, wanted.name)
    except InputError:
        return ()  # a source that was never taken in may be revoked before it is


def revoke(workspace: Workspace, wanted: Revocation) -> None:
    """Sign the revocation with the owners' keys, log it, and publish it to every channel.

    Raises
    ------
    InputError
        If it is revoked already.
    AttestationError
        If two owners' keys are not here.
    """
    with workspace.lock():
        workspace.trust()
        try:
            authority.revoke(workspace.evidence, workspace.ring(), step_specs(), wanted)
        finally:
            publish(workspace)  # also where it was revoked before, and killed before the channels heard of it


def publish(workspace: Workspace) -> None:
    """Give every channel the owners' present word, so that it reaches those who only read channels."""
    document = workspace.evidence.trust.read_bytes()
    deploy.publish_revocations(workspace, {f"{sha256_bytes(document)}.dsse.json": document})
