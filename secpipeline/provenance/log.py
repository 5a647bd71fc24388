"""An append-only log whose past cannot be changed without notice.

``log.jsonl`` holds one canonical JSON object a line. Its lines are the leaves of an RFC 6962 Merkle tree, and
``checkpoint.dsse.json`` is the log role's signature over how many there are and what the tree's root is. Whoever
remembers a checkpoint can tell whether a later log continues it.

>>> log = Log(Path("build/evidence"))                                    # doctest: +SKIP
>>> log.append({"kind": "run"}, ring.signer("log"), origin)              # doctest: +SKIP
>>> log.read(keys, origin).checkpoint.size                                       # doctest: +SKIP
1
"""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from securesystemslib.signer import Key, Signer

from secpipeline.digests import canonical_json
from secpipeline.errors import AttestationError
from secpipeline.provenance import envelopes, merkle
from secpipeline.store import write_atomic

CHECKPOINT_TYPE = "application/vnd.secpipeline.checkpoint+json"
LOG = "log.jsonl"
CHECKPOINT = "checkpoint.dsse.json"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_HASH = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"bytes", "frontier", "origin", "root", "size", "time"}


@dataclass(frozen=True)
class Checkpoint:
    """What the log's key signs.

    Attributes
    ----------
    origin
        The name of the log, that no other log shares.
    size, length
        Number of entries, and of bytes.
    frontier
        Of the tree; its root is what is compared.
    time
        When it was signed.
    """

    origin: str
    size: int
    length: int
    frontier: merkle.Frontier
    time: dt.datetime

    @property
    def root(self) -> str:
        """The tree's root in hex."""
        return self.frontier.root().hex()

    def to_bytes(self) -> bytes:
        """The signed form."""
        content = {
            "bytes": self.length,
            "frontier": [digest.hex() for digest in self.frontier.hashes],
            "origin": self.origin,
            "root": self.root,
            "size": self.size,
            "time": self.time.strftime(TIME_FORMAT),
        }
        return canonical_json(content)

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> Checkpoint:
        """Read the signed form.

        Raises
        ------
        AttestationError
            With code ``checkpoint-malformed``.
        """
        whole = (
            set(content) == _FIELDS
            and isinstance(content["origin"], str)
            and all(type(content[name]) is int and content[name] >= 0 for name in ("size", "bytes"))
            and isinstance(content["frontier"], list)
            and all(isinstance(digest, str) and _HASH.fullmatch(digest) for digest in content["frontier"])
            and len(content["frontier"]) == content["size"].bit_count()
        )
        try:
            time = dt.datetime.strptime(content.get("time", ""), TIME_FORMAT).replace(tzinfo=dt.UTC)
        except (ValueError, TypeError):
            whole = False
        if not whole:
            raise AttestationError("checkpoint-malformed", f"{CHECKPOINT}: not a checkpoint of a log")
        frontier = merkle.Frontier(content["size"], tuple(bytes.fromhex(digest) for digest in content["frontier"]))
        if frontier.root().hex() != content["root"]:
            raise AttestationError("checkpoint-malformed", f"{CHECKPOINT}: its root is not that of its frontier")
        return cls(content["origin"], content["size"], content["bytes"], frontier, time)


_NOTHING = Checkpoint("", 0, 0, merkle.Frontier(), dt.datetime.fromtimestamp(0, dt.UTC))


@dataclass(frozen=True)
class LogView:
    """A log that was checked against its checkpoint.

    Attributes
    ----------
    lines
        The entries as they lie in the file.
    leaves
        Their hashes.
    entries
        The same, parsed.
    checkpoint
        What covers them.
    signed
        The checkpoint's envelope.
    """

    lines: tuple[bytes, ...]
    leaves: tuple[bytes, ...]
    entries: tuple[Mapping[str, Any], ...]
    checkpoint: Checkpoint
    signed: bytes

    def root_at(self, size: int) -> str:
        """The root that the log had at an earlier size, in hex."""
        return merkle.root_hash(self.leaves[:size]).hex()

    def inclusion(self, entry: int) -> list[str]:
        """The proof that the log holds an entry, in hex."""
        return [digest.hex() for digest in merkle.inclusion_proof(self.leaves, entry)]

    def consistency(self, size: int) -> list[str]:
        """The proof that the log of ``size`` entries was only added to, in hex."""
        return [digest.hex() for digest in merkle.consistency_proof(self.leaves, size)]


def read_checkpoint(data: bytes) -> Checkpoint:
    """A checkpoint that its reader has kept, and therefore trusts, from its envelope.

    Raises
    ------
    AttestationError
        If it is none.
    """
    return Checkpoint.parse(envelopes.read_unverified(data, CHECKPOINT_TYPE))


