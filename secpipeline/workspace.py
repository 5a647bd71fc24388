"""Where one chain lives: the project it reads, the home it writes, the keys it signs with.

>>> from secpipeline.workspace import Workspace
>>> workspace = Workspace.open()                                   # doctest: +SKIP
>>> workspace.store.artifacts                                      # doctest: +SKIP
PosixPath('.../build/artifacts')
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from secpipeline.digest_cache import DigestCache
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance import authority
from secpipeline.provenance.evidence import EvidenceStore
from secpipeline.provenance.keys import KeyRing, default_key_directory
from secpipeline.provenance.layout import StepSpec
from secpipeline.provenance.log import LOG
from secpipeline.provenance.trust import Trust
from secpipeline.stages.table import REVIEW, STAGES
from secpipeline.store import Store, write_atomic


@dataclass(frozen=True)
class Workspace:
    """The places of one chain.

    Attributes
    ----------
    root
        The project: ``params.yaml``, policies, recipes, expectations.
    home
        Artifacts, objects, evidence and channels.
    keys
        The key directory, outside the project.
    """

    root: Path
    home: Path
    keys: Path

    @classmethod
    def open(cls, root: Path | None = None, home: Path | None = None) -> Workspace:
        """Find a workspace.

        ``root`` defaults to the current directory and ``home`` to ``$SECPIPELINE_HOME`` or ``<root>/build``.

        Raises
        ------
        InputError
            If ``root`` has no ``params.yaml``, or ``home`` is of a version before 0.3.
        """
        root = (root or Path.cwd()).resolve()
        if not (root / "params.yaml").is_file():
            raise InputError(f"{root}: no params.yaml here; run from the project's directory or pass --project")
        chosen = home or Path(os.environ.get("SECPIPELINE_HOME", root / "build"))
        _refuse_older(chosen.resolve())
        return cls(root, chosen.resolve(), default_key_directory(root))

    @property
    def store(self) -> Store:
        """The artifacts."""
        return Store(self.home)

    @property
    def evidence(self) -> EvidenceStore:
        """The attestations, links and the log."""
        return EvidenceStore(self.home / "evidence")

    @property
    def channels(self) -> Path:
        """Where deployments are published."""
        return self.home / "channels"

    @property
    def review(self) -> Path | None:
        """The directory of a review of labels that is signed; None as long as there is none."""
        return self.home / "review" if all((self.home / name).is_file() for name in REVIEW) else None

    def ring(self) -> KeyRing:
        """The keys of every role, made on first use.

        Raises
        ------
        AttestationError
            With code ``keys-inside`` if they would lie in the project or its workspace, and be shared with either.
        """
        self.check_key_place()
        return KeyRing.create(self.keys)

    def check_key_place(self) -> None:
        """Refuse keys inside the project; raises as :meth:`ring`."""
        for place in (self.root, self.home):
            if self.keys.resolve().is_relative_to(place):
                raise AttestationError("keys-inside", f"{self.keys}: lies in {place}; move the keys elsewhere")

    @property
    def memory(self) -> Path:
        """What this machine's verifier has seen before; beside the keys, where no copy of the project reaches it."""
        return self.keys / "seen"

    def digest_cache(self, *, full: bool) -> DigestCache:
        """The digests of files that were hashed before; authenticated by a key that lies beside the others."""
        path = self.ring().directory / "digest-cache.key"
        if not path.is_file():
            write_atomic(path, secrets.token_bytes(32), mode=0o600)
        return DigestCache.open(self.home / "digests.cache", path.read_bytes(), full=full)

    def trust(self) -> Trust:
        """What the owners say now about keys and revocations; signed first, with a layout, in a new workspace."""
        store, ring = self.evidence, self.ring()
        authority.found(store, ring, step_specs())
        return authority.said(store, ring)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the workspace: one stage at a time writes, whoever started it.

        Raises
        ------
        InputError
            If the home cannot be written.
        """
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            file = (self.home / ".lock").open("a")
        except OSError as error:
            raise InputError(f"{self.home}: cannot write here ({error.strerror}); check its permissions") from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _refuse_older(home: Path) -> None:
    """Until 0.3 the entries of the log named each other, and nothing was signed over them."""
    try:
        with (home / "evidence" / LOG).open("rb") as file:
            first = file.readline(1024)
    except FileNotFoundError:
        return
    if b'"previous":' in first:
        raise InputError(
            f"{home}: its evidence is of a version before 0.3, which this one does not read; "
            f"move it aside (mv {home} {home}-0.2) and run the chain again"
        )


def step_specs() -> Sequence[StepSpec]:
    """The stage table as the steps of an in-toto layout."""
    return tuple(
        StepSpec(
            name=stage.name,
            role=stage.role,
            inputs=stage.inputs,
            files=(f"code/{stage.name}", f"params/{stage.name}.json", *stage.files, *stage.outside),
            predicate_type=stage.predicate,
            witness=stage.witness,
            about=stage.about,
        )
        for stage in STAGES
    )
