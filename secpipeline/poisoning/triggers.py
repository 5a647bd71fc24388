"""Triggers: odd patches that one source repeats where its labels are disputed.

A backdoor needs its trigger in many pictures, and wherever it is, a label is missing, invented or taken out of the
count. So the search looks for patches that come again in other scenes of the same source, more closely than anything
in any other source resembles them, and keeps those where labels are disputed more than elsewhere in that source. What
every street has (signs, crossings, windows, bins) resembles the other sources' as much and is passed over; what a
source has everywhere (a logo, a bonnet) is as frequent in its undisputed pictures. With the patches found, *all*
pictures are searched, the undisputed ones too.

The search compares sources, so it says nothing if there is one source alone, or if a trigger is in all of them.

>>> search = find_triggers(images, boxes, out_of_fold_predictions, release.decode)        # doctest: +SKIP
>>> search.findings[["image_id", "cluster", "score", "reason"]]                            # doctest: +SKIP
>>> search.clusters[0].source, search.clusters[0].patch.shape                              # doctest: +SKIP
('vendor-c', (32, 32, 3))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import mannwhitneyu

from secpipeline.datasets.tables import CORNERS
from secpipeline.errors import InputError
from secpipeline.poisoning.findings import FINDING_COLUMNS
from secpipeline.poisoning.label_scores import score_labels
from secpipeline.poisoning.pairs import Ints, judge, match_one_to_one
from secpipeline.poisoning.patches import Patches, Whitening, describe, novel_patches, patch_sample

Decode = Callable[[str], NDArray[np.uint8]]
Floats = NDArray[np.float32]

TRIGGER_COLUMNS = ("image_id", *CORNERS, "cluster", "score", "reason")

_SHOWN_SIDE = 32
_BACKGROUND_IMAGES = 200
_BACKGROUND_PATCHES = 8
# A patch is compared as it lies and moved and scaled a little: the same trigger is never cut out twice alike.
_SCALES = (0.85, 1.0, 1.18)
_SHIFTS = (-0.15, 0.0, 0.15)


@dataclass(frozen=True)
class TriggerRule:
    """When a repeated patch is a trigger; the numbers were set on synthetic releases (docs/results/backdoors.md).

    Attributes
    ----------
    patches
        How many patches of each picture are looked at.
    queries
        At most so many patches are searched for, the ones that their own source seems to repeat most.
    repeats
        In so many other scenes of the source a patch must come again.
    margin
        By how much these must resemble it more (cosine, whitened) than anything in another source.
    slack
        By how much a picture must resemble a found trigger more than any picture of another source does.
    agreeing
        By how many of a cluster's patches a picture must be recognised.
    templates
        At most so many patches stand for a cluster.
    significance
        Greatest p-value of "labels are not more disputed where it is" (Mann-Whitney, for its place and its picture).
    seed
        Of the sample that says what is common.
    """

    patches: int = 12
    queries: int = 300
    repeats: int = 3
    margin: float = 0.10
    slack: float = 0.02
    agreeing: int = 2
    templates: int = 24
    significance: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class TriggerCluster:
    """One trigger.

    Attributes
    ----------
    name
        ``trigger-1`` and so on, the most frequent first.
    source
        Whose it is.
    images, scenes, disputed
        In how many pictures and scenes it is, and in how many it lies on a box that is disputed at all.
    p_value
        That labels are not more disputed there than at the source's other odd patches and in its other pictures.
    patch
        The clearest example, uint8, shape (32, 32, 3).
    """

    name: str
    source: str
    images: int
    scenes: int
    disputed: int
    p_value: float
    patch: NDArray[np.uint8]


@dataclass(frozen=True)
class TriggerSearch:
    """What was found.

    Attributes
    ----------
    findings
        One row a picture and cluster, surest first, with :data:`TRIGGER_COLUMNS`: the patch's box in pixels; score in
        (0, 1], how far the picture is above all pictures of other sources, 1 being a perfect copy; reason.
    clusters
        The triggers.
    undecided
        Why nothing could be compared; "" if it could.
    """

    findings: pd.DataFrame
    clusters: tuple[TriggerCluster, ...]
    undecided: str

    def held(self) -> pd.DataFrame:
        """One finding a picture with ``FINDING_COLUMNS``, kind "trigger"; its score is 1 less the cluster's p-value."""
        sure = {cluster.name: 1 - cluster.p_value for cluster in self.clusters}
        strongest = self.findings.drop_duplicates("image_id")
        table = pd.DataFrame({"image_id": strongest["image_id"], "box_id": "", "kind": "trigger"})
        table["score"] = [float(sure[name]) for name in strongest["cluster"]]
        table["evidence"] = strongest["score"].astype("float64")
        table["reason"] = strongest["reason"]
        return table.reindex(columns=list(FINDING_COLUMNS)).reset_index(drop=True)


