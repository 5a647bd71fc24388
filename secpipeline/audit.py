"""Re-check all that can be re-checked: the chain in the workspace, what each channel serves, a bundle, a file."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from securesystemslib.signer import SSlibKey

from secpipeline import runner
from secpipeline.digests import sha256_file
from secpipeline.errors import InputError
from secpipeline.paired_sha256 import hashlib_alone
from secpipeline.provenance import bundle
from secpipeline.provenance.log import Checkpoint
from secpipeline.provenance.memory import Memory
from secpipeline.provenance.report import Report
from secpipeline.provenance.verification import Expectations
from secpipeline.stages import deploy
from secpipeline.stages.table import STAGES
from secpipeline.workspace import Workspace

_SHA256_LENGTH = 64


@dataclass(frozen=True)
class Asked:
    """How strictly to verify.

    Attributes
    ----------
    full
        Hash every byte again, also of files that have not changed since they were last hashed, and with hashlib alone,
        whatever the other digests were made with.
    max_age
        How long ago the log or the channel may have been signed.
    at_least_version
        Entries that the log, or version that the channel's metadata, must have.
    since
        An earlier checkpoint that the log must continue.
    """

    full: bool = False
    max_age: dt.timedelta | None = None
    at_least_version: int | None = None
    since: Checkpoint | None = None

    def of_the_log(self, memory: Memory | None) -> Expectations:
        """What is asked of a log."""
        return Expectations(
            memory=memory,
            since=self.since,
            max_age=self.max_age,
            at_least_version=self.at_least_version,
            whole_history=memory is not None,
        )


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
    channels: Mapping[str, Report] = field(default_factory=dict)
    pending: tuple[str, ...] = ()

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
        sections = [_headed("chain", self.chain)]
        if self.pending:
            sections.append(f"not run yet: {', '.join(self.pending)}")
        sections += [_headed(f"channel {name}", report) for name, report in self.channels.items()]
        return "\n".join(sections)

    def to_json(self) -> dict[str, Any]:
        """The same for tools."""
        return {
            "ok": self.ok,
            "chain": self.chain.to_json(),
            "channels": {name: report.to_json() for name, report in self.channels.items()},
            "pending": list(self.pending),
        }


@dataclass(frozen=True)
class Named:
    """The report on one thing that was asked about."""

    name: str
    report: Report

    @property
    def ok(self) -> bool:
        """True if nothing was refused."""
        return self.report.ok

    def text(self) -> str:
        """A table for people."""
        return _headed(self.name, self.report)

    def to_json(self) -> dict[str, Any]:
        """The same for tools."""
        return {"target": self.name, **self.report.to_json()}


def _headed(name: str, report: Report) -> str:
    return f"{name}: {'verified' if report.ok else 'REFUSED'}\n{report.text()}".rstrip()


def verify_everything(workspace: Workspace, asked: Asked | None = None) -> Verification:
    """Verify every stage that has evidence, the whole history of it, and every channel that serves something.

    Raises
    ------
    AttestationError
        If there is no evidence at all.
    """
    asked = asked or Asked()
    present = tuple(stage.name for stage in STAGES if workspace.evidence.current(stage.name) is not None)
    return Verification(
        chain=runner.verify(workspace, present, asked.of_the_log(Memory(workspace.memory)), full=asked.full),
        channels={name: verify_channel(workspace, name, asked) for name in deploy.serving(workspace)},
        pending=tuple(stage.name for stage in STAGES if stage.name not in present),
    )


def verify_channel(workspace: Workspace, name: str, asked: Asked) -> Report:
    """Verify what a channel serves."""
    with hashlib_alone(asked.full):
        return deploy.verify_channel(workspace, name, at_least_version=asked.at_least_version, max_age=asked.max_age)


def verify_bundle(directory: Path, owners: Sequence[SSlibKey], asked: Asked) -> Named:
    """Verify a bundle, by the owners' public keys."""
    with hashlib_alone(asked.full):
        return Named(str(directory), bundle.verify(directory, owners, asked.of_the_log(None)))


def verify_target(workspace: Workspace, target: str, asked: Asked) -> Named:
    """Verify a channel, or the chain behind a file or a SHA-256.

    Raises
    ------
    InputError
        If it is none of these, or no current, verified step made such a file.
    """
    if target in deploy.serving(workspace):
        return Named(f"channel {target}", verify_channel(workspace, target, asked))
    path = Path(target)
    digest = sha256_file(path) if path.is_file() else target
    if len(digest) != _SHA256_LENGTH:
        serving = ", ".join(deploy.serving(workspace)) or "none"
        raise InputError(f"{target}: no channel (there are: {serving}), no bundle, no file and no SHA-256")
    whole = verify_everything(workspace, asked).chain
    made = [f"{name}" for files in whole.subjects.values() for name, found in files.items() if found == digest]
    if not made:
        raise InputError(
            f"{target}: no step of the current chain made a file with this SHA-256; see `secpipeline trace`"
        )
    return Named(f"{', '.join(made)} ({digest})", whole)
