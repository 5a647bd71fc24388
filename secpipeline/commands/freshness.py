"""How fresh evidence must be, as options of a command."""

from __future__ import annotations

import argparse
import datetime as dt
import re

from secpipeline.errors import InputError

_AGE = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def add_freshness(command: argparse.ArgumentParser) -> None:
    """Add ``--max-age`` and ``--at-least-version``."""
    command.add_argument("--max-age", metavar="AGE", help="refuse evidence signed longer ago, for example 30m, 12h, 7d")
    command.add_argument(
        "--at-least-version",
        type=int,
        metavar="N",
        help="refuse a channel with older metadata, or a log with fewer entries, than N",
    )


def max_age(options: argparse.Namespace) -> dt.timedelta | None:
    """The greatest age asked for, or none.

    Raises
    ------
    InputError
        If it is not a number of minutes, hours or days.
    """
    if options.max_age is None:
        return None
    found = _AGE.fullmatch(options.max_age)
    if found is None:
        raise InputError(f"--max-age {options.max_age}: write minutes, hours or days, for example 30m, 12h or 7d")
    return dt.timedelta(**{_UNITS[found[2]]: int(found[1])})


def at_least_version(options: argparse.Namespace) -> int | None:
    """The least version asked for, or none.

    Raises
    ------
    InputError
        If it is less than 1.
    """
    version: int | None = options.at_least_version
    if version is not None and version < 1:
        raise InputError(f"--at-least-version {version}: versions count from 1")
    return version
