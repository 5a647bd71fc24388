"""Everything that a bill says, gathered from verified evidence and from the reports that it covers.

>>> facts = read(evidence, digests, links, Path("build/artifacts"))      # doctest: +SKIP
>>> facts.of(VERDICT, "verdict")                                         # doctest: +SKIP
'pass'
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secpipeline.digests import sha256_bytes
from secpipeline.errors import AttestationError
from secpipeline.provenance import envelopes
from secpipeline.provenance.bill_of_materials.chain import (
    ATTACK,
    AUDIT,
    CURATE,
    DEPLOY,
    EXPORT,
    GATE,
    INGEST,
    TRAIN,
    Step,
    deployment_steps,
)
from secpipeline.provenance.bill_of_materials.environment import training_environment
from secpipeline.provenance.bill_of_materials.lookup import CODE, Payloads, find, get, one_clear_error
from secpipeline.provenance.bill_of_materials.references import reference

CARD, DEPLOYMENT, REPORT = f"{DEPLOY}/detector.json", f"{DEPLOY}/deployment.json", f"{ATTACK}/report.json"
VERDICT, TRAINING, RATES = f"{GATE}/verdict.json", f"{TRAIN}/summary.json", f"{AUDIT}/sources.json"
RAW, CURATED = f"{INGEST}/summary.json", f"{CURATE}/summary.json"
# The reports that a bill is read from; whoever has these beside the evidence can make it again.
DOCUMENTS = (CARD, DEPLOYMENT, REPORT, VERDICT, TRAINING, RATES, RAW, CURATED)
_DATASET = "predicate.buildDefinition.externalParameters.data.dataset"


@dataclass(frozen=True)
class Facts:
    """Everything that a bill says.

    Attributes
    ----------
    steps
        By name the stages that the deployment rests on, each after those whose files it read.
    environment
        What the detector was trained with: versions of Python packages and of the platform, by name.
    synthetic
        Whether the images are rendered scenes.
    documents
        Reports by artifact name, read from files whose SHA-256 the evidence gives.
    """

    steps: Mapping[str, Step]
    environment: Mapping[str, str]
    synthetic: bool
    documents: Payloads

    def of(self, document: str, *path: str) -> Any:
        """What a document says under a path of keys."""
        return get(self.documents[document], document, *path)

    def reference(self, stage: str) -> str:
        """The bom-ref of what a stage made."""
        return reference(self.steps[stage].main)


@one_clear_error()
def read(evidence: Payloads, digests: Mapping[str, str], links: Payloads, artifacts: Path) -> Facts:
    """Gather the facts of the current deployment.

    Parameters
    ----------
    evidence, digests, links
        As for :func:`.chain.deployment_steps`.
    artifacts
        The directory that holds ``<stage>/…``. A file is read only if its bytes have the SHA-256 that the stage's
        Statement gives.

    Raises
    ------
    AttestationError
        With code ``bill-of-materials``: a stage is missing, evidence does not fit together or has an unknown shape, a
        file is missing or changed, or nothing was deployed.
    """
    steps = deployment_steps(evidence, digests, links)
    products = {name: digest for step in steps.values() for name, digest in step.products.items()}
    deployment = _document(artifacts, DEPLOYMENT, products)
    if get(deployment, DEPLOYMENT, "outcome") != "deployed":
        raise AttestationError(CODE, f"{DEPLOYMENT}: nothing was deployed, so there is nothing to list")
    for name in ("detector.onnx", "detector.json"):
        if products.get(f"{DEPLOY}/{name}", "") != products.get(f"{EXPORT}/{name}"):
            raise AttestationError(CODE, f"{DEPLOY}/{name}: is not the file that was attacked, {EXPORT}/{name}")
    return Facts(
        steps=steps,
        environment=training_environment(evidence[TRAIN]),
        synthetic=find(evidence[INGEST], _DATASET) == "synthetic",
        documents={name: _document(artifacts, name, products) for name in DOCUMENTS},
    )


def _document(artifacts: Path, name: str, products: Mapping[str, str]) -> dict[str, Any]:
    """A JSON object, from the very bytes that were signed."""
    path, expected = artifacts / name, products.get(name)
    if expected is None:
        raise AttestationError(CODE, f"{name}: no evidence covers this file, and the bill needs it")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AttestationError(CODE, f"{path}: cannot be read ({error.strerror}); run its stage again") from error
    if (found := sha256_bytes(data)) != expected:
        raise AttestationError(CODE, f"{path}: expected sha256 {expected}, found {found}; run its stage again")
    try:
        return envelopes.parse_object(data)
    except AttestationError as error:
        raise AttestationError(CODE, f"{path}: {error.message}") from error