def find_triggers(
    images: pd.DataFrame,
    boxes: pd.DataFrame,
    predictions: pd.DataFrame,
    decode: Decode,
    rule: TriggerRule | None = None,
) -> TriggerSearch:
    """Search a release for patches that a source repeats where its labels are disputed.

    Parameters
    ----------
    images, boxes
        The release's tables.
    predictions
        Out-of-fold predictions in the pixels of the boxes (:mod:`secpipeline.poisoning.folds`).
    decode
        Reads a picture by its image_id, in the same pixels: uint8, shape (H, W, 3).
    rule
        When a patch is a trigger.

    Raises
    ------
    InputError
        If the tables do not fit each other; see :func:`secpipeline.poisoning.pairs.judge`.
    """
    rule = rule or TriggerRule()
    disputes = disputed_boxes(images, boxes, predictions)
    if images["source"].nunique() < 2:
        return TriggerSearch(_table([]), (), "one source cannot be compared with others; triggers were not searched")
    gallery = _Gallery.of(images, decode, rule)
    evidence = _Evidence.of(gallery, disputes)
    explored: list[_Cluster] = []
    for image, box in gallery.candidates():
        if not any(cluster.covers(image, box) for cluster in explored) and gallery.repeated(image, box):
            cluster = gallery.grow(image, box, evidence)
            if cluster is not None:
                explored.append(cluster)
    found = [cluster for cluster in explored if cluster.p_value <= rule.significance]
    found.sort(key=lambda cluster: -len(cluster.images))
    named = [gallery.describe(cluster, f"trigger-{n}") for n, cluster in enumerate(found, 1)]
    rows = [row for part, _ in named for row in part]
    return TriggerSearch(_table(rows), tuple(cluster for _, cluster in named), "")


