"""For those who look for a better recipe: train outside the chain. Nothing is signed, and nothing can be deployed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from secpipeline.commands import Add, open_workspace
from secpipeline.errors import InputError

if TYPE_CHECKING:
    from secpipeline.stages.train import Job

RECORD, WEIGHTS, RESUME = "training.json", "detector.safetensors", "resume"


def add_commands(add: Add) -> None:
    """Register the commands."""
    train = add("train", _train, "train a recipe outside the chain, as an experiment; unfinished work goes on")
    train.add_argument("--recipe", required=True, help="a name in recipes/, or the path of a recipe")
    train.add_argument("--data", type=Path, help="a release's folder; default: the chain's curated release")
    train.add_argument("--epochs-limit", type=int, metavar="N", help="at most so many epochs, for a trial")
    train.add_argument("--images-limit", type=int, metavar="N", help="only the first N training images, for a trial")
    train.add_argument("--out", type=Path, help="where weights and record go; default: a folder of its own in the home")


def _train(options: argparse.Namespace) -> int:
    import shutil

    from secpipeline.detection import distributed, weights
    from secpipeline.digests import canonical_json
    from secpipeline.stages.train import fit
    from secpipeline.store import write_atomic

    with distributed.joined() as world:
        job = _job(options)
        out = Path(job.resume).parent
        if (out / RECORD).is_file():
            what = "a" if options.out else "this"
            print(f"{out} holds {what} training already; remove it to train again")
            return 0
        detector, record = fit(job)
        if not world.leads:
            return 0
        weights.save(detector, out / WEIGHTS)
        write_atomic(out / RECORD, canonical_json(record.to_json()))
        shutil.rmtree(job.resume, ignore_errors=True)
    energy = "energy unknown" if record.energy_joules is None else f"{record.energy_joules / 3.6e6:.3f} kWh"
    speed = f"{record.images_per_second:.1f} images/s on {record.world_size} × {record.device}"
    print(f"{len(record.losses)} epochs, loss {record.losses[-1]:.4f}, {speed}, {energy}\nwrote {out}")
    return 0


def _job(options: argparse.Namespace) -> Job:
    from dataclasses import asdict, replace

    from secpipeline import runner
    from secpipeline.datasets.releases import BOXES_FILE, IMAGES_FILE
    from secpipeline.defended_training import teacher_of
    from secpipeline.digests import canonical_json, sha256_bytes, sha256_file
    from secpipeline.stages.train import Job

    for name in ("epochs_limit", "images_limit"):
        if (limit := getattr(options, name)) is not None and limit < 1:
            raise InputError(f"--{name.replace('_', '-')} {limit}: give 1 or more")
    workspace = open_workspace(options)
    given = options.recipe.endswith(".yaml")
    recipe = Path(options.recipe) if given else workspace.root / "recipes" / f"{options.recipe}.yaml"
    tables = shards = options.data
    if options.data is None:
        runner.verify(workspace, ("ingest", "curate")).require()
        tables, shards = (workspace.store.artifacts / stage for stage in ("curate", "ingest"))
    job = Job(str(recipe), str(tables), str(shards), "", options.epochs_limit, options.images_limit)
    # The folder's name says what was trained on what, so that the same command finds its unfinished work.
    student = job.read_recipe()
    teacher = teacher_of(student)
    taught = replace(job, recipe=str(recipe.with_name(f"{teacher}.yaml"))).read_recipe().to_json() if teacher else None
    known = {
        "job": asdict(job),
        "recipe": student.to_json(),
        "teacher": taught,
        "data": [sha256_file(tables / name) for name in (IMAGES_FILE, BOXES_FILE)],
    }
    name = f"{recipe.stem}-{sha256_bytes(canonical_json(known))[:12]}"
    return replace(job, resume=str((options.out or workspace.home / "experiments" / name) / RESUME))
