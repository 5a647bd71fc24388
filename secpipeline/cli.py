"""The command line: one error line and an exit code for every refusal, never a traceback."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secpipeline import yaml_files
from secpipeline.errors import InputError, SecpipelineError
from secpipeline.stages.table import BY_NAME


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (0 done, 1-6 refused for the reason printed)."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except SecpipelineError as error:
        print(f"secpipeline: {error}", file=sys.stderr)
        return error.exit_code
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

    demo = add("demo", _demo, "the whole chain on embedded data, or on your own")
    demo.add_argument("--dataset", type=Path, help="a COCO instances.json; default: synthetic street scenes")
    run = add("run", _run, "run one stage, or the whole chain; unchanged work is reused")
    run.add_argument("stage", nargs="?", choices=[*BY_NAME], help="default: every stage in order")
    run.add_argument("--to", choices=[*BY_NAME], help="stop after this stage")
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a parameter")
    verify = add("verify", _verify, "re-check every signature, link and byte of the chain and of what is deployed")
    verify.add_argument("--json", action="store_true", help="print the report as JSON")
    trace = add("trace", _trace, "where a file came from, or with --down what came from it, from signed links alone")
    trace.add_argument("target", help="a file, or 8 or more hex digits of its SHA-256")
    trace.add_argument("--down", action="store_true", help="what came from it")
    trace.add_argument("--json", action="store_true", help="print the tree as JSON")
    serve = add("serve", _serve, "answer detections from the deployed detector, once it is verified")
    serve.add_argument("--channel", default="production")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8080)
    rollback = add("rollback", _rollback, "put the previous deployment of a channel back, once it is verified")
    rollback.add_argument("--channel", default="production")
    bundle = add("bundle", _bundle, "copy the evidence out for an auditor, with the commands that check it")
    bundle.add_argument("directory", type=Path)
    add("layout", _layout, "sign the chain's layout anew with the owners' keys (after it expired or the table changed)")
    add("keys", _keys, "list the roles' public keys, making them on first use")
    add("pipeline", _pipeline, "render dvc.yaml from the stage table")
    add("snapshot", _snapshot, "let DVC record the current outputs, so that `dvc status` is clean")
    return parser


def _workspace(options: argparse.Namespace) -> Any:
    from secpipeline.workspace import Workspace  # noqa: PLC0415 - --help must not wait for the heavy imports

    return Workspace.open(options.project, options.home)


def _demo(options: argparse.Namespace) -> int:
    from secpipeline import demo  # noqa: PLC0415

    return demo.main(_workspace(options), options.dataset)


def _run(options: argparse.Namespace) -> int:
    from secpipeline import runner, versioning  # noqa: PLC0415
    from secpipeline.demo import print_run  # noqa: PLC0415

    workspace = _workspace(options)
    overrides = dict(_override(text) for text in options.set)
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


def _override(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator:
        raise InputError(f"--set {text}: write KEY=VALUE, for example train.recipe=standard")
    return key, yaml_files.parse(value, f"--set {text}")


def _verify(options: argparse.Namespace) -> int:
    from secpipeline import audit  # noqa: PLC0415

    report = audit.verify_everything(_workspace(options))
    print(json.dumps(report.to_json(), indent=2, sort_keys=True) if options.json else report.text())
    return 0 if report.ok else 4


def _trace(options: argparse.Namespace) -> int:
    from secpipeline.digests import sha256_file  # noqa: PLC0415
    from secpipeline.provenance import trace  # noqa: PLC0415
    from secpipeline.stages.table import STAGES  # noqa: PLC0415

    workspace = _workspace(options)
    ring, path = workspace.ring(), Path(options.target)
    history = trace.History.read(workspace.evidence, {stage.name: ring.public(stage.role) for stage in STAGES})
    makers = history.makers(sha256_file(path) if path.is_file() else options.target)
    branches = history.downstream(makers) if options.down else history.upstream(makers)
    print(json.dumps([b.to_json() for b in branches], indent=2) if options.json else trace.tree(branches))
    return 0


def _serve(options: argparse.Namespace) -> int:
    import uvicorn  # noqa: PLC0415

    from secpipeline.deployment.serving import create_app  # noqa: PLC0415
    from secpipeline.workspace import step_specs  # noqa: PLC0415

    workspace = _workspace(options)
    app = create_app(workspace.channels / options.channel, workspace.ring().owners(), step_specs())
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")
    return 0


def _rollback(options: argparse.Namespace) -> int:
    from secpipeline.stages import deploy  # noqa: PLC0415

    print(deploy.rollback(_workspace(options), options.channel))
    return 0


def _bundle(options: argparse.Namespace) -> int:
    from secpipeline.provenance.bundle import export  # noqa: PLC0415
    from secpipeline.workspace import step_specs  # noqa: PLC0415

    workspace = _workspace(options)
    evidence, artifacts = workspace.home / "evidence", workspace.store.artifacts
    export(evidence, artifacts, options.directory, step_specs(), workspace.ring().owners())
    print(f"wrote {options.directory}; read VERIFY.md there")
    return 0


def _layout(options: argparse.Namespace) -> int:
    print(f"signed {_workspace(options).sign_layout()}")
    return 0


def _keys(options: argparse.Namespace) -> int:
    workspace = _workspace(options)
    ring = workspace.ring()
    print(f"keys of {workspace.root} are in {workspace.keys}")
    for role in ring.roles:
        print(f"{role:14} {ring.public(role).keyid}")
    return 0


def _pipeline(options: argparse.Namespace) -> int:
    from secpipeline import versioning  # noqa: PLC0415

    workspace = _workspace(options)
    versioning.write_pipeline(workspace.root)
    print(f"wrote {workspace.root / 'dvc.yaml'}")
    return 0


def _snapshot(options: argparse.Namespace) -> int:
    from secpipeline import versioning  # noqa: PLC0415

    print(versioning.snapshot(_workspace(options)) or "DVC is not installed here; nothing recorded")
    return 0


if __name__ == "__main__":
    sys.exit(main())
