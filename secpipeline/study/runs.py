"""All cells of a study, several at once, whatever was there already kept.

>>> results = run_study(study, Path("build/studies/small"), jobs=2)                         # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from secpipeline.defended_training import check
from secpipeline.detection.acceleration import take_turn
from secpipeline.errors import CannotDecide
from secpipeline.study.cells import Cell, run_cell
from secpipeline.study.data import StudyData, prepare
from secpipeline.study.plan import Study

_NO_BARS = "TQDM_DISABLE"  # read by tqdm when it is imported


def cells(study: Study) -> list[Cell]:
    """Every recipe with every seed, recipes in the file's order."""
    return [Cell.of(study, recipe, seed) for recipe in study.recipes for seed in study.seeds]


def run_study(study: Study, out: Path, jobs: int) -> list[dict[str, Any]]:
    """Compute what is missing of a study.

    Parameters
    ----------
    study
        The grid.
    out
        Its folder; results lie in ``cells``, trained weights in ``weights``.
    jobs
        Cells at once, each in a process of its own with its share of the processors; accelerators they take in turn.

    Returns
    -------
    list of dict
        The results in the order of :func:`cells`.

    Raises
    ------
    InputError, CannotDecide
        If a recipe's detector cannot be trained, before any is. Whatever a cell raises, or if a cell's process dies;
        cells that are done stay done.
    """
    grid = cells(study)
    missing = [cell for cell in grid if cell.read(out) is None]
    if missing:
        for recipe in study.recipes:
            check(recipe)
        data = prepare(study, out, max(jobs, len(os.sched_getaffinity(0))))
        with tqdm(total=len(grid), initial=len(grid) - len(missing), desc=study.name, unit="cell", disable=None) as bar:
            # Students wait for their teachers.
            for wave in (False, True):
                _run([cell for cell in missing if (cell.teacher is not None) is wave], study, data, out, jobs, bar)
    return [result for cell in grid if (result := cell.read(out)) is not None]


def _run(wave: Sequence[Cell], study: Study, data: StudyData, out: Path, jobs: int, bar: Any) -> None:
    if jobs <= 1:
        for cell in wave:
            run_cell(cell, study, data, out)
            bar.set_postfix_str(cell.label)
            bar.update()
        return
    if not wave:
        return
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    # Spawned, because a forked process cannot use CUDA; the data, which all share, is read by each from the disk.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, _start, (study, out, threads, context.Value("i", 0)))
    with _without_bars(), pool:
        waiting = {pool.submit(_run_here, cell): cell for cell in wave}
        try:
            for done in as_completed(waiting):
                done.result()
                bar.set_postfix_str(waiting[done].label)
                bar.update()
        except BrokenProcessPool as error:
            raise CannotDecide(
                f"study {study.name}: the process of a cell died, perhaps for want of memory; "
                "start the study again with fewer --jobs, what is done stays done"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Processes that start meanwhile show no progress of their own: their bars would overwrite the study's."""
    before = os.environ.get(_NO_BARS)
    os.environ[_NO_BARS] = "1"
    try:
        yield
    finally:
        os.environ.pop(_NO_BARS)
        if before is not None:
            os.environ[_NO_BARS] = before


_HERE: dict[str, Any] = {}


def _start(study: Study, out: Path, threads: int, turn: Synchronized[int]) -> None:
    torch.set_num_threads(threads)
    take_turn(turn)
    _HERE.update(study=study, out=out, data=prepare(study, out, 1))


def _run_here(cell: Cell) -> None:
    run_cell(cell, _HERE["study"], _HERE["data"], _HERE["out"])
