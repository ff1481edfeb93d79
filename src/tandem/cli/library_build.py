"""`tandem library build`: make what a guest boots from, and write its entry."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path
from typing import Any, Final

from tandem.cli.library_entry import put_entry, read_entries
from tandem.cli.library_sign import SOURCE
from tandem.cli.output import add_json, show_done
from tandem.errors import UsageError
from tandem.images.debian import INITRAMFS, KERNEL, ROOT, Image, build
from tandem.images.debian_tree import Recipe, checked_package
from tandem.privileges import require_root
from tandem.settings import HostPaths
from tandem.values import checked_name

FOLDER: Final = "debian"  # below the library: one folder for each image
PACKAGES: Final = "packages"  # what was downloaded
DISK: Final = "root"
MEMORY_MIB: Final = 512
OURS: Final = "tandem."  # what options of the command line begin with that the image decides
EXAMPLES: Final = """\
examples:
  tandem library build debian web                       a system, and no more
  tandem library build debian web --package nginx-light --overlay site/
  tandem library build debian web --refresh             with the packages of today
  tandem library sign --key library.key && tandem guest start web

The root is read-only and protected by dm-verity; its root hash is on the measured command line.
What the guest writes is in its memory and gone when it ends. It has no network, and nobody can log
in on its console unless --autologin lets everybody who reaches the console.
"""


def declare(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = verbs.add_parser("build", help="make an image for a guest, and write its entry")
    kinds = parser.add_subparsers(required=True, metavar="KIND")
    debian = kinds.add_parser(
        "debian",
        help="a bootable guest of Debian's packages, protected by dm-verity",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    debian.add_argument("name", help="the entry's name, and the guest's host name")
    debian.add_argument("--source", type=Path, help="the library's source (default: the host's)")
    debian.add_argument("--suite", help="Debian's release (default: this host's)")
    debian.add_argument(
        "--package", action="append", default=[], metavar="NAME", help="install this, too"
    )
    debian.add_argument(
        "--overlay", type=Path, metavar="FOLDER", help="lay these files over the system"
    )
    debian.add_argument(
        "--autologin", action="store_true",
        help="root on the serial console, without a password; the launch measures that",
    )  # fmt: skip
    debian.add_argument(
        "--refresh", action="store_true", help="make it anew, with the packages of today"
    )
    add_json(debian)
    debian.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the image unless it is there, and write or renew the entry."""
    require_root("`tandem library build debian`", "packages are installed as their owner")
    source = (args.source or HostPaths(Path(args.host)).library / SOURCE).absolute()
    name = checked_name(args.name, "entry")
    known = read_entries(source).get(name, {})
    started = time.monotonic()

    def tell(step: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {step}", file=sys.stderr)

    library = source.parent
    folder = library / FOLDER / name
    recipe = _recipe(args, name)
    image = build(recipe, folder, library / FOLDER / PACKAGES, tell, refresh=args.refresh)
    entry = entry_of(image, f"{FOLDER}/{name}", known)
    if entry != known:
        put_entry(source, name, entry)
    done = "made" if image.is_new else "kept, as nothing changed that it is made of,"
    record = {
        "entry": name,
        "source": str(source),
        "folder": str(image.folder),
        "new": image.is_new,
        "root_hash": image.verity.root_hash,
        "packages": image.packages,
    }
    text = (
        f"{done} {image.folder}: {len(image.packages)} packages, root hash "
        f"{image.verity.root_hash}\nentry {name} is in {source}: `tandem library sign`"
    )
    show_done(args, record, text)
    return 0


def entry_of(image: Image, folder: str, known: dict[str, Any]) -> dict[str, Any]:
    """Give the entry of an image; what somebody changed in the known one stays as far as it may."""
    kept = [
        each
        for each in str(known.get("command_line", "quiet")).split()
        if not each.startswith(OURS)
    ]
    ours = [each for each in image.command_line.split() if each not in kept]
    root = {
        "id": DISK,
        "kind": "verity",
        "path": f"{folder}/{ROOT}",
        "root_hash": image.verity.root_hash,
    }
    disks = known.get("disks", [])
    others = [each for each in disks if each.get("id") != DISK] if _are_tables(disks) else []
    return {
        "kind": "on-request",
        "machine": {"cpus": 1, "memory_mib": MEMORY_MIB},
        **known,
        "kernel": f"{folder}/{KERNEL}",
        "initrd": f"{folder}/{INITRAMFS}",
        "command_line": " ".join((*kept, *ours)),
        "disks": [root, *others],
    }


def _are_tables(disks: object) -> bool:
    return isinstance(disks, list) and all(isinstance(each, dict) for each in disks)


def _recipe(args: argparse.Namespace, name: str) -> Recipe:
    suite = args.suite or platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    if args.overlay is not None and not args.overlay.is_dir():
        raise UsageError(
            "TDM-IMAGE-OVERLAY",
            f"{args.overlay} is no folder",
            hint="name a folder whose files are laid over the system, as site/ with etc/ in it",
        )
    return Recipe(
        name=name,
        suite=checked_package(suite, "release"),
        packages=tuple(sorted({checked_package(each, "package") for each in args.package})),
        overlay=args.overlay.absolute() if args.overlay else None,
        autologin=args.autologin,
    )
