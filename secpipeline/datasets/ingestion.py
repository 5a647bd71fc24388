"""From a delivery to a release: every image is read, decoded and checked once.

>>> written = write_release(Path("release"), annotations, splits)                   # doctest: +SKIP
>>> written.images, written.rejected                                                # doctest: +SKIP
(2400, ())
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
import pandas as pd
from tqdm import tqdm

from secpipeline.datasets import duplicates
from secpipeline.datasets.annotations import Annotations, Rejection
from secpipeline.datasets.decoding import (
    APPLY,
    DEFAULT_LIMITS,
    REFUSE,
    DecodeLimits,
    decode,
    decoder_digest,
    read_image_file,
)
from secpipeline.datasets.duplicates import dhash
from secpipeline.datasets.geometry import UPRIGHT, turn_corners, turned_size
from secpipeline.datasets.manifests import BOXES_FILE, IMAGES_FILE, read_manifest, write_tables
from secpipeline.datasets.shards import SHARD_BYTES, ShardWriter
from secpipeline.datasets.tables import CORNERS, IMAGE_SCHEMA, read_table
from secpipeline.digests import canonical_json, sha256_bytes, sha256_file
from secpipeline.errors import InputError, IntegrityError
from secpipeline.store import write_atomic

DECODER_FILE = "decoder.json"
_MOST_WORKERS = 16
_CHUNK = 4  # images a task: a task for every small image would cost as much as its check
_SHOWN = 10
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Written:
    """What became of a delivery.

    Attributes
    ----------
    digest
        Of the manifest: the release's name.
    images, boxes, shards, bytes
        How many; ``bytes`` of image files.
    reused_images, reused_shards
        How many of them the previous release had: images that were not decoded again, shards that were not written.
    rejected
        Images that are not in the release, in the order of the delivery.
    """

    digest: str
    images: int
    boxes: int
    shards: int
    bytes: int
    reused_images: int
    reused_shards: int
    rejected: tuple[Rejection, ...]


@dataclass(frozen=True)
class _Facts:
    """What decoding tells about an image; ``size`` is that of the upright picture."""

    format: str
    size: tuple[int, int]
    dhash: str
    orientation: int = UPRIGHT


@dataclass(frozen=True)
class _Taken:
    """One image that was read, decoded and found as annotated."""

    sha256: str
    length: int
    facts: _Facts
    reused: bool


def write_release(
    out_dir: Path,
    annotations: Annotations,
    splits: pd.Series,
    *,
    limits: DecodeLimits = DEFAULT_LIMITS,
    turn: str = REFUSE,
    max_rejected: float = 0.0,
    workers: int | None = None,
    previous: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Written:
    """Read, decode and check every image of a delivery once and write its release.

    The release depends on the delivery alone: not on the number of workers, nor on the previous release.

    Parameters
    ----------
    out_dir
        An empty directory; on an error what was written there is removed or is no release, for its manifest comes last.
    annotations
        What was delivered.
    splits
        ``train``, ``calibration`` or ``test`` for each row of ``annotations.images``, on the same index.
    limits
        What one image may cost.
    turn
        ``refuse`` images with an EXIF orientation, or ``apply`` it to their pixels and boxes, which must have been
        drawn on the stored picture.
    max_rejected
        The share of images, in [0, 1], that may be unusable; those are left out.
    workers
        How many images are decoded at once; by default one a processor.
    previous
        A release to take unchanged shards from. Its images are not decoded again if they are the same bytes, the
        decoder, its version and the limits are the same, and ``turn`` is ``refuse``. It must be one that the caller
        trusts: its own manifest is checked, but nobody's signature.
    shard_bytes
        The expected size of a shard.

    Raises
    ------
    InputError
        If more images than allowed are missing, cannot be decoded safely, or differ from their annotation, naming the
        first ten; or if leaving them out empties a split.
    IntegrityError
        If the tables of the previous release are not those of its manifest.
    """
    if turn not in (REFUSE, APPLY):
        raise InputError(f"orientation is {turn!r}; it must be {REFUSE} or {APPLY}")
    if isinstance(max_rejected, bool) or not isinstance(max_rejected, (int, float)) or not 0 <= max_rejected <= 1:
        raise InputError(f"max_rejected is {max_rejected!r}; it must be a share from 0 to 1")
    images = annotations.images
    rules = _rules(limits, turn)
    earlier = _Previous(previous, rules) if previous is not None else None
    writer = ShardWriter(out_dir, shard_bytes, earlier.find_shard if earlier else None)
    try:
        # A release does not keep the orientation that was applied, so turned pictures are decoded again.
        ingest = _Ingest(annotations, limits, turn, earlier.facts if earlier and turn == REFUSE else {})
        taken, found = _fill(writer, ingest, workers)
        rejected = annotations.rejected + found
        _check_rejected(rejected, len(taken), max_rejected)
        _check_splits(splits, taken)
    except InputError:
        writer.discard()
        raise
    table = _image_table(images, splits, taken, writer)
    boxes = _upright_boxes(annotations.boxes, images, taken)
    digest = write_tables(out_dir, table, boxes, writer.digests)
    write_atomic(out_dir / DECODER_FILE, canonical_json({"decoder": rules}))
    return Written(
        digest=digest,
        images=len(table),
        boxes=len(boxes),
        shards=len(writer.digests),
        bytes=int(table["length"].sum()),
        reused_images=sum(image.reused for image in taken.values()),
        reused_shards=writer.reused,
        rejected=rejected,
    )


def _rules(limits: DecodeLimits, turn: str) -> str:
    """SHA-256 of everything that decides the facts that a later release may take over."""
    hashing = sha256_file(Path(duplicates.__file__))
    return sha256_bytes(canonical_json({"decoder": decoder_digest(limits, turn), "dhash": hashing}))


class _Ingest:
    """Reads, decodes and checks one image of a delivery, by its position in the table."""

    def __init__(
        self, annotations: Annotations, limits: DecodeLimits, turn: str, known: Mapping[tuple[str, str], _Facts]
    ) -> None:
        self.records = annotations.images.to_dict("records")
        self._root = annotations.root
        self._limits = limits
        self._turn = turn
        self._known = known

    def __call__(self, position: int) -> tuple[_Taken, bytes] | Rejection:
        record = self.records[position]
        try:
            return self._take(record["file_name"], (record["width"], record["height"]))
        except InputError as error:
            return Rejection(record["image_id"], record["file_name"], record["source"], str(error))

    def _take(self, name: str, size: tuple[int, int]) -> tuple[_Taken, bytes]:
        data = read_image_file(self._root, name, self._limits)
        digest = sha256_bytes(data)
        facts = self._known.get((digest, _suffix(name)))
        reused = facts is not None
        if facts is None:
            decoded = decode(data, name, self._limits, self._turn)
            facts = _Facts(decoded.format, decoded.picture.size, dhash(decoded.picture), decoded.orientation)
        stored = turned_size(facts.size, facts.orientation)
        if stored != size:
            hint = "; its boxes must be drawn on the stored picture" if facts.orientation != UPRIGHT else ""
            raise InputError(f"{name}: {stored[0]}×{stored[1]} pixels, annotated as {size[0]}×{size[1]}{hint}")
        return _Taken(digest, len(data), facts, reused), data


def _fill(writer: ShardWriter, ingest: _Ingest, workers: int | None) -> tuple[dict[int, _Taken], tuple[Rejection, ...]]:
    """Put every usable image into the shards, source by source and scene by scene."""
    records = ingest.records
    order = sorted(range(len(records)), key=lambda at: tuple(records[at][c] for c in ("source", "scene", "file_name")))
    taken: dict[int, _Taken] = {}
    rejected: dict[int, Rejection] = {}
    outcomes = tqdm(_in_order(ingest, order, workers), "ingest", len(order), disable=None, leave=False)
    for position, outcome in zip(order, outcomes, strict=True):
        if isinstance(outcome, Rejection):
            rejected[position] = outcome
            continue
        taken[position], data = outcome
        writer.add(records[position]["file_name"], data)
    writer.close()
    return dict(sorted(taken.items())), tuple(rejected[position] for position in sorted(rejected))


def _in_order(function: Callable[[_T], _R], items: Sequence[_T], workers: int | None) -> Iterator[_R]:
    """The results in order, with a few in flight."""
    count = workers or min(_MOST_WORKERS, len(os.sched_getaffinity(0)))
    waiting: deque[Future[list[_R]]] = deque()

    def together(chunk: Sequence[_T]) -> list[_R]:
        return [function(item) for item in chunk]

    with ThreadPoolExecutor(count) as pool:
        for start in range(0, len(items), _CHUNK):
            waiting.append(pool.submit(together, items[start : start + _CHUNK]))
            if len(waiting) > 2 * count:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _check_rejected(rejected: Sequence[Rejection], taken: int, max_rejected: float) -> None:
    total = taken + len(rejected)
    if len(rejected) <= max_rejected * total and taken:
        return
    limit = f", more than data.max_rejected {max_rejected:g} allows" if max_rejected and taken else ""
    more = f"\n  and {len(rejected) - _SHOWN} more" if len(rejected) > _SHOWN else ""
    shown = "\n  ".join(rejection.reason for rejection in rejected[:_SHOWN])
    raise InputError(f"{len(rejected)} of {total} images cannot be used{limit}:\n  {shown}{more}")


def _check_splits(splits: pd.Series, taken: Mapping[int, _Taken]) -> None:
    emptied = sorted(set(splits) - set(splits.iloc[list(taken)]))
    if emptied:
        raise InputError(f"no usable image is left for {', '.join(emptied)}; deliver the rejected images again")


def _image_table(
    images: pd.DataFrame, splits: pd.Series, taken: Mapping[int, _Taken], writer: ShardWriter
) -> pd.DataFrame:
    table = images.iloc[list(taken)].copy()
    places = [writer.locations[name] for name in table["file_name"]]
    table["shard"] = [place.shard for place in places]
    table["offset"] = [place.offset for place in places]
    table["length"] = [place.length for place in places]
    table["sha256"] = [image.sha256 for image in taken.values()]
    table["format"] = [image.facts.format for image in taken.values()]
    table["dhash"] = [image.facts.dhash for image in taken.values()]
    table["width"] = np.array([image.facts.size[0] for image in taken.values()], np.int32)
    table["height"] = np.array([image.facts.size[1] for image in taken.values()], np.int32)
    table["split"] = splits.loc[table.index]
    return table.reset_index(drop=True)


def _upright_boxes(boxes: pd.DataFrame, images: pd.DataFrame, taken: Mapping[int, _Taken]) -> pd.DataFrame:
    """The boxes of the images that were taken, turned with them."""
    by_id = dict(zip(images["image_id"].iloc[list(taken)], taken.values(), strict=True))
    boxes = boxes[boxes["image_id"].isin(by_id)].reset_index(drop=True)
    corners = boxes[list(CORNERS)].to_numpy(np.float64, copy=True)
    for image_id, rows in boxes.groupby("image_id", sort=False).indices.items():
        facts = by_id[str(image_id)].facts
        if facts.orientation != UPRIGHT:
            stored = turned_size(facts.size, facts.orientation)
            corners[rows] = turn_corners(corners[rows], facts.orientation, stored)
    boxes[list(CORNERS)] = corners
    boxes["height"] = corners[:, 3] - corners[:, 1]
    return boxes


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


class _Previous:
    """A release that another one may take from.

    Attributes
    ----------
    facts
        What decoding told, by SHA-256 of the file and the suffix of its name; empty unless this very decoder made it.
    """

    def __init__(self, directory: Path, decoder: str) -> None:
        self._directory = directory
        manifest = read_manifest(directory)
        self._names = {digest: name for name, digest in manifest.items()}
        for name in (IMAGES_FILE, BOXES_FILE):
            found, expected = sha256_file(directory / name), manifest.get(name, "")
            if found != expected:
                raise IntegrityError(str(directory / name), expected, found, "restore the release or leave it out")
        self.facts: Mapping[tuple[str, str], _Facts] = {}
        if _decoder_of(directory) == decoder:
            self.facts = _known_facts(read_table(directory / IMAGES_FILE, IMAGE_SCHEMA))

    def find_shard(self, digest: str) -> Path | None:
        """The file with this SHA-256, if there was one and its bytes are still those."""
        name = self._names.get(digest)
        if name is None or not (self._directory / name).is_file() or sha256_file(self._directory / name) != digest:
            return None
        return self._directory / name


def _known_facts(images: pd.DataFrame) -> dict[tuple[str, str], _Facts]:
    columns = ("sha256", "file_name", "format", "width", "height", "dhash")
    return {
        (sha256, _suffix(name)): _Facts(kind, (width, height), bits)
        for sha256, name, kind, width, height, bits in zip(*(images[c].tolist() for c in columns), strict=True)
    }


def _decoder_of(directory: Path) -> str:
    path = directory / DECODER_FILE
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return ""
    return str(found.get("decoder", "")) if isinstance(found, dict) else ""
