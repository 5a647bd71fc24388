"""Quarantine: which images training may read, and why not.

Statistics only ever *hold* an image, which a person can undo; only an integrity fact, such as bytes that no
longer match their digest, *rejects* one.

>>> decisions = decide(images, findings, named, image_score=0.8)        # doctest: +SKIP
>>> images, boxes = curate(images, boxes, decisions)                    # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from secpipeline.errors import InputError
from secpipeline.poisoning.label_scores import LABEL_KINDS

DECISION_COLUMNS = ("image_id", "decision", "reason")
DECISIONS = ("accept", "hold", "reject")
SOURCE_HELD = "source held: "


def decide(
    images: pd.DataFrame,
    findings: pd.DataFrame,
    named: Mapping[str, str],
    *,
    image_score: float,
    integrity: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Decide for every image: accept, hold or reject.

    Parameters
    ----------
    images
        Image table; image_id and source are read.
    findings
        From :func:`secpipeline.poisoning.findings.find`; image_id, score and reason are read.
    named
        Reason by source that stands out; all its images are held.
        (:meth:`secpipeline.poisoning.attribution.Attribution.reasons`)
    image_score
        Hold an image whose strongest finding reaches this, in (0, 1].
    integrity
        Reason by image_id whose bytes or boxes are not those that were recorded; these are rejected.

    Returns
    -------
    DataFrame
        One row per image in the order of ``images``: image_id, decision, reason ("" if accepted).

    Raises
    ------
    InputError
        If ``image_score`` is out of range, or findings, named sources or integrity facts name what the
        release does not hold.
    """
    if not 0 < image_score <= 1:
        raise InputError(f"quarantine.image_score is {image_score}; it must be above 0 and at most 1")
    integrity = integrity or {}
    _refuse_unknown("findings", set(findings["image_id"]), set(images["image_id"]))
    _refuse_unknown("integrity facts", set(integrity), set(images["image_id"]))
    _refuse_unknown("named sources", set(named), set(images["source"]))
    strong = findings[findings["score"] >= image_score].sort_values("score", ascending=False, kind="stable")
    strongest = strong.drop_duplicates("image_id").set_index("image_id")["reason"].to_dict()
    rows = []
    for image_id, source in zip(images["image_id"], images["source"], strict=True):
        if image_id in integrity:
            rows.append((image_id, "reject", integrity[image_id]))
        elif source in named:
            rows.append((image_id, "hold", f"{SOURCE_HELD}{named[source]}"))
        elif image_id in strongest:
            rows.append((image_id, "hold", strongest[image_id]))
        else:
            rows.append((image_id, "accept", ""))
    return pd.DataFrame(rows, columns=list(DECISION_COLUMNS))


def decide_boxes(
    boxes: pd.DataFrame, findings: pd.DataFrame, decisions: pd.DataFrame, *, image_score: float
) -> pd.DataFrame:
    """Which labels are doubted themselves, and which only lie in an image that training may not read.

    A detector trains on images, not on boxes, so a held box holds its image; this table says which of the boxes to look
    at.

    Parameters
    ----------
    boxes
        Box table; box_id and image_id are read.
    findings, image_score
        As for :func:`decide`; box_id and kind are read too.
    decisions
        What became of each image, from :func:`decide`.

    Returns
    -------
    DataFrame
        One row per box in the order of ``boxes``: box_id, image_id, decision (of its image, and ``accept`` for a box
        that nothing speaks against in an image held for another of its labels, not as a whole), reason ("" if
        accepted).
    """
    strong = findings[(findings["score"] >= image_score) & (findings["box_id"] != "")]
    strongest = strong.sort_values("score", ascending=False, kind="stable").drop_duplicates("box_id")
    doubted = strongest.set_index("box_id")["reason"].to_dict()
    outcomes = zip(decisions["decision"].astype(str), decisions["reason"].astype(str), strict=True)
    of_image = dict(zip(decisions["image_id"], outcomes, strict=True))
    strongly = findings[findings["score"] >= image_score]
    whole = set(strongly.loc[~strongly["kind"].isin(LABEL_KINDS), "image_id"])
    by_findings = set(strongly["image_id"]) - whole
    rows = []
    for box_id, image_id in zip(boxes["box_id"], boxes["image_id"], strict=True):
        decision, reason = of_image[image_id]
        if decision == "hold" and box_id in doubted:
            reason = doubted[box_id]
        elif decision == "hold" and image_id in by_findings and not reason.startswith(SOURCE_HELD):
            decision, reason = "accept", ""
        rows.append((box_id, image_id, decision, reason))
    return pd.DataFrame(rows, columns=["box_id", *DECISION_COLUMNS])


def decide_sources(images: pd.DataFrame, named: Mapping[str, str], decisions: pd.DataFrame) -> pd.DataFrame:
    """Every source with its decision and what it lost.

    Returns
    -------
    DataFrame
        One row per source, sorted: source, decision (``hold`` if it is named), reason, images, held, rejected (images).
    """
    table = images[["image_id", "source"]].merge(decisions, on="image_id", validate="one_to_one")
    counts = table.groupby("source")["decision"].value_counts().unstack(fill_value=0)
    counts = counts.reindex(columns=list(DECISIONS), fill_value=0).sort_index()
    return pd.DataFrame(
        {
            "source": counts.index.to_numpy(),
            "decision": ["hold" if source in named else "accept" for source in counts.index],
            "reason": [named.get(source, "") for source in counts.index],
            "images": counts.sum(axis=1).to_numpy(),
            "held": counts["hold"].to_numpy(),
            "rejected": counts["reject"].to_numpy(),
        }
    )


def _refuse_unknown(what: str, named: set[str], known: set[str]) -> None:
    if unknown := sorted(named - known):
        raise InputError(f"{what} name {unknown[0]}, which this release does not hold; run audit_labels again")


def curate(images: pd.DataFrame, boxes: pd.DataFrame, decisions: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep the accepted images and their boxes.

    Returns
    -------
    images, boxes
        The same columns and order, with a fresh index.

    Raises
    ------
    InputError
        If an image has no decision or several, a decision is none of accept, hold and reject, or a split
        would be left without images.
    """
    counts = decisions["image_id"].value_counts()
    if undecided := sorted(set(images["image_id"]) - set(counts.index)):
        raise InputError(f"{undecided[0]} has no decision ({len(undecided)} images have none); run curate again")
    if (counts > 1).any():
        raise InputError(f"{counts.index[0]} has {counts.iloc[0]} decisions; keep one")
    if strange := sorted(set(decisions["decision"]) - set(DECISIONS)):
        raise InputError(f"{strange[0]!r} is no decision; use one of {', '.join(DECISIONS)}")
    accepted = set(decisions.loc[decisions["decision"] == "accept", "image_id"])
    kept = images[images["image_id"].isin(accepted)].reset_index(drop=True)
    if lost := sorted(set(images["split"]) - set(kept["split"])):
        raise InputError(
            f"quarantine would hold every image of the split {lost[0]!r};"
            " raise quarantine.image_score, or deliver more sources so that one can be held"
        )
    return kept, boxes[boxes["image_id"].isin(accepted)].reset_index(drop=True)
