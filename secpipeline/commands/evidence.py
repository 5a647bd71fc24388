"""For auditors and security officers: verify, trace, bundle, drill."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secpipeline.commands import Add, open_workspace
from secpipeline.commands.freshness import add_freshness, at_least_version, max_age
from secpipeline.errors import InputError
from secpipeline.store import write_atomic


def add_commands(add: Add) -> None:
    """Register the commands."""
    verify = add("verify", _verify, "re-check every signature, link and byte of the chain and of what is deployed")
    verify.add_argument(
        "target", nargs="?", help="a channel, a bundle's folder, a file, or its SHA-256; default: everything here"
    )
    verify.add_argument("--json", action="store_true", help="print the report as JSON")
    verify.add_argument("--full", action="store_true", help="hash every byte again, also of unchanged files")
    verify.add_argument("--owners", type=Path, metavar="FOLDER", help="a bundle's owners, owner-*.pem; default: yours")
    verify.add_argument("--since", type=Path, metavar="CHECKPOINT", help="refuse a log that does not continue this one")
    add_freshness(verify)
    trace = add("trace", _trace, "where a file came from, or with --down what came from it, from signed links alone")
    trace.add_argument("target", nargs="?", help="a file, or 8 or more hex digits of its SHA-256")
    trace.add_argument("--source", help="instead of a file: which deployments contain images of a source")
    trace.add_argument("--release", default="", help="with --source: of one release, by the SHA-256 of dataset.sha256")
    trace.add_argument("--down", action="store_true", help="what came from it")
    trace.add_argument("--json", action="store_true", help="print the tree as JSON")
    trace.add_argument("--svg", type=Path, metavar="FILE", help="draw it")
    bundle = add("bundle", _bundle, "copy a deployment's evidence out for an auditor, with the commands that check it")
    bundle.add_argument("channel", nargs="?", default="production")
    bundle.add_argument("--to", type=Path, metavar="FOLDER", help="default: bundle-CHANNEL")
    bundle.add_argument("--since", type=Path, metavar="CHECKPOINT", help="prove that the log only grew since this one")
    drill = add("drill", _drill, "attack throwaway evidence, or data, in every way we know and show what becomes of it")
    drill.add_argument("what", choices=["provenance", "poisoning"])
    drill.add_argument("attacks", nargs="*", help="of poisoning: which attacks; default: all")


def _verify(options: argparse.Namespace) -> int:
    from secpipeline import audit

    asked = audit.Asked(options.full, max_age(options), at_least_version(options), _checkpoint(options.since))
    report: Any
    if options.target is None and asked.at_least_version is not None:
        raise InputError("--at-least-version: the log and the channels count apart; name a channel, a bundle or a file")
    if options.target is None:
        report = audit.verify_everything(open_workspace(options), asked)
    elif (Path(options.target) / "root.layout").is_file():
        report = audit.verify_bundle(Path(options.target), _owners(options), asked)
    else:
        report = audit.verify_target(open_workspace(options), options.target, asked)
    print(json.dumps(report.to_json(), indent=2, sort_keys=True) if options.json else report.text())
    return 0 if report.ok else 4


def _checkpoint(path: Path | None) -> Any:
    from secpipeline.provenance.log import read_checkpoint

    if path is None:
        return None
    if not path.is_file():
        raise InputError(f"{path}: not found; give the checkpoint.dsse.json of an earlier bundle")
    return read_checkpoint(path.read_bytes())


def _owners(options: argparse.Namespace) -> Any:
    from secpipeline.provenance.keys import read_public_key

    if options.owners is None:
        return open_workspace(options).ring().owners()
    files = sorted(options.owners.glob("owner-*.pem"))
    if not files:
        raise InputError(
            f"{options.owners}: holds no owner-*.pem; name the folder of the keys that the owners gave you"
        )
    return tuple(read_public_key(path) for path in files)


def _trace(options: argparse.Namespace) -> int:
    from secpipeline.provenance.lineage.contributions import Phases, contributions, table
    from secpipeline.provenance.lineage.reading import read_history
    from secpipeline.provenance.lineage.tree import downstream, tree, upstream
    from secpipeline.workspace import step_specs

    workspace = open_workspace(options)
    history = read_history(workspace.evidence, workspace.trust(), step_specs())
    roots = _roots(options, history)
    if options.svg:
        from secpipeline.provenance.lineage.picture import svg

        shown = history.reached(roots) if options.down else history.origins(roots)
        write_atomic(options.svg, svg(history, shown, step_specs()).encode())
    found: Sequence[Any]
    if options.source is not None:
        phases = Phases("ingest", "curate", "deploy/detector.onnx")
        found = contributions(history, options.source, options.release, phases=phases)
        text = table(found)
    else:
        found = downstream(history, roots) if options.down else upstream(history, roots)
        text = tree(found)
    print(json.dumps([one.to_json() for one in found], indent=2) if options.json else text)
    return 0


def _roots(options: argparse.Namespace, history: Any) -> Any:
    from secpipeline.digests import sha256_file
    from secpipeline.provenance.lineage.queries import contributed, makers, touched

    if (options.target is None) == (options.source is None):
        raise InputError("name a file or its SHA-256, or a source with --source")
    if options.source is not None:
        return contributed(history, options.source, options.release)
    path = Path(options.target)
    digest = sha256_file(path) if path.is_file() else options.target
    try:
        return makers(history, digest)
    except InputError:
        # What nobody made, such as a policy, still reaches those who read it.
        readers = touched(history, digest) if options.down else ()
        if not readers:
            raise
        return readers


def _bundle(options: argparse.Namespace) -> int:
    from secpipeline import bundling

    out = options.to or Path(f"bundle-{options.channel}")
    bundling.export(open_workspace(options), options.channel, out, options.since)
    print(f"wrote {out}; read VERIFY.md there")
    return 0


def _drill(options: argparse.Namespace) -> int:
    from secpipeline.drills import poisoning, provenance

    if options.what == "poisoning":
        return poisoning.main(open_workspace(options).root, options.attacks)
    if options.attacks:
        raise InputError("drill provenance takes no attacks; it runs them all")
    return provenance.main()
