"""What a computation ran on: interpreter, packages, accelerator, source revision.

>>> from secpipeline import environment
>>> environment.describe()["accelerator"]                                # doctest: +SKIP
'cpu'
>>> environment.source_revision(Path())                                  # doctest: +SKIP
{'gitCommit': '1bfdecac8b4c1b0d2c0bb8a5b4ab4c1d1c0a5f0e', 'dirty': 'false'}
"""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import re
import subprocess
import sys
from pathlib import Path

from secpipeline.digests import sha256_file

# What takes part in a result or in its evidence; what only shows progress or serves requests does not.
PACKAGES = (
    "cleanlab",
    "cryptography",
    "cyclonedx-python-lib",
    "great-expectations",
    "in-toto",
    "jinja2",
    "matplotlib",
    "model-signing",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pandas",
    "pillow",
    "pyarrow",
    "pyyaml",
    "safetensors",
    "scipy",
    "secpipeline",
    "securesystemslib",
    "torch",
    "torchvision",
    "tuf",
)
_DRIVER = Path("/proc/driver/nvidia/version")
_DRIVER_VERSION = re.compile(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", re.MULTILINE)
_GIT_STATUS = ("status", "--porcelain", "--untracked-files=normal", "--", ".", ":(exclude)dvc.lock")
_PATIENCE_SECONDS = 60


@functools.cache
def describe() -> dict[str, str]:
    """Versions by name.

    Torch is imported only where there is an NVIDIA driver, because that takes seconds and most commands never need it.

    Returns
    -------
    dict
        Each of :data:`PACKAGES` that is installed; ``python``; ``platform``; ``accelerator``, ``cpu`` or ``cuda``. With
        ``cuda`` also ``gpu`` (the name of each device that torch sees, joined by ``; ``), ``gpu-count``, ``cuda`` and
        ``cudnn`` (the runtimes that torch was built with), and ``nvidia-driver``.
    """
    versions = {name: version for name in PACKAGES if (version := _version(name))}
    return {
        **versions,
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        **_accelerator(),
    }


def source_revision(root: Path) -> dict[str, str]:
    """The git commit of the project and whether its files differ from it; empty outside a checkout.

    Files that git does not know count as a difference unless it is told to ignore them: an untracked recipe can be
    trained from. ``dvc.lock`` does not count, because it records outputs and no stage reads it.

    Returns
    -------
    dict
        ``gitCommit``, and ``dirty`` as ``true`` or ``false``; or nothing.
    """
    commit = _output("git", "-C", str(root), "rev-parse", "HEAD")
    if not commit:
        return {}
    clean = _output("git", "-C", str(root), *_GIT_STATUS) == ""
    return {"gitCommit": commit, "dirty": "false" if clean else "true"}


def lock_file(root: Path) -> dict[str, str]:
    """SHA-256 of the requirements lock by its name; empty where the project has none."""
    path = root / "requirements.lock"
    return {path.name: sha256_file(path)} if path.is_file() else {}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _accelerator() -> dict[str, str]:
    driver = _driver_version()
    if not driver and "torch" not in sys.modules:
        return {"accelerator": "cpu"}
    import torch  # noqa: PLC0415 - takes seconds

    if not torch.cuda.is_available():
        return {"accelerator": "cpu", **({"nvidia-driver": driver} if driver else {})}
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    facts = {
        "accelerator": "cuda",
        "gpu": "; ".join(names),
        "gpu-count": len(names),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "nvidia-driver": driver,
    }
    return {name: str(value) for name, value in facts.items() if value}


def _driver_version() -> str:
    """The version of the NVIDIA driver, or nothing. A file answers at once; some systems have only ``nvidia-smi``."""
    if _DRIVER.is_file():
        found = _DRIVER_VERSION.search(_DRIVER.read_text(encoding="utf-8", errors="replace"))
        if found:
            return found[1]
    answer = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or ""
    return answer.partition("\n")[0]


def _output(*command: str) -> str | None:
    """What a program printed, or None where it is missing, fails or hangs."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
