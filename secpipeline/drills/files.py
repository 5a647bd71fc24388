"""Tampering with the files that the stages made: data, weights, graphs, reports."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import pyarrow.parquet as pq
from safetensors.numpy import load, save

from secpipeline.digests import canonical_json, manifest_bytes, sha256_file
from secpipeline.drills.tampering import Group
from secpipeline.drills.throwaway import ThrowawayChain
from secpipeline.provenance.envelopes import parse_object

FILES = Group("the files", ThrowawayChain.verify)
_DEEPER_THAN_PYTHON_RECURSES = 1200


def _other_pixels(data: bytes) -> bytes:
    start_of_image = data.index(b"\xff\xd8")
    middle = (start_of_image + data.index(b"\xff\xd9", start_of_image)) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _box_removed(data: bytes) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(data)).slice(1), buffer)
    return buffer.getvalue()


def _weights_scaled(data: bytes) -> bytes:
    scaled: bytes = save({name: tensor * 2 for name, tensor in load(data).items()})
    return scaled


def _graph_silenced(data: bytes) -> bytes:
    model = onnx.load_from_string(data)
    weights = model.graph.initializer[0]
    weights.CopyFrom(onnx.numpy_helper.from_array(0 * onnx.numpy_helper.to_array(weights), weights.name))
    silenced: bytes = model.SerializeToString()
    return silenced


@dataclass(frozen=True)
class _Target:
    """A kind of file: one of that kind, a meaningful edit of it, and another file to exchange it with."""

    kind: str
    name: str
    edit: Callable[[bytes], bytes]
    edited: str
    other: str

    def path(self, chain: ThrowawayChain) -> Path:
        return chain.artifacts / self.name

    def change(self, chain: ThrowawayChain) -> None:
        self.path(chain).write_bytes(self.edit(self.path(chain).read_bytes()))

    def add(self, chain: ThrowawayChain) -> None:
        shutil.copyfile(self.path(chain), self._beside(chain))

    def remove(self, chain: ThrowawayChain) -> None:
        self.path(chain).unlink()

    def rename(self, chain: ThrowawayChain) -> None:
        self.path(chain).rename(self._beside(chain))

    def exchange(self, chain: ThrowawayChain) -> None:
        mine, other, aside = self.path(chain), chain.artifacts / self.other, chain.root / "aside"
        for source, target in ((mine, aside), (other, mine), (aside, other)):
            source.rename(target)

    def _beside(self, chain: ThrowawayChain) -> Path:
        path = self.path(chain)
        return path.with_name(f"other-{path.name}")


_TARGETS = (
    _Target("image shard", "ingest/shards/00000.tar", _other_pixels, "a bit of a picture", "curate/images.parquet"),
    _Target("box table", "curate/boxes.parquet", _box_removed, "a box less", "ingest/boxes.parquet"),
    _Target("weights", "train/detector.safetensors", _weights_scaled, "doubled weights", "export/detector.onnx"),
    _Target("graph", "deploy/detector.onnx", _graph_silenced, "weights of zero", "train/detector.safetensors"),
)
for _target in _TARGETS:
    _kind, _name = _target.kind, _target.name
    FILES.add(f"{_kind} edited", f"{_name} gets {_target.edited}.", "changed-file", _target.change)
    FILES.add(f"{_kind} added", f"A copy of {_name} is put beside it.", "unexpected-file", _target.add)
    FILES.add(f"{_kind} removed", f"{_name} is deleted.", "missing-file", _target.remove)
    FILES.add(f"{_kind} renamed", f"{_name} gets another name.", "unexpected-file", _target.rename)
    FILES.add(f"{_kind} exchanged", f"{_name} and {_target.other} swap names.", "changed-file", _target.exchange)


@FILES.refused("changed-file")
def shard_and_manifest_edited(chain: ThrowawayChain) -> None:
    """A picture is edited, and the release's own manifest with it."""
    _TARGETS[0].change(chain)
    release = chain.artifacts / "ingest"
    lines = (release / "dataset.sha256").read_text().splitlines()
    names = [line.split("  ", 1)[1] for line in lines]
    (release / "dataset.sha256").write_bytes(manifest_bytes({name: sha256_file(release / name) for name in names}))


