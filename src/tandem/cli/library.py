"""`tandem library`: write, sign, verify and show the library of domains."""

from __future__ import annotations

import argparse
import datetime
import os
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tandem.builder.disks import require_digest
from tandem.builder.inputs import InputStore, opened, read_small
from tandem.builder.library import KEYS, MANIFEST, MAX_KEY_FILE, Library, open_library, read_trust
from tandem.cli import (
    library_add,
    library_build,
    library_diff,
    library_forget,
    library_predict,
    library_sign,
    library_source,
    library_trust,
)
from tandem.cli.library_sign import SOURCE
from tandem.cli.output import PRIVATE, add_json, create_file, show_done
from tandem.evidence.envelope import key_id, parse_public_key
from tandem.evidence.guest_entry import GuestEntry
from tandem.evidence.manifest import TIME_FORMAT, Manifest, OnceEntry
from tandem.settings import HostPaths

EXAMPLES: Final = """\
examples:
  tandem library init                      write a source, then edit it
  tandem library keygen -o library.key
  tandem library trust library.key.pub     what it signs, this host builds
  tandem library add web --kernel vmlinuz --initrd initramfs.cpio --memory-mib 512
  tandem library build debian web          a guest of Debian's packages, protected by dm-verity
  tandem library diff                      what signing would change
  tandem library sign --key library.key    after each change
  tandem library verify && tandem library list
"""
Commands = argparse._SubParsersAction


def add_parser(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the commands, their arguments and their help."""
    parser = commands.add_parser(
        "library",
        help="write, sign and check the library of domains",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    init = _verb(verbs, "init", run_init, "write a commented source to start from")
    init.add_argument("source", nargs="?", type=Path, help="file to write")
    keygen = _verb(verbs, "keygen", run_keygen, "make a key that signs libraries")
    keygen.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="the private key's file"
    )
    library_add.declare(verbs)
    library_sign.declare(verbs)
    library_trust.declare(verbs)
    for name, run, words in (
        ("verify", run_verify, "check signatures, time and every file"),
        ("list", run_list, "list what is in the library"),
        ("show", run_show, "show every file of the library and who signed it"),
    ):
        reading = _verb(verbs, name, run, words)
        reading.add_argument("manifest", nargs="?", type=Path, help=f"a signed {MANIFEST}")
        reading.add_argument(
            "--library-key", type=Path, action="append", default=[], metavar="PUB",
            help="public key to trust beside the host's",
        )  # fmt: skip
    library_diff.declare(verbs)
    library_forget.declare(verbs)
    library_predict.declare(verbs)
    library_build.declare(verbs)


def run_init(args: argparse.Namespace) -> int:
    """Write a source; one that is there is left alone."""
    path = args.source or _library(args) / SOURCE
    path.parent.mkdir(parents=True, exist_ok=True)
    create_file(str(path), library_source.TEMPLATE.encode("ascii"), "library source")
    show_done(args, {"source": str(path)}, f"wrote {path}: edit it, then `tandem library sign`")
    return 0


def run_keygen(args: argparse.Namespace) -> int:
    """Make an Ed25519 key: the private part readable by its owner alone, the public in `.pub`."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path, public_path = args.output, f"{args.output}.pub"
    create_file(path, private, "private key", PRIVATE)
    create_file(public_path, public, "public key")
    name = key_id(key.public_key())
    record = {"key": path, "public_key": public_path, "key_id": name}
    show_done(args, record, f"key {name[:16]}... in {path}, to be trusted by {public_path}")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Check the signature and compare every file."""
    library = _open(args)
    library.manifest.require_current(datetime.datetime.now(datetime.UTC))
    inputs, checked = InputStore(max_kept=0), 0
    for entry in library.manifest.entries.values():
        for file in entry.files:
            os.close(inputs.open(library.directory, file).descriptor)
            checked += 1
        for disk in entry.disks if isinstance(entry, GuestEntry) else ():
            with opened(library.directory, disk.path) as descriptor:
                if disk.digest is not None:  # else dm-verity says what is in it, or nothing does
                    require_digest(descriptor, disk, disk.digest)
    inputs.close()
    manifest = library.manifest
    record = _heading(library) | {"files": checked}
    text = f"version {manifest.version} is signed, {checked} files agree; {_time_left(manifest)}"
    show_done(args, record, text)
    return 0


def run_list(args: argparse.Namespace) -> int:
    """List the entries, one line each; also of a library that others have to sign, too."""
    library = _open(args, complete=False)
    rows = [_row(name, entry) for name, entry in library.manifest.entries.items()]
    table = [("ENTRY", "KIND", "GROUP", "VTPM", "SIZE"), *(tuple(row.values()) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = [_summary(library)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    show_done(args, _heading(library) | {"entries": rows}, "\n".join(lines))
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Show entries and who signed them; also where others have to sign, too."""
    library = _open(args, complete=False)
    manifest = library.manifest
    entries = {
        name: {
            "kind": "on-request" if isinstance(entry, GuestEntry) else "build-once",
            "files": {file.path: file.sha256.hex() for file in entry.files},
        }
        for name, entry in manifest.entries.items()
    }
    lines = [_summary(library)]
    for name, entry in manifest.entries.items():
        lines.append(f"{name}: {entries[name]['kind']}")
        lines += [f"  {file.sha256.hex()[:16]}...  {file.path}" for file in entry.files]
        command_line = _command_line(entry)
        if command_line is not None:
            lines.append(f"  command line: {command_line}")
    show_done(args, _heading(library) | {"entries": entries}, "\n".join(lines))
    return 0


def _row(name: str, entry: GuestEntry | OnceEntry) -> dict[str, str]:
    size = sum(file.size for file in entry.files) / (1 << 20)
    kind, vtpm = "build-once", ""
    if isinstance(entry, GuestEntry):
        kind, vtpm = "on-request", "ephemeral" if entry.ephemeral else "persistent"
    return {
        "entry": name,
        "kind": kind,
        "group": entry.group,
        "vtpm": vtpm,
        "size": f"{size:.1f} MiB",
    }


def _command_line(entry: GuestEntry | OnceEntry) -> str | None:
    return entry.boot.command_line if isinstance(entry, GuestEntry) else entry.command_line


def _heading(library: Library) -> dict[str, object]:
    """Give what concerns the library as a whole, for `--json`."""
    manifest = library.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "expires": manifest.expires.isoformat() if manifest.expires else None,
        "key_ids": library.key_ids,
        "complete": manifest.signers.are_met_by(library.key_ids),
        "signers": {
            "key_ids": manifest.signers.key_ids,
            "threshold": manifest.signers.threshold,
        },
    }


