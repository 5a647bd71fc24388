"""A small real chain with keys of its own, made to be broken.

It has the steps of the stage table, real files under real names, links and Statements signed by the key of each role,
a log, a layout and a trust document signed by owners, and a memory of having been verified once. Everything lies below
one directory; neither the user's keys nor the user's workspace is looked at.

>>> import tempfile
>>> chain = build(Path(tempfile.mkdtemp()))
>>> chain.verify().ok
True
"""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from secpipeline import runner
from secpipeline.digests import canonical_json, sha256_bytes, sha256_file, tree_files
from secpipeline.drills.artifacts import write_artifacts
from secpipeline.provenance import authority, envelopes
from secpipeline.provenance.evidence import EvidenceStore, SignedEvidence, attest, countersign
from secpipeline.provenance.keys import LOG, KeyRing
from secpipeline.provenance.layout import StepSpec
from secpipeline.provenance.memory import Memory
from secpipeline.provenance.report import Report
from secpipeline.provenance.verification import Expectations
from secpipeline.stages import predicates, table
from secpipeline.stages.context import StageResult
from secpipeline.workspace import Workspace, step_specs

Edit = Callable[[dict[str, Any]], object]
# What the stages read from the project; one file for each pattern of the stage table.
_PROJECT = (
    "policies/default.yaml",
    "policies/attacks.yaml",
    "recipes/judge.yaml",
    "recipes/standard.yaml",
    "expectations/images.json",
    "expectations/predictions.json",
    "expectations/prediction_totals.json",
)
_ENVIRONMENT = {"python": "3", "secpipeline": "drill", "torch": "2"}


@dataclass(frozen=True)
class ThrowawayChain:
    """One chain.

    Attributes
    ----------
    root
        Holds everything but the strangers' keys.
    strangers
        Keys that nobody was given.
    code
        SHA-256 of the code of each stage.
    """

    root: Path
    strangers: KeyRing
    code: Mapping[str, str] = field(repr=False)

    @property
    def workspace(self) -> Workspace:
        """The same as every command sees it."""
        return Workspace(self.root / "project", self.root / "home", self.root / "keys")

    @property
    def artifacts(self) -> Path:
        """The files of every stage."""
        return self.workspace.store.artifacts

    @property
    def store(self) -> EvidenceStore:
        """The evidence."""
        return self.workspace.evidence

    @property
    def ring(self) -> KeyRing:
        """The keys of every role."""
        return KeyRing(self.workspace.keys)

    @property
    def specs(self) -> Sequence[StepSpec]:
        """The steps, rendered from the stage table."""
        return step_specs()

    def spec(self, name: str) -> StepSpec:
        """One step."""
        return next(spec for spec in self.specs if spec.name == name)

    def copy(self, root: Path) -> ThrowawayChain:
        """The same elsewhere, to be broken alone."""
        shutil.copytree(self.root, root)
        return replace(self, root=root)

    def verify(self, expect: Expectations | None = None) -> Report:
        """Verify as the command does: every byte, every envelope ever logged, and against what was seen before."""
        memory = Memory(self.workspace.memory)
        return runner.verify(
            self.workspace, expect=replace(expect or Expectations(), memory=memory, whole_history=True)
        )

    def subjects(self, name: str) -> dict[str, str]:
        """SHA-256 by artifact name of what a stage made."""
        return {f"{name}/{file}": digest for file, digest in tree_files(self.artifacts / name).items()}

    def materials(self, name: str) -> dict[str, str]:
        """SHA-256 by name of what a stage reads, as the runner records it."""
        stage = table.stage_named(name)
        read = {f"code/{name}": self.code[name], f"params/{name}.json": sha256_bytes(canonical_json({}))}
        for step in stage.inputs:
            read |= self.subjects(step)
        if "delivery/*" in stage.outside:
            read["delivery/instances.json"] = sha256_file(self.workspace.root / "delivery/instances.json")
        if table.REVOKED_SOURCES in stage.outside:
            read[table.REVOKED_SOURCES] = sha256_bytes(canonical_json([]))
        return read | stage.project_files(self.workspace.root)

    def attest(self, name: str, ring: KeyRing | None = None) -> SignedEvidence:
        """What the stage's role, and its witness, sign about the files as they are now."""
        ring = ring or self.ring
        subjects, materials = self.subjects(name), self.materials(name)
        predicate = predicates.build(self._facts(name, materials), _result(name, subjects, materials))
        evidence = attest(ring, self.spec(name), subjects, materials, predicate, _ENVIRONMENT)
        if self.spec(name).witness:
            evidence = countersign(ring, self.spec(name), evidence, subjects, materials, _ENVIRONMENT)
        return evidence

    def run(self, *names: str) -> None:
        """Attest stages and log it, as after a run; all of them by default."""
        for name in names or [spec.name for spec in self.specs]:
            self.record(name, self.attest(name))

    def record(self, name: str, evidence: SignedEvidence, ring: KeyRing | None = None) -> None:
        """Log evidence, whatever it says, and make it current."""
        self.store.record(name, evidence, (ring or self.ring).signer(LOG))

    def current(self, name: str) -> SignedEvidence:
        """The current evidence of a stage."""
        evidence = self.store.current(name)
        if evidence is None:
            raise LookupError(name)
        return evidence

    def resign(
        self,
        name: str,
        *,
        statement: Edit | None = None,
        link: Edit | None = None,
        second_link: Edit | None = None,
        role: str = "",
        witness: str = "",
        ring: KeyRing | None = None,
    ) -> None:
        """Change what a stage says, sign that, and log it like any other evidence.

        Parameters
        ----------
        name
            The stage.
        statement, link, second_link
            Change the Statement, every link, and the witness's link alone.
        role, witness
            Who signs instead of those who should.
        ring
            Whose keys sign.
        """
        spec, ring = self.spec(name), ring or self.ring
        before = self.current(name)
        said = _edited(before.statement, statement)
        signed = sign(said, ring, role or spec.role)
        links = []
        for index, signer in enumerate((role or spec.role, witness or spec.witness)[: len(spec.roles)]):
            content = envelopes.read_unverified(before.links[index])
            content["products"][spec.attestation] = {"sha256": sha256_bytes(signed)}
            for edit in (link, second_link if index else None):
                if edit is not None:
                    edit(content)
            links.append(sign(content, ring, signer))
        self.record(name, SignedEvidence(signed, tuple(links)))

    def renew(self, **changes: Any) -> None:
        """Let the owners sign a new layout and trust document; see :func:`secpipeline.provenance.authority.publish`."""
        said = changes.pop("trust", None) or authority.said(self.store, self.ring)
        specs = changes.pop("specs", None) or self.specs
        authority.publish(self.store, changes.pop("ring", None) or self.ring, specs, said, **changes)

    def _facts(self, name: str, materials: Mapping[str, str]) -> predicates.Facts:
        earlier = {stage.name: self.current(stage.name) for stage in table.upstream(name)}
        return predicates.Facts(
            stage=table.stage_named(name),
            params={},
            materials=materials,
            attestations={stage: sha256_bytes(evidence.statement) for stage, evidence in earlier.items()},
            environment=_ENVIRONMENT,
            source={},
            lock={},
            started=time.time(),
            finished=time.time(),
        )


