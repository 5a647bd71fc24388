"""For those who choose recipes: train a grid of them and set them against each other."""

from __future__ import annotations

import argparse
from pathlib import Path

from secpipeline.commands import Add, open_workspace
from secpipeline.errors import InputError


def add_commands(add: Add) -> None:
    """Register the command."""
    study = add("study", _study, "train and attack a grid of recipes; killed and started again, it goes on")
    study.add_argument("file", type=Path, help="a YAML file such as recipes/studies/small.yaml")
    study.add_argument("--out", type=Path, help="where results go; default: studies/NAME in the project's home")
    study.add_argument("--jobs", type=int, default=1, help="cells at once; default: 1")


def _study(options: argparse.Namespace) -> int:
    from secpipeline.study.plan import load_study
    from secpipeline.study.report import write_report
    from secpipeline.study.runs import run_study

    if options.jobs < 1:
        raise InputError(f"--jobs {options.jobs}: give 1 or more")
    out = options.out or open_workspace(options).home / "studies" / options.file.stem
    study = load_study(options.file, out)
    print(write_report(study, run_study(study, out, options.jobs), out))
    print(f"wrote {out / 'results.md'}")
    return 0
