"""What signing, logging, verifying and tracing evidence cost, beside in-toto.

OMP_NUM_THREADS=1 python benchmarks/evidence.py

The chain is the drill's: the steps of the stage table over small files. Everything happens in a temporary folder and is
removed afterwards; --in chooses the disk. Times are medians, of the wall clock and of the process; where the two differ
much, others were using the disk or the processor.
"""

import argparse
import contextlib
import io
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from in_toto.models.metadata import Metadata
from in_toto.verifylib import in_toto_verify

from secpipeline.digest_cache import DigestCache
from secpipeline.digests import sha256_bytes
from secpipeline.drills import throwaway
from secpipeline.drills.throwaway import ThrowawayChain
from secpipeline.provenance import authority, envelopes
from secpipeline.provenance.evidence import RUN, SignedEvidence, attest
from secpipeline.provenance.keys import LOG, KeyRing
from secpipeline.provenance.lineage.queries import makers
from secpipeline.provenance.lineage.reading import read_history
from secpipeline.provenance.lineage.tree import downstream, upstream
from secpipeline.provenance.verification import Expectations, verify_chain

SETTLING_SECONDS = 2.1  # a younger file is not recorded by a digest cache


@dataclass(frozen=True)
class Cost:
    """Median seconds of the wall clock, and of the process."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Target:
    """A time that must not be longer than another."""

    name: str
    cost: Cost
    most: float

    def __str__(self) -> str:
        verdict = "holds" if self.cost.wall <= self.most else "MISSED"
        wall, cpu = self.cost.wall * 1e3, self.cost.cpu * 1e3
        return f"{self.name:<60} {wall:8.1f} ms {cpu:8.1f} of CPU   at most {self.most * 1e3:<6.0f} {verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--in", dest="folder", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--repeats", type=int, default=200, help="of signing and logging; a tenth of them of the rest")
    parser.add_argument("--entries", type=int, default=10_000, help="of the long log")
    parser.add_argument("--materializations", type=int, default=1_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="secpipeline-evidence-", dir=options.folder) as scratch:
        made = throwaway.build(Path(scratch))
        copies = {name: made.copy(Path(scratch) / name) for name in ("logged", "verified", "past")}
        targets = [
            *sign_and_log(copies["logged"], options.repeats, options.entries),
            *verify(copies["verified"], max(3, options.repeats // 10)),
            *look_back(copies["past"], max(3, options.repeats // 40), options.materializations),
        ]
    print()
    for target in targets:
        print(target)


def sign_and_log(chain: ThrowawayChain, repeats: int, entries: int) -> Iterator[Target]:
    """One stage with twenty outputs and forty inputs, first into a short log, then into a long one."""
    spec, note = chain.spec("train"), iter(range(10**9))
    made = {f"train/{number}.bin": sha256_bytes(bytes([number])) for number in range(20)}
    read = {f"ingest/{number}.tar": sha256_bytes(bytes([number])) for number in range(40)}

    def sign() -> SignedEvidence:
        return attest(chain.ring, spec, made, read, {"note": str(next(note))}, {})

    for length in (chain.store.log.size(), entries):
        signer = chain.ring.signer(LOG)
        with mock.patch("os.fsync"):
            for number in range(length - chain.store.log.size()):
                chain.store.log.append({"kind": RUN, "stage": "attack", "number": number}, signer)
        syncs = Syncs()
        signing = median(sign, repeats)
        with mock.patch("os.fsync", syncs):
            total = median(lambda: chain.record("train", sign()), repeats)
        each, count = statistics.median(syncs.seconds), len(syncs.seconds) / repeats
        rest = total.wall - signing.wall - count * each
        print(
            f"sign and log one stage, {length} entries before: {total.wall * 1e3:.2f} ms, of which statement and link "
            f"{signing.wall * 1e3:.2f}, {count:.0f} syncs of {each * 1e3:.2f} each, the rest {rest * 1e3:.2f}"
        )
        yield Target(f"sign and log one stage, {length} entries before", total, 0.015)


class Syncs:
    """Stands in for ``os.fsync`` and keeps what each took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._real = os.fsync

    def __call__(self, descriptor: int) -> None:
        started = time.perf_counter()
        self._real(descriptor)
        self.seconds.append(time.perf_counter() - started)