def build(directory: Path) -> ThrowawayChain:
    """Make the chain and verify it once.

    Parameters
    ----------
    directory
        Exists; the chain is written below it.

    Raises
    ------
    AttestationError
        If what was just made does not verify.
    """
    strangers = KeyRing.create(directory / "strangers")
    chain = ThrowawayChain(directory / "chain", strangers, {stage.name: stage.code_version() for stage in table.STAGES})
    KeyRing.create(chain.workspace.keys)
    for name in _PROJECT:
        (chain.workspace.root / name).parent.mkdir(parents=True, exist_ok=True)
        (chain.workspace.root / name).write_text("{}\n")
    write_artifacts(chain.artifacts, chain.workspace.root)
    authority.found(chain.store, chain.ring, chain.specs)
    chain.run()
    chain.verify().require()
    return chain


def sign(content: Mapping[str, Any], ring: KeyRing, *roles: str) -> bytes:
    """An envelope signed by these roles, whatever it says."""
    return envelopes.sign(canonical_json(content), envelopes.PAYLOAD_TYPE, [ring.signer(role) for role in roles])


def _edited(envelope: bytes, edit: Edit | None) -> dict[str, Any]:
    content = envelopes.read_unverified(envelope)
    if edit is not None:
        edit(content)
    return content


def _result(name: str, subjects: Mapping[str, str], materials: Mapping[str, str]) -> StageResult:
    """What the predicates ask of a stage that went well."""
    policy = "policies/default.yaml"
    details = {
        "result": "PASSED",
        "passedTests": [],
        "failedTests": [],
        "verdict": "pass",
        "artifact": {"name": "export/detector.onnx", "sha256": materials.get("export/detector.onnx", "")},
        "policy": {"name": policy, "sha256": materials.get(policy, "")},
    }
    return StageResult({"files": len(subjects)}, details=details, seeds={name: 0})


def reworded(envelope: bytes, edit: Edit) -> bytes:
    """The envelope with another payload under the signatures that it had."""
    outer = envelopes.parse_object(envelope)
    content = envelopes.read_unverified(envelope)
    edit(content)
    outer["payload"] = base64.b64encode(canonical_json(content)).decode()
    return canonical_json(outer)
