"""What a review is about: a release, the audit's findings and what quarantine makes of them.

>>> data = ReviewData.read(artifacts / "ingest", artifacts / "audit_labels", image_score=0.8)   # doctest: +SKIP
>>> len(data.findings), data.quarantine.table["decision"].value_counts()                        # doctest: +SKIP
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from secpipeline.datasets.releases import BOXES_FILE, IMAGES_FILE, MANIFEST_FILE, Release
from secpipeline.datasets.tables import CORNERS
from secpipeline.digests import sha256_bytes, sha256_file
from secpipeline.errors import AttestationError, InputError, IntegrityError
from secpipeline.poisoning.findings import FINDING_COLUMNS
from secpipeline.poisoning.quarantine import decide
from secpipeline.provenance.envelopes import parse_object
from secpipeline.review.records import MIN_SIDE, Box, Finding, number, text

RELEASE, FINDINGS = "ingest/dataset.sha256", "audit_labels/findings.parquet"
_PREDICTED = tuple(f"p{corner}" for corner in CORNERS)
# Native boxes went through a detector's frame and back at most once; more than rounding is another frame.
_ROUNDING = 0.01


@dataclass(frozen=True)
class Quarantine:
    """What is held, and why, in a form that a review can lift.

    Attributes
    ----------
    table
        From :func:`secpipeline.poisoning.quarantine.decide`: image_id, decision, reason.
    strong
        The findings that each hold an image on their own, by image.
    by_source
        The images that are held because of whose they are.
    """

    table: pd.DataFrame
    strong: Mapping[str, tuple[Finding, ...]]
    by_source: frozenset[str]


@dataclass(frozen=True)
class ReviewData:
    """Everything a review reads.

    Attributes
    ----------
    release
        The images and their labels.
    findings
        Strongest first, in pixels of the release.
    quarantine
        What is held without a review.
    digests
        SHA-256 of the release's manifest and of the findings, by artifact name.
    """

    release: Release
    findings: tuple[Finding, ...]
    quarantine: Quarantine
    digests: Mapping[str, str]

    @classmethod
    def read(cls, ingest: Path, audit: Path, *, image_score: float) -> ReviewData:
        """Read the artifacts of the stages ``ingest`` and ``audit_labels``.

        Parameters
        ----------
        ingest, audit
            Their directories.
        image_score
            As for :func:`secpipeline.poisoning.quarantine.decide`.

        Raises
        ------
        InputError
            If a file is missing or malformed, or the findings are not about this release.
        IntegrityError
            If a table is not the one that the release's manifest names.
        """
        release_digest = _check_manifest(ingest)
        release = Release(ingest, ingest)
        raw = _bytes(audit / "findings.parquet")
        table = _finding_table(raw, audit / "findings.parquet")
        findings = native_findings(table, release.images, release.boxes)
        named = _named(audit / "sources.json")
        held = quarantined(release.images, table, findings, named, image_score=image_score)
        return cls(release, findings, held, {RELEASE: release_digest, FINDINGS: sha256_bytes(raw)})


def _check_manifest(directory: Path) -> str:
    """The digest of the manifest, once it names the tables that lie beside it."""
    manifest = _bytes(directory / MANIFEST_FILE)
    listed = {name: digest for digest, _, name in (line.partition(b"  ") for line in manifest.splitlines())}
    for name in (IMAGES_FILE, BOXES_FILE):
        expected, found = listed.get(name.encode(), b"").decode(errors="replace"), sha256_file(directory / name)
        if expected != found:
            raise IntegrityError(str(directory / name), expected, found, "run ingest again")
    return sha256_bytes(manifest)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run the stage that makes it") from error


def _finding_table(data: bytes, path: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(io.BytesIO(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable parquet file ({error}); run audit_labels again") from error
    if tuple(table.columns) != FINDING_COLUMNS:
        raise InputError(f"{path}: its columns are not those of findings; run audit_labels again")
    return table


def _named(path: Path) -> dict[str, str]:
    try:
        named = parse_object(_bytes(path)).get("named")
    except AttestationError as error:
        raise InputError(f"{path}: {error.message}; run audit_labels again") from error
    if not isinstance(named, dict) or not all(isinstance(reason, str) for reason in named.values()):
        raise InputError(f"{path}: does not say which sources are named; run audit_labels again")
    return named


def native_findings(table: pd.DataFrame, images: pd.DataFrame, boxes: pd.DataFrame) -> tuple[Finding, ...]:
    """Findings as records, with the release's own boxes and predictions cut to the image.

    Parameters
    ----------
    table
        With ``FINDING_COLUMNS``, in pixels of the release.
    images, boxes
        The release's tables.

    Returns
    -------
    tuple of Finding
        In table order. Predictions are rounded to hundredths of a pixel; one that is not in the image is None.

    Raises
    ------
    InputError
        If a finding names an image or a box that the release does not have, or lies elsewhere than its box.
    """
    size = dict(zip(images["image_id"], zip(images["width"], images["height"], strict=True), strict=True))
    label = dict(zip(boxes["box_id"], zip(boxes["image_id"], _corners(boxes, CORNERS), strict=True), strict=True))
    labels, predictions = _corners(table, CORNERS), _corners(table, _PREDICTED)
    columns = ("image_id", "box_id", "kind", "score", "evidence", "reason")
    findings = []
    for row, xyxy, predicted in zip(table[list(columns)].itertuples(index=False), labels, predictions, strict=True):
        image_id, box_id, kind, score, evidence, reason = row
        if image_id not in size:
            raise InputError(f"a finding is about {image_id}, which this release does not hold; run audit_labels again")
        found = Finding(
            image_id,
            text(kind, "the kind of a finding"),
            number(score, f"the score of a finding about {image_id}"),
            number(evidence, f"the evidence of a finding about {image_id}"),
            text(reason, "the reason of a finding"),
            prediction=_cut(predicted, size[image_id]),
        )
        findings.append(_with_label(found, box_id, xyxy, label) if box_id else found)
    return tuple(findings)


def _with_label(found: Finding, box_id: str, xyxy: Any, labels: Mapping[str, tuple[str, Any]]) -> Finding:
    owner, box = labels.get(box_id, ("", None))
    if owner != found.image_id:
        raise InputError(
            f"a finding is about box {box_id}, which {found.image_id} does not have; run audit_labels again"
        )
    if not np.abs(box - xyxy).max() <= _ROUNDING:  # also if it is nowhere
        raise InputError(
            f"the finding about box {box_id} is at {xyxy.tolist()}, the box at {box.tolist()}:"
            " the findings are of another release, or not in its pixels; run audit_labels again"
        )
    x1, y1, x2, y2 = box.tolist()
    return replace(found, box_id=box_id, label=(x1, y1, x2, y2))


def _corners(table: pd.DataFrame, columns: tuple[str, ...]) -> Any:
    return table[list(columns)].to_numpy("float64").reshape(-1, 4)


def _cut(predicted: Any, size: tuple[int, int]) -> Box | None:
    """A prediction inside the image, which what is added to its labels must be."""
    x1, y1, x2, y2 = predicted.round(2).clip(0, [*size, *size]).tolist()
    return (x1, y1, x2, y2) if x2 - x1 >= MIN_SIDE and y2 - y1 >= MIN_SIDE else None


def quarantined(
    images: pd.DataFrame,
    table: pd.DataFrame,
    findings: tuple[Finding, ...],
    named: Mapping[str, str],
    *,
    image_score: float,
    integrity: Mapping[str, str] | None = None,
) -> Quarantine:
    """Quarantine without a review.

    Parameters
    ----------
    images, table, named, image_score, integrity
        As for :func:`secpipeline.poisoning.quarantine.decide`.
    findings
        The same findings from :func:`native_findings`.

    Raises
    ------
    InputError
        As :func:`secpipeline.poisoning.quarantine.decide`.
    """
    decisions = decide(images, table, named, image_score=image_score, integrity=integrity)
    strong: dict[str, tuple[Finding, ...]] = {}
    for finding in findings:
        if finding.score >= image_score:
            strong[finding.image_id] = (*strong.get(finding.image_id, ()), finding)
    by_source = frozenset(images.loc[images["source"].isin(named), "image_id"])
    return Quarantine(decisions, strong, by_source)
