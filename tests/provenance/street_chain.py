"""Signed runs of the real table of stages over made-up files: what is in question is who read what, not what it is."""

from dataclasses import dataclass, field
from pathlib import Path

from secpipeline.digests import sha256_bytes
from secpipeline.provenance import authority, trust
from secpipeline.provenance.evidence import EvidenceStore, attest, countersign
from secpipeline.provenance.keys import LOG, KeyRing
from secpipeline.provenance.lineage.contributions import Phases
from secpipeline.provenance.lineage.reading import read_history
from secpipeline.provenance.sources import manifest_name
from secpipeline.workspace import step_specs

SPECS = step_specs()
STAGES = tuple(spec.name for spec in SPECS)
PHASES = Phases("ingest", "curate", "deploy/detector.onnx")


@dataclass
class StreetChain:
    """``padding`` adds as many files to what every run makes."""

    root: Path
    ring: KeyRing
    padding: int = 0
    made: dict = field(default_factory=dict)

    @property
    def store(self):
        return EvidenceStore(self.root / "evidence")

    def trust(self):
        return authority.said(self.store, self.ring)

    def history(self):
        return read_history(self.store, self.trust(), SPECS)

    def run(self, stage, files, *, materials=None):
        """Sign and log a run of a stage that read all that its inputs made last."""
        spec = next(spec for spec in SPECS if spec.name == stage)
        read = {name: digest for input_ in spec.inputs for name, digest in self.made[input_].items()}
        read = read if materials is None else materials(read)
        files = files | {f"part-{number}": f"{number} of {files}" for number in range(self.padding)}
        subjects = {f"{stage}/{name}": sha256_bytes(content.encode()) for name, content in files.items()}
        evidence = attest(self.ring, spec, subjects, read, {"x": "1"}, {})
        if spec.witness:
            evidence = countersign(self.ring, spec, evidence, subjects, read, {})
        return self.record(stage, evidence, subjects)

    def record(self, stage, evidence, subjects):
        self.store.record(stage, evidence, self.ring.signer(LOG))
        self.made[stage] = subjects
        return evidence

    def take_in(self, release, sources, *, held=()):
        """A release with images of these sources, of which curation holds some back."""
        self.run("ingest", release_files(f"raw {release}", sources))
        self.run("validate", {"report.json": "passed"})
        self.run("audit_labels", {"report.json": f"findings in {release}"})
        self.run("curate", release_files(f"curated {release}", [name for name in sources if name not in held]))

    def train(self, recipe, *, deployed=True, materials=None):
        """A detector on what was curated last, all the way to its deployment, or to the refusal of it."""
        self.run("train", {"detector.safetensors": f"{recipe} on {self.made['curate']}"}, materials=materials)
        self.run("export", {"detector.onnx": f"graph {recipe} of {self.made['train']}"})
        self.run("attack", {"report.json": f"attacks on {recipe}"})
        self.run("gate", {"verdict.json": f"{recipe} {'pass' if deployed else 'fail'}"})
        self.run("release", {"release.json": recipe})
        return self.deploy("production", deployed=deployed)

    def deploy(self, channel, *, deployed=True):
        """The SHA-256 of the statement about the deployment, and that of the detector."""
        detector = f"graph of {self.made['export']}"
        files = {"deployment.json": channel} | ({"detector.onnx": detector} if deployed else {})
        evidence = self.run("deploy", files)
        return sha256_bytes(evidence.statement), sha256_bytes(detector.encode())


def release_files(content, sources):
    files = {"dataset.sha256": f"manifest of {content}", "images.parquet": f"images of {content}"}
    return files | {manifest_name(name): f"images of {name}" for name in sources}


def release_digest(content):
    return sha256_bytes(f"manifest of {content}".encode())


def found(root, ring, padding=0):
    chain = StreetChain(root, ring, padding)
    authority.publish(chain.store, ring, SPECS, trust.first(ring))
    return chain
