"""Tampering with a bundle that is on its way to an auditor."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from secpipeline.digests import canonical_json, manifest_bytes, tree_files
from secpipeline.drills.files import hide_deep
from secpipeline.drills.tampering import Group
from secpipeline.drills.throwaway import ThrowawayChain
from secpipeline.provenance import bundle, envelopes, guide
from secpipeline.provenance.evidence import SignedEvidence
from secpipeline.provenance.keys import public_pem
from secpipeline.provenance.layout import steps_bytes
from secpipeline.provenance.report import Report
from secpipeline.provenance.verification import Expectations
from secpipeline.stages.gate import POLICY


def directory(chain: ThrowawayChain) -> Path:
    """Where the bundle of a chain lies."""
    return chain.root / "bundle"


def pack(chain: ThrowawayChain, evidence: Mapping[str, SignedEvidence] | None = None) -> None:
    """Bundle evidence, by default the current one of each stage."""
    evidence = evidence or {spec.name: chain.current(spec.name) for spec in chain.specs}
    files = {
        name: chain.artifacts / name
        for stage in evidence
        for name in chain.subjects(stage)
        if stage in bundle.CARRIED_WHOLE or name in bundle.CARRIED_FILES
    }
    project = {POLICY: (chain.workspace.root / POLICY).read_bytes()}
    contents = bundle.Contents(chain.store, evidence, files, chain.specs, chain.workspace.trust(), project)
    bundle.write(contents, chain.ring, directory(chain))


def _verify(chain: ThrowawayChain, expect: Expectations | None) -> Report:
    """As ``secpipeline verify FOLDER --owners KEYS``."""
    return bundle.verify(directory(chain), chain.ring.owners(), expect)


BUNDLES = Group("a bundle", _verify, pack)


def _list_again(chain: ThrowawayChain, signer: str = "") -> None:
    """Bring the list of files up to date, and have a role sign it; without one the old signature stays."""
    place = directory(chain)
    listed = tree_files(place)
    for name in (bundle.SUMS, bundle.SUMS_SIGNATURE):
        listed.pop(name)
    sums = manifest_bytes(listed)
    (place / bundle.SUMS).write_bytes(sums)
    if signer:
        signature = chain.ring.signer(signer).sign(sums).signature
        (place / bundle.SUMS_SIGNATURE).write_bytes(bytes.fromhex(signature))


@BUNDLES.refused("changed-file")
def bundled_model_swapped(chain: ThrowawayChain) -> None:
    """Other weights take the place of the model, and the list is brought up to date and signed by the releaser."""
    (directory(chain) / "deploy/detector.onnx").write_bytes(b"another graph")
    _list_again(chain, "releaser")


@BUNDLES.refused("bundle-file")
def bundled_file_edited(chain: ThrowawayChain) -> None:
    """The policy in the bundle is loosened."""
    (directory(chain) / POLICY).write_text("bounds: none\n")


@BUNDLES.refused("bundle-file")
def bundled_file_added(chain: ThrowawayChain) -> None:
    """A file is added to the bundle."""
    (directory(chain) / "deploy/.gitattributes").write_text("* -diff\n")


@BUNDLES.refused("bundle-file")
def bundled_file_removed(chain: ThrowawayChain) -> None:
    """The policy is taken out of the bundle."""
    (directory(chain) / POLICY).unlink()


@BUNDLES.refused("bundle-file")
def guide_edited(chain: ThrowawayChain) -> None:
    """The text that tells the auditor what to type tells something else."""
    (directory(chain) / guide.NAME).write_text("# All is well\n\nThere is nothing to check.\n")


@BUNDLES.refused("bundle-signature")
def list_edited(chain: ThrowawayChain) -> None:
    """A file is added to the bundle and to its list."""
    (directory(chain) / "deploy/plugin.py").write_text("import os\n")
    _list_again(chain)


@BUNDLES.refused("bundle-signature")
def list_by_another_role(chain: ThrowawayChain) -> None:
    """The list is signed by the trainer and not by the releaser."""
    _list_again(chain, "trainer")


@BUNDLES.refused("bundle-file")
def list_removed(chain: ThrowawayChain) -> None:
    """The list of files is deleted."""
    (directory(chain) / bundle.SUMS).unlink()


@BUNDLES.refused("bundle-file")
def owners_key_exchanged(chain: ThrowawayChain) -> None:
    """A stranger's key takes the place of an owner's in the bundle, and the releaser signs the list."""
    key = public_pem(chain.strangers.public("owner-1"))
    (directory(chain) / "keys/owner-1.pem").write_bytes(key)
    _list_again(chain, "releaser")


@BUNDLES.refused("evidence-missing")
def bundled_verdict_removed(chain: ThrowawayChain) -> None:
    """The gate's Statement is taken out of the bundle, and the releaser signs the list."""
    (directory(chain) / "attestations/gate.dsse.json").unlink()
    _list_again(chain, "releaser")


