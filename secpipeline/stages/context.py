"""What a stage is given and what it gives back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key

from secpipeline.digests import canonical_json
from secpipeline.store import write_atomic


@dataclass(frozen=True)
class StageContext:
    """Everything a stage may read, already verified, and the one place it may write.

    Attributes
    ----------
    root
        The project: recipes, policies and expectations.
    inputs
        The verified artifact directory of each declared input stage.
    out
        An empty directory; what the stage leaves here becomes its outputs.
    params
        The declared parameters by dotted key.
    resume
        A directory that outlives a killed run of the same computation.
    attestations
        SHA-256 of the current statement of every earlier stage.
    files
        SHA-256 of each declared project file.
    revoked_sources
        Why the owners revoked a source, by its name; its images must not be taken in.
    previous
        What an incremental stage made last time, if its evidence still verifies.
    review
        Where the files :data:`secpipeline.stages.table.REVIEW` of a signed review lie, if there is one.
    review_keys
        The keys that may have signed it.
    """

    root: Path
    inputs: Mapping[str, Path]
    out: Path
    params: Mapping[str, Any]
    resume: Path
    attestations: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    revoked_sources: Mapping[str, str] = field(default_factory=dict)
    previous: Path | None = None
    review: Path | None = None
    review_keys: Sequence[Key] = ()

    def write_json(self, name: str, value: Any) -> None:
        """Write an output as canonical JSON."""
        write_atomic(self.out / name, canonical_json(value))


@dataclass(frozen=True)
class StageResult:
    """What a stage says about its outputs.

    Attributes
    ----------
    summary
        Numbers and words for people: shown in the terminal, in Dagster and in the report; attested as ``summary.json``.
    details
        The content of the stage's predicate (what it means depends on the predicate type of the stage).
    materials
        SHA-256 by name of what the stage read from outside the chain.
    seeds
        Every seed that the outputs depend on, by what was drawn from it; wherever it was set.
    pictures
        Output files worth looking at, best first.
    refusal
        Reasons why the chain must not go on to a deployment. The outputs are recorded and signed all the same; the
        runner raises afterwards.
    """

    summary: Mapping[str, Any]
    details: Mapping[str, Any] = field(default_factory=dict)
    materials: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    pictures: tuple[str, ...] = ()
    refusal: tuple[str, ...] = ()


def read_report(path: Path) -> dict[str, Any]:
    """Read a JSON object written by an earlier stage."""
    report: dict[str, Any] = json.loads(path.read_bytes())
    return report
