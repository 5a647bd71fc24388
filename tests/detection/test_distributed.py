import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import training_worker
from hypothesis import given
from hypothesis import strategies as st
from rectangles import pictures

from secpipeline.detection import weights
from secpipeline.detection.batches import Batches
from secpipeline.detection.csp import CspTiny
from secpipeline.detection.distributed import ALONE, World, current, joined

CPU = torch.device("cpu")
WORKER = Path(training_worker.__file__)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@given(st.integers(1, 9), st.integers(0, 40))
def test_shares_are_disjoint_complete_and_equal_but_for_one(size, count):
    shares = [range(count)[World(rank, size).share(count)] for rank in range(size)]
    assert [index for share in shares for index in share] == list(range(count))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("size", [2, 3, 8])
def test_processes_see_together_what_one_would_see_alone(size):
    images, people = pictures(11, seed=2)
    detector = CspTiny({"channels": [8, 16, 16]})
    recipe = training_worker.RECIPE
    alone = list(Batches(detector, images, people, recipe, CPU).epoch(3))
    shared = [list(Batches(detector, images, people, recipe, CPU, World(rank, size)).epoch(3)) for rank in range(size)]
    assert [len(batches) for batches in shared] == [len(alone)] * size
    for whole, *parts in zip(alone, *shared, strict=True):
        assert sum(part.weight for part in parts) == pytest.approx(size)
        used = [part for part in parts if part.weight]
        assert np.array_equal(np.concatenate([part.indices for part in used]), whole.indices)
        assert torch.equal(torch.cat([part.images for part in used]), whole.images)
        assert torch.equal(torch.cat([part.encoded.centre for part in used]), whole.encoded.centre)
        assert all(part.weight == pytest.approx(len(part.indices) * size / len(whole.indices)) for part in used)
        assert all(len(part.indices) == 1 for part in parts if not part.weight)


def test_without_torchrun_a_process_is_alone():
    with joined() as world:
        assert world == current() == ALONE
        assert (world.total(2.5), world.largest(2.5), world.told({"a": 1})) == (2.5, 2.5, {"a": 1})
        tensor = torch.ones(2)
        world.average([tensor])
        assert torch.equal(tensor, torch.ones(2))


def torchrun(*arguments, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*command, str(WORKER), *map(str, arguments)], capture_output=True, text=True, timeout=200, env=environment,
        check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one_that_has_the_whole_batch(tmp_path):
    result = torchrun(tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "world").read_text() == "2 2"
    together = weights.load(tmp_path / "detector.safetensors").state_dict()
    alone, _ = training_worker.train_one(training_worker.ONE_PRECISION, training_worker.Frozen)
    start = training_worker.build("csp_tiny", {"channels": [8, 16, 16]}, seed=1).state_dict()
    for name, tensor in alone.state_dict().items():
        moved = (tensor - start[name]).abs().max().item() if tensor.is_floating_point() else 0
        assert torch.allclose(together[name], tensor, rtol=0, atol=0.02 * moved + 1e-7), name


@pytest.mark.slow
def test_a_process_that_fails_ends_all_and_nothing_is_written(tmp_path):
    result = torchrun(tmp_path, "--failing")
    assert result.returncode != 0
    assert "the second process has no memory left" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 4])
def test_a_training_ended_by_sigkill_resumes_to_the_same_weights(tmp_path, epochs):
    command = [sys.executable, str(WORKER), str(tmp_path), "--stopping"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        for _ in range(epochs + 1):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "detector.safetensors").exists()
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    resumed = weights.load(tmp_path / "detector.safetensors").state_dict()
    unbroken, record = training_worker.train_one(
        training_worker.STOPPING, CspTiny, validate=lambda detector, epoch: training_worker.SCORES[epoch]
    )
    assert record.kept_epoch == 3
    assert len(record.losses) == 6
    assert all(torch.equal(resumed[name], tensor) for name, tensor in unbroken.state_dict().items())
