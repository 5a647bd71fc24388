"""DVC moves and versions the artifacts; it is called as a program, from an environment of its own.

DVC's MD5 sums are never evidence. Its pinned antlr4 breaks Dagster's asset selection when both share an environment,
and its cache reads pickles, so it stays outside this process and its cache directories stay private to the project.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from secpipeline.errors import SecpipelineError
from secpipeline.stages.table import dvc_pipeline
from secpipeline.store import write_atomic
from secpipeline.workspace import Workspace

_HEADER = b"# Rendered from secpipeline/stages/table.py by `secpipeline pipeline`; a test fails when they differ.\n"


def pipeline_bytes(root: Path) -> bytes:
    """The bytes of ``dvc.yaml``."""
    return _HEADER + yaml.safe_dump(dvc_pipeline(root), sort_keys=False, width=110).encode()


def write_pipeline(root: Path) -> None:
    """Write ``dvc.yaml``."""
    write_atomic(root / "dvc.yaml", pipeline_bytes(root))


def executable(root: Path) -> Path | None:
    """The project's own DVC, one named by ``$SECPIPELINE_DVC``, or none."""
    named = os.environ.get("SECPIPELINE_DVC")
    if named:
        return Path(named)
    own = root / ".venv-dvc" / "bin" / "dvc"
    if own.is_file():
        return own
    found = shutil.which("dvc")
    return Path(found) if found else None


def dvc(root: Path, *arguments: str) -> str:
    """Run one DVC command in the project and return what it printed.

    Raises
    ------
    SecpipelineError
        If DVC is missing or fails; the message carries its own words.
    """
    program = executable(root)
    if program is None:
        raise SecpipelineError("DVC is not installed; `make setup` puts it into .venv-dvc")
    private = root / ".dvc" / "tmp"
    environment = {
        **os.environ,
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(private / "site"),
        "DVC_GLOBAL_CONFIG_DIR": str(private / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(private / "system"),
    }
    answer = subprocess.run(
        [str(program), *arguments], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise SecpipelineError(f"dvc {' '.join(arguments)} failed: {(answer.stderr or answer.stdout).strip()}")
    return answer.stdout.strip()


def snapshot(workspace: Workspace) -> str:
    """Let DVC record the current outputs of the project's own workspace.

    Nothing happens where DVC is not installed, while DVC itself is running the stage, or for a workspace other than
    the one that ``dvc.yaml`` describes.

    Returns
    -------
    str
        What was done, or an empty string.
    """
    if os.environ.get("DVC_STAGE") or workspace.home != workspace.root / "build" or executable(workspace.root) is None:
        return ""
    with _serialised(workspace):
        present = [name for name in _stage_names(workspace.root) if (workspace.store.artifacts / name).is_dir()]
        if not present:
            return ""
        dvc(workspace.root, "commit", "--force", "--quiet", *present)
    return f"DVC recorded {len(present)} stages"


def _stage_names(root: Path) -> list[str]:
    return list(dvc_pipeline(root)["stages"])


def _serialised(workspace: Workspace) -> Any:
    # DVC fails at once when its own lock is taken, so callers wait for ours.
    return workspace.lock()