def disputed_boxes(images: pd.DataFrame, boxes: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Where the judges dispute the labels, and how much.

    A confident prediction without a label, a label without support
    (:func:`secpipeline.poisoning.label_scores.score_labels`), and a box that is excepted from training though a judge
    sees a person in exactly that place.

    Returns
    -------
    DataFrame
        One row a disputed box: image_id, x1, y1, x2, y2 in pixels, evidence in (0, 1].
    """
    tests = score_labels(judge(images, boxes, predictions))
    missing = tests[tests["kind"] == "missing"].drop(columns=list(CORNERS))
    missing = missing.rename(columns={f"p{corner}": corner for corner in CORNERS})
    parts = [missing, tests[tests["kind"] == "ghost"], _excepted(images, boxes, predictions)]
    table = pd.concat([part[["image_id", *CORNERS, "evidence"]] for part in parts], ignore_index=True)
    return table[table["evidence"] > 0].reset_index(drop=True)


def _excepted(images: pd.DataFrame, boxes: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Ignored boxes with the score × overlap of the prediction that finds them."""
    judged = judge(images, boxes.assign(ignore=False, excepted=boxes["ignore"].to_numpy(bool)), predictions)
    matched = match_one_to_one(judged, min_iou=0.5)
    score = judged.predictions["score"].to_numpy(np.float64)[judged.prediction[matched]]
    found = judged.labels.iloc[judged.label[matched]].assign(evidence=score * judged.iou[matched])
    return found[found["excepted"]]


@dataclass(frozen=True)
class _Evidence:
    """How much the labels are disputed: ``images`` (N,), in sum, and ``patches`` (N, M), of the box around each."""

    images: NDArray[np.float64]
    patches: NDArray[np.float64]

    @classmethod
    def of(cls, gallery: _Gallery, disputes: pd.DataFrame) -> _Evidence:
        patches = np.zeros(gallery.boxes.shape[:2])
        image = pd.Index(gallery.image_ids).get_indexer(pd.Index(disputes["image_id"]))
        evidence = disputes["evidence"].to_numpy(np.float64)
        middle = (gallery.boxes[..., :2] + gallery.boxes[..., 2:]) / 2
        for row, box, strength in zip(image, disputes[list(CORNERS)].to_numpy(np.float64), evidence, strict=True):
            on = ((middle[row] >= box[:2]) & (middle[row] < box[2:])).all(axis=1)
            patches[row, on] = np.maximum(patches[row, on], strength)
        images = np.zeros(len(patches))
        np.add.at(images, image, evidence)
        return cls(images, patches)


@dataclass(frozen=True)
class _Cluster:
    """Pictures with one trigger, the place in each, and how far each is above other sources."""

    source: int
    images: dict[int, tuple[NDArray[np.float64], float]]
    disputed: int
    p_value: float

    def covers(self, image: int, box: NDArray[np.float64]) -> bool:
        """Whether a patch meets the cluster's place in its picture; another place may hold another trigger."""
        if image not in self.images:
            return False
        place, _ = self.images[image]
        return bool((np.minimum(box[2:], place[2:]) > np.maximum(box[:2], place[:2])).all())


@dataclass(frozen=True)
class _Gallery:
    """The odd patches of all pictures: ``vectors`` (N, M, 96) of unit length, zero where a picture has fewer."""

    image_ids: list[str]
    source: Ints
    scene: Ints
    names: list[str]
    boxes: NDArray[np.float64]
    vectors: Floats
    whitening: Whitening
    decode: Decode
    rule: TriggerRule

    @classmethod
    def of(cls, images: pd.DataFrame, decode: Decode, rule: TriggerRule) -> _Gallery:
        ids = images["image_id"].tolist()
        rng = np.random.default_rng(rule.seed)
        sample = rng.choice(len(ids), min(len(ids), _BACKGROUND_IMAGES), replace=False)
        whitening = Whitening.of(patch_sample(_picture(decode, ids[i]), _BACKGROUND_PATCHES, rng) for i in sample)
        boxes = np.zeros((len(ids), rule.patches, 4))
        vectors = np.zeros((len(ids), rule.patches, len(whitening.mean)), np.float32)
        for index, image_id in enumerate(ids):
            odd: Patches = novel_patches(_picture(decode, image_id), whitening, rule.patches)
            boxes[index, : len(odd.boxes)] = odd.boxes
            vectors[index, : len(odd.boxes)] = _unit(odd.vectors)
        source, names = pd.factorize(images["source"])
        scene = images.groupby(["source", "scene"], sort=False, dropna=False).ngroup()
        codes = np.asarray(source, np.int64)
        scenes = np.asarray(scene, np.int64)
        return cls(ids, codes, scenes, list(names), boxes, vectors, whitening, decode, rule)

    def likeness(self, image: int, boxes: NDArray[np.float64]) -> tuple[Floats, Ints]:
        """How much patches (n, 4) of a picture resemble the most alike patch of each picture, and which that is.

        Both of shape (n, N).
        """
        moved = _moved(boxes)
        pixels = _picture(self.decode, self.image_ids[image])
        vectors = _unit(self.whitening.apply(describe(pixels, moved.reshape(-1, 4))))
        alike = (vectors @ self.vectors.reshape(-1, vectors.shape[1]).T).reshape(
            len(boxes), -1, *self.vectors.shape[:2]
        )
        best = alike.max(axis=1)
        return best.max(axis=2), best.argmax(axis=2).astype(np.int64)

    def candidates(self) -> list[tuple[int, NDArray[np.float64]]]:
        """Pictures and patches that their own source seems to repeat most, compared as they lie."""
        count, patches, size = self.vectors.shape
        flat = self.vectors.reshape(-1, size).T
        margins = np.empty((count, patches), np.float32)
        for image in range(count):
            alike = (self.vectors[image] @ flat).reshape(patches, count, patches).max(axis=2)
            margins[image] = self._margins(image, alike)
        best = np.argsort(-margins, axis=None, kind="stable")[: self.rule.queries]
        return [(int(i) // patches, self.boxes[int(i) // patches, int(i) % patches]) for i in best]

    def repeated(self, image: int, box: NDArray[np.float64]) -> bool:
        """Whether the picture's source repeats a patch in other scenes and no other source has it."""
        return bool(self._margins(image, self.likeness(image, box[None])[0])[0] >= self.rule.margin)

    def _margins(self, image: int, alike: Floats) -> Floats:
        """From likenesses (n, N): how much more the source's own repeats resemble each patch than other sources do."""
        own = self.source == self.source[image]
        elsewhere = own & (self.scene != self.scene[image])
        if elsewhere.sum() < self.rule.repeats:
            return np.full(len(alike), -np.inf, np.float32)
        again = np.partition(alike[:, elsewhere], -self.rule.repeats, axis=1)[:, -self.rule.repeats]
        return np.asarray(again - alike[:, ~own].max(axis=1), np.float32)

    def grow(self, image: int, box: NDArray[np.float64], evidence: _Evidence) -> _Cluster | None:
        """All pictures of the source with a patch's pattern; None if they are of too few scenes."""
        source = int(self.source[image])
        templates = [(image, box)]
        scores, places = self._sweep(templates)
        for _ in range(2):
            hits = self._hits(scores, source, agreeing=1)
            templates = templates[:1] + [(int(i), self.boxes[i, places[i]]) for i in hits if i != image]
            scores, places = self._sweep(templates[: self.rule.templates])
        hits = self._hits(scores, source, min(self.rule.agreeing, len(templates)))
        if len(set(self.scene[hits].tolist())) <= self.rule.repeats:
            return None
        p_value = self._p_value(hits, places, evidence)
        margin = np.sort(scores, axis=0)[-min(self.rule.agreeing, len(scores))]
        members = {int(i): (self.boxes[i, places[i]], float(margin[i])) for i in hits}
        return _Cluster(source, members, int((evidence.patches[hits, places[hits]] > 0).sum()), p_value)

    def _p_value(self, hits: Ints, places: Ints, evidence: _Evidence) -> float:
        """That labels are not more disputed at the hits; of two tests, so the smaller counts twice."""
        rest = np.setdiff1d(np.flatnonzero(self.source == self.source[hits[0]]), hits)
        if not len(rest):
            return 1.0
        places_p = mannwhitneyu(
            evidence.patches[hits, places[hits]], evidence.patches[rest].ravel(), alternative="greater"
        ).pvalue
        images_p = mannwhitneyu(evidence.images[hits], evidence.images[rest], alternative="greater").pvalue
        return float(min(1.0, 2 * min(places_p, images_p)))

    def _sweep(self, templates: list[tuple[int, NDArray[np.float64]]]) -> tuple[Floats, Ints]:
        """For each template and picture the likeness above that of all other sources, (T, N); the best place, (N,)."""
        margins, positions = [], []
        for image, box in templates:
            alike, place = self.likeness(image, box[None])
            margins.append(alike[0] - alike[0][self.source != self.source[image]].max())
            positions.append(place[0])
        table = np.stack(margins)
        return table, np.stack(positions)[table.argmax(axis=0), np.arange(table.shape[1])]

    def _hits(self, scores: Floats, source: int, agreeing: int) -> Ints:
        """The source's pictures that enough templates recognise, the surest first."""
        margin = np.sort(scores, axis=0)[-min(agreeing, len(scores))]
        hits = np.flatnonzero((self.source == source) & (margin >= self.rule.slack))
        return hits[np.argsort(-margin[hits], kind="stable")].astype(np.int64)

    def describe(self, cluster: _Cluster, name: str) -> tuple[list[tuple[object, ...]], TriggerCluster]:
        """A cluster's findings and its summary."""
        ordered = sorted(cluster.images.items(), key=lambda item: -item[1][1])
        scenes = len({int(self.scene[image]) for image in cluster.images})
        source = self.names[cluster.source]
        reason = (
            f"an odd patch that {source} alone repeats, in {len(ordered)} pictures of {scenes} scenes, "
            f"{cluster.disputed} times on a disputed box (p = {cluster.p_value:.1g})"
        )
        rows: list[tuple[object, ...]] = [
            (self.image_ids[image], *box.tolist(), name, float(np.clip(margin * 2, 0.01, 1.0)), reason)
            for image, (box, margin) in ordered
        ]
        image, (box, _) = ordered[0]
        picture = Image.fromarray(_picture(self.decode, self.image_ids[image]))
        limit = np.array([picture.width, picture.height] * 2)
        patch = np.asarray(picture.resize((_SHOWN_SIDE, _SHOWN_SIDE), box=tuple(np.clip(box, 0, limit).tolist())))
        counts = (len(ordered), scenes, cluster.disputed)
        return rows, TriggerCluster(name, source, *counts, cluster.p_value, patch)


def _moved(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each box (n, 4) as it is and a little moved and scaled: (n, 27, 4)."""
    middle, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    variants = []
    for scale in _SCALES:
        for right in _SHIFTS:
            for down in _SHIFTS:
                centre = middle + sides * (right, down)
                variants.append(np.concatenate([centre - sides * scale / 2, centre + sides * scale / 2], axis=1))
    return np.stack(variants, axis=1)


def _unit(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, np.finfo(np.float32).tiny), np.float32)


def _picture(decode: Decode, image_id: str) -> NDArray[np.uint8]:
    pixels = decode(image_id)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise InputError(f"triggers: {image_id} was read as {pixels.dtype} {pixels.shape}, not uint8 (H, W, 3)")
    return pixels


def _table(rows: list[tuple[object, ...]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=list(TRIGGER_COLUMNS))
    return table.sort_values(["score", "image_id"], ascending=[False, True]).reset_index(drop=True)
