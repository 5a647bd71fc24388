"""Where a file came from, and what came from it, read from signed links alone.

Every run that was ever logged is a node, also those whose outputs are no longer the current ones. A run rests on the
one that was the last, before it was logged, to make the bytes it read under that name.

Whose images a deployment contains has two answers: those that were in the release which the chain took in, and those
that curation left in for training. :class:`Contribution` keeps them apart.

>>> history = History.read(EvidenceStore(Path("build/evidence")), trust, specs)     # doctest: +SKIP
>>> print(tree(history.upstream(history.makers("1004ff18e902"))))                    # doctest: +SKIP
deploy 095aa7ce2956 2026-11-24T07:47:26Z
└─ release ...
>>> phases = Phases("ingest", "curate", "deploy/detector.onnx")
>>> print(table(history.contributions("vendor-c", "8d0c41aa", phases=phases)))       # doctest: +SKIP
deploy 095aa7ce2956 2026-11-24T07:47:26Z  detector 1004ff18e902  delivered, not trained on
"""

from __future__ import annotations

import bisect
import datetime as dt
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance import envelopes
from secpipeline.provenance.evidence import RUN, EvidenceStore
from secpipeline.provenance.keys import LOG
from secpipeline.provenance.layout import StepSpec
from secpipeline.provenance.log import TIME_FORMAT
from secpipeline.provenance.sources import manifest_name, source_of
from secpipeline.provenance.trust import Trust, check_log
from secpipeline.provenance.verification import revocation_of

