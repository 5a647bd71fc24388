"""The command line: one error line and an exit code for every refusal, never a traceback."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secpipeline.commands import chain, data, evidence, owners, study, training
from secpipeline.errors import SecpipelineError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (0 done, 1-6 refused for the reason printed)."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except SecpipelineError as error:
        print(f"secpipeline: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader has seen enough, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("secpipeline: interrupted; the next run finishes the work", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="secpipeline", description=__doc__)
    parser.add_argument("--project", type=Path, default=None, help="the project's directory (default: this one)")
    parser.add_argument("--home", type=Path, default=None, help="where artifacts and evidence go (default: build)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=function)
        return command

    for group in (chain, training, study, data, evidence, owners):
        group.add_commands(add)
    return parser


if __name__ == "__main__":
    sys.exit(main())
