"""A run killed at the worst moment leaves the old state or the new one, and the next run finishes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from secpipeline import audit, runner

# Each kills the process with SIGKILL at one moment of a stage's life.
MOMENTS = {
    "while it computes": ("secpipeline.stages.validate.render", "before"),
    "after the outputs are stored": ("secpipeline.store.Store.put", "after"),
    "after the evidence is logged": ("secpipeline.provenance.evidence.EvidenceStore.record", "after"),
    "before the outputs are published": ("secpipeline.store.Store.publish", "before"),
    "after the outputs are published": ("secpipeline.store.Store.publish", "after"),
}

PROGRAM = """
import importlib, os, signal, sys
from pathlib import Path
from secpipeline import runner
from secpipeline.workspace import Workspace

path, when, root, test = sys.argv[1:]
parts = path.split(".")
for cut in range(len(parts) - 1, 0, -1):
    try:
        owner = importlib.import_module(".".join(parts[:cut]))
        break
    except ModuleNotFoundError:
        continue
for name in parts[cut:-1]:
    owner = getattr(owner, name)
original = getattr(owner, parts[-1])

def deadly(*arguments, **keywords):
    if when == "after":
        original(*arguments, **keywords)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(owner, parts[-1], deadly)
# Another expectation file makes a computation that no record answers.
extra = Path(root) / "expectations/images.json"
extra.write_text(extra.read_text() + "\\n")
runner.run(Workspace.open(Path(root)), "validate")
"""


@pytest.mark.parametrize("moment", list(MOMENTS))
def test_a_killed_stage_is_finished_by_the_next_run(chain, moment):
    path, when = MOMENTS[moment]
    command = [sys.executable, "-c", PROGRAM, path, when, str(chain.root), moment]
    died = subprocess.run(command, env={**os.environ}, capture_output=True, timeout=120, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    outcome = runner.run(chain, "validate")
    assert outcome.files["report.json"]
    for name in ("curate", "train"):
        assert runner.run(chain, name)
    present = audit.verify_everything(chain)
    refused = {refusal.stage for refusal in present.chain.refusals}
    assert not refused & {"ingest", "validate", "curate", "train"}, present.text()


@pytest.mark.slow
def test_a_training_killed_in_the_middle_goes_on_and_the_chain_verifies(chain):
    recipe = chain.root / "recipes/adversarial.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 1", "epochs: 6"))
    runner.run(chain, "audit_labels")
    command = [sys.executable, "-m", "secpipeline.cli", "--project", str(chain.root), "run", "train"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((chain.home / "resume").glob("*/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert list((chain.home / "resume").glob("*/*.safetensors")), "no checkpoint appeared before the deadline"
    runs = runner.run_chain(chain)
    assert runs[-1].summary["state"] == "inactive"
    assert audit.verify_everything(chain).ok
    assert not list((chain.home / "resume").glob("*"))