class Log:
    """The log in a directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOG
        self.checkpoint_path = directory / CHECKPOINT

    def append(self, entry: Mapping[str, Any], signer: Signer, origin: str = "") -> int:
        """Add an entry and sign a checkpoint over all of them; returns the entry's number.

        ``origin`` names a log that is new, and need not be given to one that has entries.

        What was written and never covered by a checkpoint, because the process was killed in between, is written over.
        The checkpoint before is verified: signing on top of one that somebody else wrote would make it true.

        Raises
        ------
        AttestationError
            With code ``log-truncated`` if the log holds less than its checkpoint says, ``log-origin`` if it is another
            log than ``origin``, ``log-missing`` if it has no checkpoint or no name, or one that begins with
            ``checkpoint-`` if ``signer`` did not sign the last one.
        """
        line = canonical_json(entry)
        with self._locked() as file:
            last = self._last([signer.public_key])
            name = last.origin or origin
            if not name:
                raise AttestationError("log-missing", f"{self.path}: there is no log yet; run `secpipeline layout`")
            if origin not in ("", name):
                raise AttestationError("log-origin", f"{self.path}: is the log {name!r}, not {origin!r}")
            file.truncate(last.length)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
            frontier = last.frontier.append(merkle.leaf_hash(line))
            self._sign(Checkpoint(name, last.size + 1, last.length + len(line), frontier, _now()), [signer])
        return last.size

    def refresh(self, signer: Signer) -> None:
        """Sign the same checkpoint with the present time, so that a reader knows that nothing newer was held back.

        Raises
        ------
        AttestationError
            As :meth:`append`.
        """
        self.hand_over([signer.public_key], [signer])

    def hand_over(self, keys: Sequence[Key], signers: Sequence[Signer]) -> None:
        """Sign the same checkpoint, which one of ``keys`` signed, with each of ``signers``: any of them may go on.

        Raises
        ------
        AttestationError
            As :meth:`append`.
        """
        with self._locked():
            last = self._last(keys)
            if not last.size:
                raise AttestationError("log-missing", f"{self.path}: there is no log yet; run `secpipeline layout`")
            self._sign(replace(last, time=_now()), signers)

    def size(self) -> int:
        """The number of entries that the checkpoint on disk covers; it is not verified here."""
        return self._last().size

    def unverified(self) -> Iterator[Mapping[str, Any]]:
        """The entries that the checkpoint on disk covers, latest first; neither is verified here."""
        length = self._last().length
        for line in reversed(self.path.read_bytes()[:length].splitlines() if length else []):
            yield envelopes.parse_object(line)

    def read(self, keys: Sequence[Key], origin: str) -> LogView:
        """Check the whole log against a checkpoint of the log ``origin`` signed by one of ``keys``.

        Raises
        ------
        AttestationError
            With code ``log-missing``, ``log-origin``, ``log-truncated``, ``log-changed``, or one that begins with
            ``checkpoint-``.
        """
        if not self.checkpoint_path.is_file() or not self.path.is_file():
            raise AttestationError("log-missing", f"{self.path.parent}: {LOG} or {CHECKPOINT} is not there; restore it")
        signed = envelopes.read_file(self.checkpoint_path)
        checkpoint = _open_checkpoint(signed, keys)
        if checkpoint.origin != origin:
            raise AttestationError("log-origin", f"{self.path}: is the log {checkpoint.origin!r}, not {origin!r}")
        with self.path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            if length < checkpoint.length:
                raise self._truncated(length, checkpoint)
            lines = tuple(file.read(checkpoint.length).splitlines(keepends=True))
        leaves = tuple(merkle.leaf_hash(line) for line in lines)
        if merkle.frontier(leaves) != checkpoint.frontier:
            raise AttestationError("log-changed", f"{self.path}: its entries are not those that the checkpoint covers")
        return LogView(lines, leaves, tuple(envelopes.parse_object(line) for line in lines), checkpoint, signed)

    def _last(self, keys: Sequence[Key] | None = None) -> Checkpoint:
        """The checkpoint on disk, signed by one of ``keys`` if any are given."""
        if not self.checkpoint_path.is_file():
            return self._before_the_first()
        last = _open_checkpoint(envelopes.read_file(self.checkpoint_path), keys)
        length = self.path.stat().st_size if self.path.is_file() else 0
        if length < last.length:
            raise self._truncated(length, last)
        return last

    def _before_the_first(self) -> Checkpoint:
        # One entry without checkpoint is a first append that was killed; more are a log that lost its checkpoint.
        if self.path.is_file() and self.path.read_bytes().count(b"\n") > 1:
            raise AttestationError("log-missing", f"{self.checkpoint_path}: not there; restore it beside its log")
        return _NOTHING

    def _truncated(self, length: int, checkpoint: Checkpoint) -> AttestationError:
        return AttestationError(
            "log-truncated",
            f"{self.path}: holds {length} bytes, its checkpoint covers {checkpoint.length}; restore the log",
        )

    def _sign(self, checkpoint: Checkpoint, signers: Sequence[Signer]) -> None:
        write_atomic(self.checkpoint_path, envelopes.sign(checkpoint.to_bytes(), CHECKPOINT_TYPE, signers))

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file


def _open_checkpoint(data: bytes, keys: Sequence[Key] | None) -> Checkpoint:
    try:
        if keys is None:
            content = envelopes.read_unverified(data, CHECKPOINT_TYPE)
        else:
            content = envelopes.verify(data, keys, 1, CHECKPOINT_TYPE)
    except AttestationError as error:
        raise AttestationError(f"checkpoint-{error.code}", f"{CHECKPOINT}: {error.message}") from error
    return Checkpoint.parse(content)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)
