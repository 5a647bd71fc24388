"""Folds for out-of-fold judging: no label is judged by a detector that trained on its source.

A judge that has learned a source's own errors stops seeing them (with 70 % of removed boxes learned, the
AUROC of finding the images falls from .92 to .64), so whole sources are left out whenever there are enough of
them.

>>> import pandas as pd
>>> images = pd.DataFrame({"source": list("aabbcc"), "scene": list("xyxyxy")})
>>> folds = assign_folds(images, 3, seed=0)
>>> all(images[folds == fold]["source"].nunique() == 1 for fold in range(3))
True
"""

from __future__ import annotations

import hashlib

import pandas as pd

from secpipeline.errors import InputError


def assign_folds(images: pd.DataFrame, k: int, seed: int) -> pd.Series[int]:
    """Assign every image to one of ``k`` folds of similar size that share no source.

    With fewer than ``k`` sources the folds share no scene instead. The result does not depend on the order of
    rows.

    Parameters
    ----------
    images
        Image table; the columns source and scene are read.
    k
        Number of folds, at least 2.
    seed
        Breaks ties between groups of equal size.

    Returns
    -------
    Series
        int64 in [0, k), named "fold", on the index of ``images``.

    Raises
    ------
    InputError
        If ``k`` is below 2, or there are fewer than ``k`` scenes.
    """
    if k < 2:
        raise InputError(f"audit.folds is {k}; at least 2 are needed, so that a judge can leave data out")
    columns = ["source"] if images["source"].nunique() >= k else ["source", "scene"]
    sizes = images.groupby(columns, sort=True).size()
    if len(sizes) < k:
        raise InputError(
            f"{len(sizes)} scenes cannot fill {k} folds that share none; deliver more or lower audit.folds"
        )
    frame = sizes.rename("size").reset_index()
    frame["tie"] = ["/".join(map(str, names)) for names in frame[columns].itertuples(index=False)]
    frame["tie"] = [hashlib.sha256(f"{seed}:{name}".encode()).hexdigest() for name in frame["tie"]]
    frame = frame.sort_values(["size", "tie"], ascending=[False, True])
    load = [0] * k
    chosen = []
    for size in frame["size"]:
        lightest = min(range(k), key=lambda fold: load[fold])
        chosen.append(lightest)
        load[lightest] += int(size)
    frame["fold"] = chosen
    merged = images[columns].merge(frame[[*columns, "fold"]], on=columns, how="left", validate="many_to_one")
    return pd.Series(merged["fold"].to_numpy(), index=images.index, name="fold", dtype="int64")
