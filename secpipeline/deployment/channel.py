"""Channels: where a deployment becomes the one that is served, in one rename, or not at all.

``channels/<name>/versions/<digest>/`` holds the files and the evidence of one deployment; ``current.json`` names the
active one and the one before it.

>>> activate(channels, "production", files, evidence, verify)            # doctest: +SKIP
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from secpipeline.digests import canonical_json, check_name, tree_digest, tree_files
from secpipeline.errors import AttestationError, GateRefused, InputError
from secpipeline.provenance import envelopes
from secpipeline.provenance.evidence import EvidenceStore
from secpipeline.provenance.verification import Report
from secpipeline.store import sync_directory, write_atomic

POINTER = "current.json"
_VERSION = re.compile(r"[0-9a-f]{16}")
Verify = Callable[[Path, Path], Report]


@dataclass(frozen=True)
class Activation:
    """What a channel serves.

    Attributes
    ----------
    version
        The first sixteen hex digits of the digest over the files.
    files
        SHA-256 by name.
    activated_at
        Seconds since the epoch.
    previous
        The version before, or "".
    """

    version: str
    files: Mapping[str, str]
    activated_at: int
    previous: str


def activate(channels: Path, name: str, files: Path, evidence: Path, verify: Verify) -> Activation:
    """Copy a deployment and its evidence, verify the copy, and make it the active one.

    Parameters
    ----------
    channels
        The directory of all channels.
    name
        Of this channel.
    files, evidence
        What to publish and what speaks for it.
    verify
        Called with the copied files and the copied evidence.

    Raises
    ------
    GateRefused
        If verification refuses; the channel is as it was.
    """
    directory = channels / check_name(name)
    digests = tree_files(files)
    version = tree_digest(digests)[:16]
    active = _active(directory)
    target = directory / "versions" / version
    if active is not None and active.version == version and verify(target / "files", target / "evidence").ok:
        return active
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=".new-"))
    try:
        shutil.copytree(files, fresh / "files")
        EvidenceStore(evidence).copy_current(fresh / "evidence")
        _require(verify(fresh / "files", fresh / "evidence"), name)
        if target.exists():  # left by a version that was active before, or by a run that was killed
            target.rename(fresh / "replaced")
        _move(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    previous = "" if active is None else active.previous if active.version == version else active.version
    return _point(directory, Activation(version, digests, int(time.time()), previous))


def _active(directory: Path) -> Activation | None:
    """What is active; nothing if the pointer is missing or damaged, since activating is what mends it."""
    try:
        return current(directory)
    except InputError:
        return None


def _move(fresh: Path, target: Path) -> None:
    target.mkdir()
    for part in ("files", "evidence"):
        (fresh / part).rename(target / part)
    sync_directory(target)
    sync_directory(target.parent)


def rollback(channels: Path, name: str, verify: Verify) -> Activation:
    """Make the version before the active one active again, once it is verified.

    Raises
    ------
    InputError
        If there is none.
    GateRefused
        If it no longer verifies; the channel is as it was.
    """
    directory = channels / check_name(name)
    active = current(directory)
    if not active.previous:
        raise InputError(f"{directory}: there is no version before {active.version} to go back to")
    target = directory / "versions" / active.previous
    _require(verify(target / "files", target / "evidence"), name)
    return _point(
        directory, Activation(active.previous, tree_files(target / "files"), int(time.time()), active.version)
    )


def current(directory: Path) -> Activation:
    """What the channel in ``directory`` serves.

    Raises
    ------
    InputError
        If nothing was ever activated, or the pointer is damaged.
    """
    path = directory / POINTER
    if not path.is_file():
        raise InputError(f"{directory}: nothing is deployed here; `secpipeline run` deploys what passes the gate")
    try:
        active = Activation(**envelopes.parse_object(path.read_bytes()))
        whole = all(_VERSION.fullmatch(name) for name in (active.version, active.previous or active.version))
    except (AttestationError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); activate a deployment again") from error
    if not whole or not isinstance(active.files, dict):
        raise InputError(f"{path}: damaged (it names no version and its files); activate a deployment again")
    return active


def location(directory: Path, activation: Activation) -> tuple[Path, Path]:
    """Where the files and the evidence of an activation lie."""
    target = directory / "versions" / check_name(activation.version)
    return target / "files", target / "evidence"


def _require(report: Report, name: str) -> None:
    if not report.ok:
        raise GateRefused([f"channel {name}: {refusal}" for refusal in report.refusals])


def _point(directory: Path, activation: Activation) -> Activation:
    write_atomic(directory / POINTER, canonical_json(asdict(activation)))
    return activation
