"""What decisions do to the next curated release.

>>> reviewed = apply(release.images, release.boxes, review.decisions, data.quarantine)      # doctest: +SKIP
>>> images, boxes = curate(reviewed.images, reviewed.boxes, reviewed.quarantine)            # doctest: +SKIP
>>> reviewed.changes[["image_id", "change", "reviewer"]].head(2)                            # doctest: +SKIP

A person's answer can lift what statistics hold, and mend labels; it cannot lift a rejection, which is a fact about
bytes, and it never throws an image out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from secpipeline.datasets.tables import CORNERS, LABEL, annotation_digests
from secpipeline.errors import InputError
from secpipeline.review.data import Quarantine
from secpipeline.review.quality import UNDECIDED, outcome, same_answer
from secpipeline.review.records import ADDED, Box, Decision, Finding

CHANGE_COLUMNS = (
    "image_id",
    "box_id",
    "change",
    *(f"old_{corner}" for corner in CORNERS),
    *CORNERS,
    "reviewer",
    "item_id",
    "time",
)


@dataclass(frozen=True)
class Reviewed:
    """A release after a review.

    Attributes
    ----------
    images, boxes
        The same tables with the labels mended; nothing is left out.
    quarantine
        The decision about every image, for :func:`secpipeline.poisoning.quarantine.curate`.
    changes
        One row a changed box, with the columns ``CHANGE_COLUMNS``: the box before and after (NaN where there is none),
        and who changed it.
    """

    images: pd.DataFrame
    boxes: pd.DataFrame
    quarantine: pd.DataFrame
    changes: pd.DataFrame


def apply(images: pd.DataFrame, boxes: pd.DataFrame, decisions: Sequence[Decision], quarantine: Quarantine) -> Reviewed:
    """Mend labels and lift holds as decided.

    - An accepted suggestion removes, adds or moves its box; a drawn box takes the place of the label. An added box has
      an id of its own and no recorded visibility; a moved one keeps everything but its place.
    - An image is released from hold once every finding that holds it was answered; if it is held because of its
      source, only once it was answered as a whole.
    - What was skipped, or answered in two ways when it was shown twice, leaves everything as it was.

    Parameters
    ----------
    images, boxes
        The tables of the release that was reviewed.
    decisions
        Of one review.
    quarantine
        Of the same release and findings.

    Raises
    ------
    InputError
        If a decision is about an image or a box that is not there, or not at this place, a new box leaves its image,
        two decisions change one box, or an item is decided twice.
    """
    settled = _settled(decisions)
    _refuse_misfits(images, boxes, settled)
    added = _new_ids(boxes, settled)
    table = _lift(quarantine, settled)
    mended = _mend(boxes, settled, added)
    images = images.assign(annotations_sha256=annotation_digests(images["image_id"], mended))
    return Reviewed(images, mended, table, _change_table(settled, added))


def _settled(decisions: Sequence[Decision]) -> list[Decision]:
    """The first answer to every item that was decided, and decided in one way only."""
    first = {decision.item.item_id: decision for decision in decisions}
    if len(first) < len(decisions):
        raise InputError("an item is decided twice; restore the decisions from where they were signed")
    doubted = set()
    for decision in decisions:
        before = first.get(decision.item.repeats)
        if before is not None and not same_answer(before, decision):
            doubted.add(before.item.item_id)
    return [
        decision
        for decision in decisions
        if outcome(decision) != UNDECIDED
        and decision.item.item_id not in doubted
        and decision.item.repeats not in first
    ]


def _refuse_misfits(images: pd.DataFrame, boxes: pd.DataFrame, decisions: Sequence[Decision]) -> None:
    sizes = dict(zip(images["image_id"], zip(images["width"], images["height"], strict=True), strict=True))
    places = dict(zip(boxes["box_id"], zip(boxes["image_id"], *(boxes[c] for c in CORNERS), strict=True), strict=True))
    changed: set[str] = set()
    for decision in decisions:
        image_id = decision.item.image_id
        if image_id not in sizes:
            raise InputError(f"a decision is about {image_id}, which this release does not hold; review this release")
        for change in decision.changes:
            if change.box_id:
                if places.get(change.box_id) != (image_id, *(change.old or ())):
                    raise InputError(
                        f"a decision changes box {change.box_id} of {image_id} at {change.old}, which is not there;"
                        " review this release"
                    )
                if change.box_id in changed:
                    raise InputError(f"two decisions change box {change.box_id}; restore what was signed")
                changed.add(change.box_id)
            if change.new:
                check_inside(change.new, sizes[image_id], image_id)


def check_inside(box: Box, size: tuple[int, int], image_id: str) -> None:
    """Refuse a box that leaves its image of ``size`` (width, height); raises InputError."""
    if min(box[0], box[1]) < 0 or box[2] > size[0] or box[3] > size[1]:
        raise InputError(f"a box drawn in {image_id}, {list(box)}, leaves the image; it has {size[0]}×{size[1]} pixels")


def _new_ids(boxes: pd.DataFrame, decisions: Sequence[Decision]) -> dict[tuple[str, int], str]:
    """An unused box id for every added box, by item and position of the change."""
    used = set(boxes["box_id"])
    ids: dict[tuple[str, int], str] = {}
    for decision in decisions:
        for position, change in enumerate(decision.changes):
            if change.kind == ADDED:
                ids[decision.item.item_id, position] = _unused(f"{decision.item.image_id}#review", used)
    return ids


def _unused(stem: str, used: set[str]) -> str:
    count = 0
    while f"{stem}-{count}" in used:
        count += 1
    used.add(f"{stem}-{count}")
    return f"{stem}-{count}"


def _mend(boxes: pd.DataFrame, decisions: Sequence[Decision], added: Mapping[tuple[str, int], str]) -> pd.DataFrame:
    """The box table with every change made; added boxes stand at the end."""
    new = {change.box_id: change.new for decision in decisions for change in decision.changes if change.box_id}
    moved = {box_id: box for box_id, box in new.items() if box}
    mended = boxes[~boxes["box_id"].isin(new.keys() - moved.keys())].reset_index(drop=True)
    rows = mended["box_id"].isin(moved)
    if rows.any():
        places = np.array([moved[box_id] for box_id in mended.loc[rows, "box_id"]])
        mended.loc[rows, list(CORNERS)] = places
        mended.loc[rows, "height"] = places[:, 3] - places[:, 1]
    fresh = [
        _added_row(added[decision.item.item_id, position], decision.item.image_id, change.new)
        for decision in decisions
        for position, change in enumerate(decision.changes)
        if change.kind == ADDED and change.new
    ]
    if not fresh:
        return mended
    return pd.concat([mended, pd.DataFrame(fresh).astype(mended.dtypes.to_dict())[list(mended)]], ignore_index=True)


def _added_row(box_id: str, image_id: str, box: Box) -> dict[str, Any]:
    place = dict(zip(CORNERS, box, strict=True))
    facts = {"label": LABEL, "ignore": False, "visibility": float("nan"), "height": box[3] - box[1]}
    return {"box_id": box_id, "image_id": image_id, **place, **facts}


def _lift(quarantine: Quarantine, decisions: Sequence[Decision]) -> pd.DataFrame:
    """The decision about every image, with ``accept`` for held images that were cleared."""
    answered: dict[str, list[Decision]] = {}
    for decision in decisions:
        answered.setdefault(decision.item.image_id, []).append(decision)
    table = quarantine.table.copy()
    held = table["decision"] == "hold"
    cleared = held & np.array([_is_cleared(quarantine, image, answered.get(image, [])) for image in table["image_id"]])
    table.loc[cleared, "decision"] = "accept"
    who = [", ".join(sorted({d.reviewer for d in answered[image]})) for image in table.loc[cleared, "image_id"]]
    table.loc[cleared, "reason"] = [f"reviewed by {names}" for names in who]
    return table


def _is_cleared(quarantine: Quarantine, image_id: str, answers: Sequence[Decision]) -> bool:
    if any(decision.item.whole for decision in answers):
        return True
    if not answers or image_id in quarantine.by_source:
        return False
    strong = quarantine.strong.get(image_id, ())
    return bool(strong) and all(any(_answers(decision, finding) for decision in answers) for finding in strong)


def _answers(decision: Decision, finding: Finding) -> bool:
    """Whether the decision is about what the finding is about."""
    item = decision.item
    return (
        item.box_id == finding.box_id if finding.box_id else not item.box_id and item.prediction == finding.prediction
    )


def _change_table(decisions: Sequence[Decision], added: Mapping[tuple[str, int], str]) -> pd.DataFrame:
    rows = [
        (
            decision.item.image_id,
            change.box_id or added[decision.item.item_id, position],
            change.kind,
            *_corners(change.old),
            *_corners(change.new),
            decision.reviewer,
            decision.item.item_id,
            decision.time,
        )
        for decision in decisions
        for position, change in enumerate(decision.changes)
    ]
    return pd.DataFrame(rows, columns=list(CHANGE_COLUMNS))


def _corners(box: Box | None) -> Box:
    return box or (float("nan"),) * 4
