"""What a review is made of: findings, items that people are asked about, and their decisions.

Records travel as canonical JSON and are read strictly: a missing, unknown or badly typed field is refused.

>>> change = Change("street#1", (4.0, 4.0, 20.0, 44.0), None)
>>> change.kind
'removed'
>>> Change.parse(change.to_json()) == change
True
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secpipeline.errors import InputError

Box = tuple[float, float, float, float]

ACCEPT_LABEL, ACCEPT_SUGGESTION, REDRAW, SKIP = "accept-label", "accept-suggestion", "redraw", "skip"
VERDICTS = (ACCEPT_LABEL, ACCEPT_SUGGESTION, REDRAW, SKIP)
REMOVED, ADDED, MOVED = "removed", "added", "moved"
SAMPLE = "sample"
# Smaller boxes are slips of the mouse; nobody can be seen in so few pixels.
MIN_SIDE = 2.0
_HUGE = 1e15
_TIME = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]Z")
_ITEM_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Finding:
    """A finding of the audit in pixels of the release.

    Attributes
    ----------
    image_id, kind, score, evidence, reason
        As in :func:`secpipeline.poisoning.findings.find`.
    box_id
        The label in question; empty if there is none.
    label, prediction
        The label's box and the judges', x1, y1, x2, y2; None where there is none.
    """

    image_id: str
    kind: str
    score: float
    evidence: float
    reason: str
    box_id: str = ""
    label: Box | None = None
    prediction: Box | None = None

    def suggestion(self) -> Change | None:
        """What the judges would change; None for findings that are not about one box."""
        if self.kind == "missing" and self.prediction:
            return Change("", None, self.prediction)
        if self.kind == "ghost" and self.label:
            return Change(self.box_id, self.label, None)
        if self.kind == "location" and self.label and self.prediction not in (None, self.label):
            return Change(self.box_id, self.label, self.prediction)
        return None


@dataclass(frozen=True)
class Change:
    """One box of an image removed, added or moved.

    Attributes
    ----------
    box_id
        The label; empty for a box that is added.
    old, new
        Its box before and after; None for a box that is not there.
    """

    box_id: str
    old: Box | None
    new: Box | None

    def __post_init__(self) -> None:
        if bool(self.box_id) != (self.old is not None) or self.old == self.new:
            raise InputError(f"a change of box {self.box_id!r} from {self.old} to {self.new} is none")

    @property
    def kind(self) -> str:
        """``removed``, ``added`` or ``moved``."""
        if self.new is None:
            return REMOVED
        return ADDED if self.old is None else MOVED

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record."""
        return {"box_id": self.box_id, "old": self.old, "new": self.new}

    @classmethod
    def parse(cls, entry: Any) -> Change:
        """Read what :meth:`to_json` made; raises InputError."""
        fields = exactly(entry, ("box_id", "old", "new"), "a change")
        return cls(text(fields["box_id"], "box_id"), box_or_none(fields["old"]), box_or_none(fields["new"]))


@dataclass(frozen=True)
class Item:
    """Something that a person is asked to look at.

    Attributes
    ----------
    item_id
        Opaque: it tells neither what the item is nor whether it was shown before.
    image_id
        The image.
    kind
        The kind of the finding behind it, or ``sample``.
    whole
        Whether the question is about every label of the image, or about one box.
    box_id, label, prediction
        As of the finding, for a question about one box.
    suggestion
        What the judges would change; empty if they have no suggestion.
    score
        The strongest finding's score in [0, 1]; None for a random sample.
    reasons
        The findings in words.
    sampled
        Whether it was drawn at random from all images.
    counted
        Whether its answer counts for the residual error: sampled, and in an image that would be accepted unseen.
    repeats
        The item that it shows again; empty for the first showing.
    """

    item_id: str
    image_id: str
    kind: str
    whole: bool
    box_id: str = ""
    label: Box | None = None
    prediction: Box | None = None
    suggestion: tuple[Change, ...] = ()
    score: float | None = None
    reasons: tuple[str, ...] = ()
    sampled: bool = False
    counted: bool = False
    repeats: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return plain | {"suggestion": [change.to_json() for change in self.suggestion], "reasons": list(self.reasons)}

    @classmethod
    def parse(cls, entry: Any) -> Item:
        """Read what :meth:`to_json` made; raises InputError."""
        fields = exactly(entry, tuple(cls.__dataclass_fields__), "an item")
        return cls(
            item_id=item_id(fields["item_id"]),
            image_id=text(fields["image_id"], "image_id"),
            kind=text(fields["kind"], "kind"),
            whole=_flag(fields["whole"], "whole"),
            box_id=text(fields["box_id"], "box_id"),
            label=box_or_none(fields["label"]),
            prediction=box_or_none(fields["prediction"]),
            suggestion=tuple(Change.parse(change) for change in listed(fields["suggestion"], "suggestion")),
            score=None if fields["score"] is None else number(fields["score"], "score"),
            reasons=tuple(text(reason, "a reason") for reason in listed(fields["reasons"], "reasons")),
            sampled=_flag(fields["sampled"], "sampled"),
            counted=_flag(fields["counted"], "counted"),
            repeats="" if fields["repeats"] == "" else item_id(fields["repeats"]),
        )


