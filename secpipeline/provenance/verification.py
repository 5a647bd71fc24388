"""Walk the chain again from nothing but the owners' public keys.

Checked, and refused with a reason code each: the layout's signatures, expiry and content; each step's Statement and
Link, their signatures, names, command and return value; that digests are SHA-256 and nothing else; that what a step
read is exactly what its inputs' current evidence says was made; that the log is unbroken and holds this evidence; and,
where the artifacts are at hand, every byte of them. Malformed evidence is a refusal, never a traceback.

>>> report = verify_chain(evidence_dir, artifacts, owners, specs)        # doctest: +SKIP
>>> report.require()                                                     # doctest: +SKIP
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from securesystemslib.exceptions import FormatError
from securesystemslib.signer import SSlibKey

from secpipeline.digests import sha256_bytes, sha256_file
from secpipeline.errors import AttestationError, SecpipelineError
from secpipeline.provenance import envelopes
from secpipeline.provenance.evidence import EvidenceStore, SignedEvidence
from secpipeline.provenance.layout import OWNER_THRESHOLD, StepSpec, render
from secpipeline.provenance.statements import STATEMENT_TYPE

_SHA256 = re.compile(r"\A[0-9a-f]{64}\Z")
_HASHING_THREADS = 4


@dataclass(frozen=True)
class Refusal:
    """One reason not to trust.

    Attributes
    ----------
    code
        Stable, kebab-case.
    stage
        Where, or "" for the chain as a whole.
    name
        The file, or "".
    message
        For people.
    expected, found
        SHA-256 in hex where bytes differ, else "".
    """

    code: str
    stage: str
    name: str
    message: str
    expected: str = ""
    found: str = ""

    def __str__(self) -> str:
        digests = f" (expected sha256 {self.expected}, found {self.found or 'nothing'})" if self.expected else ""
        where = self.name or self.stage
        return f"[{self.code}] {where + ': ' if where else ''}{self.message}{digests}"


@dataclass(frozen=True)
class Report:
    """The outcome of one verification.

    Attributes
    ----------
    refusals
        Everything that was wrong; empty means verified.
    steps
        The steps that were looked at.
    files
        How many files were hashed again.
    """

    refusals: tuple[Refusal, ...]
    steps: tuple[str, ...]
    files: int

    @property
    def ok(self) -> bool:
        """Nothing was refused, and something was checked."""
        return not self.refusals and bool(self.steps)

    def require(self) -> None:
        """Raise :class:`AttestationError` with every refusal unless all is well."""
        if not self.steps:
            raise AttestationError("evidence-missing", "there is no evidence to verify")
        if self.refusals:
            rest = "".join(f"\n  {refusal}" for refusal in self.refusals[1:])
            first = self.refusals[0]
            raise AttestationError(first.code, str(first).removeprefix(f"[{first.code}] ") + rest)

    def text(self) -> str:
        """A table for people."""
        bad = {refusal.stage for refusal in self.refusals}
        lines = [f"  {step:14} {'REFUSED' if step in bad else 'ok'}" for step in self.steps]
        return "\n".join([*lines, *(f"  {refusal}" for refusal in self.refusals)])

    def to_json(self) -> dict[str, Any]:
        """The same for tools."""
        return {
            "ok": self.ok,
            "steps": list(self.steps),
            "files": self.files,
            "refusals": [vars(refusal) for refusal in self.refusals],
        }


@dataclass(frozen=True)
class _Step:
    """What a step's evidence says once it was checked."""

    subjects: Mapping[str, str]
    materials: Mapping[str, str]


def verify_chain(
    evidence_dir: Path,
    artifacts: Path | None,
    owners: Sequence[SSlibKey],
    specs: Sequence[StepSpec],
    *,
    only: Sequence[str] | None = None,
    files: Mapping[str, Path] | None = None,
    now: dt.datetime | None = None,
    explain: Callable[[str, str], str] | None = None,
) -> Report:
    """Verify a chain.

    Parameters
    ----------
    evidence_dir
        An evidence store.
    artifacts
        The directory that holds ``<step>/…``, or none to check evidence alone.
    owners
        Trusted public keys; two of them must have signed the layout.
    specs
        The steps as they must be.
    only
        Verify these steps (their inputs must be among them); all by default.
    files
        The directory of a step's files where it is not ``artifacts/<step>``.
    now
        The time to judge expiry by; the clock's by default.
    explain
        Called with a step and a file whose bytes changed; what it returns is added to the message.
    """
    return _Verifier(EvidenceStore(evidence_dir), artifacts, owners, specs, only, files or {}, now, explain).run()


