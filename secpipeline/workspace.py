"""Where one chain lives: the project it reads, the home it writes, the keys it signs with.

>>> from secpipeline.workspace import Workspace
>>> workspace = Workspace.open()                                   # doctest: +SKIP
>>> workspace.store.artifacts                                      # doctest: +SKIP
PosixPath('.../build/artifacts')
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from secpipeline.errors import InputError
from secpipeline.provenance import layout
from secpipeline.provenance.evidence import EvidenceStore
from secpipeline.provenance.keys import KeyRing, default_key_directory
from secpipeline.provenance.layout import StepSpec
from secpipeline.stages.table import STAGES
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
            If ``root`` has no ``params.yaml``.
        """
        root = (root or Path.cwd()).resolve()
        if not (root / "params.yaml").is_file():
            raise InputError(f"{root}: no params.yaml here; run from the project's directory or pass --project")
        chosen = home or Path(os.environ.get("SECPIPELINE_HOME", root / "build"))
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

    def ring(self) -> KeyRing:
        """The keys of every role, made on first use."""
        return KeyRing.create(self.keys)

    def ensure_layout(self) -> None:
        """Sign the layout if there is none yet; one that expired or differs is left for the owners to renew."""
        if not self.evidence.layout.is_file():
            self.sign_layout()

    def sign_layout(self) -> Path:
        """Sign the layout of the present table of stages with the owners' keys.

        Raises
        ------
        AttestationError
            If this machine does not hold enough of the owners' keys.
        """
        path = self.evidence.layout
        write_atomic(path, layout.sign(step_specs(), self.ring(), dt.datetime.now(dt.UTC)))
        return path

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


def step_specs() -> Sequence[StepSpec]:
    """The stage table as the steps of an in-toto layout."""
    return tuple(
        StepSpec(
            name=stage.name,
            role=stage.role,
            inputs=stage.inputs,
            files=(f"code/{stage.name}", f"params/{stage.name}.json", *stage.files, *stage.outside),
            predicate_type=stage.predicate,
        )
        for stage in STAGES
    )
