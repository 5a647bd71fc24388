import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from secpipeline import environment
from secpipeline.digests import sha256_file

ROOT = Path(__file__).parents[2]
REQUIRED = {
    *("torch", "torchvision", "numpy", "scipy", "pandas", "pyarrow", "pillow", "onnx", "onnxruntime", "safetensors"),
    *("cleanlab", "great-expectations", "in-toto", "securesystemslib", "secpipeline"),
}
# They show progress, serve requests, or are there because a dependency forgot to declare them.
NOT_RECORDED = {"tqdm", "fastapi", "uvicorn", "python-multipart", "pyopenssl"}
DRIVERS = {
    "535.104.05": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
    "GCC version:  gcc version 12.3.0\n",
    "570.86.10": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release Build  (builder@host)\n",
}


@pytest.fixture(autouse=True)
def no_accelerator(tmp_path, monkeypatch):
    """No driver and no nvidia-smi, whatever this machine has."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(environment, "_DRIVER", tmp_path / "version")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    environment.describe.cache_clear()
    yield tmp_path
    environment.describe.cache_clear()


def torch_that_sees(*names, cudnn=91200):
    """A stand-in for torch: what CUDA answers cannot be had on every machine that runs these tests."""
    cuda = SimpleNamespace(
        is_available=lambda: bool(names), device_count=lambda: len(names), get_device_name=lambda index: names[index]
    )
    backends = SimpleNamespace(cudnn=SimpleNamespace(version=lambda: cudnn))
    return SimpleNamespace(cuda=cuda, backends=backends, version=SimpleNamespace(cuda="13.0"))


def test_every_package_that_takes_part_is_listed_with_its_exact_version():
    described = environment.describe()
    assert described.keys() >= REQUIRED
    for name in environment.PACKAGES:
        assert described[name] == importlib.metadata.version(name)
    assert described["numpy"] == np.__version__
    assert described["python"] == ".".join(map(str, sys.version_info[:3]))
    assert described["platform"]


def test_no_declared_dependency_is_forgotten():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.match(r"[A-Za-z0-9-]+", entry)[0].lower() for entry in declared}
    undecided = names - set(environment.PACKAGES) - NOT_RECORDED
    assert not undecided, f"add {undecided} to environment.PACKAGES, or to NOT_RECORDED here if no result needs it"


def test_a_package_that_is_not_installed_is_absent(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "no-such-package"))
    described = environment.describe()
    assert "numpy" in described
    assert "no-such-package" not in described


def test_torch_is_not_imported_where_there_is_no_driver(no_accelerator):
    script = (
        "import json, sys; from pathlib import Path; from secpipeline import environment\n"
        f"environment._DRIVER = Path({str(no_accelerator / 'version')!r})\n"
        "print(json.dumps([environment.describe()['accelerator'], 'torch' in sys.modules]))"
    )
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == ["cpu", False]


def test_a_cpu_machine_says_so_and_names_no_gpu():
    described = environment.describe()
    assert described["accelerator"] == "cpu"
    assert not described.keys() & {"gpu", "gpu-count", "cuda", "cudnn", "nvidia-driver"}


@pytest.mark.parametrize(("version", "text"), DRIVERS.items())
def test_gpus_driver_and_runtimes_are_named(no_accelerator, monkeypatch, version, text):
    (no_accelerator / "version").write_text(text)
    monkeypatch.setitem(sys.modules, "torch", torch_that_sees("NVIDIA H100 80GB HBM3", "NVIDIA L4"))
    described = environment.describe()
    expected = {
        "accelerator": "cuda",
        "gpu": "NVIDIA H100 80GB HBM3; NVIDIA L4",
        "gpu-count": "2",
        "cuda": "13.0",
        "cudnn": "91200",
        "nvidia-driver": version,
    }
    assert {name: described.get(name) for name in expected} == expected
    assert all(isinstance(value, str) for value in described.values())


def test_nvidia_smi_answers_where_the_kernel_shows_no_file(no_accelerator, monkeypatch):
    program = no_accelerator / "bin/nvidia-smi"
    program.write_text("#!/bin/sh\necho 560.35.03\necho 560.35.03\n")
    program.chmod(0o755)
    monkeypatch.setitem(sys.modules, "torch", torch_that_sees("NVIDIA RTX A2000"))
    assert environment.describe()["nvidia-driver"] == "560.35.03"


def test_a_driver_without_usable_devices_is_still_cpu(no_accelerator, monkeypatch):
    (no_accelerator / "version").write_text(DRIVERS["570.86.10"])
    monkeypatch.setitem(sys.modules, "torch", torch_that_sees())
    described = environment.describe()
    assert (described["accelerator"], described["nvidia-driver"]) == ("cpu", "570.86.10")
    assert "gpu" not in described


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout with one commit."""
    monkeypatch.undo()
    root = tmp_path / "checkout"
    root.mkdir()
    for name in ("recipe.yaml", "dvc.lock"):
        (root / name).write_text("a: 1\n")
    (root / ".gitignore").write_text("build/\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "first")
    return root


def git(root, *arguments):
    subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True)


def test_a_clean_checkout_is_named_by_its_commit(checkout):
    (checkout / "build").mkdir()
    (checkout / "build/output").write_text("ignored")
    (checkout / "dvc.lock").write_text("outputs: 2\n")
    head = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert environment.source_revision(checkout) == {"gitCommit": head.stdout.strip(), "dirty": "false"}


@pytest.mark.parametrize("name", ["recipe.yaml", "untracked.yaml"])
def test_a_changed_or_untracked_file_makes_it_dirty(checkout, name):
    (checkout / name).write_text("a: 2\n")
    assert environment.source_revision(checkout)["dirty"] == "true"


def test_a_checkout_that_git_cannot_compare_counts_as_dirty(checkout):
    (checkout / ".git/index").write_bytes(b"damaged")
    assert environment.source_revision(checkout)["dirty"] == "true"


def test_outside_a_checkout_or_without_git_there_is_no_revision(tmp_path, checkout, monkeypatch):
    assert environment.source_revision(tmp_path) == {}
    monkeypatch.setenv("PATH", "")
    assert environment.source_revision(checkout) == {}


def test_the_lock_file_is_named_by_its_digest(tmp_path):
    assert environment.lock_file(tmp_path) == {}
    (tmp_path / "requirements.lock").write_text("numpy==2.3.5\n")
    assert environment.lock_file(tmp_path) == {"requirements.lock": sha256_file(tmp_path / "requirements.lock")}
