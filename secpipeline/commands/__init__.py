"""The commands of the command line, by who uses them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Protocol


class Add(Protocol):
    """Adds a command to the command line and returns its parser."""

    def __call__(self, name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        """Register ``function`` as the command ``name``, explained by ``text``."""


def open_workspace(options: argparse.Namespace) -> Any:
    """The workspace that the options name."""
    from secpipeline.workspace import Workspace

    return Workspace.open(options.project, options.home)
