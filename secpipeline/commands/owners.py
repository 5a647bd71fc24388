"""For owners: keys, the layout, and revocations."""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secpipeline.commands import Add, open_workspace
from secpipeline.errors import InputError


def add_commands(add: Add) -> None:
    """Register the commands."""
    add("layout", _layout, "sign the chain's layout anew with the owners' keys (after it expired or the table changed)")
    keys = add("keys", _list, "make, list, rotate and revoke the roles' keys")
    actions = keys.add_subparsers(metavar="ACTION")

    def act(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=text, description=text)
        action.set_defaults(command=function)
        return action

    act("list", _list, "every role's key, where it is, and which entries of the log it signs")
    init = act("init", _init, "make a key for every role whose key does not lie elsewhere")
    _add_places(init, "ROLE=")
    rotate = act("rotate", _rotate, "give a role a new key; what the old one signed until now still counts")
    rotate.add_argument("role")
    _add_places(rotate, "")
    revoke_key = act(
        "revoke", _revoke_key, "refuse what a role's key signs from now on, or from an entry of the log on"
    )
    revoke_key.add_argument("role")
    revoke_key.add_argument("--reason", required=True)
    revoke_key.add_argument("--from", dest="entry", type=int, help="an entry of the log, counted from 0; default: next")

    revoke = add("revoke", _revoke, "refuse whatever is built from a source, a release, a detector or a file")
    revoke.add_argument("kind", choices=["source", "release", "detector", "file"])
    revoke.add_argument("name", help="the source's name, or the file's SHA-256 (a release: of its dataset.sha256)")
    revoke.add_argument("--reason", required=True)
    revoke.add_argument("--dry-run", action="store_true", help="list what it would reach, and do nothing")


def _add_places(command: argparse.ArgumentParser, prefix: str) -> None:
    command.add_argument(
        "--uri",
        action="append",
        default=[],
        metavar=f"{prefix}URI",
        help="a key that lies elsewhere (hsm:, gcpkms:, awskms:, azurekms:, hv:)",
    )
    command.add_argument("--public", action="append", default=[], metavar=f"{prefix}PEM", help="its public key, a file")


def _layout(options: argparse.Namespace) -> int:
    from secpipeline.provenance import authority
    from secpipeline.workspace import step_specs

    workspace = open_workspace(options)
    with workspace.lock():
        authority.renew(workspace.evidence, workspace.ring(), step_specs())
        _redeploy(workspace)
    print(f"signed {workspace.evidence.layout}")
    return 0


def _init(options: argparse.Namespace) -> int:
    from secpipeline.provenance.keys import KeyPlace, KeyRing

    workspace = open_workspace(options)
    if workspace.keys.exists():
        raise InputError(f"{workspace.keys}: there are keys already; change one with `secpipeline keys rotate ROLE`")
    uris, publics = _by_role("--uri", options.uri), _by_role("--public", options.public)
    if uris.keys() != publics.keys():
        odd = min(uris.keys() ^ publics.keys())
        raise InputError(f"{odd}: give both --uri and --public for a key that lies elsewhere")
    workspace.check_key_place()
    KeyRing.create(workspace.keys, {role: KeyPlace(uri, _pem(publics[role])) for role, uri in uris.items()})
    return _list(options)


def _list(options: argparse.Namespace) -> int:
    workspace = open_workspace(options)
    ring = workspace.ring()
    said = workspace.trust() if workspace.evidence.trust.is_file() else None
    print(f"keys of {workspace.root} are in {workspace.keys}")
    for role in ring.roles:
        place = ring.uri(role).partition(":")[0] or "not here"
        print(f"{role:14} {ring.public(role).keyid[:16]}  {place:8}  {_periods(said, role)}")
    return 0


def _periods(said: Any, role: str) -> str:
    if said is None or role not in said.roles:
        return ""
    texts = []
    for period in said.roles[role]:
        end = f" to {period.end} ({period.ended}: {period.reason})" if period.end is not None else ""
        texts.append(f"{period.key.keyid[:8]} from entry {period.start}{end}")
    return "; ".join(texts)


def _rotate(options: argparse.Namespace) -> int:
    from secpipeline.provenance import authority
    from secpipeline.provenance.keys import KeyPlace
    from secpipeline.workspace import step_specs

    if len(options.uri) != len(options.public) or len(options.uri) > 1:
        raise InputError(f"{options.role}: give both --uri and --public, once, for a key that lies elsewhere")
    place = KeyPlace(options.uri[0], _pem(options.public[0])) if options.uri else None
    workspace = open_workspace(options)
    with workspace.lock():
        workspace.trust()
        key = authority.rotate(workspace.evidence, workspace.ring(), step_specs(), options.role, place)
        if options.role.startswith("owner-"):
            _redeploy(workspace)
        _publish(workspace)
    print(f"{options.role} signs with {key.keyid[:16]} from now on")
    if options.role.startswith("owner-"):
        print(f"give {workspace.keys / 'public' / options.role}.pem to everybody who verifies")
    return 0


def _revoke_key(options: argparse.Namespace) -> int:
    from secpipeline.provenance import authority
    from secpipeline.workspace import step_specs

    workspace = open_workspace(options)
    with workspace.lock():
        workspace.trust()
        said = authority.revoke_key(
            workspace.evidence, workspace.ring(), step_specs(), options.role, options.reason, options.entry
        )
        _publish(workspace)
    ended = [(p.end, p.key.keyid) for p in said.roles[options.role] if p.reason == options.reason and p.end is not None]
    entry, keyid = max(ended)
    print(f"{options.role}: what {keyid[:16]} signed from entry {entry} of the log on is refused")
    print(f"give it a new one with `secpipeline keys rotate {options.role}`")
    return 0


def _revoke(options: argparse.Namespace) -> int:
    from secpipeline import revocation
    from secpipeline.provenance.trust import Revocation

    workspace = open_workspace(options)
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    wanted = Revocation(options.kind, options.name, options.reason, now)
    reach = revocation.reach(workspace, wanted)
    print(reach.text())
    if options.dry_run:
        print("nothing was revoked")
        return 0
    revocation.revoke(workspace, wanted)
    print(f"revoked: {wanted}")
    print("`secpipeline retrain` builds the chain without it")
    return 0


def _redeploy(workspace: Any) -> None:
    """Publish what is deployed under the owners' present word, which the channel's copy of it lacks."""
    from secpipeline.stages import deploy

    if (workspace.store.artifacts / "deploy/deployment.json").is_file():
        deploy.after(workspace)


def _publish(workspace: Any) -> None:
    from secpipeline import revocation

    revocation.publish(workspace)


def _by_role(option: str, texts: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        role, separator, value = text.partition("=")
        if not separator:
            raise InputError(f"{option} {text}: write ROLE=VALUE, for example trainer=hsm:2?label=trainer")
        found[role] = value
    return found


def _pem(name: str) -> bytes:
    path = Path(name)
    if not path.is_file():
        raise InputError(f"{path}: not found; give the public key as a PEM file")
    return path.read_bytes()
