"""Walk the chain again from nothing but the owners' public keys.

Checked, and refused with a reason code each: the owners' word on keys and revocations; the layout's signatures, expiry
and content; the log against its checkpoint, and both against what this machine saw before; each step's Statement and
Links, their signers and when those were allowed to sign, their names, command and return value; that digests are
SHA-256 and nothing else; that what a step read is exactly what its inputs' current evidence says was made; that nothing
in it was revoked; and, where the artifacts are at hand, every byte of them. Malformed evidence is a refusal, never a
traceback.

>>> report = verify_chain(EvidenceStore(directory), artifacts, owners, specs)     # doctest: +SKIP
>>> report.require()                                                              # doctest: +SKIP
"""

from __future__ import annotations

import datetime as dt
import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from securesystemslib.exceptions import Error as SslibError
from securesystemslib.signer import SSlibKey

from secpipeline.digests import canonical_json, sha256_bytes, sha256_files
from secpipeline.errors import AttestationError, SecpipelineError
from secpipeline.provenance import envelopes, trust
from secpipeline.provenance.evidence import AUTHORITY, LAYOUT, RUN, EvidenceStore, SignedEvidence
from secpipeline.provenance.keys import LOG
from secpipeline.provenance.layout import StepSpec, render
from secpipeline.provenance.log import Checkpoint, LogView
from secpipeline.provenance.memory import Memory
from secpipeline.provenance.report import Refusal, Report
from secpipeline.provenance.sources import source_of
from secpipeline.provenance.statements import VERIFICATION_SUMMARY
from secpipeline.provenance.steps import Step, check_link, check_statement, check_summary, says_passed
from secpipeline.provenance.trust import OWNER_THRESHOLD, Revocation, Trust

# A checkpoint may be this far ahead of the clock that judges it.
CLOCK_TOLERANCE = dt.timedelta(minutes=5)
_WILDCARD = re.compile(r"[*?\[]")
_T = TypeVar("_T")


def _no_detail(stage: str, name: str) -> str:  # noqa: ARG001 - stands in for an explanation
    return ""


def _hash_all(paths: Sequence[Path]) -> Mapping[Path, str]:
    return dict(zip(paths, sha256_files(paths), strict=True))


@dataclass(frozen=True)
class Expectations:
    """What a verification asks for beyond the chain itself.

    Attributes
    ----------
    memory
        What this machine saw before, or none.
    newer_trust
        A directory of ``*.dsse.json`` trust documents that came by another way than the evidence; the newest counts.
    max_age
        How old the log's checkpoint may be.
    at_least_version
        How many entries the log must have.
    since
        An earlier checkpoint that the log must continue.
    latest
        Whether each step's evidence must be the last that the log has of it. The workspace's is; that of an older
        deployment need not be.
    whole_history
        Whether every envelope that the log names must be there, and not only those that are current.
    now
        The time to judge by; the clock's by default.
    """

    memory: Memory | None = None
    newer_trust: Path | None = None
    max_age: dt.timedelta | None = None
    at_least_version: int | None = None
    latest: bool = True
    since: Checkpoint | None = None
    whole_history: bool = False
    now: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))


def verify_chain(
    evidence: EvidenceStore,
    artifacts: Path | None,
    owners: Sequence[SSlibKey],
    specs: Sequence[StepSpec],
    *,
    only: Sequence[str] | None = None,
    files: Mapping[str, Path] | None = None,
    expect: Expectations | None = None,
    hashes: Callable[[Sequence[Path]], Mapping[Path, str]] = _hash_all,
    explain: Callable[[str, str], str] = _no_detail,
) -> Report:
    """Verify a chain.

    Parameters
    ----------
    evidence
        Where the evidence lies.
    artifacts
        The directory that holds ``<step>/…``, or none to check evidence alone.
    owners
        Trusted public keys; two of them must have signed the layout and the trust document.
    specs
        The steps as they must be.
    only
        Verify these steps (their inputs must be among them); all by default.
    files
        The directory of a step's files where it is not ``artifacts/<step>``.
    expect
        Freshness and revocations.
    hashes
        Returns the SHA-256 of files; by default it reads them.
    explain
        Called with a step and a file whose bytes changed; what it returns is added to the message.
    """
    chosen = [spec for spec in specs if only is None or spec.name in only]
    places = {spec.name: artifacts / spec.name for spec in chosen} if artifacts else {}
    verifier = _Verifier(evidence, owners, specs, chosen, expect or Expectations())
    return verifier.run(artifacts, {**places, **(files or {})}, hashes, explain)


