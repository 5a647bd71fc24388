"""The Dagster web UI on this machine only, behind a guard.

The web server authenticates nobody, accepts GraphQL mutations over GET (an image on another site could start a run)
and lets anybody report asset events. The guard therefore answers only requests for a host name of ours, from our own
pages, and closes the reporting endpoints.

Run it with ``python -m assets.ui``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Guard:
    """ASGI middleware that refuses what a page of another origin, or an unsigned reporter, could send.

    Parameters
    ----------
    app
        The web server's application.
    hosts
        The values of the Host header that are ours.
    """

    def __init__(self, app: Any, hosts: frozenset[str]) -> None:
        self.app = app
        self.hosts = hosts

    def objection(self, scope: dict[str, Any]) -> str | None:
        """Why a request is refused, or none."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if headers.get("host") not in self.hosts:
            return "unknown host"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "cross-site request"
        if "origin" in headers and headers["origin"].partition("://")[2] not in self.hosts:
            return "foreign origin"
        if scope["path"].lstrip("/").startswith("report_asset_"):
            return "asset events are recorded by signed runs only"
        if scope["type"] == "http" and scope["path"].rstrip("/") == "/graphql":
            json_post = scope["method"] == "POST" and headers.get("content-type", "").startswith("application/json")
            return None if json_post else "GraphQL takes POST with application/json only"
        return None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Refuse or pass on."""
        reason = self.objection(scope) if scope["type"] in ("http", "websocket") else None
        if reason is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            from starlette.responses import PlainTextResponse  # noqa: PLC0415 - keeps --help quick

            await PlainTextResponse(reason, 403)(scope, receive, send)


def prepare_home(home: Path) -> None:
    """Make a Dagster home with the hardened settings; an existing one gets the current settings."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "dagster.yaml", home / "dagster.yaml")
    os.environ["DAGSTER_HOME"] = str(home)


def serve(port: int) -> None:
    """Serve the UI until interrupted, with the daemon that runs schedules, sensors and the queue beside it."""
    import uvicorn  # noqa: PLC0415
    from dagster import DagsterInstance  # noqa: PLC0415
    from dagster._core.workspace.context import WorkspaceProcessContext  # noqa: PLC0415
    from dagster._core.workspace.load_target import WorkspaceFileTarget  # noqa: PLC0415
    from dagster_webserver.app import create_app_from_workspace_process_context  # noqa: PLC0415

    root = HERE.parent
    daemon = subprocess.Popen([sys.executable, "-m", "dagster._daemon", "run", "-w", "workspace.yaml"], cwd=root)
    try:
        target = WorkspaceFileTarget(paths=[str(root / "workspace.yaml")])
        with DagsterInstance.get() as instance, WorkspaceProcessContext(instance, target) as context:
            app = create_app_from_workspace_process_context(context)
            hosts = frozenset({f"127.0.0.1:{port}", f"localhost:{port}"})
            sys.stdout.write(f"Dagster UI on http://127.0.0.1:{port} (stop with Ctrl-C)\n")
            sys.stdout.flush()
            uvicorn.run(Guard(app, hosts), host="127.0.0.1", port=port, log_level="warning")
    finally:
        daemon.terminate()
        daemon.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=3000)
    options = parser.parse_args(arguments)
    prepare_home((HERE.parent / "build" / "dagster").resolve())
    serve(options.port)


if __name__ == "__main__":
    main()
