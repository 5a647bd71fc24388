"""For those who train and deploy: run the chain, serve, roll back."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secpipeline import yaml_files
from secpipeline.commands import Add, open_workspace
from secpipeline.commands.freshness import add_freshness, at_least_version, max_age
from secpipeline.errors import InputError
from secpipeline.stages.table import BY_NAME


def add_commands(add: Add) -> None:
    """Register the commands."""
    demo = add("demo", _demo, "the whole chain on embedded data, or on your own")
    demo.add_argument("--dataset", type=Path, help="annotations, a file or a folder; default: synthetic street scenes")
    run = add("run", _run, "run one stage, or the whole chain; unchanged work is reused")
    run.add_argument("stage", nargs="?", choices=[*BY_NAME], help="default: every stage in order")
    run.add_argument("--to", choices=[*BY_NAME], help="stop after this stage")
    retrain = add("retrain", _run, "the whole chain again: what was revoked is left out, unchanged work is reused")
    retrain.set_defaults(stage=None, to=None)
    for command in (run, retrain):
        command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a parameter")
    serve = add("serve", _serve, "answer detections from the deployed detector, once it is verified")
    serve.add_argument("--channel", default="production")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8080)
    add_freshness(serve)
    rollback = add("rollback", _rollback, "put the previous deployment of a channel back, once it is verified")
    rollback.add_argument("--channel", default="production")
    add("refresh", _refresh, "sign anew, changing nothing else, that the log and every channel are current; once a day")
    add("pipeline", _pipeline, "render dvc.yaml from the stage table")
    add("snapshot", _snapshot, "let DVC record the current outputs, so that `dvc status` is clean")


def _demo(options: argparse.Namespace) -> int:
    from secpipeline import demo

    return demo.main(open_workspace(options), options.dataset)


def _run(options: argparse.Namespace) -> int:
    from secpipeline import runner, versioning
    from secpipeline.demo import print_run

    workspace = open_workspace(options)
    overrides = _overrides(options)
    if options.stage:
        runs = [runner.run(workspace, options.stage, overrides)]
        print_run(runs[0])
    else:
        runs = runner.run_chain(workspace, overrides, options.to, print_run)
    if not overrides:
        versioning.snapshot(workspace)
    for outcome in runs:
        outcome.require()
    return 0


def _overrides(options: argparse.Namespace) -> Mapping[str, Any]:
    overrides = {}
    for text in options.set:
        key, separator, value = text.partition("=")
        if not separator:
            raise InputError(f"--set {text}: write KEY=VALUE, for example train.recipe=standard")
        overrides[key] = yaml_files.parse(value, f"--set {text}")
    return overrides


def _serve(options: argparse.Namespace) -> int:
    import uvicorn

    from secpipeline.deployment.serving import create_app
    from secpipeline.stages import deploy
    from secpipeline.workspace import step_specs

    workspace = open_workspace(options)
    app = create_app(
        workspace.channels / options.channel,
        workspace.ring().owners(),
        step_specs(),
        deploy.memory(workspace, options.channel),
        at_least_version=at_least_version(options),
        max_age=max_age(options),
    )
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")
    return 0


def _rollback(options: argparse.Namespace) -> int:
    from secpipeline.stages import deploy

    print(f"{deploy.rollback(open_workspace(options), options.channel)}")
    return 0


def _refresh(options: argparse.Namespace) -> int:
    from secpipeline.freshness import refresh

    print("\n".join(refresh(open_workspace(options))))
    return 0


def _pipeline(options: argparse.Namespace) -> int:
    from secpipeline import versioning

    workspace = open_workspace(options)
    versioning.write_pipeline(workspace.root)
    print(f"wrote {workspace.root / 'dvc.yaml'}")
    return 0


def _snapshot(options: argparse.Namespace) -> int:
    from secpipeline import versioning

    recorded = versioning.snapshot(open_workspace(options))
    print(f"{recorded or 'DVC is not installed here; nothing recorded'}")
    return 0
