"""`tandem broker`: what everybody else on the host may do with the pTPM, shown and checked."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tandem.broker_rights import read_rights
from tandem.cli.output import add_json, show_done
from tandem.errors import HostError, UsageError
from tandem.settings import HostPaths
from tandem.wire.broker_rights import HIERARCHIES, Rights, RightsFile
from tandem.wire.tpm_table import TABLE, Place, Row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tandem.wire.broker_rights import Range

EXAMPLES: Final = """\
examples:
  tandem broker policy                     each TPM 2.0 command, and what becomes of it
  tandem broker policy --json | jq '.commands[] | select(.rule == "refuse") | .name'
  tandem broker check broker.toml          is this file right, before it is put in place?
  tandem broker check --uid 1000           what may this user do on this host?
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the commands, their arguments and their help."""
    parser = commands.add_parser(
        "broker",
        help="say who may do what with the physical TPM",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    policy = actions.add_parser("policy", help="print the table of commands")
    add_json(policy)
    policy.set_defaults(run=run_policy)
    check = actions.add_parser("check", help="check a broker.toml, and say whom it gives what")
    check.add_argument("file", nargs="?", metavar="FILE", help="default: this host's own")
    check.add_argument("--uid", type=int, help="show what this user may do")
    add_json(check)
    check.set_defaults(run=run_check)


def run_policy(args: argparse.Namespace) -> int:
    """Print every command with its rule."""
    rows = list(TABLE.values())
    width = max(len(row.name) for row in rows)
    lines = [f"{row.code:#05x}  {row.name:{width}}  {row.rule:9}  {row.why}" for row in rows]
    show_done(args, {"commands": [_row(row) for row in rows]}, "\n".join(lines))
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Read a file of rights as broker and Manager do, and print what it grants."""
    path = HostPaths(args.host).broker_rights if args.file is None else Path(args.file)
    if args.file is not None and not os.path.exists(path):
        raise HostError(
            "TDM-BROKER-RIGHTS-ABSENT",
            f"there is no {path}",
            hint="name the file to check; without one, the host's own is checked",
        )
    rights = read_rights(path)
    shown = _named(rights, args.uid)
    record = {
        "file": str(path) if path.exists() else None,
        "listen": {
            "mssim": rights.listen.mssim,
            "swtpm": rights.listen.swtpm,
            "group": rights.listen.group,
        },
        "rights": {name: _rights(each) for name, each in shown.items()},
    }
    show_done(args, record, "\n".join(_text(path, shown)))
    return 0


def _named(rights: RightsFile, uid: int | None) -> dict[str, Rights]:
    """Give whose rights to show, by name: one user's, or all that the file has."""
    if uid is None:
        users = {f"uid {number}": each for number, each in sorted(rights.users.items())}
        return users | ({} if rights.default is None else {"everybody else": rights.default})
    found = rights.of(uid)
    if found is None:
        raise UsageError(
            "TDM-BROKER-NO-RIGHTS",
            f"user {uid} may not use the broker",
            hint=f"give it a table [uid.{uid}] in broker.toml, or everybody one: [default]",
        )
    return {f"uid {uid}": found}


def _text(path: Path, shown: dict[str, Rights]) -> Iterable[str]:
    yield f"{path} is right" if path.exists() else f"there is no {path}: root alone, basic rights"
    for name, rights in shown.items():
        yield f"{name}:"
        for key, value in _rights(rights).items():
            listed = ", ".join(map(str, value)) or "none" if isinstance(value, list) else value
            yield f"  {key.replace('_', ' '):15} {listed}"


def _rights(rights: Rights) -> dict[str, object]:
    """Give rights as the file writes them."""
    return {
        "hierarchies": [name for name, number in HIERARCHIES.items()
                        if number in rights.hierarchies],
        "extend": sorted(rights.extend),
        "read_registers": rights.read_registers,
        "nv": _ranges(rights.nv),
        "nv_size": rights.nv_size,
        "nv_writes": rights.nv_writes,
        "persistent": _ranges(rights.persistent),
        "shared": [f"{handle:#010x}" for handle in sorted(rights.shared)],
        "objects": rights.objects,
        "sessions": rights.sessions,
    }  # fmt: skip


def _ranges(ranges: tuple[Range, ...]) -> list[str]:
    return [f"{each.first:#010x}-{each.last:#010x}" for each in ranges]


def _row(row: Row) -> dict[str, object]:
    return {
        "name": row.name,
        "code": row.code,
        "handles": [_place(place) for place in row.places],
        "rule": row.rule.value,
        "why": row.why,
    }


def _place(place: Place) -> str:
    return f"{'@' if place.authorized else ''}{place.kind}{'-read' if place.reads else ''}"
