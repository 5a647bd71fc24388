"""The lineage graph: signed runs, and which of them rests on which.

A run rests on the one that was the last, before it was logged, to make the bytes it read under that name.

>>> history = History(runs)                                              # doctest: +SKIP
>>> history.against(history.origins(runs[-1:])[0])                       # doctest: +SKIP
''
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secpipeline.errors import AttestationError

# No chain has nearly as many stages; more can only be meant to exhaust a reader.
MAX_DEPTH = 100

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
    doubt
        Why its signature counts no longer, because its key was revoked before; empty if it counts.
    revoked
        What of the things that it read or made the owners revoked, and why; empty if none.
    """

    stage: str
    statement: str
    logged: tuple[int, ...]
    time: str
    materials: frozenset[File]
    products: frozenset[File]
    doubt: str = ""
    revoked: str = ""

    @property
    def files(self) -> frozenset[File]:
        """What it read and made."""
        return self.materials | self.products


class History:
    """Every logged run whose link its stage's role has signed, and which rests on which.

    Parameters
    ----------
    runs
        In the order in which they were first logged.

    Raises
    ------
    AttestationError
        If more than a hundred runs rest on one another.
    """

    def __init__(self, runs: Sequence[TracedRun]) -> None:
        self.runs = tuple(runs)
        makers = _makers(self.runs)
        self._parents = {run.statement: _parents(run, makers) for run in self.runs}
        self._children: dict[str, list[TracedRun]] = {run.statement: [] for run in self.runs}
        self._blemished: dict[str, TracedRun] = {}
        depths: dict[str, int] = {}
        for run in self.runs:
            parents = self._parents[run.statement]
            for parent in parents:
                self._children[parent.statement].append(run)
            blemished = [self._blemished[parent.statement] for parent in parents if parent.statement in self._blemished]
            if run.doubt or run.revoked or blemished:
                self._blemished[run.statement] = run if run.doubt or run.revoked else blemished[0]
            depths[run.statement] = 1 + max((depths[parent.statement] for parent in parents), default=0)
            if depths[run.statement] > MAX_DEPTH:
                raise AttestationError("malformed", f"{run.stage}: more than {MAX_DEPTH} runs rest on one another")

    def parents(self, run: TracedRun) -> tuple[TracedRun, ...]:
        """The runs that made what a run read, in the order in which they were logged."""
        return tuple(self._parents[run.statement])

    def children(self, run: TracedRun) -> tuple[TracedRun, ...]:
        """The runs that read what a run made, in the order in which they were logged."""
        return tuple(self._children[run.statement])

    def reached(self, runs: Sequence[TracedRun], stage: str = "") -> tuple[TracedRun, ...]:
        """The runs themselves and all that rests on them, oldest first; those of one stage if it is given."""
        return self._closure(runs, self._children, stage)

    def origins(self, runs: Sequence[TracedRun], stage: str = "") -> tuple[TracedRun, ...]:
        """The runs themselves and all that they rest on, oldest first; those of one stage if it is given."""
        return self._closure(runs, self._parents, stage)

    def against(self, run: TracedRun) -> str:
        """Why a run must not be relied on: something against it, or against one that it rests on; empty if nothing."""
        blemished = self._blemished.get(run.statement)
        if blemished is None:
            return ""
        why = blemished.doubt or blemished.revoked
        return (
            why
            if blemished.statement == run.statement
            else f"rests on {blemished.stage} {blemished.statement[:12]}: {why}"
        )

    def _closure(
        self, runs: Sequence[TracedRun], on: Mapping[str, Sequence[TracedRun]], stage: str
    ) -> tuple[TracedRun, ...]:
        found: set[str] = set()
        waiting = list(runs)
        while waiting:
            run = waiting.pop()
            if run.statement not in found:
                found.add(run.statement)
                waiting += on[run.statement]
        return tuple(run for run in self.runs if run.statement in found and stage in ("", run.stage))


def _makers(runs: Sequence[TracedRun]) -> dict[File, list[tuple[int, TracedRun]]]:
    """The runs that made each file, by the entries of the log that made them current."""
    makers: dict[File, list[tuple[int, TracedRun]]] = {}
    for run in runs:
        for file in run.products:
            makers.setdefault(file, []).extend((entry, run) for entry in run.logged)
    for logged in makers.values():
        logged.sort(key=_entry)
    return makers


def _parents(run: TracedRun, makers: Mapping[File, Sequence[tuple[int, TracedRun]]]) -> list[TracedRun]:
    """The last makers of what a run read before it was logged, each once, in the order in which they were logged."""
    found: dict[str, tuple[int, TracedRun]] = {}
    for file in run.materials:
        logged = makers.get(file, ())
        before = bisect.bisect_left(logged, run.logged[0], key=_entry)
        if before:
            entry, maker = logged[before - 1]
            found[maker.statement] = max((entry, maker), found.get(maker.statement, (-1, maker)), key=_entry)
    return [maker for _, maker in sorted(found.values(), key=_entry)]


def _entry(logged: tuple[int, TracedRun]) -> int:
    return logged[0]
