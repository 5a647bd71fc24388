"""Tampering with a channel: what is served, the metadata that speaks for it, and time."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer

from secpipeline.deployment import channel
from secpipeline.deployment.client import TARGETS
from secpipeline.deployment.metadata import TIMESTAMP, file_name, numbers
from secpipeline.digests import canonical_json
from secpipeline.drills.artifacts import CHANNEL
from secpipeline.drills.tampering import Group
from secpipeline.drills.throwaway import ThrowawayChain
from secpipeline.provenance.envelopes import parse_object
from secpipeline.provenance.report import Report
from secpipeline.provenance.trust import SOURCE, Revocation
from secpipeline.provenance.verification import Expectations
from secpipeline.revocation import revoke
from secpipeline.stages import deploy

_WEEK = dt.timedelta(days=8)
_ROLES = ("snapshot", "targets")


def _serve(chain: ThrowawayChain) -> None:
    deploy.after(chain.workspace)


def _verify(chain: ThrowawayChain, expect: Expectations | None) -> Report:
    """As ``secpipeline verify production``."""
    expect = expect or Expectations()
    return deploy.verify_channel(
        chain.workspace, CHANNEL, at_least_version=expect.at_least_version, max_age=expect.max_age
    )


CHANNELS = Group("a channel", _verify, _serve)


def _directory(chain: ThrowawayChain) -> Path:
    return chain.workspace.channels / CHANNEL


def _served(chain: ThrowawayChain, name: str) -> Path:
    """A file of the active deployment."""
    (version,) = (_directory(chain) / TARGETS / "versions").iterdir()
    return version / name


def _metadata(chain: ThrowawayChain, role: str) -> Path:
    """The newest metadata of a role."""
    return _directory(chain) / file_name(role, max(numbers(_directory(chain), role), default=0))


def _activate(chain: ThrowawayChain, now: dt.datetime) -> None:
    """Publish at another time what is served, in a channel of its own."""
    workspace = chain.workspace
    shutil.rmtree(workspace.channels)
    shutil.rmtree(workspace.memory / "channels")
    accept = partial(deploy.verify_deployment, workspace)
    evidence = workspace.home / "evidence"
    memory = workspace.memory / "channels" / CHANNEL
    channel.activate(
        workspace.channels, CHANNEL, chain.artifacts / "deploy", evidence, chain.ring, accept, memory, now=now
    )


@CHANNELS.refused("channel-target")
def model_swapped(chain: ThrowawayChain) -> None:
    """Other weights take the place of the model that is served."""
    shutil.copyfile(chain.artifacts / "train/detector.safetensors", _served(chain, "files/detector.onnx"))


@CHANNELS.refused("channel-target")
def model_behind_a_link(chain: ThrowawayChain) -> None:
    """The model that is served is moved out and a symbolic link to it is left."""
    model = _served(chain, "files/detector.onnx")
    model.rename(chain.root / "elsewhere")
    model.symlink_to(chain.root / "elsewhere")


@CHANNELS.refused("channel-target")
def pipe_instead_of_the_model(chain: ThrowawayChain) -> None:
    """A named pipe takes the place of the model that is served."""
    _served(chain, "files/detector.onnx").unlink()
    os.mkfifo(_served(chain, "files/detector.onnx"))


@CHANNELS.refused("channel-target")
def file_served_beside_the_model(chain: ThrowawayChain) -> None:
    """A file is added to what is served."""
    _served(chain, "files/plugin.py").write_text("import os\n")


@CHANNELS.refused("channel-target")
def served_evidence_removed(chain: ThrowawayChain) -> None:
    """The log is deleted from the evidence that lies beside the model."""
    _served(chain, "evidence/log.jsonl").unlink()


@CHANNELS.refused("channel-target")
def served_evidence_edited(chain: ThrowawayChain) -> None:
    """What says which verdict counts is deleted from the evidence that lies beside the model, and written anew."""
    pointer = _served(chain, "evidence/current/gate.json")
    pointer.unlink()
    pointer.write_bytes(canonical_json({"links": [], "statement": ""}))


@CHANNELS.refused("channel-target")
def policy_edited(chain: ThrowawayChain) -> None:
    """The policy that the model passed is loosened after the fact."""
    policy = _served(chain, "policy/default.yaml")
    policy.unlink()
    policy.write_text("bounds: none\n")


@CHANNELS.refused("channel-rewound")
def channel_put_back(chain: ThrowawayChain) -> None:
    """The channel is put back to what it was before the last look."""
    kept = chain.root / "kept"
    shutil.copytree(_directory(chain), kept)
    deploy.refresh(chain.workspace, CHANNEL)
    shutil.rmtree(_directory(chain))
    kept.rename(_directory(chain))


@CHANNELS.refused("channel-too-old")
def channel_put_back_for_a_new_reader(chain: ThrowawayChain) -> Expectations:
    """An old state is shown to a reader who never looked before, and who asks for a later one."""
    shutil.rmtree(chain.workspace.memory / "channels")
    return Expectations(at_least_version=2)


@CHANNELS.refused("channel-expired")
def channel_frozen(chain: ThrowawayChain) -> None:
    """For eight days readers are shown the same state, whatever is published meanwhile."""
    _activate(chain, dt.datetime.now(dt.UTC) - _WEEK)


@CHANNELS.refused("channel-too-old")
def channel_silent_for_a_day(chain: ThrowawayChain) -> Expectations:
    """A reader who asks for a state of the last hour is shown one of yesterday."""
    _activate(chain, dt.datetime.now(dt.UTC) - dt.timedelta(days=1))
    return Expectations(max_age=dt.timedelta(hours=1))


@CHANNELS.refused("clock")
def channel_read_by_a_slow_clock(chain: ThrowawayChain) -> None:
    """The reader's clock is a day behind that of the channel."""
    _activate(chain, dt.datetime.now(dt.UTC) + dt.timedelta(days=1))


