"""Serve detections from bytes that were verified, and from no others.

The model is read into memory once, those bytes are verified against the evidence, and the same bytes go to the
inference engine, so nothing can be swapped between check and use.

>>> app = create_app(Path("build/channels/production"), owners, specs)   # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, File, HTTPException, UploadFile
from securesystemslib.signer import SSlibKey

from secpipeline.datasets.decoding import decode
from secpipeline.datasets.loading import from_frame, letterbox
from secpipeline.deployment import channel
from secpipeline.detection.onnx_detector import OnnxDetector
from secpipeline.digests import sha256_bytes
from secpipeline.errors import AttestationError, InputError, IntegrityError
from secpipeline.provenance import envelopes
from secpipeline.provenance.evidence import EvidenceStore
from secpipeline.provenance.layout import StepSpec
from secpipeline.provenance.verification import verify_chain

MAX_UPLOAD_BYTES = 16 << 20


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
    provenance
        What ``/provenance`` answers.
    """

    detector: OnnxDetector
    size: tuple[int, int]
    card: dict[str, Any]
    provenance: dict[str, Any]


def load_verified(directory: Path, owners: Sequence[SSlibKey], specs: Sequence[StepSpec]) -> Served:
    """Read what a channel serves, verify it, and make a detector of the verified bytes.

    Raises
    ------
    InputError
        If nothing is deployed.
    AttestationError
        If the evidence or the bytes do not verify; the message names the file and both digests.
    IntegrityError
        If the model changed between verification and reading.
    """
    activation = channel.current(directory)
    files, evidence = channel.location(directory, activation)
    chain = [spec for spec in specs if spec.name != "monitor"]
    verify_chain(evidence, None, owners, specs, only=[spec.name for spec in chain], files={"deploy": files}).require()
    signed = EvidenceStore(evidence).current("deploy")
    if signed is None:
        raise AttestationError("evidence-missing", f"{evidence}: nothing speaks for this deployment")
    digests = signed.files("deploy")
    content = {name: _read(files / name, digests[name]) for name in ("detector.onnx", "detector.json")}
    card = envelopes.parse_object(content["detector.json"])
    size = (int(card["input_size"][0]), int(card["input_size"][1]))
    provenance = {
        "channel": directory.name,
        "version": activation.version,
        "verified": True,
        "recipe": card["recipe"],
        "files": digests,
        "stages": [{"name": spec.name, "signed_by": spec.role} for spec in chain],
    }
    return Served(OnnxDetector(content["detector.onnx"], size, card["nms_iou"]), size, card, provenance)


def _read(path: Path, digest: str) -> bytes:
    data = path.read_bytes()
    if sha256_bytes(data) != digest:
        raise IntegrityError(str(path), digest, sha256_bytes(data), "activate the deployment again")
    return data


def create_app(directory: Path, owners: Sequence[SSlibKey], specs: Sequence[StepSpec]) -> FastAPI:
    """The HTTP service of one channel; raises as :func:`load_verified` instead of starting on anything unverified."""
    served = load_verified(directory, owners, specs)
    app = FastAPI(title="secpipeline", docs_url=None, redoc_url=None)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok", "version": served.provenance["version"]}

    @app.get("/provenance")
    def provenance() -> dict[str, Any]:
        return served.provenance

    @app.post("/detect")
    def detect(image: Annotated[UploadFile, File(description="a JPEG or PNG picture")]) -> dict[str, Any]:
        data = image.file.read(MAX_UPLOAD_BYTES + 1)
        if len(data) > MAX_UPLOAD_BYTES:
            raise HTTPException(413, f"the picture is larger than {MAX_UPLOAD_BYTES} bytes")
        try:
            pixels = decode(data, image.filename or "image").pixels
        except InputError as error:
            raise HTTPException(422, str(error)) from error
        return {"boxes": detections(served, pixels), "version": served.provenance["version"]}

    return app


def detections(served: Served, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> list[dict[str, float]]:
    """Boxes inside the picture, in its own pixels, at or above the deployed threshold, best first."""
    frame, placement = letterbox(pixels, served.size)
    found = served.detector.detect(frame[None])[0]
    sure = found.scores >= served.card["threshold"]
    height, width = pixels.shape[:2]
    boxes = from_frame(found.boxes[sure], placement).clip(0, [width, height, width, height])
    rows = zip(boxes.tolist(), found.scores[sure].tolist(), strict=True)
    return [{"x1": b[0], "y1": b[1], "x2": b[2], "y2": b[3], "score": score} for b, score in rows]
