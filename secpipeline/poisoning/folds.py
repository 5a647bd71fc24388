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

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from secpipeline.errors import InputError


def leaves_sources_out(images: pd.DataFrame, k: int) -> bool:
    """Whether ``k`` folds can share no source."""
    return bool(images["source"].nunique() >= k)


def assign_folds(images: pd.DataFrame, k: int, seed: int, twins: pd.DataFrame | None = None) -> pd.Series[int]:
    """Assign every image to one of ``k`` folds of similar size that share no source.

    With fewer than ``k`` sources the folds share no scene instead, and no picture that is there twice: scenes with
    twins in each other stay together. The result does not depend on the order of rows.

    Parameters
    ----------
    images
        Image table; the columns source and scene are read.
    k
        Number of folds, at least 2.
    seed
        Breaks ties between groups of equal size.
    twins
        Pairs of images that are (nearly) the same picture: image_id and other_id are read, and then image_id of
        ``images`` too.

    Returns
    -------
    Series
        int64 in [0, k), named "fold", on the index of ``images``.

    Raises
    ------
    InputError
        If ``k`` is below 2, or there are fewer than ``k`` scenes that no twins link.
    """
    if k < 2:
        raise InputError(f"audit.folds is {k}; at least 2 are needed, so that a judge can leave data out")
    group = _sources(images) if leaves_sources_out(images, k) else _scenes(images, twins)
    sizes = group.value_counts().sort_index()
    if len(sizes) < k:
        raise InputError(
            f"{len(sizes)} scenes cannot fill {k} folds that share none; deliver more or lower audit.folds"
        )
    frame = sizes.rename("size").rename_axis("group").reset_index()
    frame["tie"] = [hashlib.sha256(f"{seed}:{name}".encode()).hexdigest() for name in frame["group"]]
    frame = frame.sort_values(["size", "tie"], ascending=[False, True])
    load = [0] * k
    chosen: dict[str, int] = {}
    for name, size in zip(frame["group"], frame["size"], strict=True):
        chosen[name] = min(range(k), key=lambda fold: load[fold])
        load[chosen[name]] += int(size)
    return pd.Series(group.map(chosen).to_numpy(), index=images.index, name="fold", dtype="int64")


def _sources(images: pd.DataFrame) -> pd.Series[str]:
    return images["source"].astype(str)


def _scenes(images: pd.DataFrame, twins: pd.DataFrame | None) -> pd.Series[str]:
    """The scene of each image, one name for all scenes that twins link: the first of their names."""
    names = images["source"].astype(str) + "/" + images["scene"].astype(str)
    if twins is None or twins.empty:
        return names
    scenes, scene = np.unique(names.to_numpy(dtype=object), return_inverse=True)
    of_image = pd.Series(scene, index=images["image_id"])
    a, b = (of_image.loc[twins[column]].to_numpy() for column in ("image_id", "other_id"))
    links = coo_array((np.ones(len(a)), (a, b)), shape=(len(scenes), len(scenes)))
    component = connected_components(links, directed=False)[1]
    first = pd.Series(scenes).groupby(component).min()
    return pd.Series(first.to_numpy()[component][scene], index=images.index)
