"""Gather what a bundle of one channel's deployment is made of.

>>> export(Workspace.open(), "production", Path("bundle-production"))    # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from secpipeline.digests import sha256_bytes
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance import bundle, envelopes
from secpipeline.provenance.evidence import RUN, EvidenceStore, SignedEvidence
from secpipeline.provenance.keys import LOG
from secpipeline.stages import deploy
from secpipeline.stages.gate import POLICY
from secpipeline.workspace import Workspace, step_specs


def export(workspace: Workspace, channel: str, out: Path, since: Path | None = None) -> None:
    """Write the bundle of what a channel serves, and verify it before anybody gets it.

    Parameters
    ----------
    workspace
        Where the channel, its evidence and the artifacts lie.
    channel
        Its name.
    out
        A directory that does not exist yet, or is empty.
    since
        An earlier ``checkpoint.dsse.json`` that the log must be shown to continue.

    Raises
    ------
    InputError
        If nothing is deployed there, ``out`` is in use, monitoring has not run on this deployment, or a key that signed
        for it was revoked since.
    AttestationError
        If the channel or the bundle does not verify.
    """
    if channel not in deploy.serving(workspace):
        raise InputError(f"{channel}: nothing is deployed there; `secpipeline run` deploys what passes the gate")
    deploy.verify_channel(workspace, channel).require()
    evidence = _behind(workspace, EvidenceStore(deploy.active(workspace, channel).evidence))
    contents = bundle.Contents(
        store=workspace.evidence,
        evidence=evidence,
        files=_carried(workspace, evidence),
        specs=step_specs(),
        trust=workspace.trust(),
        project=_policy(workspace, evidence),
        since=_checkpoint(since),
    )
    bundle.write(contents, workspace.ring(), out)
    bundle.verify(out, workspace.ring().owners()).require()


def _checkpoint(path: Path | None) -> bytes | None:
    if path is None:
        return None
    if not path.is_file():
        raise InputError(f"{path}: not found; give the checkpoint.dsse.json of an earlier bundle")
    return path.read_bytes()


def _behind(workspace: Workspace, deployed: EvidenceStore) -> dict[str, SignedEvidence]:
    """The evidence of every step: the channel's own up to the deployment, the latest that fits after it."""
    evidence: dict[str, SignedEvidence] = {}
    revoked = workspace.trust().revoked_keys()  # public verifiers know keys, but not when they were revoked
    for spec in step_specs():
        found = _latest_on(workspace, spec.name, evidence) if "deploy" in spec.inputs else deployed.current(spec.name)
        if found is None:
            raise InputError(f"{spec.name} has not run on this deployment; run `secpipeline run {spec.name}`")
        if found.signers() & revoked:
            raise InputError(f"{spec.name}: signed by a key that was revoked since; run the chain again, then bundle")
        evidence[spec.name] = found
    return evidence


def _latest_on(workspace: Workspace, stage: str, evidence: Mapping[str, SignedEvidence]) -> SignedEvidence | None:
    """The last logged run of a stage that read exactly what the deployment's steps made."""
    trust = workspace.trust()
    made = {
        f"{name}/{file}": digest for name, signed in evidence.items() for file, digest in signed.files(name).items()
    }
    log = workspace.evidence.read_log(trust.keys(LOG), trust.log)
    for entry in reversed(log.entries):
        if entry["kind"] != RUN or entry["stage"] != stage:
            continue
        found = workspace.evidence.find(entry)
        if found is not None:
            materials = envelopes.read_unverified(found.links[0])["materials"]
            read = {
                name: digests["sha256"] for name, digests in materials.items() if name.partition("/")[0] in evidence
            }
            if read.items() <= made.items():
                return found
    return None


def _carried(workspace: Workspace, evidence: Mapping[str, SignedEvidence]) -> dict[str, Path]:
    """Where the objects of the carried artifacts lie, by their names."""
    files = {}
    for stage, signed in evidence.items():
        for name, digest in signed.files(stage).items():
            if stage in bundle.CARRIED_WHOLE or f"{stage}/{name}" in bundle.CARRIED_FILES:
                files[f"{stage}/{name}"] = workspace.store.object_path(digest)
    missing = [name for name, path in files.items() if not path.is_file()]
    if missing:
        raise AttestationError("missing-file", f"{missing[0]}: no longer in the store; run its stage again")
    return files


def _policy(workspace: Workspace, evidence: Mapping[str, SignedEvidence]) -> dict[str, bytes]:
    """The policy that the gate held the reports against, if the project still has it."""
    path = workspace.root / POLICY
    data = path.read_bytes() if path.is_file() else b""
    used = envelopes.read_unverified(evidence["gate"].links[0])["materials"].get(POLICY, {}).get("sha256")
    return {POLICY: data} if sha256_bytes(data) == used else {}
