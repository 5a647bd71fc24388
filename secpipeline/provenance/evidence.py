"""Signed evidence, what is current of it, and the log of all of it.

``history/`` holds every Statement and Link ever signed, by SHA-256; ``current/<stage>.json`` names the two that count;
``log.jsonl`` is append-only, each line carrying the SHA-256 of the line before it.

>>> import tempfile
>>> store = EvidenceStore(Path(tempfile.mkdtemp()))
>>> store.record("train", SignedEvidence(b'{"payload":""}', b"{}"))
>>> store.current("train") == SignedEvidence(b'{"payload":""}', b"{}")
True
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.errors import AttestationError
from secpipeline.provenance import envelopes, statements
from secpipeline.provenance.keys import KeyRing
from secpipeline.provenance.layout import StepSpec
from secpipeline.store import write_atomic

LAYOUT = "root.layout"
LOG = "log.jsonl"


@dataclass(frozen=True)
class SignedEvidence:
    """The two envelopes of one run of one stage."""

    statement: bytes
    link: bytes

    def files(self, stage: str) -> dict[str, str]:
        """SHA-256 of each file that the Statement is about, by its name within the stage.

        This reads; it does not verify. Use it on evidence that :mod:`secpipeline.provenance.verification` accepted.
        """
        payload = envelopes.read_unverified(self.statement)
        return {entry["name"].removeprefix(f"{stage}/"): entry["digest"]["sha256"] for entry in payload["subject"]}


def attest(
    ring: KeyRing,
    spec: StepSpec,
    subjects: Mapping[str, str],
    materials: Mapping[str, str],
    predicate: Mapping[str, Any],
    environment: Mapping[str, str],
) -> SignedEvidence:
    """Sign a Statement about ``subjects``, and a Link of which the Statement is one product.

    So a tool that reads only Links sees the same chain as one that reads attestations.

    Parameters
    ----------
    ring
        Holds the role's key.
    spec
        The step.
    subjects, materials
        SHA-256 by artifact name.
    predicate
        What the Statement says.
    environment
        Versions, kept in the Link.
    """
    signer = ring.signer(spec.role)
    content = statements.statement(subjects, spec.predicate_type, predicate)
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
    return SignedEvidence(statement, envelopes.sign(canonical_json(link), envelopes.PAYLOAD_TYPE, [signer]))


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
        self.log = directory / LOG
        self.layout = directory / LAYOUT

    def record(self, stage: str, evidence: SignedEvidence) -> None:
        """Keep the envelopes for good, log them, and make them the current ones of ``stage``."""
        pointer = {}
        for name, data in (("statement", evidence.statement), ("link", evidence.link)):
            pointer[name] = sha256_bytes(data)
            path = self._history(pointer[name])
            if not path.is_file() or sha256_bytes(path.read_bytes()) != pointer[name]:
                write_atomic(path, data, mode=0o444)
        self._append({"stage": stage, **pointer, "time": int(time.time())})
        write_atomic(self._pointer(stage), canonical_json(pointer))

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
        pointer = envelopes.parse_object(path.read_bytes())
        try:
            evidence = self.find(pointer["statement"], pointer["link"])
        except (KeyError, TypeError) as error:
            raise AttestationError("malformed", f"{path}: does not name a statement and a link") from error
        if evidence is None:
            raise AttestationError(
                "evidence-missing", f"{stage}: an envelope it names is missing or changed in history/"
            )
        return evidence

    def find(self, statement: str, link: str) -> SignedEvidence | None:
        """The envelopes with these digests, or none if either is missing or changed."""
        found = []
        for digest in (statement, link):
            path = self._history(digest)
            data = path.read_bytes() if path.is_file() else b""
            if sha256_bytes(data) != digest:
                return None
            found.append(data)
        return SignedEvidence(*found)

    def entries(self) -> list[dict[str, Any]]:
        """Every entry of the log, its chain of digests checked.

        Raises
        ------
        AttestationError
            With code ``log`` if a line was changed, removed, reordered or is not an entry.
        """
        previous, found = "", []
        for number, line in enumerate(self._lines()):
            try:
                entry = envelopes.parse_object(line)
            except AttestationError as error:
                raise AttestationError("log", f"{self.log}: line {number + 1} is damaged ({error})") from error
            if entry.get("index") != number or entry.get("previous") != previous:
                raise AttestationError("log", f"{self.log}: line {number + 1} does not follow the line before it")
            previous = sha256_bytes(line)
            found.append(entry)
        return found

    def copy_current(self, directory: Path) -> None:
        """Copy the layout, the log and the current envelopes: all that verification needs."""
        target = EvidenceStore(directory)
        write_atomic(target.layout, self.layout.read_bytes())
        write_atomic(target.log, b"".join(self._lines()))
        for pointer in sorted((self.directory / "current").glob("*.json")):
            evidence = self.current(pointer.stem)
            if evidence is not None:
                for data in (evidence.statement, evidence.link):
                    write_atomic(target._history(sha256_bytes(data)), data, mode=0o444)
                write_atomic(target._pointer(pointer.stem), pointer.read_bytes())

    def _lines(self) -> list[bytes]:
        """Complete lines; a last line that a crash cut short was never acknowledged and does not count."""
        data = self.log.read_bytes() if self.log.is_file() else b""
        return [line for line in data.splitlines(keepends=True) if line.endswith(b"\n")]

    def _append(self, entry: dict[str, Any]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            lines = self._lines()
            file.truncate(sum(len(line) for line in lines))
            previous = sha256_bytes(lines[-1]) if lines else ""
            file.write(canonical_json({"index": len(lines), "previous": previous, **entry}))
            file.flush()
            os.fsync(file.fileno())

    def _history(self, digest: str) -> Path:
        return self.directory / "history" / digest[:2] / digest[2:]

    def _pointer(self, stage: str) -> Path:
        return self.directory / "current" / f"{stage}.json"
