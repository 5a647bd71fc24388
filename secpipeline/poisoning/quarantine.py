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

DECISION_COLUMNS = ("image_id", "decision", "reason")
DECISIONS = ("accept", "hold", "reject")


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
            rows.append((image_id, "hold", f"source held: {named[source]}"))
        elif image_id in strongest:
            rows.append((image_id, "hold", strongest[image_id]))
        else:
            rows.append((image_id, "accept", ""))
    return pd.DataFrame(rows, columns=list(DECISION_COLUMNS))


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