# No chain has nearly as many stages; more can only be meant to exhaust a reader.
MAX_DEPTH = 100
_DIGEST = re.compile(r"[0-9a-f]{8,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

File = tuple[str, str]  # artifact name and SHA-256


@dataclass(frozen=True)
class TracedRun:
    """One signed run of one stage.

    Attributes
    ----------
    stage
        Which stage.
    statement
        SHA-256 of its Statement's envelope; names the run.
    logged
        The lines of the log, counted from 0, that made it current.
    time
        When it was first logged, RFC 3339 in UTC.
    materials, products
        What it read and made.
    doubt
        Why its signature counts no longer, because its key was revoked before; empty if it counts.
    revoked
        What of the things that it read or made the owners revoked, and why; empty if none.
    """

    stage: str
    statement: str
    logged: tuple[int, ...]
    time: str
    materials: frozenset[File]
    products: frozenset[File]
    doubt: str = ""
    revoked: str = ""

    @property
    def files(self) -> frozenset[File]:
        """What it read and made."""
        return self.materials | self.products


@dataclass(frozen=True)
class Branch:
    """A run and the runs that hang on it; ``repeated`` if its own branches are shown elsewhere in the tree."""

    run: TracedRun
    branches: tuple[Branch, ...]
    repeated: bool = False

    def to_json(self) -> dict[str, Any]:
        """The same for tools; ``runs`` hold the branches."""
        head = {"stage": self.run.stage, "statement": self.run.statement, "time": self.run.time}
        head |= {name: why for name in ("doubt", "revoked") if (why := getattr(self.run, name))}
        return {**head, "repeated": self.repeated, "runs": [branch.to_json() for branch in self.branches]}


@dataclass(frozen=True)
class Phases:
    """Which parts of a chain a question about deployments is about, by their names.

    Attributes
    ----------
    intake
        The stage that takes in what the sources delivered.
    curation
        The stage that chooses from it what is trained on.
    deployed
        The artifact that a deployment hands on; a run that did not make it has deployed nothing.
    """

    intake: str
    curation: str
    deployed: str


@dataclass(frozen=True)
class Contribution:
    """How one source's images came into one deployment.

    Attributes
    ----------
    deployment
        The run that deployed.
    detector
        SHA-256 of what it deployed.
    releases
        SHA-256 of the manifest of each release that it rests on and that the source delivered to.
    delivered
        Whether the source's images were in a release that the chain took in.
    trained_on
        Whether they were still in the curated release that it rests on.
    against
        Why the deployment must not be relied on (:meth:`History.against`); empty if nothing is known.
    """

    deployment: TracedRun
    detector: str
    releases: tuple[str, ...]
    delivered: bool
    trained_on: bool
    against: str = ""

    def to_json(self) -> dict[str, Any]:
        """The same for tools."""
        return {
            "stage": self.deployment.stage,
            "statement": self.deployment.statement,
            "time": self.deployment.time,
            "detector": self.detector,
            "releases": list(self.releases),
            "delivered": self.delivered,
            "trainedOn": self.trained_on,
            "against": self.against,
        }

    def __str__(self) -> str:
        run = self.deployment
        ways = f"{'' if self.delivered else 'not '}delivered, {'' if self.trained_on else 'not '}trained on"
        warning = f"  {self.against}" if self.against else ""
        return f"{run.stage} {run.statement[:12]} {run.time}  detector {self.detector[:12]}  {ways}{warning}"


class History:
    """Every logged run whose link its stage's role has signed.

    Parameters
    ----------
    runs
        In the order in which they were first logged.

    Raises
    ------
    AttestationError
        If more than a hundred runs rest on one another.
    """

    def __init__(self, runs: Sequence[TracedRun]) -> None:
        self.runs = tuple(runs)
        makers = _makers(self.runs)
        self._parents = {run.statement: _parents(run, makers) for run in self.runs}
        self._children: dict[str, list[TracedRun]] = {run.statement: [] for run in self.runs}
        self._blemished: dict[str, TracedRun] = {}
        depths: dict[str, int] = {}
        for run in self.runs:
            parents = self._parents[run.statement]
            for parent in parents:
                self._children[parent.statement].append(run)
            blemished = [self._blemished[parent.statement] for parent in parents if parent.statement in self._blemished]
            if run.doubt or run.revoked or blemished:
                self._blemished[run.statement] = run if run.doubt or run.revoked else blemished[0]
            depths[run.statement] = 1 + max((depths[parent.statement] for parent in parents), default=0)
            if depths[run.statement] > MAX_DEPTH:
                raise AttestationError("malformed", f"{run.stage}: more than {MAX_DEPTH} runs rest on one another")

    @classmethod
    def read(cls, store: EvidenceStore, trust: Trust, specs: Sequence[StepSpec]) -> History:
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
            If the log is broken or older than the trust document, or a link is missing, changed, malformed, of no
            step or of another Statement, or not signed by its role's key.
        """
        log = store.read_log(trust.keys(LOG), trust.log)
        check_log(log, trust)
        reader = _Reader(store, trust, specs)
        runs: dict[str, TracedRun] = {}
        for number, entry in enumerate(log.entries):
            if entry.get("kind") == RUN:
                run = reader.run(number, entry)
                runs[run.statement] = _merged(runs[run.statement], run) if run.statement in runs else run
        return cls(tuple(runs.values()))

    def makers(self, prefix: str) -> tuple[TracedRun, ...]:
        """The runs that made a file with this SHA-256, oldest first; eight hex digits or more are enough.

        Raises
        ------
        InputError
            If it is no digest, or nobody made such a file.
        """
        _check_digest(prefix)
        found = tuple(run for run in self.runs if any(digest.startswith(prefix) for _, digest in run.products))
        if not found:
            raise InputError(f"{prefix}: no signed run made a file with this SHA-256")
        return found

    def touched(self, prefix: str) -> tuple[TracedRun, ...]:
        """The runs that read or made a file with this SHA-256, oldest first; eight hex digits or more are enough.

        Raises
        ------
        InputError
            If it is no digest; that nobody touched such a file is an answer.
        """
        _check_digest(prefix)
        return tuple(run for run in self.runs if any(digest.startswith(prefix) for _, digest in run.files))

    def contributed(self, source: str, release: str = "") -> tuple[TracedRun, ...]:
        """The runs that handed on images of a source, oldest first; those of one release, by its digest, if given.

        Parameters
        ----------
        source
            Its name.
        release
            The SHA-256 of the release's manifest, or its first eight hex digits or more.

        Raises
        ------
        InputError
            If there is none.
        """
        if release:
            _check_digest(release)
        runs = tuple(
            run
            for run in self.runs
            if any(source_of(name) == source for name, _ in run.products)
            and any(digest.startswith(release) for digest in _releases(run) or ("",))
        )
        if not runs:
            where = f" in the release {release}" if release else ""
            raise InputError(f"{source}: no signed run handed on images of this source{where}")
        return runs

    def contributions(self, source: str, release: str = "", *, phases: Phases) -> tuple[Contribution, ...]:
        """The deployments that rest on images of a source, oldest first; on those of one release if given.

        Parameters
        ----------
        source, release
            As :meth:`contributed`.
        phases
            The stages that the question is about.

        Raises
        ------
        InputError
            If the source contributed nothing; that nothing of it was deployed is an answer.
        """
        reached = self.reached(self.contributed(source, release))
        return tuple(
            self._contribution(run, digest, manifest_name(source), phases)
            for run in reached
            for name, digest in sorted(run.products)
            if name == phases.deployed
        )

    def _contribution(self, run: TracedRun, detector: str, manifest: str, phases: Phases) -> Contribution:
        origins = self.origins([run])
        delivered = [one for one in origins if _names(one.files, f"{phases.intake}/{manifest}")]
        return Contribution(
            deployment=run,
            detector=detector,
            releases=tuple(digest for one in delivered if one.stage == phases.intake for digest in _releases(one)),
            delivered=bool(delivered),
            # Whoever read it says so, not only who trained: a trainer that leaves it out of its link hides nothing.
            trained_on=any(_names(one.files, f"{phases.curation}/{manifest}") for one in origins),
            against=self.against(run),
        )

    def parents(self, run: TracedRun) -> tuple[TracedRun, ...]:
        """The runs that made what a run read, in the order in which they were logged."""
        return tuple(self._parents[run.statement])

    def reached(self, runs: Sequence[TracedRun], stage: str = "") -> tuple[TracedRun, ...]:
        """The runs themselves and all that rests on them, oldest first; those of one stage if it is given."""
        return self._closure(runs, self._children, stage)

    def origins(self, runs: Sequence[TracedRun], stage: str = "") -> tuple[TracedRun, ...]:
        """The runs themselves and all that they rest on, oldest first; those of one stage if it is given."""
        return self._closure(runs, self._parents, stage)

    def against(self, run: TracedRun) -> str:
        """Why a run must not be relied on: something against it, or against one that it rests on; empty if nothing."""
        blemished = self._blemished.get(run.statement)
        if blemished is None:
            return ""
        why = blemished.doubt or blemished.revoked
        return (
            why
            if blemished.statement == run.statement
            else f"rests on {blemished.stage} {blemished.statement[:12]}: {why}"
        )

    def _closure(
        self, runs: Sequence[TracedRun], on: Mapping[str, Sequence[TracedRun]], stage: str
    ) -> tuple[TracedRun, ...]:
        found: set[str] = set()
        waiting = list(runs)
        while waiting:
            run = waiting.pop()
            if run.statement not in found:
                found.add(run.statement)
                waiting += on[run.statement]
        return tuple(run for run in self.runs if run.statement in found and stage in ("", run.stage))

    def upstream(self, runs: Sequence[TracedRun]) -> tuple[Branch, ...]:
        """What the runs rest on, as one tree a run."""
        return self._grow(runs, self._parents)

    def downstream(self, runs: Sequence[TracedRun]) -> tuple[Branch, ...]:
        """What rests on the runs, as one tree a run."""
        return self._grow(runs, self._children)

    def _grow(self, roots: Sequence[TracedRun], on: Mapping[str, Sequence[TracedRun]]) -> tuple[Branch, ...]:
        shown: set[str] = set()

        def grow(run: TracedRun) -> Branch:
            if run.statement in shown:
                return Branch(run, (), repeated=bool(on[run.statement]))
            shown.add(run.statement)
            return Branch(run, tuple(grow(other) for other in on[run.statement]))

        return tuple(grow(run) for run in roots)


def _makers(runs: Sequence[TracedRun]) -> dict[File, list[tuple[int, TracedRun]]]:
    """The runs that made each file, by the entries of the log that made them current."""
    makers: dict[File, list[tuple[int, TracedRun]]] = {}
    for run in runs:
        for file in run.products:
            makers.setdefault(file, []).extend((entry, run) for entry in run.logged)
    for logged in makers.values():
        logged.sort(key=_entry)
    return makers


def _parents(run: TracedRun, makers: Mapping[File, Sequence[tuple[int, TracedRun]]]) -> list[TracedRun]:
    """The last makers of what a run read before it was logged, each once, in the order in which they were logged."""
    found: dict[str, tuple[int, TracedRun]] = {}
    for file in run.materials:
        logged = makers.get(file, ())
        before = bisect.bisect_left(logged, run.logged[0], key=_entry)
        if before:
            entry, maker = logged[before - 1]
            found[maker.statement] = max((entry, maker), found.get(maker.statement, (-1, maker)), key=_entry)
    return [maker for _, maker in sorted(found.values(), key=_entry)]


def _entry(logged: tuple[int, TracedRun]) -> int:
    return logged[0]


def _check_digest(prefix: str) -> None:
    if not _DIGEST.fullmatch(prefix):
        raise InputError(f"{prefix}: not a SHA-256; give 8 to 64 lower-case hex digits, or a file")


def _releases(run: TracedRun) -> tuple[str, ...]:
    """The releases that a run made, each by the SHA-256 of its manifest."""
    return tuple(sorted(digest for name, digest in run.products if name.endswith("/dataset.sha256")))


def _names(files: frozenset[File], wanted: str) -> bool:
    return any(name == wanted for name, _ in files)


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


def table(contributions: Sequence[Contribution]) -> str:
    """Contributions for people, one deployment a line."""
    return "\n".join(map(str, contributions)) or "no deployment rests on them"


def tree(branches: Sequence[Branch]) -> str:
    """Trees for people, one run a line."""
    return "\n".join(line for branch in branches for line in _lines(branch, "", ""))


def _lines(branch: Branch, first: str, rest: str) -> Iterator[str]:
    more = "".join(f"  {why}" for why in (branch.run.doubt, branch.run.revoked) if why)
    more += "  (its own runs are shown above)" if branch.repeated else ""
    yield f"{first}{branch.run.stage} {branch.run.statement[:12]} {branch.run.time}{more}"
    for number, child in enumerate(branch.branches, 1):
        last = number == len(branch.branches)
        yield from _lines(child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))
