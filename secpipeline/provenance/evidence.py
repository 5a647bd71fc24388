"""Signed evidence, what is current of it, and the log of all of it.

``history/`` holds every envelope ever signed, by SHA-256; ``current/<stage>.json`` names those that count;
``root.layout`` and ``trust.dsse.json`` are the owners' word; the log (:mod:`secpipeline.provenance.log`) has an entry
for each of them.

>>> store = EvidenceStore(Path("build/evidence"))                        # doctest: +SKIP
>>> store.record("train", evidence, ring.signer("log"))                  # doctest: +SKIP
>>> store.current("train") == evidence                                   # doctest: +SKIP
True
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key, Signer

from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.errors import AttestationError
from secpipeline.provenance import envelopes, statements
from secpipeline.provenance.keys import KeyRing
from secpipeline.provenance.layout import StepSpec
from secpipeline.provenance.log import CHECKPOINT, LOG, Log, LogView
from secpipeline.store import write_atomic

LAYOUT = "root.layout"
TRUST = "trust.dsse.json"
RUN, AUTHORITY = "run", "authority"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SignedEvidence:
    """The envelopes of one run of one stage: what was found, and one link for each role that ran it."""

    statement: bytes
    links: tuple[bytes, ...]

    def files(self, stage: str) -> dict[str, str]:
        """SHA-256 of each file that the stage made, by its name within the stage.

        This reads; it does not verify. Use it on evidence that :mod:`secpipeline.provenance.verification` accepted.
        """
        subjects = envelopes.read_unverified(self.statement)["subject"]
        made = [entry for entry in subjects if entry["name"].startswith(f"{stage}/")]
        return {entry["name"].removeprefix(f"{stage}/"): entry["digest"]["sha256"] for entry in made}

    def signers(self) -> frozenset[str]:
        """The key ids that stand in the envelopes; as :meth:`files`, this does not verify."""
        envelope_files = (self.statement, *self.links)
        return frozenset(
            signature["keyid"] for data in envelope_files for signature in envelopes.parse_object(data)["signatures"]
        )

    def digests(self) -> dict[str, Any]:
        """SHA-256 of each envelope, as the log and the pointers write them."""
        return {"statement": sha256_bytes(self.statement), "links": [sha256_bytes(link) for link in self.links]}


def attest(
    ring: KeyRing,
    spec: StepSpec,
    subjects: Mapping[str, str],
    materials: Mapping[str, str],
    predicate: Mapping[str, Any],
    environment: Mapping[str, str],
) -> SignedEvidence:
    """Sign a Statement about ``subjects`` and what the step judges, and a Link of which the Statement is one product.

    So a tool that reads only Links sees the same chain as one that reads attestations. A step that needs a witness is
    not complete before :func:`countersign`.

    Parameters
    ----------
    ring
        Holds the role's key.
    spec
        The step.
    subjects, materials
        SHA-256 by artifact name of what was made and of what was read.
    predicate
        What the Statement says.
    environment
        Versions, kept in the Link.
    """
    signer = ring.signer(spec.role)
    judged = {name: materials[name] for name in spec.about}
    content = statements.statement({**subjects, **judged}, spec.predicate_type, predicate)
    statement = envelopes.sign(canonical_json(content), envelopes.PAYLOAD_TYPE, [signer])
    products = {**subjects, spec.attestation: sha256_bytes(statement)}
    link = {
        "_type": "link",
        "name": spec.name,
        "command": spec.command,
        "materials": _digest_maps(materials),
        "products": _digest_maps(products),
        "byproducts": {"return-value": 0, "stdout": "", "stderr": ""},
        "environment": dict(environment),
    }
    return SignedEvidence(statement, (envelopes.sign(canonical_json(link), envelopes.PAYLOAD_TYPE, [signer]),))


def countersign(
    ring: KeyRing,
    spec: StepSpec,
    evidence: SignedEvidence,
    subjects: Mapping[str, str],
    materials: Mapping[str, str],
    environment: Mapping[str, str],
) -> SignedEvidence:
    """Let the witness sign a Link of its own, if its run read and made the same as the first.

    Parameters
    ----------
    ring
        Holds the witness's key.
    spec
        The step.
    evidence
        Of the first run.
    subjects, materials
        SHA-256 by artifact name, as the witness's own run found them.
    environment
        Versions, kept in the Link.

    Raises
    ------
    AttestationError
        With code ``runs-disagree``, naming the first file that differs.
    """
    link = envelopes.read_unverified(evidence.links[0])
    products = {**subjects, spec.attestation: sha256_bytes(evidence.statement)}
    for mine, theirs in ((_digest_maps(materials), link["materials"]), (_digest_maps(products), link["products"])):
        differing = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
        if differing:
            raise AttestationError(
                "runs-disagree", f"{spec.name}: the second run found another {differing[0]} than the first"
            )
    link["environment"] = dict(environment)
    second = envelopes.sign(canonical_json(link), envelopes.PAYLOAD_TYPE, [ring.signer(spec.witness)])
    return SignedEvidence(evidence.statement, (evidence.links[0], second))


def _digest_maps(files: Mapping[str, str]) -> dict[str, dict[str, str]]:
    return {name: {"sha256": digest} for name, digest in sorted(files.items())}


class EvidenceStore:
    """The evidence of one workspace, or of one deployment.

    Parameters
    ----------
    directory
        Made on first use.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = Log(directory)

    @property
    def layout(self) -> Path:
        """The owners' layout."""
        return self.directory / LAYOUT

    @property
    def trust(self) -> Path:
        """The owners' word about keys and revocations."""
        return self.directory / TRUST

    def record(self, stage: str, evidence: SignedEvidence, log_signer: Signer) -> None:
        """Keep the envelopes for good, log them, and make them the current ones of ``stage``."""
        for data in (evidence.statement, *evidence.links):
            self._keep(data)
        self._append({"kind": RUN, "stage": stage, **evidence.digests()}, log_signer)
        write_atomic(self._pointer(stage), canonical_json(evidence.digests()))

    def record_authority(self, layout: bytes, trust: bytes, origin: str, log_signer: Signer) -> None:
        """Replace the layout and the trust document, and log that these two count from now on.

        ``origin`` is the log's name in the trust document; the first entry of a log gives it to the log.
        """
        for data in (layout, trust):
            self._keep(data)
        entry = {"kind": AUTHORITY, "layout": sha256_bytes(layout), "trust": sha256_bytes(trust)}
        self._append(entry, log_signer, origin)
        write_atomic(self.layout, layout)
        write_atomic(self.trust, trust)

    def current(self, stage: str) -> SignedEvidence | None:
        """The current envelopes of a stage, or none if it never ran.

        Raises
        ------
        AttestationError
            If the pointer or an envelope is missing or damaged.
        """
        path = self._pointer(stage)
        if not path.is_file():
            return None
        evidence = self.find(envelopes.parse_object(envelopes.read_file(path)))
        if evidence is None:
            raise AttestationError(
                "evidence-missing", f"{stage}: an envelope it names is missing or changed in history/"
            )
        return evidence

    def find(self, digests: Mapping[str, Any]) -> SignedEvidence | None:
        """The envelopes with these digests (as :meth:`SignedEvidence.digests`); none if one is missing or changed.

        Raises
        ------
        AttestationError
            With code ``malformed`` if these are no digests.
        """
        names = (digests.get("statement"), *_list(digests.get("links")))
        if len(names) < 2 or not all(isinstance(name, str) for name in names):
            raise AttestationError("malformed", "a statement and its links are named by their SHA-256")
        statement, *links = (self.envelope(str(name)) for name in names)
        if statement is None or None in links:
            return None
        return SignedEvidence(statement, tuple(link for link in links if link is not None))

    def envelope(self, digest: str) -> bytes | None:
        """The envelope with this SHA-256, or none if it is missing or changed."""
        if not _SHA256.fullmatch(digest):
            return None
        path = self._history(digest)
        data = envelopes.read_file(path) if path.is_file() else b""
        return data if sha256_bytes(data) == digest else None

    def read_log(self, keys: Sequence[Key], origin: str) -> LogView:
        """The log, checked; raises as :meth:`secpipeline.provenance.log.Log.read`."""
        return self.log.read(keys, origin)

    def copy_current(self, directory: Path) -> None:
        """Copy the owners' word, the log and the current envelopes: all that verification needs."""
        target = EvidenceStore(directory)
        for name in (LAYOUT, TRUST, LOG, CHECKPOINT):
            write_atomic(directory / name, (self.directory / name).read_bytes())
        for pointer in sorted((self.directory / "current").glob("*.json")):
            evidence = self.current(pointer.stem)
            if evidence is not None:
                for data in (evidence.statement, *evidence.links):
                    target._keep(data)
                write_atomic(target._pointer(pointer.stem), pointer.read_bytes())

    def _keep(self, data: bytes) -> None:
        path = self._history(sha256_bytes(data))
        if not path.is_file() or path.read_bytes() != data:
            write_atomic(path, data, mode=0o444)

    def _append(self, entry: dict[str, Any], log_signer: Signer, origin: str = "") -> None:
        self.log.append({**entry, "time": int(time.time())}, log_signer, origin)

    def _history(self, digest: str) -> Path:
        return self.directory / "history" / digest[:2] / digest[2:]

    def _pointer(self, stage: str) -> Path:
        return self.directory / "current" / f"{stage}.json"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
