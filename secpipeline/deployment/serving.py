"""Serve detections from bytes that were verified, and from no others.

The model is read into memory once, those bytes are verified against the channel and the evidence, and the same bytes go
to the inference engine, so nothing can be swapped between check and use. A running service looks at the channel again
with every request: what was activated since is served without a restart, and what was revoked or tampered with since is
not served any more.

>>> app = create_app(Path("build/channels/production"), owners, specs, memory)   # doctest: +SKIP
"""

from __future__ import annotations

import datetime as dt
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, File, HTTPException, UploadFile
from securesystemslib.signer import SSlibKey

from secpipeline.datasets.decoding import decode
from secpipeline.datasets.loading import from_frame, letterbox
from secpipeline.deployment.client import Deployment, open_channel
from secpipeline.deployment.metadata import TIME_FORMAT, TIMESTAMP, whole_seconds
from secpipeline.detection.onnx_detector import OnnxDetector
from secpipeline.errors import AttestationError, InputError, SecpipelineError
from secpipeline.provenance import envelopes
from secpipeline.provenance.evidence import EvidenceStore
from secpipeline.provenance.layout import StepSpec
from secpipeline.provenance.verification import Expectations, verify_chain

MAX_UPLOAD_BYTES = 16 << 20
# What does not show in the timestamp (a changed file, an expired layout) is noticed after this many seconds.
RECHECK_SECONDS = 60.0
# While nothing may be served, requests do not make the service verify more often than this.
RETRY_SECONDS = 1.0
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """A verified deployment, ready to answer.

    Attributes
    ----------
    detector
        Holds the verified bytes.
    size
        Height and width of its input in pixels.
    card
        ``detector.json``.
    deployment
        What the channel said.
    provenance
        What ``/provenance`` answers.
    """

    detector: OnnxDetector
    size: tuple[int, int]
    card: dict[str, Any]
    deployment: Deployment
    provenance: dict[str, Any]