@BUNDLES.refused("evidence-missing")
def bundled_link_removed(chain: ThrowawayChain) -> None:
    """The link of the gate's second run is taken out of the bundle, and the releaser signs the list."""
    links = sorted((directory(chain) / "links").glob("gate.*.link"))
    links[0].unlink()
    _list_again(chain, "releaser")


@BUNDLES.refused("log-truncated")
def bundled_log_truncated(chain: ThrowawayChain) -> None:
    """The last entry is cut off the log in the bundle, and the releaser signs the list."""
    log = directory(chain) / "log.jsonl"
    os.truncate(log, log.stat().st_size - 20)
    _list_again(chain, "releaser")


@BUNDLES.refused("evidence-missing")
def proof_of_another_stage(chain: ThrowawayChain) -> None:
    """The proof that the gate's evidence was logged is that of the training, and the releaser signs the list."""
    proofs = directory(chain) / "log"
    shutil.copyfile(proofs / "train.proof.json", proofs / "gate.proof.json")
    _list_again(chain, "releaser")


@BUNDLES.refused("bundle-file")
def proof_that_leads_nowhere(chain: ThrowawayChain) -> None:
    """The proof that the gate's evidence was logged leads to another root, and the releaser signs the list."""
    path = directory(chain) / "log/gate.proof.json"
    proof = envelopes.parse_object(path.read_bytes())
    proof["path"][0]["hash"] = "0" * 64
    path.write_bytes(canonical_json(proof))
    _list_again(chain, "releaser")


@BUNDLES.refused("layout-differs")
def steps_loosened(chain: ThrowawayChain) -> None:
    """The description of the steps no longer says that the gate judges a model, and the releaser signs the list."""
    specs = [replace(spec, about=()) if spec.name == "gate" else spec for spec in chain.specs]
    (directory(chain) / bundle.STEPS).write_bytes(steps_bytes(specs))
    _list_again(chain, "releaser")


@BUNDLES.refused("layout-malformed")
def steps_of_wrong_types(chain: ThrowawayChain) -> None:
    """The description of the steps gives a number where a list of patterns belongs."""
    path = directory(chain) / bundle.STEPS
    content = envelopes.parse_object(path.read_bytes())
    content["steps"][0]["files"] = 5
    path.write_bytes(canonical_json(content))


@BUNDLES.refused("bill-of-materials")
def bill_edited(chain: ThrowawayChain) -> None:
    """The bill of materials is emptied, and the releaser signs the list."""
    (directory(chain) / bundle.BILL).write_bytes(canonical_json({"bomFormat": "CycloneDX", "specVersion": "1.6"}))
    _list_again(chain, "releaser")


@BUNDLES.refused("model-signature")
def model_signature_of_something_else(chain: ThrowawayChain) -> None:
    """The signature beside the model is cut short, and the releaser signs the list."""
    path = directory(chain) / bundle.MODEL_SIGNATURE
    path.write_bytes(path.read_bytes()[:-40])
    _list_again(chain, "releaser")


@BUNDLES.refused("bundle-file")
def link_in_a_bundle(chain: ThrowawayChain) -> None:
    """A file of the bundle is a symbolic link out of it."""
    path = directory(chain) / POLICY
    path.rename(chain.root / "elsewhere")
    path.symlink_to(chain.root / "elsewhere")


@BUNDLES.refused("bundle-file")
def pipe_in_a_bundle(chain: ThrowawayChain) -> None:
    """A named pipe takes the place of the list of files; whoever opens it waits for ever."""
    (directory(chain) / bundle.SUMS).unlink()
    os.mkfifo(directory(chain) / bundle.SUMS)


@BUNDLES.refused("bundle-file")
def file_hidden_deep_in_a_bundle(chain: ThrowawayChain) -> None:
    """A file is hidden in the bundle deeper than a program can recurse."""
    hide_deep(directory(chain) / "ingest")


@BUNDLES.refused("too-old")
def old_bundle_shown(chain: ThrowawayChain) -> Expectations:
    """An old bundle is shown to an auditor who asks for one with a later entry of the log."""
    return Expectations(at_least_version=chain.store.log.size() + 1)