@FILES.refused("changed-file")
def sources_exchanged(chain: ThrowawayChain) -> None:
    """The manifests of two vendors swap names, so that one answers for the other's images."""
    sources = chain.artifacts / "ingest/sources"
    first, second = (sources / f"{name}.sha256" for name in ("vendor-a", "vendor-c"))
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


@FILES.refused("changed-file")
def failed_verdict_flipped(chain: ThrowawayChain) -> None:
    """The gate fails a detector, and its verdict file is made to say that it passed."""
    verdict = chain.artifacts / "gate/verdict.json"
    verdict.write_bytes(canonical_json({**parse_object(verdict.read_bytes()), "verdict": "fail"}))
    chain.run("gate", "release", "deploy", "monitor")
    verdict.write_bytes(verdict.read_bytes().replace(b'"fail"', b'"pass"'))


@FILES.refused("changed-file")
def file_truncated(chain: ThrowawayChain) -> None:
    """The weights lose their last byte."""
    os.truncate(chain.artifacts / "train/detector.safetensors", 100)


@FILES.refused("changed-file")
def edit_with_the_old_times(chain: ThrowawayChain) -> None:
    """The weights are edited without a change of size, and their times are set back."""
    path = chain.artifacts / "train/detector.safetensors"
    before = path.stat()
    path.write_bytes(_weights_scaled(path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@FILES.refused("missing-file")
def file_behind_a_link(chain: ThrowawayChain) -> None:
    """The weights are moved out and a symbolic link to them is left; they can be changed after the check."""
    path = chain.artifacts / "train/detector.safetensors"
    path.rename(chain.root / "elsewhere")
    path.symlink_to(chain.root / "elsewhere")


@FILES.refused("missing-file")
def directory_behind_a_link(chain: ThrowawayChain) -> None:
    """The directory of a stage is moved out and a symbolic link to it is left."""
    path = chain.artifacts / "train"
    path.rename(chain.root / "elsewhere")
    path.symlink_to(chain.root / "elsewhere")


@FILES.refused("unexpected-file")
def link_to_a_directory_added(chain: ThrowawayChain) -> None:
    """A symbolic link to a directory of other weights is put among the files of a stage."""
    (chain.root / "elsewhere").mkdir()
    (chain.root / "elsewhere/detector.safetensors").write_bytes(b"other weights")
    (chain.artifacts / "train/best").symlink_to(chain.root / "elsewhere")


@FILES.refused("missing-file")
def pipe_instead_of_a_file(chain: ThrowawayChain) -> None:
    """A named pipe takes the place of the weights; whoever opens it waits for ever."""
    path = chain.artifacts / "train/detector.safetensors"
    path.unlink()
    os.mkfifo(path)


@FILES.refused("unexpected-file")
def directory_added(chain: ThrowawayChain) -> None:
    """A directory that no stage made is put beside those of the stages."""
    (chain.artifacts / "train-final").mkdir()
    shutil.copyfile(
        chain.artifacts / "train/detector.safetensors", chain.artifacts / "train-final/detector.safetensors"
    )


@FILES.refused("unexpected-file")
def file_hidden_deep(chain: ThrowawayChain) -> None:
    """A file is hidden deeper than a program can recurse."""
    hide_deep(chain.artifacts / "train")


def hide_deep(directory: Path) -> None:
    """Put a file so deep below a directory that its path can hardly be said."""
    descriptor = os.open(directory, os.O_RDONLY)
    for _ in range(_DEEPER_THAN_PYTHON_RECURSES):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)


@FILES.refused("unexpected-file")
def name_that_forges_a_report(chain: ThrowawayChain) -> None:
    """A file is added whose name, once printed, is a line of its own that says that all is well."""
    (chain.artifacts / "train/x\n  gate           ok\x1b[1A").touch()


@FILES.refused("unexpected-file")
def name_that_is_no_text(chain: ThrowawayChain) -> None:
    """A file is added whose name is not UTF-8."""
    Path(os.fsdecode(os.fsencode(chain.artifacts / "train") + b"/\xff\xfe")).touch()


@FILES.refused("unexpected-file")
def name_with_a_backslash(chain: ThrowawayChain) -> None:
    """A file is added whose name other tools read as one in a directory."""
    (chain.artifacts / "train/..\\export\\detector.onnx").touch()