def _summary(library: Library) -> str:
    manifest = library.manifest
    complete = manifest.signers.are_met_by(library.key_ids)
    more = "" if complete else ": too few, see `tandem library countersign`"
    return (
        f"library {manifest.name}, version {manifest.version}, {_time_left(manifest)}\n"
        f"signed by {', '.join(library.key_ids)}{more}\n"
        f"the next version takes {manifest.signers}\n"
    )


def _time_left(manifest: Manifest) -> str:
    if manifest.expires is None:
        return "does not expire"
    left = manifest.expires - datetime.datetime.now(datetime.UTC)
    days = f"in {left.days} days" if left.days >= 0 else "which is over"
    return f"expires at {manifest.expires:{TIME_FORMAT}}, {days}"


def _open(args: argparse.Namespace, *, complete: bool = True) -> Library:
    path = (args.manifest or _library(args) / MANIFEST).absolute()
    given = [parse_public_key(read_small(key.absolute(), MAX_KEY_FILE))
             for key in args.library_key]  # fmt: skip
    trust = read_trust(_library(args) / KEYS).beside(given)
    return open_library(path, trust, complete=complete)


def _library(args: argparse.Namespace) -> Path:
    return HostPaths(Path(args.host)).library


def _verb(
    verbs: Commands[argparse.ArgumentParser], name: str, run: object, words: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=words)
    add_json(parser)
    parser.set_defaults(run=run)
    return parser