@CHANNELS.refused("channel-signature")
def metadata_mixed(chain: ThrowawayChain) -> None:
    """The snapshot of an earlier publication is put under the name of the present one."""
    earlier = _metadata(chain, "snapshot").read_bytes()
    deploy.refresh(chain.workspace, CHANNEL)
    shutil.rmtree(chain.workspace.memory / "channels")
    _metadata(chain, "snapshot").write_bytes(earlier)


def _edit(chain: ThrowawayChain, path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    shutil.rmtree(chain.workspace.memory / "channels")
    content = parse_object(path.read_bytes())
    change(content)
    path.write_bytes(canonical_json(content))


@CHANNELS.refused("channel-signature")
def timestamp_edited(chain: ThrowawayChain) -> None:
    """The timestamp is edited to hold for decades."""
    path = _directory(chain) / TIMESTAMP
    _edit(chain, path, lambda metadata: metadata["signed"].update(expires="2099-01-01T00:00:00Z"))


@CHANNELS.refused("channel-signature")
def targets_edited(chain: ThrowawayChain) -> None:
    """The targets metadata is edited to name another deployment as active."""
    change = {
        "deployment": {"activated_at": "2026-01-01T00:00:00Z", "previous": "", "revocations": "", "version": "0" * 16}
    }
    _edit(chain, _metadata(chain, "targets"), lambda metadata: metadata["signed"].update(change))


@CHANNELS.refused("channel-malformed")
def metadata_written_otherwise(chain: ThrowawayChain) -> None:
    """Spaces are added to the timestamp, which change nothing of what it says."""
    path = _directory(chain) / TIMESTAMP
    path.write_bytes(path.read_bytes().replace(b":", b": ", 1))


@CHANNELS.refused("channel-malformed")
def metadata_key_twice(chain: ThrowawayChain) -> None:
    """The timestamp has two lists of signatures, of which readers take either."""
    path = _directory(chain) / TIMESTAMP
    path.write_bytes(b'{"signatures":[],' + path.read_bytes()[1:])


@CHANNELS.refused("channel-missing")
def timestamp_removed(chain: ThrowawayChain) -> None:
    """The timestamp is deleted."""
    (_directory(chain) / TIMESTAMP).unlink()


@CHANNELS.refused("channel-missing")
def pipe_instead_of_the_timestamp(chain: ThrowawayChain) -> None:
    """A named pipe takes the place of the timestamp."""
    (_directory(chain) / TIMESTAMP).unlink()
    os.mkfifo(_directory(chain) / TIMESTAMP)


@CHANNELS.refused("channel-signature")
def channel_of_strangers(chain: ThrowawayChain) -> None:
    """Strangers publish the same model in a channel of their own."""
    workspace = chain.workspace
    shutil.rmtree(workspace.channels)
    shutil.rmtree(workspace.memory / "channels")
    accept = partial(deploy.verify_deployment, workspace)
    evidence = workspace.home / "evidence"
    files = chain.artifacts / "deploy"
    channel.activate(
        workspace.channels, CHANNEL, files, evidence, chain.strangers, accept, chain.root / "strangers-memory"
    )


def _resign(chain: ThrowawayChain, path: Path, signer: Signer) -> None:
    """Sign metadata by hand, as the holder of one key can."""
    from tuf.api.metadata import Metadata  # noqa: PLC0415 - only here

    metadata = Metadata.from_bytes(path.read_bytes())
    metadata.sign(signer)
    shutil.rmtree(chain.workspace.memory / "channels")
    path.write_bytes(canonical_json(metadata.to_dict()))


@CHANNELS.refused("channel-signature")
def timestamp_by_another_releaser(chain: ThrowawayChain) -> None:
    """The releaser, who may not, signs the timestamp."""
    _resign(chain, _directory(chain) / TIMESTAMP, chain.ring.signer("releaser"))


@CHANNELS.refused("revoked")
def revoked_model_served(chain: ThrowawayChain) -> None:
    """The owners revoke a source, and what was made from its images is still served."""
    revoke(chain.workspace, Revocation(SOURCE, "vendor-c", "a drill", "2026-01-01T00:00:00Z"))
