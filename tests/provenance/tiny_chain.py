"""A signed chain of four steps over a few bytes, for tests that break it."""

import datetime as dt
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from secpipeline.digests import sha256_bytes, tree_files
from secpipeline.provenance import authority, trust
from secpipeline.provenance.evidence import EvidenceStore, attest, countersign
from secpipeline.provenance.keys import KeyRing
from secpipeline.provenance.layout import StepSpec
from secpipeline.provenance.lineage.reading import read_history
from secpipeline.provenance.verification import Expectations, verify_chain

PROVENANCE = "https://slsa.dev/provenance/v1"
SPECS = (
    StepSpec("ingest", "ingestor", (), ("delivery/*",), PROVENANCE),
    StepSpec("train", "trainer", ("ingest",), ("recipes/*.yaml",), PROVENANCE),
    StepSpec("gate", "red-team", ("train",), (), "https://in-toto.io/attestation/test-result/v0.1", "safety"),
    StepSpec("release", "releaser", ("gate",), (), PROVENANCE),
    StepSpec("deploy", "releaser", ("train", "gate"), (), PROVENANCE),
)
CONTENT = {
    "ingest": {
        "images.parquet": b"images",
        "boxes.parquet": b"boxes",
        "sources/vendor-a.sha256": b"manifest a",
        "sources/vendor-c.sha256": b"manifest c",
    },
    "train": {"detector.safetensors": b"weights"},
    "gate": {"verdict.json": b'{"reasons":[],"verdict":"pass"}\n'},
    "release": {"release.json": b"{}\n"},
    "deploy": {"detector.onnx": b"graph", "detector.json": b"{}\n"},
}
NOW = dt.datetime.now(dt.UTC)


@dataclass(frozen=True)
class TinyChain:
    root: Path
    ring: KeyRing

    @property
    def artifacts(self):
        return self.root / "artifacts"

    @property
    def store(self):
        return EvidenceStore(self.root / "evidence")

    def spec(self, name):
        return next(spec for spec in SPECS if spec.name == name)

    def sign(self, name, *, spec=None, materials=None, subjects=None, ring=None):
        """Attest a step as its role would; keyword arguments lie."""
        spec = spec or self.spec(name)
        made = {f"{name}/{file}": digest for file, digest in tree_files(self.artifacts / name).items()}
        read = {
            f"{step}/{file}": digest
            for step in self.spec(name).inputs
            for file, digest in tree_files(self.artifacts / step).items()
        }
        read |= materials or {}
        evidence = attest(ring or self.ring, spec, subjects or made, read, {"x": "1"}, {})
        if spec.witness:
            evidence = countersign(ring or self.ring, spec, evidence, subjects or made, read, {})
        self.record(name, evidence)
        return evidence

    def record(self, name, evidence):
        self.store.record(name, evidence, self.ring.signer("log"))

    def trust(self):
        return authority.said(self.store, self.ring)

    def history(self):
        return read_history(self.store, self.trust(), SPECS)

    def sign_layout(self, specs=SPECS, now=NOW, ring=None):
        said = self.trust() if self.store.trust.is_file() else trust.first(self.ring)
        authority.publish(self.store, ring or self.ring, specs, said, now)

    def verify(self, **keywords):
        expect = Expectations(**{k: keywords.pop(k) for k in Expectations.__dataclass_fields__ if k in keywords})
        expect = replace(expect, whole_history=True)
        arguments = {"owners": self.ring.owners(), "specs": SPECS, "artifacts": self.artifacts, **keywords}
        return verify_chain(
            self.store,
            arguments.pop("artifacts"),
            arguments.pop("owners"),
            arguments.pop("specs"),
            expect=expect,
            **arguments,
        )

    def copy(self, root):
        shutil.copytree(self.root, root)
        return replace(self, root=root)


def build(root, ring):
    chain = TinyChain(root, ring)
    for step, files in CONTENT.items():
        for name, data in files.items():
            path = chain.artifacts / step / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    chain.sign_layout()
    for spec in SPECS:
        chain.sign(
            spec.name, materials={"delivery/instances.json": sha256_bytes(b"d")} if spec.name == "ingest" else {}
        )
    return chain
