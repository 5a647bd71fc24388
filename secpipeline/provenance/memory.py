"""What this machine has seen before, so that nobody can show it an older state.

A log, a layout and a list of revocations that were once true stay validly signed for ever. Only whoever remembers a
later state can tell, so the verifier keeps the last checkpoint and the last version of the trust document outside the
project. On a machine without memory, ask for freshness in numbers: ``--max-age`` and ``--at-least-version``.

>>> memory = Memory(workspace.memory)                                # doctest: +SKIP
>>> memory.check(view, trust)                                            # doctest: +SKIP
>>> memory.remember(view, trust)                                         # doctest: +SKIP
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from secpipeline.digests import canonical_json
from secpipeline.errors import AttestationError
from secpipeline.provenance import envelopes
from secpipeline.provenance.log import LogView
from secpipeline.provenance.trust import Trust
from secpipeline.store import write_atomic

_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class _Seen:
    root: str
    size: int
    trust: int


class Memory:
    """A directory beside the keys with a small file for each log that was seen."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def check(self, log: LogView, trust: Trust) -> None:
        """Compare with what was seen before.

        Raises
        ------
        AttestationError
            With code ``log-rewound``, ``log-forked``, ``trust-rewound`` or ``memory``.
        """
        seen = self._read(trust.log)
        if seen is None:
            return
        if trust.version < seen.trust:
            raise AttestationError(
                "trust-rewound", f"the trust document has version {trust.version}; version {seen.trust} was seen here"
            )
        if log.checkpoint.size < seen.size:
            raise AttestationError(
                "log-rewound", f"the log has {log.checkpoint.size} entries; {seen.size} were seen here"
            )
        if log.root_at(seen.size) != seen.root:
            raise AttestationError("log-forked", f"the first {seen.size} entries are not those that were seen here")

    def remember(self, log: LogView, trust: Trust) -> None:
        """Keep what was just verified, unless another process has seen a later state meanwhile.

        Raises
        ------
        AttestationError
            With code ``memory`` if what is there is damaged.
        InputError
            If it cannot be written.
        """
        seen = _Seen(log.checkpoint.root, log.checkpoint.size, trust.version)
        before = self._read(trust.log)
        if before is None or (before != seen and before.size <= seen.size and before.trust <= seen.trust):
            write_atomic(self._path(trust.log), canonical_json(vars(seen)), mode=0o600)

    def _path(self, log: str) -> Path:
        return self.directory / f"{log}.json"

    def _read(self, log: str) -> _Seen | None:
        path = self._path(log)
        try:
            seen = _Seen(**envelopes.parse_object(envelopes.read_file(path)))
            numbers = all(type(number) is int and number >= 0 for number in (seen.size, seen.trust))
            whole = numbers and isinstance(seen.root, str) and _HASH.fullmatch(seen.root)
        except FileNotFoundError:
            return None
        except (AttestationError, TypeError, OSError):
            whole = None
        if not whole:
            raise AttestationError("memory", f"{path}: damaged; find out why, then remove it")
        return seen
