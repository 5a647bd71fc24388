"""What a computation ran on: interpreter, packages, accelerator, source revision."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

from secpipeline.digests import sha256_file

_PACKAGES = ("torch", "torchvision", "numpy", "onnxruntime", "cleanlab", "great-expectations", "in-toto")


@functools.cache
def describe() -> dict[str, str]:
    """Versions by name; ``accelerator`` is ``cpu`` or the name of the first CUDA device and its driver's CUDA."""
    import torch  # noqa: PLC0415 - most commands never need it

    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    cuda = torch.cuda.is_available()
    versions["accelerator"] = f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}" if cuda else "cpu"
    versions["python"] = platform.python_version()
    versions["platform"] = f"{platform.system()}-{platform.machine()}"
    return versions


def source_revision(root: Path) -> dict[str, str]:
    """The git commit of the project and whether its tracked files differ from it; empty outside a checkout."""
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return {}
    dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    return {"gitCommit": commit, "dirty": str(dirty).lower()}


def lock_file(root: Path) -> dict[str, str]:
    """SHA-256 of the requirements lock by its name; empty where the project has none."""
    path = root / "requirements.lock"
    return {path.name: sha256_file(path)} if path.is_file() else {}


def _git(root: Path, *arguments: str) -> str:
    try:
        answer = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
