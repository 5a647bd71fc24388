"""A channel of a few small files, published with real keys, for tests that attack it."""

import datetime as dt
import shutil
from pathlib import Path

from tuf.api.metadata import Metadata, MetaFile

from secpipeline.deployment import channel
from secpipeline.deployment.client import open_channel
from secpipeline.digests import canonical_json, tree_files
from secpipeline.errors import AttestationError
from secpipeline.provenance.evidence import EvidenceStore, SignedEvidence
from secpipeline.provenance.keys import KeyRing
from secpipeline.provenance.report import Refusal, Report

NOW = dt.datetime(2031, 5, 1, 12, 0, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
ACCEPTED = Report((), ("deploy",), 2)
REFUSED = Report((Refusal("changed-file", "deploy", "deploy/detector.onnx", "not what was signed"),), ("deploy",), 2)
REVOCATION = canonical_json({"payload": "c291cmNlIHg=", "payloadType": "x", "signatures": []})


class Verify:
    """Accepts or refuses, and keeps what it was shown."""

    def __init__(self, report=ACCEPTED):
        self.report = report
        self.seen = []

    def __call__(self, files, evidence, revocations):
        self.seen.append((files, tree_files(files), EvidenceStore(evidence).current("deploy"), revocations))
        return self.report


def make_deployment(root: Path, name: str, ring: KeyRing):
    """Files and evidence; the name is what tells deployments apart."""
    files, evidence = root / name / "files", root / name / "evidence"
    files.mkdir(parents=True)
    (files / "detector.onnx").write_text(f"graph {name}")
    (files / "detector.json").write_text("{}")
    store = EvidenceStore(evidence)
    store.record_authority(b"layout", b"trust", "log of a test", ring.signer("log"))
    said = SignedEvidence(canonical_json({"payload": name}), (b"{}",))
    store.record("deploy", said, ring.signer("log"))
    return files, evidence


class Place:
    """The channels of a test, a publisher with every key, and readers with memories of their own."""

    def __init__(self, root: Path, ring: KeyRing):
        self.root, self.ring = root, ring
        self.channels = root / "channels"
        self.directory = self.channels / "production"
        self.memory = root / "publisher"
        self.now = NOW

    def make(self, name):
        return make_deployment(self.root / "made", name, self.ring)

    def activate(self, deployment, verify=None, **keywords):
        arguments = {"now": self.now, "verify": verify or Verify(), **keywords}
        files, evidence = deployment
        return channel.activate(
            self.channels, "production", files, evidence, self.ring, arguments.pop("verify"), self.memory, **arguments
        )

    def rollback(self, verify=None):
        return channel.rollback(self.channels, "production", self.ring, verify or Verify(), self.memory, now=self.now)

    def refresh(self):
        return channel.refresh(self.channels, "production", self.ring, self.memory, now=self.now)

    def revoke(self, *envelopes):
        said = {f"revocation {number}": data for number, data in enumerate(envelopes)}
        return channel.publish_revocations(self.channels, "production", self.ring, said, self.memory, now=self.now)

    def open(self, reader="fresh", owners=None, **keywords):
        """As a reader of that name, whose memory is kept; a ``fresh`` one has none."""
        memory = self.root / "readers" / reader
        if reader == "fresh":
            shutil.rmtree(memory, ignore_errors=True)
        return open_channel(self.directory, owners or self.ring.owners(), memory, **{"now": self.now, **keywords})

    def code(self, reader="fresh", **keywords):
        """Why a reader refuses; empty if it accepts."""
        try:
            self.open(reader, **keywords)
        except AttestationError as error:
            return error.code
        return ""

    def state(self):
        """Every byte of the channel."""
        return tree_files(self.directory) if self.directory.exists() else {}

    def served(self):
        return (self.open().files / "detector.onnx").read_text()

    def keep(self, name):
        """A copy of the channel as it is, to come back to."""
        copy = self.root / "kept" / name
        shutil.copytree(self.directory, copy)
        return copy

    def put_back(self, copy):
        shutil.rmtree(self.directory)
        shutil.copytree(copy, self.directory)


def metadata_names(directory):
    return sorted(path.name for path in directory.glob("*.json"))


def sign_by_hand(path, change, signer):
    """Metadata that a role's key holder, and not our publisher, made."""
    metadata = Metadata.from_bytes(path.read_bytes())
    change(metadata.signed)
    metadata.sign(signer)
    path.write_bytes(canonical_json(metadata.to_dict()))


def resign(place, change=lambda targets: None, **holders):
    """Change the second targets metadata and sign it, and all that is above it, as its role or as another would."""
    signers = {"targets": "releaser", "snapshot": "channel", "timestamp": "channel", **holders}
    directory = place.directory

    def name_targets(snapshot):
        snapshot.meta["targets.json"] = MetaFile.from_data(2, (directory / "2.targets.json").read_bytes(), ["sha256"])

    def name_snapshot(timestamp):
        timestamp.snapshot_meta = MetaFile.from_data(2, (directory / "2.snapshot.json").read_bytes(), ["sha256"])

    sign_by_hand(directory / "2.targets.json", change, place.ring.signer(signers["targets"]))
    sign_by_hand(directory / "2.snapshot.json", name_targets, place.ring.signer(signers["snapshot"]))
    sign_by_hand(directory / "timestamp.json", name_snapshot, place.ring.signer(signers["timestamp"]))


def flip(path, position, bit=0):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.chmod(0o644)
    path.write_bytes(data)
