"""Re-check everything that can be re-checked: the chain in the workspace and what each channel serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secpipeline import runner
from secpipeline.provenance.verification import Report
from secpipeline.stages.deploy import verify_channel
from secpipeline.stages.table import STAGES
from secpipeline.workspace import Workspace


@dataclass(frozen=True)
class Verification:
    """The reports of one audit.

    Attributes
    ----------
    chain
        The workspace's own chain.
    channels
        What each channel serves, by its name.
    pending
        Stages that have not run yet; they are no fault, but nothing can be deployed without them.
    """

    chain: Report
    channels: Mapping[str, Report]
    pending: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True if nothing was refused."""
        return self.chain.ok and all(report.ok for report in self.channels.values())

    def summary(self) -> str:
        """One line."""
        refusals = len(self.chain.refusals) + sum(len(report.refusals) for report in self.channels.values())
        if refusals:
            return f"{refusals} refusals; `secpipeline verify` lists them"
        active = ", ".join(self.channels) or "no channel"
        return f"{len(self.chain.steps)} stages, {self.chain.files} files, serving in {active}"

    def text(self) -> str:
        """A table for people."""
        sections = [f"chain: {'verified' if self.chain.ok else 'REFUSED'}", self.chain.text()]
        if self.pending:
            sections.append(f"not run yet: {', '.join(self.pending)}")
        for name, report in self.channels.items():
            sections += [f"channel {name}: {'verified' if report.ok else 'REFUSED'}", report.text()]
        return "\n".join(section for section in sections if section)

    def to_json(self) -> dict[str, Any]:
        """The same for tools."""
        return {
            "ok": self.ok,
            "chain": self.chain.to_json(),
            "channels": {name: report.to_json() for name, report in self.channels.items()},
            "pending": list(self.pending),
        }


def verify_everything(workspace: Workspace) -> Verification:
    """Verify every stage that has evidence, and every channel that serves something.

    Raises
    ------
    AttestationError
        If there is no evidence at all.
    """
    present = tuple(stage.name for stage in STAGES if workspace.evidence.current(stage.name) is not None)
    serving = sorted(path.parent.name for path in workspace.channels.glob("*/current.json"))
    return Verification(
        chain=runner.verify(workspace, present),
        channels={name: verify_channel(workspace, name) for name in serving},
        pending=tuple(stage.name for stage in STAGES if stage.name not in present),
    )
