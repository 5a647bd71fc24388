"""One review: what is asked next, what was answered, and what it came to.

>>> with Session.open(Path("review/decisions.jsonl"), data, "M. Example") as session:       # doctest: +SKIP
...     session.decide(session.view()["item"]["id"], "accept-label")
"""

from __future__ import annotations

import datetime as dt
import io
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from secpipeline.datasets.tables import CORNERS
from secpipeline.errors import InputError
from secpipeline.review.budget import BudgetRule, Plan, choose
from secpipeline.review.data import ReviewData
from secpipeline.review.decisions import check_inside
from secpipeline.review.journal import Header, Journal
from secpipeline.review.quality import summary
from secpipeline.review.records import (
    ACCEPT_SUGGESTION,
    MIN_SIDE,
    REDRAW,
    VERDICTS,
    Box,
    Change,
    Decision,
    Item,
    box_or_none,
    check_reviewer,
    exactly,
    listed,
    text,
)

# Larger pictures are shrunk for the page, which scales its boxes back; the largest screens have fewer pixels.
MAX_SHOWN_SIDE = 4096
_MAX_CHANGES = 500
_SEEDS = 1 << 32


class Stale(InputError):
    """The page answered something else than what is asked now, as a second tab would."""


@dataclass(frozen=True)
class Clock:
    """``now`` tells the time in UTC, ``monotonic`` measures seconds."""

    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
    monotonic: Callable[[], float] = time.monotonic


