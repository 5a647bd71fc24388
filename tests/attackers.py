"""What tests attack with: the drill's tamperings and its throwaway chain, damaged stores, forged events."""

from contextlib import contextmanager

from secpipeline.drills import provenance
from secpipeline.drills.provenance import GROUPS, attempt
from secpipeline.drills.tampering import Group, Tampering
from secpipeline.drills.throwaway import ThrowawayChain, build, sign

__all__ = [
    "GROUPS",
    "Group",
    "Tampering",
    "ThrowawayChain",
    "attempt",
    "build",
    "evidence_files",
    "flipped",
    "forge_events",
    "prepare",
    "provenance",
    "sign",
]


def prepare(chain, group, directory):
    """A copy of a chain with what a group of tamperings needs."""
    copy = chain.copy(directory)
    group.prepare(copy)
    return copy


def evidence_files(store):
    """Every file of an evidence store, in a fixed order."""
    return sorted(path for path in store.directory.rglob("*") if path.is_file())


@contextmanager
def flipped(path, bit):
    """A file of a store with one bit changed; as it was afterwards."""
    original, mode = path.read_bytes(), path.stat().st_mode
    damaged = bytearray(original)
    damaged[bit // 8] ^= 1 << bit % 8
    path.chmod(0o644)
    try:
        path.write_bytes(damaged)
        yield
    finally:
        path.write_bytes(original)
        path.chmod(mode)


def forge_events(instance, asset, check, **metadata):
    """What anybody who reaches a Dagster web server can report: an asset was made, and its check passed."""
    import dagster as dg

    key = dg.AssetKey(asset)
    instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=metadata))
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(asset_key=key, check_name=check, passed=True, metadata=metadata)
    )
