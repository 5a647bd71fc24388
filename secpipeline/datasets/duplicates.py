"""Images that are there twice: the same file, the same pixels, or nearly the same picture.

A test image with a twin in training flatters every detector, and two labels for one picture cannot both be right. A
near duplicate is one whose difference hash differs in few bits. Pairs within that distance are found without comparing
all pairs: with the 64 bits dealt into ``distance + 3`` blocks, two hashes that differ in ``distance`` bits agree on
some three blocks, so it is enough to look among those that do (Manku, Jain, Das Sarma, "Detecting near-duplicates for
web crawling", WWW 2007).

Frames of one scene resemble each other and are always in one split, so near duplicates are looked for between scenes.

>>> found = find_duplicates(release.images, release.boxes, pixels=release.decode)   # doctest: +SKIP
>>> found[found["crosses_splits"]][["image_id", "other_id", "kind"]]                # doctest: +SKIP
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, maximum_bipartite_matching

from secpipeline.datasets.geometry import overlaps
from secpipeline.datasets.tables import CORNERS
from secpipeline.digests import sha256_bytes
from secpipeline.errors import InputError

FILE, PIXELS, NEAR = "file", "pixels", "near"
DUPLICATE_COLUMNS = (
    "group", "image_id", "other_id", "kind", "distance", "crosses_splits", "crosses_sources", "labels_differ",
)  # fmt: skip
NEAR_DISTANCE = 4
_BITS = 64
_SAMPLES = 16
_AGREEING = 3
_MAX_DISTANCE = 8
_MAX_PAIRS = 5_000_000
_SAME_BOX = 0.5
_MAX_CANDIDATES = 2_000_000_000  # a minute; only hashes that were made to collide have more
_CELLS = 2_000_000  # of one temporary array
_Ints = NDArray[np.int64]  # rows or groups
_Pairs = NDArray[np.int64]  # shape (n, 2)


def dhash(picture: Image.Image | NDArray[np.uint8]) -> str:
    """Difference hash: 64 bits that say where brightness rises from left to right on a 9×8 grid, as 16 hex digits.

    Near duplicates differ in few bits. Each cell of the grid is the mean of its pixels, of at least 16×16 evenly spread
    ones in a large image.

    Parameters
    ----------
    picture
        RGB, as an image or as uint8 of shape (H, W, 3).
    """
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    step = min(image.width // (9 * _SAMPLES), image.height // (8 * _SAMPLES))
    if step > 1:  # averaging every pixel of a large image would cost a quarter of its decoding
        image = image.resize((image.width // step, image.height // step), Image.Resampling.NEAREST)
    grid = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return np.packbits(grid[:, 1:] > grid[:, :-1]).tobytes().hex()


def find_duplicates(
    images: pd.DataFrame,
    boxes: pd.DataFrame,
    *,
    distance: int = NEAR_DISTANCE,
    pixels: Callable[[str], NDArray[np.uint8]] | None = None,
    max_pairs: int = _MAX_PAIRS,
) -> pd.DataFrame:
    """Find images that are there more than once.

    Parameters
    ----------
    images
        Image table, with image_id, sha256, width, height, source, scene, split, dhash.
    boxes
        Box table; regions to ignore are no labels.
    distance
        Near duplicates differ in at most so many of the 64 bits of their hash, from 0 to 8.
    pixels
        Decodes an image by its id, uint8 of shape (H, W, 3); asked only for images of one hash and one size, to tell
        equal pixels in different files from mere likeness. Without it only equal files are told.
    max_pairs
        How many pairs of different hashes are kept at most.

    Returns
    -------
    DataFrame
        Links between images, with :data:`DUPLICATE_COLUMNS`. Images that are linked, directly or not, share a
        ``group``; among many twins each is linked to one of them, not to all. ``kind`` is the strongest that holds:
        ``file``, ``pixels`` or ``near``. ``distance`` counts bits. ``labels_differ`` says that the two images' boxes,
        as shares of their image, cannot be matched one to one with an intersection over union of at least 0.5.

    Raises
    ------
    InputError
        If the distance is out of range, a hash is not 16 hex digits, or there are more pairs than allowed.
    """
    if not 0 <= distance <= _MAX_DISTANCE:
        raise InputError(f"distance {distance} must be from 0 to {_MAX_DISTANCE} bits")
    table = images.reset_index(drop=True)
    hashes = _hashes(table)
    scenes = table.groupby(["source", "scene"], sort=False, dropna=False).ngroup().to_numpy().astype(np.int64)
    exact, contents = _exact_links(table, pixels)
    near = _near_links(hashes, scenes, distance, max_pairs)
    return _described(np.concatenate([exact, near]), table, contents, boxes)


def _hashes(table: pd.DataFrame) -> NDArray[np.uint64]:
    try:
        return np.array([int(text, 16) for text in table["dhash"]], np.uint64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"the column dhash must hold 16 hex digits in each row ({error})") from error


def _exact_links(table: pd.DataFrame, pixels: Callable[[str], NDArray[np.uint8]] | None) -> tuple[_Pairs, pd.Series]:
    """Each image with the first of the same file or pixels, and a value that equal pixels share for each row."""
    files = _stars(table["sha256"])
    contents = table["sha256"].copy()
    if pixels is None:
        return files, contents
    firsts = table.drop_duplicates("sha256")
    alike = firsts[firsts.duplicated(["dhash", "width", "height"], keep=False)]
    # Equal bytes of another shape are another picture.
    digests = [
        f"{width}:{sha256_bytes(pixels(image_id).tobytes())}"
        for image_id, width in zip(alike["image_id"], alike["width"], strict=True)
    ]
    by_file = dict(zip(alike["sha256"], digests, strict=True))
    contents = contents.map(lambda file: by_file.get(file, file))
    return np.concatenate([files, _stars(contents[alike.index])]), contents


def _stars(values: pd.Series) -> _Pairs:
    """The first row of each value with every other row of it, shape (n, 2)."""
    index = values.index.to_numpy(np.int64)
    codes, distinct = pd.factorize(values)
    first = np.full(len(distinct), np.iinfo(np.int64).max)
    np.minimum.at(first, codes, index)
    pairs = np.stack([first[codes], index], axis=1)
    repeated: _Pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return repeated


def _near_links(hashes: NDArray[np.uint64], scenes: _Ints, distance: int, max_pairs: int) -> _Pairs:
    """Every image that resembles one of another scene, with one such image for each hash it resembles.

    All images of one hash resemble the same hashes, so the search is over different hashes; of each, the first image
    and the first of another scene stand for all.
    """
    distinct, codes = np.unique(hashes, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(distinct) + 1))
    first = order[starts[:-1]]
    other = _first_of_another_scene(order, codes, scenes, first)
    # Two hashes that only one scene has, and the same one, are frames of it.
    only_scene = np.where(other < 0, scenes[first], -1 - np.arange(len(distinct)))
    close = _close_pairs(distinct, only_scene, distance, max_pairs)
    own = np.arange(len(distinct))
    hash_of_image = np.concatenate([own, close[:, 0], close[:, 1]])
    hash_of_twin = np.concatenate([own, close[:, 1], close[:, 0]])
    counts = starts[hash_of_image + 1] - starts[hash_of_image]
    _check_amount(int(counts.sum()) - len(hashes), 2 * max_pairs)
    offsets = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    image = order[np.repeat(starts[hash_of_image], counts) + offsets]
    target = np.repeat(hash_of_twin, counts)
    twin = np.where(scenes[first[target]] != scenes[image], first[target], other[target])
    return np.stack([image, twin], axis=1)[twin >= 0]


def _first_of_another_scene(order: _Ints, codes: _Ints, scenes: _Ints, first: _Ints) -> _Ints:
    """For each hash the first image whose scene is not that of its first image; -1 where there is none."""
    found = np.full(len(first), -1, np.int64)
    differs = order[scenes[order] != scenes[first[codes[order]]]]
    hashes, index = np.unique(codes[differs], return_index=True)
    found[hashes] = differs[index]
    return found


def _close_pairs(distinct: NDArray[np.uint64], scene: _Ints, distance: int, max_pairs: int) -> _Pairs:
    """Positions of different hashes of different scenes within the distance, shape (n, 2), each pair once."""
    codes = np.empty(0, np.int64)
    for keys in _keys(distinct, distance) if distance else ():
        found = [codes]
        for a, b in _equal_pairs(keys):
            close = (np.bitwise_count(distinct[a] ^ distinct[b]) <= distance) & (scene[a] != scene[b])
            found.append(np.minimum(a[close], b[close]) * len(distinct) + np.maximum(a[close], b[close]))
            _check_amount(sum(map(len, found)), 2 * max_pairs)
        codes = np.unique(np.concatenate(found))
        _check_amount(len(codes), max_pairs)
    return np.stack(np.divmod(codes, max(1, len(distinct))), axis=1)


def _check_amount(pairs: int, most: int) -> None:
    if pairs > most:
        raise InputError(f"more than {most} pairs of near duplicates; lower the distance or look at fewer images")


def _keys(distinct: NDArray[np.uint64], distance: int) -> Iterator[NDArray[np.uint64]]:
    """The bits of every choice of three blocks.

    Bits are dealt to the blocks one by one: a clear sky makes whole rows of a hash equal, and so it would blocks of
    neighbouring bits.
    """
    blocks = distance + _AGREEING
    masks = [sum(1 << bit for bit in range(block, _BITS, blocks)) for block in range(blocks)]
    for chosen in itertools.combinations(masks, _AGREEING):
        yield distinct & np.uint64(sum(chosen))


def _equal_pairs(keys: NDArray[np.uint64]) -> Iterator[tuple[_Ints, _Ints]]:
    """Positions of all pairs of equal keys, at most one a row at a time."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    _, counts = np.unique(ordered, return_counts=True)
    _check_amount(int((counts * (counts - 1) // 2).sum()), _MAX_CANDIDATES)
    here = np.arange(len(keys))
    for lag in itertools.count(1):
        here = here[here + lag < len(keys)]
        here = here[ordered[here] == ordered[here + lag]]
        if not len(here):
            return
        yield order[here], order[here + lag]


def _described(links: _Pairs, table: pd.DataFrame, contents: pd.Series, boxes: pd.DataFrame) -> pd.DataFrame:
    """The table of links, each once, grouped and sorted."""
    links = np.unique(np.sort(links, axis=1), axis=0)
    graph = coo_array((np.ones(len(links), np.int8), (links[:, 0], links[:, 1])), shape=(len(table), len(table)))
    component = connected_components(graph, directed=False)[1][links[:, 0]]
    links = links[np.argsort(component, kind="stable")]
    a, b = table.iloc[links[:, 0]], table.iloc[links[:, 1]]
    same_file = a["sha256"].to_numpy() == b["sha256"].to_numpy()
    same_pixels = contents.to_numpy()[links[:, 0]] == contents.to_numpy()[links[:, 1]]
    described = {
        "group": pd.factorize(np.sort(component))[0],
        "image_id": a["image_id"].to_numpy(),
        "other_id": b["image_id"].to_numpy(),
        "kind": np.select([same_file, same_pixels], [FILE, PIXELS], NEAR),
        "distance": np.bitwise_count(_hashes(a) ^ _hashes(b)).astype(np.int64),
        "crosses_splits": a["split"].to_numpy() != b["split"].to_numpy(),
        "crosses_sources": a["source"].to_numpy() != b["source"].to_numpy(),
        "labels_differ": labels_differ(table, boxes, links),
    }
    return pd.DataFrame(described, columns=list(DUPLICATE_COLUMNS))


def labels_differ(images: pd.DataFrame, boxes: pd.DataFrame, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the two images of each pair have labels that cannot be matched one to one.

    Parameters
    ----------
    images
        Image table, with image_id, width, height.
    boxes
        Box table; regions to ignore are no labels. Boxes are compared as shares of their image.
    pairs
        Rows of ``images`` by position, shape (n, 2).

    Returns
    -------
    ndarray
        bool, shape (n,): the numbers of boxes differ, or no matching gives each box one of the other image with an
        intersection over union of at least 0.5.
    """
    shares, starts = _shares(images, boxes)
    counts = (starts[1:] - starts[:-1])[pairs]
    differ: NDArray[np.bool_] = counts[:, 0] != counts[:, 1]
    # Pairs with as many boxes are compared together, so that little is padded.
    for count in np.unique(counts[~differ, 0]) if len(pairs) else ():
        rows = np.flatnonzero(~differ & (counts[:, 0] == count))
        for part in np.array_split(rows, max(1, len(rows) * int(count) ** 2 // _CELLS + 1)):
            picked = shares[starts[pairs[part]][:, :, None] + np.arange(count)]
            alike = np.asarray(overlaps(picked[:, 0], picked[:, 1]) >= _SAME_BOX)
            differ[part] = ~_matched(alike)
    return differ


def _matched(alike: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each of k boxes can be given one of the other k, for n pairs of images; ``alike`` has shape (n, k, k)."""
    choices, claims = alike.sum(axis=2), alike.sum(axis=1)
    matched = (choices > 0).all(axis=1) & (claims > 0).all(axis=1)
    crowded = matched & ((choices > 1).any(axis=1) | (claims > 1).any(axis=1))
    for row in np.flatnonzero(crowded):
        matched[row] = (maximum_bipartite_matching(csr_array(alike[row])) >= 0).all()
    found: NDArray[np.bool_] = matched
    return found


def _shares(table: pd.DataFrame, boxes: pd.DataFrame) -> tuple[NDArray[np.float64], _Ints]:
    """The labels as shares of their image's sides, image by image, and where those of each image begin."""
    labels = boxes[~boxes["ignore"].to_numpy(bool) & boxes["image_id"].isin(table["image_id"]).to_numpy()]
    position = pd.Index(table["image_id"]).get_indexer(labels["image_id"])
    order = np.argsort(position, kind="stable")
    sides = table[["width", "height", "width", "height"]].to_numpy(np.float64)
    shares = labels[list(CORNERS)].to_numpy(np.float64) / sides[position]
    return shares[order], np.searchsorted(position[order], np.arange(len(table) + 1))