def verify(chain: ThrowawayChain, repeats: int) -> Iterator[Target]:
    """The whole chain with its bytes: ours with and without a cache of digests, and in-toto on the same evidence."""
    for spec in chain.specs:
        for number in range(8):
            (chain.artifacts / spec.name / f"{number}.bin").write_bytes(os.urandom(128 << 10))
    run_anew(chain)
    bundle = export(chain)
    time.sleep(SETTLING_SECONDS)
    cache = DigestCache.open(chain.root / "digests.cache", os.urandom(32))
    peers = {
        "every byte hashed": lambda: check(chain),
        "unchanged bytes": lambda: check(chain, hashes=cache.sha256),
        "in-toto": lambda: verify_with_in_toto(bundle, chain.ring),
    }
    for peer in peers.values():  # the first time fills the caches, of the digests too
        peer()
    costs = interleaved(peers, repeats)
    steps, links = len(chain.specs), sum(len(spec.roles) for spec in chain.specs)
    print(f"verify {steps} steps with {links} links, {cache.hits // repeats} files, {repeats} interleaved runs:")
    for name, cost in costs.items():
        ratios = f"{cost.wall / costs['in-toto'].wall:.2f} × in-toto, {cost.cpu / costs['in-toto'].cpu:.2f} × its CPU"
        print(f"  {name:<18} {cost.wall * 1e3:8.1f} ms   {ratios}")
    yield Target(f"verify {steps} steps, unchanged bytes", costs["unchanged bytes"], 0.5)
    yield Target("the same, every byte hashed", costs["every byte hashed"], 0.5)


def run_anew(chain: ThrowawayChain) -> None:
    """Run every step as if none had run: a summary rests on what ran before it, not on what ran after it."""
    shutil.rmtree(chain.store.directory / "current")
    chain.run()


def check(chain: ThrowawayChain, *, artifacts: bool = True, whole_history: bool = False, **keywords: Any) -> None:
    expect = Expectations(whole_history=whole_history)
    place, owners = chain.artifacts if artifacts else None, chain.ring.owners()
    verify_chain(chain.store, place, owners, chain.specs, expect=expect, **keywords).require()


def export(chain: ThrowawayChain) -> Path:
    """The same evidence as in-toto reads it: links by key id, and what the layout's inspection looks at."""
    bundle = chain.root / "bundle"
    for folder in ("links", "attestations"):
        (bundle / folder).mkdir(parents=True)
    for spec in chain.specs:
        signed = chain.current(spec.name)
        (bundle / spec.attestation).write_bytes(signed.statement)
        for link in signed.links:
            (signature,) = envelopes.parse_object(link)["signatures"]
            (bundle / f"links/{spec.name}.{signature['keyid'][:8]}.link").write_bytes(link)
    for name in ("gate", "deploy"):
        shutil.copytree(chain.artifacts / name, bundle / name)
    (bundle / "root.layout").write_bytes(chain.store.layout.read_bytes())
    return bundle


def verify_with_in_toto(bundle: Path, ring: KeyRing) -> None:
    """What ``in-toto-verify`` does, without starting Python."""
    layout = Metadata.load(str(bundle / "root.layout"))
    keys = {key.keyid: {"keyid": key.keyid, **key.to_dict()} for key in ring.owners()}
    with contextlib.chdir(bundle), contextlib.redirect_stdout(io.StringIO()):
        in_toto_verify(layout, keys, "links", persist_inspection_links=False)


def look_back(chain: ThrowawayChain, repeats: int, materializations: int) -> Iterator[Target]:
    """A store in which every step ran many times: verify all of it, and trace a file up and down."""
    steps = len(chain.specs)
    with mock.patch("os.fsync"):  # nobody waits for the making of what is measured
        for number in range(-(-materializations // steps) - 1):
            for spec in chain.specs:
                (chain.artifacts / spec.name / "round.txt").write_text(f"{spec.name} {number}")
            run_anew(chain)
    whole = median(lambda: check(chain, artifacts=False, whole_history=True), repeats)
    first, last = (sha256_bytes(f"{step} 0".encode()) for step in ("ingest", "deploy"))
    traced: list[int] = []

    def trace() -> None:
        history = read_history(chain.store, authority.said(chain.store, chain.ring), chain.specs)
        up, down = upstream(history, makers(history, last)), downstream(history, makers(history, first))
        traced[:] = [len(history.runs), len(names(up)), len(names(down))]

    both = median(trace, repeats)
    runs, up, down = traced
    if (up, down) != (steps - 1, steps):  # monitoring comes after deployment
        sys.exit(f"traced to {up} steps up and {down} down")
    yield Target(f"verify a store with {runs} materializations, whole history", whole, 10)
    yield Target(f"trace {runs} materializations in both directions", both, 1)


def names(branches: Sequence[Any]) -> set[str]:
    return {branch.run.stage for branch in branches} | {n for branch in branches for n in names(branch.branches)}


def median(action: Callable[[], Any], repeats: int) -> Cost:
    return interleaved({"": action}, repeats)[""]


def interleaved(actions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Cost]:
    """What each costs, one after the other and again, so that a busy moment does not fall on one alone."""
    wall: dict[str, list[float]] = {name: [] for name in actions}
    cpu: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            started, cpu_started = time.perf_counter(), cpu_seconds()
            action()
            wall[name].append(time.perf_counter() - started)
            cpu[name].append(cpu_seconds() - cpu_started)
    return {name: Cost(statistics.median(wall[name]), statistics.median(cpu[name])) for name in actions}


def cpu_seconds() -> float:
    """Of this process and of those it waited for: in-toto starts one."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
