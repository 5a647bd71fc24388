"""Images that are there twice and should not be, as findings.

A test image with a twin in training flatters every detector. A picture that two sources deliver counts twice, and was
taken by one of them at most. And if two copies of one picture have different labels, one of them is wrong: whoever
plants errors in copies of honest images shows what the labels should have been.

That two files, or their pixels, are equal is a fact, and scores near one. That two pictures resemble each other is a
likeness: a street resembles itself. It scores three quarters at most, so that it asks for a look and does not hold an
image from training by itself.

>>> findings = duplicate_findings(release.images, release.boxes)        # doctest: +SKIP
>>> findings[["image_id", "score", "reason"]]                           # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from secpipeline.datasets.duplicates import FILE, NEAR, NEAR_DISTANCE, PIXELS, find_duplicates, labels_differ
from secpipeline.poisoning.findings import FINDING_COLUMNS

KIND = "duplicate"
_FACT, _SHARED, _LIKENESS = 1.0, 0.9, 0.75
_BITS = 64
_WORDS = {FILE: "the same file as", PIXELS: "the same pixels as", NEAR: "nearly the same picture as"}


def duplicate_findings(
    images: pd.DataFrame,
    boxes: pd.DataFrame,
    *,
    distance: int = NEAR_DISTANCE,
    pixels: Callable[[str], NDArray[np.uint8]] | None = None,
) -> pd.DataFrame:
    """Find duplicates across splits, across sources, and with different labels.

    Parameters
    ----------
    images
        Image table, with image_id, sha256, width, height, source, scene, split, dhash.
    boxes
        Box table; regions to ignore are no labels.
    distance, pixels
        As for :func:`secpipeline.datasets.duplicates.find_duplicates`.

    Returns
    -------
    DataFrame
        Strongest first, with ``FINDING_COLUMNS`` and at most one row an image: box_id is "", evidence the share of the
        64 bits of the hash that agree, and the corners are NaN. ``score`` is 1 for equal files or pixels in several
        splits or with different labels, 0.9 for those of several sources, and for a likeness 0.75 less a sixteenth for
        each bit that differs. ``reason`` names the other image.

    Raises
    ------
    InputError
        As :func:`secpipeline.datasets.duplicates.find_duplicates`.
    """
    table = images.reset_index(drop=True)
    links = find_duplicates(table, boxes, distance=distance, pixels=pixels)
    pairs = _described(_pairs(table, links), table, boxes)
    pairs = pairs[pairs["crosses_splits"] | pairs["crosses_sources"] | pairs["labels_differ"]]
    pairs = pairs.assign(score=_score(pairs))
    # The most telling of equally strong ones is the one that says most.
    pairs["reasons"] = pairs[["crosses_splits", "crosses_sources", "labels_differ"]].sum(axis=1)
    order = ["score", "reasons", "image_id", "other_id"]
    pairs = pairs.sort_values(order, ascending=[False, False, True, True], kind="stable")
    strongest = pairs.drop_duplicates("image_id").reset_index(drop=True)
    nothing = {column: np.full(len(strongest), np.nan) for column in FINDING_COLUMNS}
    filled = {
        "image_id": strongest["image_id"],
        "box_id": "",
        "kind": KIND,
        "score": strongest["score"],
        "evidence": 1 - strongest["distance"] / _BITS,
        "reason": [_reason(row) for row in strongest.to_dict("records")],
    }
    texts = dict.fromkeys(("image_id", "box_id", "kind", "reason"), "str")
    return pd.DataFrame(nothing | filled, columns=list(FINDING_COLUMNS)).astype(texts)


def _pairs(table: pd.DataFrame, links: pd.DataFrame) -> pd.DataFrame:
    """Each image with what it was linked to, and with one image of each split and source that has the same hash.

    A link to one of many twins says nothing about the others: the first may be in training, and another in the test
    split. Positions in ``table``, and how the two were linked, as far as they were.
    """
    position = pd.Index(table["image_id"])
    linked = pd.DataFrame(
        {name: position.get_indexer(pd.Index(links[column])) for name, column in (("a", "image_id"), ("b", "other_id"))}
    ).assign(kind=links["kind"].to_numpy())
    both = pd.concat([linked, linked.rename(columns={"a": "b", "b": "a"})], ignore_index=True)
    twins = table[["dhash", "split", "source"]].assign(c=np.arange(len(table)))
    twins = twins.drop_duplicates(["dhash", "split", "source"])[["dhash", "c"]]
    others = both.assign(dhash=table["dhash"].to_numpy()[both["b"]]).merge(twins, on="dhash")
    scenes = table.groupby(["source", "scene"], dropna=False).ngroup().to_numpy()
    apart = scenes[others["a"]] != scenes[others["c"]]  # frames of one scene resemble each other
    others = others[apart].assign(b=lambda rows: rows["c"], kind=NEAR)
    pairs: pd.DataFrame = pd.concat([both, others[["a", "b", "kind"]]], ignore_index=True)
    return pairs.drop_duplicates(["a", "b"])


def _described(pairs: pd.DataFrame, table: pd.DataFrame, boxes: pd.DataFrame) -> pd.DataFrame:
    """The pairs with what is wrong with them."""
    rows = pairs[["a", "b"]].to_numpy(np.int64)
    first, other = (table.iloc[rows[:, column]].reset_index(drop=True) for column in (0, 1))
    hashes = np.array([int(text, 16) for text in table["dhash"]], np.uint64)[rows]
    counts = boxes.loc[~boxes["ignore"].to_numpy(bool), "image_id"].value_counts()
    return pd.DataFrame(
        {
            "image_id": first["image_id"],
            "other_id": other["image_id"],
            "kind": np.where(first["sha256"] == other["sha256"], FILE, pairs["kind"].to_numpy()),
            "distance": np.bitwise_count(hashes[:, 0] ^ hashes[:, 1]).astype(np.int64),
            "crosses_splits": first["split"] != other["split"],
            "crosses_sources": first["source"] != other["source"],
            "labels_differ": labels_differ(table, boxes, rows),
            "own_split": first["split"],
            "other_split": other["split"],
            "other_source": other["source"],
            "own_boxes": first["image_id"].map(counts).fillna(0).astype(int),
            "other_boxes": other["image_id"].map(counts).fillna(0).astype(int),
        }
    )


def _score(pairs: pd.DataFrame) -> NDArray[np.float64]:
    fact = pairs["kind"].isin([FILE, PIXELS])
    wrong = pairs["crosses_splits"] | pairs["labels_differ"]
    scores: NDArray[np.float64] = np.select(
        [fact & wrong, fact], [_FACT, _SHARED], (_LIKENESS - pairs["distance"] / 16).clip(lower=0)
    )
    return scores


def _reason(pair: dict[Any, Any]) -> str:
    """What is wrong, in words."""
    likeness = f" ({pair['distance']} of {_BITS} bits differ)" if pair["kind"] == NEAR else ""
    parts = [f"{_WORDS[pair['kind']]} {pair['other_id']}{likeness}"]
    if pair["crosses_splits"]:
        parts.append(f"which is in {pair['other_split']}, this one in {pair['own_split']}")
    if pair["crosses_sources"]:
        parts.append(f"delivered by {pair['other_source']} too")
    if pair["labels_differ"]:
        parts.append(f"labels differ ({pair['own_boxes']} boxes here, {pair['other_boxes']} there)")
    return "; ".join(parts)
