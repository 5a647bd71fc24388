"""How fast files are hashed, beside `hashlib.file_digest` and model-signing, and what a digest cache saves.

OMP_NUM_THREADS=1 python benchmarks/digests.py

Makes 20,000 files of 100 kB in a temporary folder and removes them afterwards. All peers hash the same files out of
the page cache, in turns, each in one thread unless the row says two; CPU time is that of the process. The wall ratio
says something only where this script has the cores to itself: see the load. Ours hashes two files in lockstep where the
extension was built and the processor has SHA instructions; "hashlib only" is what is left elsewhere.
"""

import argparse
import hashlib
import mmap
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import model_signing.hashing

from secpipeline.digest_cache import DigestCache
from secpipeline.digests import sha256_files
from secpipeline.paired_sha256 import hashlib_alone, hashlib_pair, pairing

SETTLING_SECONDS = 2.1  # a younger file is not recorded by a digest cache


@dataclass(frozen=True)
class Target:
    """A ratio of two medians that must reach a number."""

    name: str
    ratio: float
    least: float

    def __str__(self) -> str:
        return f"{self.name:<44} {self.ratio:6.2f}   at least {self.least:<5} {self.verdict}"

    @property
    def verdict(self) -> str:
        return "holds" if self.ratio >= self.least else "MISSED"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=2_000_000_000, help="of all files together")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="secpipeline-digests-") as scratch:
        folder = Path(scratch) / "files"
        paths = make_files(folder, options.files, options.bytes)
        peers = {
            "ours, 1 thread": lambda: sha256_files(paths, threads=1, progress=False),
            "ours, 2 threads": lambda: sha256_files(paths, threads=2, progress=False),
            "ours, hashlib only": lambda: hashlib_files(paths, threads=1),
            "ours, hashlib only, 2 threads": lambda: hashlib_files(paths, threads=2),
            "bare system calls": lambda: list(bare_digests(paths)),
            "hashlib.file_digest": lambda: [file_digest(path) for path in paths],
            "model-signing, 1 thread": lambda: (
                model_signing.hashing.Config().use_file_serialization(max_workers=1).hash(folder)
            ),
        }
        check_agreement(peers)
        cpu, wall = measure(peers, options.repeats)
        fresh, again = measure_cache(Path(scratch) / "digests.cache", paths)
    megabytes = options.bytes / 1e6
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"{options.files} files, {megabytes:.0f} MB, medians of {options.repeats} interleaved runs, {load}")
    print(f"ours hashes {'with hashlib' if pairing() is hashlib_pair else 'two files in lockstep'}")
    print(f"{'':<30} {'MB per CPU-second':>18} {'MB per second':>14}")
    for name in peers:
        print(f"{name:<30} {megabytes / cpu[name]:18.0f} {megabytes / wall[name]:14.0f}")
    print(f"{'ours, cache unchanged':<30} {fresh:.2f} s to hash and record, {again:.2f} s to open and verify again\n")
    for target in targets(cpu, wall):
        print(target)


def make_files(folder: Path, count: int, total: int) -> list[Path]:
    """Files of equal size (the last takes the rest), a thousand in each folder, of bytes that differ."""
    size = total // count
    noise = random.Random(0).randbytes(size + count)
    paths = [folder / f"{number // 1000:03d}" / f"{number:06d}.bin" for number in range(count)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise[number : number + size])
    with paths[-1].open("ab") as last:
        last.write(bytes(total - size * count))
    os.sync()
    return paths


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:  # noqa: PTH123 - the way of the documentation, and the fastest
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashlib_files(paths: list[Path], threads: int) -> list[str]:
    with hashlib_alone():
        return sha256_files(paths, threads=threads, progress=False)


def bare_digests(paths: list[Path]) -> Iterator[str]:
    """The bound for whoever copies out of the page cache: no check, one read a file."""
    buffer = memoryview(mmap.mmap(-1, max(path.stat().st_size for path in paths)))
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        count = os.readv(descriptor, (buffer,))
        os.close(descriptor)
        yield hashlib.sha256(buffer[:count]).hexdigest()


def check_agreement(peers: dict[str, Callable[[], Any]]) -> None:
    """Fill the page cache, and let nobody win by hashing something else."""
    found = {name: hash_files() for name, hash_files in peers.items()}
    manifest = found["model-signing, 1 thread"]
    items = sorted((item.identifier, item.digest.digest_hex) for item in manifest.resource_descriptors())
    found["model-signing, 1 thread"] = [digest for _, digest in items]
    if len({tuple(digests) for digests in found.values()}) != 1:
        sys.exit(f"{', '.join(found)} disagree about the digests")


def measure(peers: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median CPU seconds and wall seconds of each peer."""
    cpu: dict[str, list[float]] = {name: [] for name in peers}
    wall: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(repeats):
        for name, hash_files in peers.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            hash_files()
            cpu[name].append(time.process_time() - cpu_started)
            wall[name].append(time.perf_counter() - started)
    return medians(cpu), medians(wall)


def medians(samples: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in samples.items()}


def measure_cache(place: Path, paths: list[Path]) -> tuple[float, float]:
    """Wall seconds to hash and record every file, and to verify them again from what was recorded."""
    time.sleep(SETTLING_SECONDS)
    key, seconds = os.urandom(32), []
    for _ in range(2):
        started = time.perf_counter()
        cache = DigestCache.open(place, key)
        cache.sha256(paths, threads=1, progress=False)
        cache.save()
        seconds.append(time.perf_counter() - started)
    if cache.hits < len(paths):
        print(f"the cache remembered {cache.hits} of {len(paths)} files: {place.parent} keeps no reliable ctime")
    return seconds[0], seconds[1]


def targets(cpu: dict[str, float], wall: dict[str, float]) -> list[Target]:
    ours = cpu["ours, 1 thread"]
    return [
        Target("ours / hashlib.file_digest, per CPU-second", cpu["hashlib.file_digest"] / ours, 1.15),
        Target("ours / model-signing, per CPU-second", cpu["model-signing, 1 thread"] / ours, 2),
        Target("2 threads / 1 thread, wall", wall["ours, 1 thread"] / wall["ours, 2 threads"], 1.7),
    ]


if __name__ == "__main__":
    main()