class _Verifier:
    def __init__(
        self,
        store: EvidenceStore,
        artifacts: Path | None,
        owners: Sequence[SSlibKey],
        specs: Sequence[StepSpec],
        only: Sequence[str] | None,
        files: Mapping[str, Path],
        now: dt.datetime | None,
        explain: Callable[[str, str], str] | None,
    ) -> None:
        self.store, self.owners, self.all_specs = store, owners, specs
        self.specs = [spec for spec in specs if only is None or spec.name in only]
        self.places = {spec.name: artifacts / spec.name for spec in self.specs} if artifacts else {}
        self.places |= files
        self.now = now or dt.datetime.now(dt.UTC)
        self.explain = explain or _no_detail
        self.refusals: list[Refusal] = []
        self.hashed = 0

    def run(self) -> Report:
        keys = self._guard("", self._layout_keys)
        logged = self._guard("", self._logged)
        steps: dict[str, _Step] = {}
        for spec in self.specs:
            if keys is not None and (step := self._guard(spec.name, partial(self._step, spec, keys, logged))):
                steps[spec.name] = step
                self._check_materials(spec, step, steps)
        for name, place in self.places.items():
            if name in steps:
                self._guard(name, partial(self._check_files, name, place, steps[name].subjects))
        return Report(tuple(self.refusals), tuple(spec.name for spec in self.specs), self.hashed)

    def _guard(self, stage: str, check: Callable[[], Any]) -> Any:
        """Run one check; whatever is wrong with the evidence becomes a refusal."""
        try:
            return check()
        except AttestationError as error:
            self._refuse(error.code, stage, "", str(error).partition("] ")[2])
        except (SecpipelineError, OSError, FormatError, KeyError, TypeError, ValueError, AttributeError) as error:
            self._refuse("malformed", stage, "", f"{type(error).__name__}: {error}")
        return None

    def _refuse(self, code: str, stage: str, name: str, message: str, expected: str = "", found: str = "") -> None:
        self.refusals.append(Refusal(code, stage, name, message, expected, found))

    def _layout_keys(self) -> dict[str, SSlibKey]:
        """The step keys by role that the owners' layout names, once the layout itself stands."""
        if not self.store.layout.is_file():
            raise AttestationError("layout-missing", f"{self.store.layout}: not there; run `secpipeline layout`")
        try:
            layout = envelopes.verify(self.store.layout.read_bytes(), self.owners, OWNER_THRESHOLD)
        except AttestationError as error:
            raise AttestationError(f"layout-{error.code}", f"the layout is {str(error).partition('] ')[2]}") from error
        expires = dt.datetime.strptime(layout["expires"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC)
        if expires <= self.now:
            raise AttestationError("layout-expired", f"the layout expired {expires}; run `secpipeline layout`")
        keys: dict[str, SSlibKey] = {}
        for step, spec in zip(layout["steps"], self.all_specs, strict=False):
            (keyid,) = step["pubkeys"]
            declared = layout["keys"][keyid]
            key = SSlibKey(keyid, declared["keytype"], declared["scheme"], declared["keyval"])
            if keys.setdefault(spec.role, key) != key:
                raise AttestationError("layout-differs", f"the layout gives the role {spec.role} two keys")
        if len({key.keyval["public"] for key in keys.values()}) != len(keys):
            raise AttestationError("layout-differs", "the layout gives two roles one key")
        if layout != render(self.all_specs, keys, expires):
            raise AttestationError("layout-differs", "the layout is not that of this chain; run `secpipeline layout`")
        return keys

    def _logged(self) -> set[tuple[str, str, str]]:
        return {(entry["stage"], entry["statement"], entry["link"]) for entry in self.store.entries()}

    def _step(self, spec: StepSpec, keys: Mapping[str, SSlibKey], logged: set[tuple[str, str, str]] | None) -> _Step:
        evidence = self.store.current(spec.name)
        if evidence is None:
            raise AttestationError("evidence-missing", f"no evidence yet; run `secpipeline run {spec.name}`")
        entry = (spec.name, sha256_bytes(evidence.statement), sha256_bytes(evidence.link))
        if logged is not None and entry not in logged:
            raise AttestationError("not-logged", "its evidence is not in the log")
        statement = envelopes.verify(evidence.statement, [keys[spec.role]], 1)
        link = envelopes.verify(evidence.link, [keys[spec.role]], 1)
        subjects = _check_statement(spec, statement)
        return _Step(subjects, _check_link(spec, link, subjects, evidence))

    def _check_materials(self, spec: StepSpec, step: _Step, steps: Mapping[str, _Step]) -> None:
        made: dict[str, str] = {}
        for name in spec.inputs:
            if name not in steps:
                self._refuse("input-unverified", spec.name, "", f"its input {name} is not verified")
                return
            made |= steps[name].subjects
        used = {n: d for n, d in step.materials.items() if n in made or n.partition("/")[0] in spec.inputs}
        for name in sorted(made.keys() | used.keys()):
            expected, found = made.get(name, ""), used.get(name, "")
            if expected != found:
                message = (
                    f"{spec.name} read another version of {name} than is current; run `secpipeline run {spec.name}`"
                )
                self._refuse("stale", spec.name, name, message, expected, found)
        for name in sorted(step.materials.keys() - used.keys()):
            if not any(fnmatchcase(name, pattern) for pattern in spec.files):
                self._refuse("undeclared-material", spec.name, name, f"{spec.name} must not read this")

    def _check_files(self, stage: str, place: Path, subjects: Mapping[str, str]) -> None:
        expected = {name.removeprefix(f"{stage}/"): digest for name, digest in subjects.items()}
        present = {path.relative_to(place).as_posix(): path for path in place.rglob("*") if not path.is_dir()}
        for name in sorted(present.keys() - expected.keys()):
            self._refuse("unexpected-file", stage, f"{stage}/{name}", "no evidence covers this file")
        plain = {n: p for n, p in present.items() if n in expected and p.is_file() and not p.is_symlink()}
        with ThreadPoolExecutor(_HASHING_THREADS) as pool:
            found = dict(zip(plain, pool.map(sha256_file, plain.values()), strict=True))
        self.hashed += len(found)
        for name, digest in expected.items():
            if found.get(name) != digest:
                code = "changed-file" if name in found else "missing-file"
                what = "its bytes are not those that were signed" if name in found else "it is gone, or no plain file"
                detail = self.explain(stage, name)
                message = f"{what}; {detail}" if detail else what
                self._refuse(code, stage, f"{stage}/{name}", message, digest, found.get(name, ""))


def _no_detail(stage: str, name: str) -> str:  # noqa: ARG001 - stands in for an explanation
    return ""


def _check_statement(spec: StepSpec, statement: Mapping[str, Any]) -> dict[str, str]:
    if statement.get("_type") != STATEMENT_TYPE or set(statement) != {"_type", "subject", "predicateType", "predicate"}:
        raise AttestationError("statement-type", "not an in-toto Statement v1")
    if statement["predicateType"] != spec.predicate_type:
        raise AttestationError("predicate-type", f"says {statement['predicateType']}, expected {spec.predicate_type}")
    subjects: dict[str, str] = {}
    for entry in statement["subject"]:
        name, digest = entry["name"], _only_sha256(entry["name"], entry["digest"])
        if name in subjects or not name.startswith(f"{spec.name}/"):
            raise AttestationError("subject", f"{name}: named twice, or not a product of {spec.name}")
        subjects[name] = digest
    if not subjects:
        raise AttestationError("subject", "the Statement is about nothing")
    return subjects


def _check_link(
    spec: StepSpec, link: Mapping[str, Any], subjects: Mapping[str, str], evidence: SignedEvidence
) -> dict[str, str]:
    if link.get("_type") != "link":
        raise AttestationError("link-type", "not an in-toto link")
    if link["name"] != spec.name:
        raise AttestationError("link-name", f"the link belongs to the step {link['name']!r}")
    if link["command"] != spec.command:
        raise AttestationError("link-command", f"the command was {link['command']}, expected {spec.command}")
    returned = link["byproducts"]["return-value"]
    if returned != 0 or isinstance(returned, bool):
        raise AttestationError("link-return-value", f"the command returned {returned}")
    products = {name: _only_sha256(name, digest) for name, digest in link["products"].items()}
    if products != {**subjects, spec.attestation: sha256_bytes(evidence.statement)}:
        raise AttestationError("link-products", "the link and the Statement are not about the same files")
    return {name: _only_sha256(name, digest) for name, digest in link["materials"].items()}


def _only_sha256(name: str, digests: Mapping[str, str]) -> str:
    if set(digests) != {"sha256"} or not _SHA256.match(digests["sha256"]):
        raise AttestationError("digest", f"{name}: needs one sha256 digest and no other, has {sorted(digests)}")
    return digests["sha256"]
