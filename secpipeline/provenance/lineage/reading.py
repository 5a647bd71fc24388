"""Reading the lineage graph from the log and the links that it names, each signed by its stage's role.

>>> history = read_history(EvidenceStore(Path("build/evidence")), trust, specs)      # doctest: +SKIP
>>> history.runs[0].stage                                                            # doctest: +SKIP
'ingest'
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from secpipeline.errors import AttestationError
from secpipeline.provenance import envelopes
from secpipeline.provenance.evidence import RUN, EvidenceStore
from secpipeline.provenance.keys import LOG
from secpipeline.provenance.layout import StepSpec
from secpipeline.provenance.lineage.graph import File, History, TracedRun
from secpipeline.provenance.log import TIME_FORMAT
from secpipeline.provenance.trust import Trust, check_log
from secpipeline.provenance.verification import revocation_of

_SHA256 = re.compile(r"[0-9a-f]{64}")


def read_history(store: EvidenceStore, trust: Trust, specs: Sequence[StepSpec]) -> History:
    """Read and check the log and every link in it.

    Parameters
    ----------
    store
        The evidence.
    trust
        Which keys the roles had, and when.
    specs
        The steps of the chain.

    Raises
    ------
    AttestationError
        If the log is broken or older than the trust document, a link is missing, changed, malformed, of no step or of
        another Statement, or not signed by its role's key, or too many runs rest on one another.
    """
    log = store.read_log(trust.keys(LOG), trust.log)
    check_log(log, trust)
    reader = _Reader(store, trust, specs)
    runs: dict[str, TracedRun] = {}
    for number, entry in enumerate(log.entries):
        if entry.get("kind") == RUN:
            run = reader.run(number, entry)
            runs[run.statement] = _merged(runs[run.statement], run) if run.statement in runs else run
    return History(tuple(runs.values()))


class _Reader:
    """Turns entries of the log into runs; each link is opened once, at the first entry that names it."""

    def __init__(self, store: EvidenceStore, trust: Trust, specs: Sequence[StepSpec]) -> None:
        self.store, self.trust = store, trust
        self.specs = {spec.name: spec for spec in specs}
        self.opened: set[tuple[str, str, str]] = set()

    def run(self, number: int, entry: Mapping[str, Any]) -> TracedRun:
        """What one entry says; without what the links say that were opened before."""
        try:
            return self._run(number, entry)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise AttestationError("malformed", f"log entry {number}: cannot be read ({error})") from error

    def _run(self, number: int, entry: Mapping[str, Any]) -> TracedRun:
        stage, statement = entry["stage"], entry["statement"]
        if stage not in self.specs:
            raise AttestationError("link-name", f"{stage}: log entry {number} is of no stage of this chain")
        evidence, roles = self.store.find(entry), self.specs[stage].roles
        if evidence is None:
            raise AttestationError("evidence-missing", f"{stage}: the envelopes of log entry {number} are gone")
        if len(evidence.links) > len(roles):
            raise AttestationError("threshold", f"{stage}: log entry {number} has more links than roles sign")
        time = dt.datetime.fromtimestamp(int(entry["time"]), dt.UTC).strftime(TIME_FORMAT)
        run = TracedRun(stage, statement, (number,), time, frozenset(), frozenset())
        for digest, link, role in zip(entry["links"], evidence.links, roles, strict=False):
            if (stage, statement, digest) not in self.opened:
                self.opened.add((stage, statement, digest))
                run = self._read(run, link, role)
        return run

    def _read(self, run: TracedRun, data: bytes, role: str) -> TracedRun:
        """The run with what a link says."""
        number = run.logged[0]
        link, doubt = self._open(data, role, number)
        if link["name"] != run.stage:
            raise AttestationError("link-name", f"{run.stage}: log entry {number} holds a link of {link['name']!r}")
        materials, products = _files(link["materials"]), _files(link["products"])
        if (self.specs[run.stage].attestation, run.statement) not in products:
            raise AttestationError("link-products", f"{run.stage}: the link in log entry {number} is of another run")
        revoked = self._revoked(materials | products)
        return _merged(run, TracedRun(run.stage, run.statement, (), run.time, materials, products, doubt, revoked))

    def _open(self, data: bytes, role: str, number: int) -> tuple[dict[str, Any], str]:
        """A link and why it is in doubt: what a key signed after its end stays part of the history, and is marked."""
        try:
            return self.trust.open(data, role, number), ""
        except AttestationError as error:
            if error.code not in ("key-retired", "key-revoked"):
                raise
            return envelopes.read_unverified(data), str(error)

    def _revoked(self, files: frozenset[File]) -> str:
        if not self.trust.revoked:
            return ""
        found = (revocation_of(self.trust.revoked, name, digest) for name, digest in sorted(files))
        return next((str(revocation) for revocation in found if revocation), "")


def _merged(known: TracedRun, again: TracedRun) -> TracedRun:
    """One run from what two entries, or two links, say of it: nothing that either names is left out."""
    return replace(
        known,
        logged=known.logged + again.logged,
        materials=known.materials | again.materials,
        products=known.products | again.products,
        doubt=known.doubt or again.doubt,
        revoked=known.revoked or again.revoked,
    )


def _files(recorded: Mapping[str, Mapping[str, str]]) -> frozenset[File]:
    digests = [digests["sha256"] for digests in recorded.values()]
    if not all(map(_SHA256.fullmatch, digests)):
        raise ValueError("a digest is no SHA-256")
    return frozenset(zip(recorded, digests, strict=True))
