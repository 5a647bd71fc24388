"""Whose images a deployment contains.

There are two answers: those that were in the release which the chain took in, and those that curation left in for
training. :class:`Contribution` keeps them apart.

>>> phases = Phases("ingest", "curate", "deploy/detector.onnx")
>>> print(table(contributions(history, "vendor-c", "8d0c41aa", phases=phases)))      # doctest: +SKIP
deploy 095aa7ce2956 2026-11-24T07:47:26Z  detector 1004ff18e902  delivered, not trained on
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from secpipeline.provenance.lineage.graph import File, History, TracedRun
from secpipeline.provenance.lineage.queries import contributed, releases_of
from secpipeline.provenance.sources import manifest_name


@dataclass(frozen=True)
class Phases:
    """Which parts of a chain a question about deployments is about, by their names.

    Attributes
    ----------
    intake
        The stage that takes in what the sources delivered.
    curation
        The stage that chooses from it what is trained on.
    deployed
        The artifact that a deployment hands on; a run that did not make it has deployed nothing.
    """

    intake: str
    curation: str
    deployed: str


@dataclass(frozen=True)
class Contribution:
    """How one source's images came into one deployment.

    Attributes
    ----------
    deployment
        The run that deployed.
    detector
        SHA-256 of what it deployed.
    releases
        SHA-256 of the manifest of each release that it rests on and that the source delivered to.
    delivered
        Whether the source's images were in a release that the chain took in.
    trained_on
        Whether they were still in the curated release that it rests on.
    against
        Why the deployment must not be relied on (:meth:`.graph.History.against`); empty if nothing is known.
    """

    deployment: TracedRun
    detector: str
    releases: tuple[str, ...]
    delivered: bool
    trained_on: bool
    against: str = ""

    def to_json(self) -> dict[str, Any]:
        """The same for tools."""
        return {
            "stage": self.deployment.stage,
            "statement": self.deployment.statement,
            "time": self.deployment.time,
            "detector": self.detector,
            "releases": list(self.releases),
            "delivered": self.delivered,
            "trainedOn": self.trained_on,
            "against": self.against,
        }

    def __str__(self) -> str:
        run = self.deployment
        ways = f"{'' if self.delivered else 'not '}delivered, {'' if self.trained_on else 'not '}trained on"
        warning = f"  {self.against}" if self.against else ""
        return f"{run.stage} {run.statement[:12]} {run.time}  detector {self.detector[:12]}  {ways}{warning}"


def contributions(history: History, source: str, release: str = "", *, phases: Phases) -> tuple[Contribution, ...]:
    """The deployments that rest on images of a source, oldest first; on those of one release if given.

    Parameters
    ----------
    history, source, release
        As :func:`.queries.contributed`.
    phases
        The stages that the question is about.

    Raises
    ------
    InputError
        If the source contributed nothing; that nothing of it was deployed is an answer.
    """
    reached = history.reached(contributed(history, source, release))
    return tuple(
        _contribution(history, run, digest, manifest_name(source), phases)
        for run in reached
        for name, digest in sorted(run.products)
        if name == phases.deployed
    )


def _contribution(history: History, run: TracedRun, detector: str, manifest: str, phases: Phases) -> Contribution:
    origins = history.origins([run])
    delivered = [one for one in origins if _names(one.files, f"{phases.intake}/{manifest}")]
    return Contribution(
        deployment=run,
        detector=detector,
        releases=tuple(digest for one in delivered if one.stage == phases.intake for digest in releases_of(one)),
        delivered=bool(delivered),
        # Whoever read it says so, not only who trained: a trainer that leaves it out of its link hides nothing.
        trained_on=any(_names(one.files, f"{phases.curation}/{manifest}") for one in origins),
        against=history.against(run),
    )


def _names(files: frozenset[File], wanted: str) -> bool:
    return any(name == wanted for name, _ in files)


def table(contributions: Sequence[Contribution]) -> str:
    """Contributions for people, one deployment a line."""
    return "\n".join(map(str, contributions)) or "no deployment rests on them"