@dataclass(frozen=True)
class Decision:
    """A person's answer.

    Attributes
    ----------
    item
        What was asked.
    verdict
        One of ``VERDICTS``.
    changes
        What is wrong with the labels and what they should be: the suggestion, or what was drawn.
    reviewer
        Who, in the words that were given when the review was begun.
    seconds
        From showing the item to the answer, by the clock on the wall.
    time
        When; RFC 3339 in UTC, to the second.

    Raises
    ------
    InputError
        If the changes do not fit the verdict, or a field is out of its range.
    """

    item: Item
    verdict: str
    changes: tuple[Change, ...]
    reviewer: str
    seconds: float
    time: str

    def __post_init__(self) -> None:
        where = f"decision about item {self.item.item_id}"
        if self.verdict not in VERDICTS:
            raise InputError(f"{where}: {self.verdict!r} is no verdict; use {', '.join(VERDICTS)}")
        wrong = self.verdict in (ACCEPT_SUGGESTION, REDRAW)
        if wrong != bool(self.changes):
            raise InputError(f"{where}: {self.verdict} with {len(self.changes)} changes")
        if self.verdict == ACCEPT_SUGGESTION and self.changes != self.item.suggestion:
            raise InputError(f"{where}: accepts a suggestion that was not made")
        own = {change.box_id for change in self.changes}
        if not self.item.whole and (len(self.changes) > 1 or not own <= {self.item.box_id}):
            raise InputError(f"{where}: changes other boxes than the one that was asked about")
        check_reviewer(self.reviewer)
        if self.seconds < 0 or not _TIME.fullmatch(self.time):
            raise InputError(f"{where}: {self.seconds} seconds at {self.time!r}")

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record."""
        return {
            "item": self.item.to_json(),
            "verdict": self.verdict,
            "changes": [change.to_json() for change in self.changes],
            "reviewer": self.reviewer,
            "seconds": self.seconds,
            "time": self.time,
        }

    @classmethod
    def parse(cls, entry: Any) -> Decision:
        """Read what :meth:`to_json` made; raises InputError."""
        fields = exactly(entry, tuple(cls.__dataclass_fields__), "a decision")
        return cls(
            Item.parse(fields["item"]),
            text(fields["verdict"], "verdict"),
            tuple(Change.parse(change) for change in listed(fields["changes"], "changes")),
            text(fields["reviewer"], "reviewer"),
            number(fields["seconds"], "seconds"),
            text(fields["time"], "time"),
        )


def check_reviewer(name: str) -> str:
    """Return a reviewer's name, in whatever words, if it fits on one line.

    Raises
    ------
    InputError
        If it is empty, longer than 100 characters, or cannot be printed on one line.
    """
    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise InputError(f"{name!r}: say who reviews, on one line of at most 100 characters")
    return name


def exactly(entry: Any, names: Collection[str], what: str) -> Mapping[str, Any]:
    """Return ``entry`` if it is an object with just these fields.

    Raises
    ------
    InputError
        If it is not.
    """
    if not isinstance(entry, Mapping) or set(entry) != set(names):
        found = sorted(map(str, entry)) if isinstance(entry, Mapping) else type(entry).__name__
        raise InputError(f"{what} has the fields {', '.join(sorted(names))}, this has {found}")
    return entry


def text(value: Any, what: str) -> str:
    """Return ``value`` if it is a string that can be written; raises InputError."""
    # JSON can spell halves of a surrogate pair, which no file can hold.
    if not isinstance(value, str) or any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{what} must be text, not {value!a}")
    return value


def number(value: Any, what: str) -> float:
    """Return ``value`` as a float if it is a finite number; raises InputError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _HUGE:
        raise InputError(f"{what} must be a number, not {value!r}")
    return float(value)


def listed(value: Any, what: str) -> Sequence[Any]:
    """Return ``value`` if it is a list; raises InputError."""
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{what} must be a list, not {value!r}")
    return value


def item_id(value: Any) -> str:
    """Return ``value`` if it can name an item; raises InputError."""
    if not isinstance(value, str) or not _ITEM_ID.fullmatch(value):
        raise InputError(f"an item is named by 16 hex digits, not {value!r}")
    return value


def box_or_none(value: Any) -> Box | None:
    """Four finite numbers x1 < x2, y1 < y2 as a box, or None for null; raises InputError."""
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        raise InputError(f"a box has four corners x1, y1, x2, y2, not {value!r}")
    x1, y1, x2, y2 = (number(corner, "a corner") for corner in value)
    if x1 >= x2 or y1 >= y2:
        raise InputError(f"the box {[x1, y1, x2, y2]} has no area")
    return x1, y1, x2, y2


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{what} must be true or false, not {value!r}")
    return value