class _Verifier:
    def __init__(
        self,
        store: EvidenceStore,
        owners: Sequence[SSlibKey],
        all_specs: Sequence[StepSpec],
        specs: Sequence[StepSpec],
        expect: Expectations,
    ) -> None:
        self.store, self.owners, self.all_specs, self.specs, self.expect = store, owners, all_specs, specs, expect
        self.refusals: list[Refusal] = []
        self.read: dict[str, tuple[str, str]] = {}
        self.files = 0

    def run(
        self,
        artifacts: Path | None,
        places: Mapping[str, Path],
        hashes: Callable[[Sequence[Path]], Mapping[Path, str]],
        explain: Callable[[str, str], str],
    ) -> Report:
        steps: dict[str, Step] = {}
        log: LogView | None = None
        said: Trust | None = None
        if (documents := self._guard("", self._trust)) is not None:
            said = max(documents, key=lambda document: document.version)
            self._guard("", functools.partial(self._layout, documents[0], said))
            log = self._guard("", functools.partial(self._log, documents[0], said))
            for spec in self.specs:
                if step := self._guard(spec.name, functools.partial(self._step, spec, said, log)):
                    steps[spec.name] = step
                    self._guard(spec.name, functools.partial(self._check_step, spec, step, steps, said.revoked))
        if log is not None and self.expect.whole_history:
            self._guard("", functools.partial(self._check_history, log))
        if artifacts is not None:
            self._guard("", functools.partial(self._check_no_others, artifacts))
        for name, place in places.items():
            if name in steps:
                check = functools.partial(self._check_files, name, place, steps[name].subjects, hashes, explain)
                self._guard(name, check)
        if log is not None and said is not None and self.expect.memory:
            self.expect.memory.remember(log, said)
        return Report(
            tuple(self.refusals),
            tuple(spec.name for spec in self.specs),
            self.files,
            log.checkpoint.size if log else 0,
            {name: step.subjects for name, step in steps.items()},
        )

    def _guard(self, stage: str, check: Callable[[], _T]) -> _T | None:
        """Run one check; whatever is wrong with the evidence becomes a refusal."""
        try:
            return check()
        except AttestationError as error:
            self._refuse(error.code, stage, "", error.message)
        except (SecpipelineError, OSError, SslibError, LookupError, TypeError, ValueError, AttributeError) as error:
            self._refuse("malformed", stage, "", f"{type(error).__name__}: {error}")
        return None

    def _refuse(self, code: str, stage: str, name: str, message: str, expected: str = "", found: str = "") -> None:
        self.refusals.append(Refusal(code, stage, name, message, expected, found))

    def _trust(self) -> list[Trust]:
        """What the owners say: what lies beside the log, then what came by another way."""
        if not self.store.trust.is_file():
            raise AttestationError("trust-missing", f"{self.store.trust}: not there; restore it")
        paths = [self.store.trust]
        if self.expect.newer_trust is not None and self.expect.newer_trust.is_dir():
            paths += sorted(self.expect.newer_trust.glob("*.dsse.json"))
        return [self._read_trust(path) for path in paths]

    def _read_trust(self, path: Path) -> Trust:
        try:
            data = envelopes.read_file(path)
        except AttestationError as error:
            raise AttestationError(f"trust-{error.code}", error.message) from error
        return trust.read(data, self.owners)

    def _layout(self, own: Trust, said: Trust) -> None:
        if not self.store.layout.is_file():
            raise AttestationError("layout-missing", f"{self.store.layout}: not there; run `secpipeline layout`")
        try:
            data = envelopes.read_file(self.store.layout)
            layout = envelopes.verify(data, self.owners, OWNER_THRESHOLD)
        except AttestationError as error:
            raise AttestationError(f"layout-{error.code}", f"the layout is {error.message}") from error
        expires = dt.datetime.strptime(layout["expires"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC)
        if expires <= self.expect.now:
            raise AttestationError("layout-expired", f"the layout expired {expires}; run `secpipeline layout`")
        roles = {role for spec in self.all_specs for role in spec.roles}
        keys = {role: [key for key in said.keys(role) if key.keyid in layout["keys"]] for role in roles}
        strange = set(layout["keys"]) - {key.keyid for found in keys.values() for key in found}
        if strange:
            raise AttestationError("layout-key", f"the layout names the key {min(strange)[:8]}, which is no role's")
        if canonical_json(layout) != canonical_json(render(self.all_specs, keys, expires)):  # 1, 1.0 and true are equal
            raise AttestationError("layout-differs", "the layout is not that of this chain; run `secpipeline layout`")
        if own.subjects != {LAYOUT: sha256_bytes(data)}:
            raise AttestationError("layout-superseded", "the owners signed another layout with the trust document")

    def _log(self, own: Trust, said: Trust) -> LogView:
        log = self.store.read_log(said.keys(LOG), said.log)
        trust.check_log(log, own, said)
        self._check_freshness(log)
        self._check_since(log)
        authority = next((entry for entry in reversed(log.entries) if entry["kind"] == AUTHORITY), None)
        if authority is None:
            raise AttestationError("not-logged", "the log names no layout; run `secpipeline layout`")
        for name, path in (("layout", self.store.layout), ("trust", self.store.trust)):
            if path.is_file() and authority[name] != sha256_bytes(envelopes.read_file(path)):
                raise AttestationError("layout-superseded", f"{path}: the log names another one as the latest")
        if self.expect.memory is not None:
            self.expect.memory.check(log, said)
        return log

    def _check_freshness(self, log: LogView) -> None:
        age = self.expect.now - log.checkpoint.time
        if age < -CLOCK_TOLERANCE:
            raise AttestationError("clock", f"the log was signed at {log.checkpoint.time}, the clock says earlier")
        if self.expect.max_age is not None and age > self.expect.max_age:
            raise AttestationError("too-old", f"the log was signed at {log.checkpoint.time}, {age} ago")
        if self.expect.at_least_version is not None and log.checkpoint.size < self.expect.at_least_version:
            raise AttestationError(
                "too-old", f"the log has {log.checkpoint.size} entries, {self.expect.at_least_version} were asked for"
            )

    def _check_since(self, log: LogView) -> None:
        earlier = self.expect.since
        if earlier is None:
            return
        if log.checkpoint.size < earlier.size:
            raise AttestationError(
                "log-rewound", f"the log has {log.checkpoint.size} entries, the checkpoint {earlier.size}"
            )
        if log.checkpoint.origin != earlier.origin or log.root_at(earlier.size) != earlier.root:
            raise AttestationError("log-forked", "the log does not continue the checkpoint that was given")

    def _step(self, spec: StepSpec, said: Trust, log: LogView | None) -> Step:
        evidence = self.store.current(spec.name)
        if evidence is None:
            raise AttestationError("evidence-missing", f"no evidence yet; run `secpipeline run {spec.name}`")
        entry = self._entry(spec.name, evidence, log)
        if len(evidence.links) != len(spec.roles):
            raise AttestationError(
                "threshold", f"{len(evidence.links)} of {len(spec.roles)} runs, by {' and '.join(spec.roles)}"
            )
        statement = said.open(evidence.statement, spec.role, entry)
        subjects = check_statement(spec, statement)
        materials = [
            check_link(spec, said.open(link, role, entry), subjects, evidence)
            for link, role in zip(evidence.links, spec.roles, strict=True)
        ]
        if any(other != materials[0] for other in materials):
            raise AttestationError("runs-disagree", "its two runs did not read the same")
        if spec.predicate_type == VERIFICATION_SUMMARY:
            check_summary(statement, self._attestations_before(spec))
        own = {name: digest for name, digest in subjects.items() if name not in spec.about}
        return Step(own, materials[0], says_passed(statement))

    def _attestations_before(self, spec: StepSpec) -> dict[str, str]:
        """SHA-256 of the current Statement of every step that ``spec`` rests on, by its name in the chain."""
        wanted = set(spec.inputs)
        for other in reversed(self.all_specs):
            wanted |= set(other.inputs) if other.name in wanted else set()
        found = {other: self.store.current(other.name) for other in self.all_specs if other.name in wanted}
        return {other.attestation: sha256_bytes(signed.statement) for other, signed in found.items() if signed}

    def _entry(self, stage: str, evidence: SignedEvidence, log: LogView | None) -> int:
        """The first entry of the log that holds this evidence."""
        if log is None:
            raise AttestationError("not-logged", "there is no log to find its evidence in")
        wanted, digests = {"kind": RUN, "stage": stage}, evidence.digests().items()
        runs = [number for number, entry in enumerate(log.entries) if wanted.items() <= entry.items()]
        holding = [number for number in runs if digests <= log.entries[number].items()]
        if not holding:
            raise AttestationError("not-logged", "its evidence is not in the log")
        if self.expect.latest and runs[-1] != holding[-1]:
            raise AttestationError("superseded", f"its evidence is that of entry {holding[-1]}, the last is {runs[-1]}")
        return holding[0]

    def _check_step(self, spec: StepSpec, step: Step, steps: Mapping[str, Step], revoked: Sequence[Revocation]) -> None:
        self._check_materials(spec, step, steps)
        self._check_handed_on(spec, step, steps)
        self._check_revocations(spec, step, revoked)

    def _check_materials(self, spec: StepSpec, step: Step, steps: Mapping[str, Step]) -> None:
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
            reader, expected = self.read.setdefault(name, (spec.name, step.materials[name]))
            if step.materials[name] != expected:
                message = f"{spec.name} read another version of it than {reader}; run `secpipeline run`"
                self._refuse("stale", spec.name, name, message, expected, step.materials[name])
        for name in sorted(set(spec.files) - step.materials.keys()):
            if not _WILDCARD.search(name):
                self._refuse("missing-material", spec.name, name, f"{spec.name} does not say that it read this")

    def _check_handed_on(self, spec: StepSpec, step: Step, steps: Mapping[str, Step]) -> None:
        """Whoever hands on what its inputs judged, hands on those very bytes, and only if they passed."""
        for judge in self.specs:
            if judge.name not in spec.inputs or judge.name not in steps:
                continue
            for judged in judge.about:
                name = f"{spec.name}/{judged.rpartition('/')[2]}"
                expected, found = steps[judge.name].materials[judged], step.subjects.get(name)
                if found is not None and found != expected:
                    message = f"is not the {judged} that {judge.name} judged"
                    self._refuse("not-judged", spec.name, name, message, expected, found)
                if found is not None and not steps[judge.name].passed:
                    self._refuse("not-passed", spec.name, name, f"{judge.name} does not say that it passed")

    def _check_revocations(self, spec: StepSpec, step: Step, revoked: Sequence[Revocation]) -> None:
        told = set()
        for name, digest in sorted({**step.materials, **step.subjects}.items()):
            revocation = revocation_of(revoked, name, digest)
            if revocation is not None and revocation not in told:
                told.add(revocation)
                self._refuse("revoked", spec.name, name, str(revocation))

    def _check_history(self, log: LogView) -> None:
        for number, entry in enumerate(log.entries):
            stage = entry.get("stage", "")
            named = [entry[name] for name in ("statement", "layout", "trust") if name in entry]
            for digest in [*named, *entry.get("links", ())]:
                if self.store.envelope(digest) is None:
                    message = f"entry {number} of the log names an envelope that is missing or changed in history/"
                    self._refuse("evidence-missing", stage, "", message, digest)

    def _check_no_others(self, artifacts: Path) -> None:
        for path in sorted(artifacts.iterdir() if artifacts.is_dir() else ()):
            if path.name not in {spec.name for spec in self.all_specs}:
                self._refuse("unexpected-file", "", path.name, "no stage made this")

    def _check_files(
        self,
        stage: str,
        place: Path,
        subjects: Mapping[str, str],
        hashes: Callable[[Sequence[Path]], Mapping[Path, str]],
        explain: Callable[[str, str], str],
    ) -> None:
        expected = {name.removeprefix(f"{stage}/"): digest for name, digest in subjects.items()}
        present = {path.relative_to(place).as_posix(): path for path in _files(place)}
        for name in sorted(present.keys() - expected.keys()):
            self._refuse("unexpected-file", stage, f"{stage}/{name}", "no evidence covers this file")
        plain = {n: p for n, p in present.items() if n in expected and p.is_file() and not p.is_symlink()}
        digests = hashes(list(plain.values()))
        found = {name: digests[path] for name, path in plain.items()}
        self.files += len(found)
        for name, digest in expected.items():
            if found.get(name) != digest:
                code = "changed-file" if name in found else "missing-file"
                what = "its bytes are not those that were signed" if name in found else "it is gone, or no plain file"
                detail = explain(stage, name)
                message = f"{what}; {detail}" if detail else what
                self._refuse(code, stage, f"{stage}/{name}", message, digest, found.get(name, ""))


def _files(directory: Path) -> Iterator[Path]:
    """Every file and every link below a directory that is none itself.

    Links are not followed: what they lead to can change. A stack, because a hostile tree is deeper than Python can
    recurse.
    """
    pending = [directory] if directory.is_dir() and not directory.is_symlink() else []
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                else:
                    yield Path(entry.path)


def revocation_of(revoked: Sequence[Revocation], name: str, digest: str) -> Revocation | None:
    """The revocation that forbids an artifact, by its name for a source and by its digest for the rest; or none."""
    source = source_of(name)
    for revocation in revoked:
        if revocation.name == (source if revocation.kind == trust.SOURCE else digest):
            return revocation
    return None
