"""What the assets need from outside: the workspace."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from secpipeline.workspace import Workspace


class WorkspaceResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The project and home directories; empty strings mean the defaults of the command line."""

    project: str = ""
    home: str = ""

    def open(self) -> Workspace:
        """The workspace that this run works in."""
        return Workspace.open(Path(self.project) if self.project else None, Path(self.home) if self.home else None)