def load_verified(
    directory: Path,
    owners: Sequence[SSlibKey],
    specs: Sequence[StepSpec],
    memory: Path,
    *,
    at_least_version: int | None = None,
    max_age: dt.timedelta | None = None,
    now: dt.datetime | None = None,
    before: Served | None = None,
) -> Served:
    """Read what a channel serves, verify it, and make a detector of the verified bytes.

    Parameters
    ----------
    directory, owners, memory, at_least_version, max_age, now
        As for :func:`secpipeline.deployment.client.open_channel`.
    specs
        The steps that must have led to the deployment.
    before
        What was served until now; its detector is kept if the files are the same.

    Raises
    ------
    AttestationError
        If the channel, the evidence or the bytes do not verify.
    """
    found = open_channel(directory, owners, memory, at_least_version=at_least_version, max_age=max_age, now=now)
    chain = [spec for spec in specs if spec.name != "monitor"]
    _require_chain(found, owners, specs, [spec.name for spec in chain], now)
    if before is not None and before.deployment.digests() == found.digests():
        detector, size, card = before.detector, before.size, before.card
    else:
        card = envelopes.parse_object(found.read("detector.json"))
        try:
            size, nms_iou = (int(card["input_size"][0]), int(card["input_size"][1])), float(card["nms_iou"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(f"{found.files}/detector.json: not the card of a detector ({error})") from error
        detector = OnnxDetector(found.read("detector.onnx"), size, nms_iou)
    provenance = {
        "channel": directory.name,
        "version": found.version,
        "previous": found.previous,
        "verified": True,
        "recipe": card["recipe"],
        "files": found.digests(),
        "stages": [{"name": spec.name, "signed_by": spec.role} for spec in chain],
        "metadata": dict(found.metadata),
        "signed_on": found.signed_on.strftime(TIME_FORMAT),
        "expires": found.expires.strftime(TIME_FORMAT),
    }
    return Served(detector, size, card, found, provenance)


def _require_chain(
    deployment: Deployment,
    owners: Sequence[SSlibKey],
    specs: Sequence[StepSpec],
    names: Sequence[str],
    now: dt.datetime | None,
) -> None:
    """Verify a private copy of the evidence, and that what the last step signed is what the channel serves."""
    with tempfile.TemporaryDirectory(prefix="secpipeline-") as private:
        evidence, revocations = deployment.copy_evidence(Path(private))
        expect = Expectations(newer_trust=revocations, now=whole_seconds(now))
        report = verify_chain(EvidenceStore(evidence), None, owners, specs, only=names, expect=expect)
    report.require()
    signed = {name.removeprefix("deploy/"): digest for name, digest in report.subjects.get("deploy", {}).items()}
    for name in sorted(signed.keys() | deployment.digests().keys()):
        expected, found = signed.get(name, ""), deployment.digests().get(name, "")
        if expected != found:
            raise AttestationError(
                "changed-file",
                f"deploy/{name}: signed was sha256 {expected or 'nothing'}, the channel publishes {found or 'nothing'}",
            )


class LiveChannel:
    """What a channel serves now.

    Parameters
    ----------
    load
        Verifies the channel; called with what was served before.
    timestamp
        The file that changes with every publication.
    clock
        Returns the time.
    """

    def __init__(
        self, load: Callable[[Served | None], Served], timestamp: Path, clock: Callable[[], dt.datetime]
    ) -> None:
        self._load, self._timestamp, self._clock = load, timestamp, clock
        self._lock = threading.Lock()
        self._refusal: SecpipelineError | None = None
        self._seen, self._checked = self._fingerprint(), time.monotonic()
        self._served = load(None)

    def current(self) -> Served:
        """The verified deployment of this moment.

        Raises
        ------
        SecpipelineError
            If nothing that verifies can be served; the reason.
        """
        with self._lock:
            if self._must_verify():
                self._verify()
            if self._refusal is not None:
                raise self._refusal.with_traceback(None)  # one object for many requests: it must not collect theirs
            return self._served

    def _must_verify(self) -> bool:
        if self._fingerprint() != self._seen:
            return True
        pause = RECHECK_SECONDS if self._refusal is None else RETRY_SECONDS
        expired = self._refusal is None and self._clock() >= self._served.deployment.expires
        return expired or time.monotonic() - self._checked >= pause

    def _verify(self) -> None:
        # Looked at before it is read: a publication in between is seen as another change by the next request.
        self._seen, self._checked = self._fingerprint(), time.monotonic()
        self._refusal = InputError("verification broke off")
        try:
            self._served, self._refusal = self._load(self._served), None
        except SecpipelineError as error:
            _LOGGER.warning("nothing is served: %s", error)
            self._refusal = error

    def _fingerprint(self) -> tuple[int, int, int] | None:
        try:
            found = self._timestamp.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns


def create_app(
    directory: Path,
    owners: Sequence[SSlibKey],
    specs: Sequence[StepSpec],
    memory: Path,
    *,
    at_least_version: int | None = None,
    max_age: dt.timedelta | None = None,
    clock: Callable[[], dt.datetime] | None = None,
) -> FastAPI:
    """The HTTP service of one channel.

    Raises as :func:`load_verified` instead of starting on anything unverified. Later, while nothing verifies, every
    answer is 503 with the reason code.
    """

    def load(before: Served | None) -> Served:
        return load_verified(
            directory,
            owners,
            specs,
            memory,
            at_least_version=at_least_version,
            max_age=max_age,
            now=clock() if clock else None,
            before=before,
        )

    live = LiveChannel(load, directory / TIMESTAMP, clock or whole_seconds)
    app = FastAPI(title="secpipeline", docs_url=None, redoc_url=None)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok", "version": _current(live).deployment.version}

    @app.get("/provenance")
    def provenance() -> dict[str, Any]:
        return _current(live).provenance

    @app.post("/detect")
    def detect(image: Annotated[UploadFile, File(description="a JPEG or PNG picture")]) -> dict[str, Any]:
        data = image.file.read(MAX_UPLOAD_BYTES + 1)
        if len(data) > MAX_UPLOAD_BYTES:
            raise HTTPException(413, f"the picture is larger than {MAX_UPLOAD_BYTES} bytes")
        try:
            pixels = decode(data, image.filename or "image").pixels
        except InputError as error:
            raise HTTPException(422, str(error)) from error
        served = _current(live)
        return {"boxes": detections(served, pixels), "version": served.deployment.version}

    return app


def _current(live: LiveChannel) -> Served:
    """What may be served; the reason code alone goes out, the message with its paths goes to the log."""
    try:
        return live.current()
    except SecpipelineError as error:
        code = error.code if isinstance(error, AttestationError) else "unusable"
        raise HTTPException(503, {"status": "refused", "code": code}) from error


def detections(served: Served, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> list[dict[str, float]]:
    """Boxes inside the picture, in its own pixels, at or above the deployed threshold, best first."""
    frame, placement = letterbox(pixels, served.size)
    found = served.detector.detect(frame[None])[0]
    sure = found.scores >= served.card["threshold"]
    height, width = pixels.shape[:2]
    boxes = from_frame(found.boxes[sure], placement).clip(0, [width, height, width, height])
    rows = zip(boxes.tolist(), found.scores[sure].tolist(), strict=True)
    return [{"x1": b[0], "y1": b[1], "x2": b[2], "y2": b[3], "score": score} for b, score in rows]
