"""The provenance drill: tamper with a throwaway chain in every known way and show that each is refused.

Each tampering is done to a fresh copy of one throwaway chain, and the copy is verified as the user's commands verify a
workspace, a channel or a bundle. A tampering counts as refused only if its own reason code is given. The untouched
chain is verified before and after each group, so that a verifier that refuses everything does not pass. An exception
out of the verifier, or a verification that does not end, is a failure of the drill.

>>> main()                                                               # doctest: +SKIP
0
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from secpipeline.drills.bundles import BUNDLES
from secpipeline.drills.channels import CHANNELS
from secpipeline.drills.files import FILES
from secpipeline.drills.keeping import KEYS
from secpipeline.drills.logs import LOGS
from secpipeline.drills.owning import LAYOUTS, TRUSTS
from secpipeline.drills.signing import SIGNING
from secpipeline.drills.tampering import Group, Tampering
from secpipeline.drills.throwaway import ThrowawayChain, build

GROUPS: tuple[Group, ...] = (FILES, SIGNING, LAYOUTS, TRUSTS, LOGS, KEYS, CHANNELS, BUNDLES)
# A verification of the throwaway chain takes well under a second.
_PATIENCE = 20
_ROOM = 1 << 30  # bytes


@dataclass(frozen=True)
class Result:
    """What became of one tampering.

    Attributes
    ----------
    group, name, sentence
        What was attacked, the tampering in a few words, and what it does.
    expected
        The reason code that must refuse it.
    found
        The reason codes that were given, sorted.
    problem
        The exception that came out of the verifier, or "".
    """

    group: str
    name: str
    sentence: str
    expected: str
    found: tuple[str, ...]
    problem: str = ""

    @property
    def refused(self) -> bool:
        """Refused for the reason that was expected."""
        return self.expected in self.found and not self.problem

    def text(self) -> str:
        """One line for people."""
        refused = "refused" if self.refused else f"FAILED: refused as {', '.join(self.found)}"
        outcome = self.problem or (refused if self.found else "FAILED: accepted")
        return f"  {self.name:42} {self.expected:24} {outcome}"

    def to_json(self) -> dict[str, Any]:
        """The same for tools."""
        return {**asdict(self), "refused": self.refused}


@dataclass(frozen=True)
class Outcome:
    """What became of a drill.

    Attributes
    ----------
    results
        One for each tampering, in order.
    untouched
        What was wrong with the untouched chain, by group and moment; empty if it verified every time.
    """

    results: tuple[Result, ...]
    untouched: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Everything was refused as expected, and the untouched chain verified."""
        return bool(self.results) and all(result.refused for result in self.results) and not self.untouched

    def text(self) -> str:
        """A table for people."""
        lines: list[str] = []
        for title in dict.fromkeys(result.group for result in self.results):
            lines += [title, *(result.text() for result in self.results if result.group == title)]
        lines += [f"untouched chain REFUSED {problem}" for problem in self.untouched]
        refused = sum(result.refused for result in self.results)
        untouched = "NOT verified" if self.untouched else "verified before and after"
        return "\n".join([*lines, f"{refused} of {len(self.results)} refused; untouched chain {untouched}"])

    def to_json(self) -> list[dict[str, Any]]:
        """The same for tools, one record for each tampering."""
        return [result.to_json() for result in self.results]


def main(out: Callable[[str], object] = print, progress: bool = True, as_json: bool = False) -> int:
    """Run the drill, print its table or its records, and return 0 if everything was refused as expected, else 4.

    Parameters
    ----------
    out
        Takes what is printed.
    progress
        Whether to show a bar on a terminal.
    as_json
        Print the records instead of the table.
    """
    with tempfile.TemporaryDirectory(prefix="secpipeline-drill-", dir=scratch_place()) as directory:
        outcome = run(Path(directory), GROUPS, progress=progress)
    out(json.dumps(outcome.to_json(), indent=2) if as_json else outcome.text())
    return 0 if outcome.ok else 4


def scratch_place() -> str | None:
    """A memory file system, if there is one with room: a chain of small files is copied some two hundred times."""
    memory = Path("/dev/shm")  # noqa: S108 - the directory that is made below it is private
    if "TMPDIR" not in os.environ and memory.is_dir() and os.access(memory, os.W_OK | os.X_OK):
        return str(memory) if shutil.disk_usage(memory).free > _ROOM else None
    return None


def run(directory: Path, groups: Sequence[Group], *, progress: bool = False) -> Outcome:
    """Build a throwaway chain below ``directory`` and tamper with copies of it.

    Parameters
    ----------
    directory
        Exists, and is empty.
    groups
        What to do.
    progress
        Whether to show a bar on a terminal.
    """
    chain = build(directory)
    results: list[Result] = []
    untouched: list[str] = []
    total = sum(len(group.tamperings) for group in groups)
    with tqdm(total=total, desc="drill", leave=False, disable=not (progress and sys.stderr.isatty())) as bar:
        for number, group in enumerate(groups):
            pristine = chain.copy(directory / f"group-{number}")
            group.prepare(pristine)
            untouched += _look_at_untouched(pristine, group, "before")
            for tampering in group.tamperings:
                results.append(attempt(pristine, group, tampering))
                bar.update()
            untouched += _look_at_untouched(pristine, group, "after")
    return Outcome(tuple(results), tuple(untouched))


def attempt(pristine: ThrowawayChain, group: Group, tampering: Tampering) -> Result:
    """Do one tampering to a copy of a prepared chain, and verify that copy."""
    found: tuple[str, ...] = ()
    problem = ""
    with _copied(pristine) as chain:
        try:
            expect = tampering.tamper(chain)
            with _deadline(_PATIENCE):
                report = group.verify(chain, expect)
                if not all(str(refusal).isprintable() for refusal in report.refusals):
                    raise ValueError("a name can forge what the report says")
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not come out of a verifier
            problem = f"FAILED: {type(error).__name__}: {error}"
        except _NeverEndedError:
            problem = f"FAILED: no end after {_PATIENCE} seconds"
        else:
            found = tuple(sorted(report.codes))
    return Result(group.title, tampering.name, tampering.sentence, tampering.expected, found, problem)


def _look_at_untouched(pristine: ThrowawayChain, group: Group, moment: str) -> list[str]:
    with _copied(pristine) as chain:
        report = group.verify(chain, None)
    return [] if report.ok else [f"{moment} {group.title}: {refusal}" for refusal in report.refusals]


@contextmanager
def _copied(chain: ThrowawayChain) -> Iterator[ThrowawayChain]:
    directory = Path(tempfile.mkdtemp(dir=chain.root.parent))
    try:
        yield chain.copy(directory / "copy")
    finally:
        _remove(directory)


def _remove(directory: Path) -> None:
    """Remove a tree that may be deeper than :func:`shutil.rmtree` recurses."""
    pending, found = [directory], []
    while pending:
        found.append(pending.pop())
        for path in found[-1].iterdir():
            if path.is_dir() and not path.is_symlink():
                pending.append(path)
            else:
                path.unlink()
    for emptied in reversed(found):
        emptied.rmdir()


class _NeverEndedError(BaseException):
    """No Exception, so that no verifier takes it for a fault of the evidence."""


@contextmanager
def _deadline(seconds: int) -> Iterator[None]:
    """Break off what does not end; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(*_: int | FrameType | None) -> None:
        raise _NeverEndedError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
