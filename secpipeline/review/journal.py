"""Decisions on disk while a review goes on: one JSON line each, appended and synced, never rewritten.

The first line says what is reviewed and how it was planned. A decision that was taken back stays, with a line after it
that says so. What was answered before a crash is there after it, because an answer counts only once its line is on the
disk; half a line at the end was no answer yet and is cut off.

>>> with Journal.begin(Path("review/decisions.jsonl"), header) as journal:           # doctest: +SKIP
...     journal.decide(decision)
>>> read(Path("review/decisions.jsonl").read_bytes()).decisions                      # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from secpipeline.digests import canonical_json
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance.envelopes import parse_object
from secpipeline.review.budget import BudgetRule, HarmRule, Plan
from secpipeline.review.data import FINDINGS, RELEASE
from secpipeline.review.records import Decision, exactly, item_id, number, text
from secpipeline.store import write_atomic

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COUNTS = ("items", "images", "sampled", "population", "repeated")


@dataclass(frozen=True)
class Header:
    """What a review is of, and how it was planned.

    Attributes
    ----------
    digests
        SHA-256 of the release's manifest and of the findings, by artifact name.
    rule, seed
        What the plan was made with; with the same files they give the same plan.
    plan
        SHA-256 of the canonical JSON of its items.
    items, images, sampled, population, repeated
        How many items there are; how many images there are, were drawn, and count for the residual error; and how many
        items are shown again.
    """

    digests: Mapping[str, str]
    rule: BudgetRule
    seed: int
    plan: str
    items: int
    images: int
    sampled: int
    population: int
    repeated: int

    @classmethod
    def of(cls, digests: Mapping[str, str], rule: BudgetRule, seed: int, plan: Plan) -> Header:
        """The header of a plan."""
        repeated = sum(bool(item.repeats) for item in plan.items)
        digest = plan.digest()
        return cls(
            dict(digests), rule, seed, digest, len(plan.items), plan.images, plan.sampled, plan.population, repeated
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record."""
        return asdict(self)

    @classmethod
    def parse(cls, entry: Any) -> Header:
        """Read what :meth:`to_json` made; raises InputError."""
        found = exactly(entry, [field.name for field in fields(cls)], "the header of a review")
        digests = exactly(found["digests"], (RELEASE, FINDINGS), "the digests of a review")
        if not all(_SHA256.fullmatch(text(digest, "a digest")) for digest in (*digests.values(), found["plan"])):
            raise InputError("the header of a review names its files by SHA-256, 64 lower-case hex digits")
        counts = {name: _count(found[name], name) for name in _COUNTS}
        return cls(dict(digests), _rule(found["rule"]), _count(found["seed"], "seed"), found["plan"], **counts)


def _rule(entry: Any) -> BudgetRule:
    found = exactly(entry, [field.name for field in fields(BudgetRule)], "the budget of a review")
    harm = exactly(found["harm"], [field.name for field in fields(HarmRule)], "the harm of a review")
    weights = HarmRule(**{name: number(value, name) for name, value in harm.items()})
    shares = {name: number(found[name], name) for name in ("sample_share", "duplicate_share", "suggestion_score")}
    return BudgetRule(_count(found["items"], "items"), harm=weights, **shares)


def _count(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise InputError(f"{what} must be a whole number from 0, not {value!r}")
    return value


@dataclass(frozen=True)
class Written:
    """A journal as it was read: its header and the decisions that stand, oldest first."""

    header: Header
    decisions: tuple[Decision, ...]


def read(data: bytes, name: str = "the decisions") -> Written:
    """Read a whole journal.

    Parameters
    ----------
    data
        Its bytes.
    name
        How errors name it.

    Raises
    ------
    InputError
        Naming the line that cannot be read, or that takes back what was not decided last; or if more is answered than
        the header says was asked.
    """
    lines = data.splitlines(keepends=True)
    if not lines:
        raise InputError(f"{name}: empty; begin the review again")
    with _at(name, 1):
        header = Header.parse(exactly(_parse(lines[0]), ("review",), "the first line")["review"])
    decisions: list[Decision] = []
    for place, line in enumerate(lines[1:], 2):
        with _at(name, place):
            entry = _parse(line)
            if "undo" in entry:
                undone = item_id(exactly(entry, ("undo",), "a line")["undo"])
                if not decisions or decisions[-1].item.item_id != undone:
                    raise InputError(f"takes back item {undone}, which was not decided last")
                decisions.pop()
            else:
                decisions.append(Decision.parse(exactly(entry, ("decision",), "a line")["decision"]))
    drawn = sum(decision.item.counted and not decision.item.repeats for decision in decisions)
    if len(decisions) > header.items or drawn > header.population:
        raise InputError(f"{name}: more is answered than was asked; restore the file")
    return Written(header, tuple(decisions))


@contextlib.contextmanager
def _at(name: str, line: int) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}, line {line}: {error}; restore the file") from error


def _parse(line: bytes) -> dict[str, Any]:
    try:
        entry = parse_object(line)
    except AttestationError as error:
        raise InputError(error.message) from error
    if canonical_json(entry) != line:
        raise InputError("not written by a review")
    return entry


class Journal:
    """A journal that is open for more; nobody else can write it meanwhile.

    Parameters
    ----------
    path
        The file, for messages.
    descriptor
        Of the file, locked.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    @classmethod
    def begin(cls, path: Path, header: Header) -> Journal:
        """Begin a review.

        Raises
        ------
        InputError
            If there is one already, or nothing can be written here.
        """
        if path.exists():
            raise InputError(f"{path}: there is a review already; go on with it, or move it away")
        write_atomic(path, canonical_json({"review": header.to_json()}))
        return cls.resume(path)[0]

    @classmethod
    def resume(cls, path: Path) -> tuple[Journal, Written]:
        """Go on with a review.

        Raises
        ------
        InputError
            If it is missing or damaged, or another process has it open.
        """
        descriptor = _open(path)
        try:
            data = _read_all(descriptor)
            whole = data[: data.rfind(b"\n") + 1]
            written = read(whole, str(path))
            if whole != data:
                os.ftruncate(descriptor, len(whole))
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor), written

    def decide(self, decision: Decision) -> None:
        """Write a decision to the disk.

        Raises
        ------
        InputError
            If that fails; then nothing was written.
        """
        self._write({"decision": decision.to_json()})

    def undo(self, decision: Decision) -> None:
        """Write that the last decision is taken back; raises as :meth:`decide`."""
        self._write({"undo": decision.item.item_id})

    def _write(self, entry: Mapping[str, Any]) -> None:
        line = canonical_json(entry)
        end = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, line)
            os.fsync(self._descriptor)
        except OSError as error:
            self._cut(end)
            raise InputError(
                f"{self._path}: cannot be written ({error.strerror}); make room and answer again"
            ) from error
        if written < len(line):
            self._cut(end)
            raise InputError(f"{self._path}: the disk is full; make room and answer again")

    def _cut(self, end: int) -> None:
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, end)

    def close(self) -> None:
        """Let others write it."""
        os.close(self._descriptor)

    def __enter__(self) -> Journal:
        """The journal itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def _open(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); check what is there") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise InputError(f"{path}: another review has it open; close that one first") from error
    return descriptor


def _read_all(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
    return b"".join(parts)
