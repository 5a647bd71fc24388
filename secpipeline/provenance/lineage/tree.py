"""What a run rests on and what rests on it, as a tree for people and for tools.

>>> print(tree(upstream(history, history.runs[-1:])))                    # doctest: +SKIP
deploy 095aa7ce2956 2026-11-24T07:47:26Z
└─ release ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from secpipeline.provenance.lineage.graph import History, TracedRun


@dataclass(frozen=True)
class Branch:
    """A run and the runs that hang on it; ``repeated`` if its own branches are shown elsewhere in the tree."""

    run: TracedRun
    branches: tuple[Branch, ...]
    repeated: bool = False

    def to_json(self) -> dict[str, Any]:
        """The same for tools; ``runs`` hold the branches."""
        head = {"stage": self.run.stage, "statement": self.run.statement, "time": self.run.time}
        head |= {name: why for name in ("doubt", "revoked") if (why := getattr(self.run, name))}
        return {**head, "repeated": self.repeated, "runs": [branch.to_json() for branch in self.branches]}


def upstream(history: History, runs: Sequence[TracedRun]) -> tuple[Branch, ...]:
    """What the runs rest on, as one tree a run."""
    return _grow(runs, history.parents)


def downstream(history: History, runs: Sequence[TracedRun]) -> tuple[Branch, ...]:
    """What rests on the runs, as one tree a run."""
    return _grow(runs, history.children)


def _grow(roots: Sequence[TracedRun], on: Callable[[TracedRun], Sequence[TracedRun]]) -> tuple[Branch, ...]:
    shown: set[str] = set()

    def grow(run: TracedRun) -> Branch:
        if run.statement in shown:
            return Branch(run, (), repeated=bool(on(run)))
        shown.add(run.statement)
        return Branch(run, tuple(grow(other) for other in on(run)))

    return tuple(grow(run) for run in roots)


def tree(branches: Sequence[Branch]) -> str:
    """Trees for people, one run a line."""
    return "\n".join(line for branch in branches for line in _lines(branch, "", ""))


def _lines(branch: Branch, first: str, rest: str) -> Iterator[str]:
    more = "".join(f"  {why}" for why in (branch.run.doubt, branch.run.revoked) if why)
    more += "  (its own runs are shown above)" if branch.repeated else ""
    yield f"{first}{branch.run.stage} {branch.run.statement[:12]} {branch.run.time}{more}"
    for number, child in enumerate(branch.branches, 1):
        last = number == len(branch.branches)
        yield from _lines(child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))