class Session:
    """A review in progress; all its methods may be called from several threads.

    Parameters
    ----------
    data
        What is reviewed.
    plan
        What is asked.
    journal
        Where answers go.
    decisions
        What was answered before.
    reviewer
        Who answers from now on.
    clock
        Tells the time.
    """

    def __init__(
        self,
        data: ReviewData,
        plan: Plan,
        journal: Journal,
        decisions: Sequence[Decision],
        reviewer: str,
        clock: Clock,
    ) -> None:
        self.reviewer = reviewer
        self._data, self._plan, self._journal, self._clock = data, plan, journal, clock
        self._decisions = list(decisions)
        self._shown = clock.monotonic()
        self._lock = threading.Lock()
        self._facts = data.release.images.set_index("image_id")[["width", "height", "source"]].to_dict("index")
        self._images = {item.item_id: item.image_id for item in plan.items}
        boxes = data.release.boxes
        asked = boxes[boxes["image_id"].isin(self._images.values())]
        self._labels = {str(image): rows for image, rows in asked.groupby("image_id", sort=False)}

    @classmethod
    def open(
        cls,
        path: Path,
        data: ReviewData,
        reviewer: str,
        rule: BudgetRule | None = None,
        seed: int | None = None,
        clock: Clock | None = None,
    ) -> Session:
        """Begin a review, or go on with the one in ``path``.

        Parameters
        ----------
        path
            The journal.
        data
            What is reviewed.
        reviewer
            Who answers.
        rule, seed
            How to plan; by default a hundred items and an unpredictable seed, or those that it was begun with.
        clock
            Tells the time.

        Raises
        ------
        InputError
            If nobody is named as reviewer, the journal is of other files or another plan, or it cannot be written.
        """
        check_reviewer(reviewer)
        if not path.exists():
            rule, seed = rule or BudgetRule(), secrets.randbelow(_SEEDS) if seed is None else seed
            plan = choose(data, rule, seed)
            journal = Journal.begin(path, Header.of(data.digests, rule, seed, plan))
            return cls(data, plan, journal, (), reviewer, clock or Clock())
        journal, written = Journal.resume(path)
        try:
            plan = _same_plan(path, written.header, data, rule, seed)
            asked = [decision.item for decision in written.decisions]
            if asked != list(plan.items[: len(asked)]):
                raise InputError(f"{path}: answers what was not asked; restore the file")
        except BaseException:
            journal.close()
            raise
        return cls(data, plan, journal, written.decisions, reviewer, clock or Clock())

    def __enter__(self) -> Session:
        """The session itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let others go on with the review."""
        self._journal.close()

    @property
    def finished(self) -> bool:
        """Whether everything is answered."""
        return len(self._decisions) == len(self._plan.items)

    def view(self) -> dict[str, Any]:
        """What the page shows now, as JSON-able values.

        A second showing looks like the first one: nothing in here says what an item is for.
        """
        with self._lock:
            done = len(self._decisions)
            following = self._plan.items[done : done + 2]
            return {
                "done": done,
                "total": len(self._plan.items),
                "item": self._view_item(following[0]) if following else None,
                "next": following[1].item_id if len(following) > 1 else None,
                "last": self._decisions[-1].item.item_id if done else None,
                "summary": None if following else summary(self._decisions, self._plan.population),
            }

    def decide(self, item_id: str, verdict: str, drawn: Any = ()) -> None:
        """Answer what is asked now.

        Parameters
        ----------
        item_id
            What is answered.
        verdict
            One of :data:`secpipeline.review.records.VERDICTS`.
        drawn
            For ``redraw``, a list of objects ``{"box_id": "", "new": [x1, y1, x2, y2]}`` with the label that is
            changed (empty: a new one) and its box in pixels (null: removed).

        Raises
        ------
        Stale
            If something else is asked.
        InputError
            If the answer does not fit the question, or cannot be written; then nothing has changed.
        """
        with self._lock:
            done = len(self._decisions)
            item = self._plan.items[done] if done < len(self._plan.items) else None
            if item is None or item.item_id != item_id:
                raise Stale("this was answered already, perhaps in another tab; here is what is asked now")
            decision = Decision(
                item,
                _verdict(item, verdict, drawn),
                item.suggestion if verdict == ACCEPT_SUGGESTION else self._changes(item, drawn),
                self.reviewer,
                round(self._clock.monotonic() - self._shown, 1),
                self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            )
            self._journal.decide(decision)
            self._decisions.append(decision)
            self._shown = self._clock.monotonic()

    def undo(self, item_id: str) -> None:
        """Take the last answer back.

        Raises
        ------
        Stale
            If ``item_id`` is not what was answered last.
        InputError
            If that cannot be written.
        """
        with self._lock:
            if not self._decisions or self._decisions[-1].item.item_id != item_id:
                raise Stale("this is not what was answered last; here is what is asked now")
            self._journal.undo(self._decisions[-1])
            self._decisions.pop()
            self._shown = self._clock.monotonic()

    def picture(self, item_id: str) -> bytes:
        """The image of an item as PNG: decoded safely, so that a browser never sees what was delivered.

        Raises
        ------
        InputError, IntegrityError
            If there is no such item, or its image cannot be read or changed.
        """
        if item_id not in self._images:
            raise InputError("there is no such item")
        with self._lock:  # the reader of shards keeps open files
            pixels = self._data.release.decode(self._images[item_id])
        picture = Image.fromarray(pixels)
        picture.thumbnail((MAX_SHOWN_SIDE, MAX_SHOWN_SIDE), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def _changes(self, item: Item, drawn: Any) -> tuple[Change, ...]:
        """What was drawn, held against the image; raises InputError."""
        entries = listed(drawn, "what was drawn")
        if len(entries) > _MAX_CHANGES:
            raise InputError(f"{len(entries)} changes of one image; {_MAX_CHANGES} are the most")
        labels = self._editable(item.image_id)
        changes = [_change(entry, labels) for entry in entries]
        facts = self._facts[item.image_id]
        for change in changes:
            if change.new:
                check_inside(change.new, (facts["width"], facts["height"]), item.image_id)
                if min(change.new[2] - change.new[0], change.new[3] - change.new[1]) < MIN_SIDE:
                    raise InputError(f"the drawn box has less than {MIN_SIDE:.0f} pixels a side; draw it again")
        boxes = [change.box_id for change in changes if change.box_id]
        if len(set(boxes)) < len(boxes):
            raise InputError("one label was changed twice")
        return tuple(changes)

    def _editable(self, image_id: str) -> dict[str, Box]:
        """The labels of an image by id; ignored regions are none."""
        rows = self._labels.get(image_id)
        if rows is None:
            return {}
        people = rows[~rows["ignore"]]
        return dict(zip(people["box_id"], map(tuple, people[list(CORNERS)].to_numpy().tolist()), strict=True))

    def _view_item(self, item: Item) -> dict[str, Any]:
        facts = self._facts[item.image_id]
        rows = self._labels.get(item.image_id)
        ignored = [] if rows is None else rows.loc[rows["ignore"], list(CORNERS)].to_numpy().tolist()
        return {
            "id": item.item_id,
            "kind": item.kind,
            "whole": item.whole,
            "source": facts["source"],
            "score": item.score,
            "reasons": list(item.reasons),
            "width": facts["width"],
            "height": facts["height"],
            "box_id": item.box_id,
            "label": item.label,
            "prediction": item.prediction,
            "suggestion": [change.to_json() for change in item.suggestion],
            "labels": [{"box_id": key, "box": box} for key, box in self._editable(item.image_id).items()],
            "ignored": ignored,
        }


def _same_plan(path: Path, header: Header, data: ReviewData, rule: BudgetRule | None, seed: int | None) -> Plan:
    if header.digests != data.digests:
        raise InputError(f"{path}: reviews another release or other findings; sign or move it away, and begin anew")
    if rule not in (None, header.rule) or seed not in (None, header.seed):
        raise InputError(f"{path}: was begun with another budget or seed; leave them out to go on with it")
    plan = choose(data, header.rule, header.seed)
    if Header.of(data.digests, header.rule, header.seed, plan) != header:
        raise InputError(f"{path}: was planned by another version, or in another way; sign or move it away")
    return plan


def _verdict(item: Item, verdict: str, drawn: Any) -> str:
    if verdict not in VERDICTS:
        raise InputError(f"{verdict!r} is no verdict; use {', '.join(VERDICTS)}")
    if verdict == ACCEPT_SUGGESTION and not item.suggestion:
        raise InputError("there is no suggestion to accept")
    if (verdict == REDRAW) != bool(drawn):
        raise InputError("draw at least one box, or remove one" if verdict == REDRAW else "only a redraw has boxes")
    return verdict


def _change(entry: Any, labels: Mapping[str, Box]) -> Change:
    fields = exactly(entry, ("box_id", "new"), "a drawn box")
    box_id = text(fields["box_id"], "box_id")
    if box_id and box_id not in labels:
        raise InputError(f"box {box_id!r} is no label of this image")
    return Change(box_id, labels.get(box_id), box_or_none(fields["new"]))
