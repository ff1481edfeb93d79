"""`tandem library add`: write an entry into the library's source."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from tandem.cli.library_entry import put_entry, read_entries
from tandem.cli.library_sign import SOURCE
from tandem.cli.output import add_json, show_done
from tandem.errors import UsageError
from tandem.settings import HostPaths
from tandem.values import checked_name

EXAMPLES: Final = """\
examples:
  tandem library add web --kernel vmlinuz --initrd initramfs.cpio --command-line console=ttyS0
  tandem library add mail --boot uefi --secure-boot --disk system:image:system.raw
  tandem library add db --kernel k --initrd i --disk root:verity:root.img:6b2f... \\
      --disk scratch:data:scratch.raw --command-line "console=ttyS0 roothash=6b2f..."
  tandem library sign --key library.key
"""
HASHED: Final = "verity"


def declare(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = verbs.add_parser(
        "add",
        help="write an entry into the source",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="the entry's name, by which guests are started")
    parser.add_argument("--source", type=Path, help="the source (default: the host's)")
    parser.add_argument("--boot", choices=("direct", "uefi"), help="default: direct")
    for option, words in (
        ("kernel", "the kernel, or a unified kernel image"),
        ("initrd", "its initramfs"),
        ("command-line", "what the kernel is told"),
        ("firmware", "default: SeaBIOS, or OVMF for --boot uefi"),
        ("variables", "OVMF's store of variables"),
        ("group", "vTPMs that share one CA"),
        ("cpu", "model of the CPU"),
    ):
        parser.add_argument(f"--{option}", metavar=option.upper().replace("-", "_"), help=words)
    parser.add_argument("--secure-boot", action="store_true", help="OVMF checks signatures")
    parser.add_argument("--ephemeral", action="store_true", help="a new vTPM on each launch")
    parser.add_argument("--cpus", type=int, metavar="N")
    parser.add_argument("--memory-mib", type=int, metavar="N")
    parser.add_argument(
        "--disk", action="append", default=[], metavar="ID:KIND:PATH[:ROOT_HASH]",
        help="kind image, verity (with its root hash) or data; more than once for several",
    )  # fmt: skip
    parser.add_argument("--replace", action="store_true", help="replace an entry of that name")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the entry; what is wrong in its values, `library sign` says by place."""
    source = (args.source or HostPaths(Path(args.host)).library / SOURCE).absolute()
    name = checked_name(args.name, "entry")
    if name in read_entries(source) and not args.replace:
        raise UsageError(
            "TDM-LIBRARY-ENTRY-EXISTS",
            f"{source} has an entry {name} already",
            hint="choose another name, edit the file, or say --replace",
        )
    put_entry(source, name, _entry(args))
    text = f"wrote entry {name} into {source}: sign it with `tandem library sign`"
    show_done(args, {"source": str(source), "entry": name}, text)
    return 0


def _entry(args: argparse.Namespace) -> dict[str, Any]:
    """Give the entry as the source has it, with what was said and no more."""
    said = ("boot", "kernel", "initrd", "command_line", "firmware", "variables", "group")
    entry: dict[str, Any] = {"kind": "on-request"}
    entry |= {key: getattr(args, key) for key in said if getattr(args, key) is not None}
    if args.secure_boot:
        entry["secure_boot"] = True
    if args.ephemeral:
        entry["vtpm"] = "ephemeral"
    if args.disk:
        entry["disks"] = [_disk(each) for each in args.disk]
    machine = {
        key: getattr(args, key)
        for key in ("cpu", "cpus", "memory_mib")
        if getattr(args, key) is not None
    }
    if machine:
        entry["machine"] = machine
    return entry


def _disk(text: str) -> dict[str, str]:
    parts = text.split(":")
    kind = parts[1] if len(parts) > 1 else ""
    keys = ("id", "kind", "path", "root_hash") if kind == HASHED else ("id", "kind", "path")
    if len(parts) != len(keys) or not all(parts):
        raise UsageError(
            "TDM-LIBRARY-DISK",
            f"{text[:200]!a} is no disk: it takes ID:KIND:PATH, of kind verity a root hash, too",
            hint="as in `--disk root:verity:root.img:6b2f…`, or `--disk scratch:data:scratch.raw`",
        )
    return dict(zip(keys, parts, strict=True))
