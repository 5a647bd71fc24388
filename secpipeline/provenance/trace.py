"""Where a file came from, and what came from it, read from signed links alone.

Every run that was ever logged is a node, also those whose outputs are no longer the current ones. A run rests on the
one that was the last, before it was logged, to make the bytes it read under that name.

>>> history = History.read(EvidenceStore(Path("build/evidence")), keys)        # doctest: +SKIP
>>> print(tree(history.upstream(history.makers("1004ff18e902"))))               # doctest: +SKIP
deploy 095aa7ce2956 2026-11-24T07:47:26Z
└─ release ...
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from securesystemslib.signer import Key

from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance import envelopes
from secpipeline.provenance.evidence import EvidenceStore

_DIGEST = re.compile(r"[0-9a-f]{8,64}")

File = tuple[str, str]  # artifact name and SHA-256


@dataclass(frozen=True)
class TracedRun:
    """One signed run of one stage.

    Attributes
    ----------
    stage
        Which stage.
    statement
        SHA-256 of its Statement's envelope; names the run.
    logged
        The lines of the log, counted from 0, that made it current.
    time
        When it was first logged, RFC 3339 in UTC.
    materials, products
        What it read and made.
    """

    stage: str
    statement: str
    logged: tuple[int, ...]
    time: str
    materials: frozenset[File]
    products: frozenset[File]


@dataclass(frozen=True)
class Branch:
    """A run and the runs that hang on it; ``repeated`` if its own branches are shown elsewhere in the tree."""

    run: TracedRun
    branches: tuple[Branch, ...]
    repeated: bool = False

    def to_json(self) -> dict[str, Any]:
        """The same for tools; ``runs`` hold the branches."""
        head = {"stage": self.run.stage, "statement": self.run.statement, "time": self.run.time}
        return {**head, "repeated": self.repeated, "runs": [branch.to_json() for branch in self.branches]}


class History:
    """Every logged run whose link its stage's role has signed."""

    def __init__(self, runs: Sequence[TracedRun]) -> None:
        self.runs = tuple(runs)
        self._parents = {run.statement: _parents(run, self.runs) for run in self.runs}
        self._children: dict[str, list[TracedRun]] = {run.statement: [] for run in self.runs}
        for run in self.runs:
            for parent in self._parents[run.statement]:
                self._children[parent.statement].append(run)

    @classmethod
    def read(cls, store: EvidenceStore, keys: Mapping[str, Key]) -> History:
        """Read and check the log and every link in it.

        Parameters
        ----------
        store
            The evidence.
        keys
            The public key by stage.

        Raises
        ------
        AttestationError
            If the log is broken, or a link is missing, changed, of a stage without key, or not signed by that key.
        """
        runs: dict[str, TracedRun] = {}
        for entry in store.entries():
            run = _run(store, entry, keys)
            known = runs.get(run.statement)
            runs[run.statement] = replace(known, logged=known.logged + run.logged) if known else run
        return cls(tuple(runs.values()))

    def makers(self, prefix: str) -> tuple[TracedRun, ...]:
        """The runs that made a file with this SHA-256, oldest first; eight hex digits or more are enough.

        Raises
        ------
        InputError
            If it is no digest, or nobody made such a file.
        """
        if not _DIGEST.fullmatch(prefix):
            raise InputError(f"{prefix}: not a SHA-256; give 8 to 64 lower-case hex digits, or a file")
        found = tuple(run for run in self.runs if any(digest.startswith(prefix) for _, digest in run.products))
        if not found:
            raise InputError(f"{prefix}: no signed run made a file with this SHA-256")
        return found

    def upstream(self, runs: Sequence[TracedRun]) -> tuple[Branch, ...]:
        """What the runs rest on, as one tree a run."""
        return self._grow(runs, self._parents)

    def downstream(self, runs: Sequence[TracedRun]) -> tuple[Branch, ...]:
        """What rests on the runs, as one tree a run."""
        return self._grow(runs, self._children)

    def _grow(self, roots: Sequence[TracedRun], on: Mapping[str, Sequence[TracedRun]]) -> tuple[Branch, ...]:
        shown: set[str] = set()

        def grow(run: TracedRun) -> Branch:
            if run.statement in shown:
                return Branch(run, (), repeated=bool(on[run.statement]))
            shown.add(run.statement)
            return Branch(run, tuple(grow(other) for other in on[run.statement]))

        return tuple(grow(run) for run in roots)


def _parents(run: TracedRun, runs: Sequence[TracedRun]) -> list[TracedRun]:
    """The makers of what a run read, each once, in the order in which they were logged."""
    found: dict[File, tuple[int, TracedRun]] = {}
    for other in runs:
        before = max((line for line in other.logged if line < run.logged[0]), default=None)
        if before is None:
            continue
        for file in other.products & run.materials:
            if file not in found or found[file][0] < before:
                found[file] = (before, other)
    makers = {other.statement: (line, other) for line, other in found.values()}
    return [other for _, other in sorted(makers.values(), key=lambda pair: pair[0])]


def _run(store: EvidenceStore, entry: Mapping[str, Any], keys: Mapping[str, Key]) -> TracedRun:
    stage, statement = str(entry["stage"]), str(entry["statement"])
    evidence = store.find(statement, str(entry["link"]))
    if evidence is None:
        raise AttestationError("evidence-missing", f"{stage}: the envelopes of log entry {entry['index']} are gone")
    if stage not in keys:
        raise AttestationError("link-name", f"{stage}: log entry {entry['index']} is of no stage of this chain")
    link = envelopes.verify(evidence.link, [keys[stage]], 1)
    if link.get("name") != stage:
        raise AttestationError("link-name", f"{stage}: log entry {entry['index']} holds a link of {link.get('name')!r}")
    time = dt.datetime.fromtimestamp(int(entry["time"]), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return TracedRun(
        stage, statement, (int(entry["index"]),), time, _files(link["materials"]), _files(link["products"])
    )


def _files(recorded: Mapping[str, Mapping[str, str]]) -> frozenset[File]:
    return frozenset((name, digests["sha256"]) for name, digests in recorded.items())


def tree(branches: Sequence[Branch]) -> str:
    """Trees for people, one run a line."""
    return "\n".join(line for branch in branches for line in _lines(branch, "", ""))


def _lines(branch: Branch, first: str, rest: str) -> Iterator[str]:
    more = "  (its own runs are shown above)" if branch.repeated else ""
    yield f"{first}{branch.run.stage} {branch.run.statement[:12]} {branch.run.time}{more}"
    for number, child in enumerate(branch.branches, 1):
        last = number == len(branch.branches)
        yield from _lines(child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))
