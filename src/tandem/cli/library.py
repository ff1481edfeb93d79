"""`tandem library`: write, sign, verify and show the library of domains."""

from __future__ import annotations

import argparse
import json
import os
import tomllib
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tandem.builder.inputs import InputStore, read_small
from tandem.builder.library import KEYS, MANIFEST, MAX_KEY_FILE, Library, open_library, trusted_keys
from tandem.cli import library_source
from tandem.cli.output import (
    PRIVATE,
    add_json,
    create_file,
    read_file,
    show_done,
    write_file,
)
from tandem.errors import Refused, UsageError
from tandem.evidence.envelope import (
    PublicKey,
    key_id,
    parse_private_key,
    parse_public_key,
    seal_envelope,
)
from tandem.evidence.manifest import PAYLOAD_TYPE, GuestEntry, parse_manifest
from tandem.settings import HostPaths

SOURCE: Final = "library.toml"
EXAMPLES: Final = """\
examples:
  tandem library init                      write a source, then edit it
  tandem library keygen -o library.key
  tandem library sign --key library.key    after each change
  tandem library verify && tandem library show
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
    sign = _verb(verbs, "sign", run_sign, "digest every file and sign the library")
    sign.add_argument("source", nargs="?", type=Path, help="the source (TOML)")
    sign.add_argument("--key", type=Path, required=True, help="private key (PEM)")
    sign.add_argument("--version", type=int, help="default: one more than the last")
    for name, run, words in (
        ("verify", run_verify, "check signature and every file"),
        ("show", run_show, "show what is in the library"),
    ):
        reading = _verb(verbs, name, run, words)
        reading.add_argument("manifest", nargs="?", type=Path, help=f"a signed {MANIFEST}")
        reading.add_argument(
            "--library-key", type=Path, action="append", default=[], metavar="PUB",
            help="public key to trust beside the host's",
        )  # fmt: skip


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


def run_sign(args: argparse.Namespace) -> int:
    """Digest the files that the source names, and sign; the version always rises."""
    source = (args.source or _library(args) / SOURCE).absolute()
    key = parse_private_key(read_small(args.key.absolute(), MAX_KEY_FILE))
    target = source.parent / MANIFEST
    last = _last_version(target, [key.public_key(), *trusted_keys(_library(args) / KEYS)])
    version = last + 1 if args.version is None else args.version
    if version <= last:
        raise Refused(
            "TDM-LIBRARY-VERSION",
            f"version {version} does not rise above {last}, the last one signed",
            hint="leave --version out",
        )
    document = library_source.manifest(_read_source(source), source.parent, version)
    payload = json.dumps(document, indent=1, sort_keys=True).encode("ascii")
    manifest = parse_manifest(payload)
    write_file(str(target), seal_envelope(payload, PAYLOAD_TYPE, key), "library")
    record = {
        "manifest": str(target),
        "version": version,
        "key_id": key_id(key.public_key()),
        "sha256": manifest.digest.hex(),
        "entries": sorted(manifest.entries),
    }
    names = ", ".join(sorted(manifest.entries))
    show_done(args, record, f"signed version {version} of {target}: {names}")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Check the signature and compare every file."""
    library = _open(args)
    inputs, checked = InputStore(max_kept=0), 0
    for entry in library.manifest.entries.values():
        for file in entry.files:
            os.close(inputs.open(library.directory, file).descriptor)
            checked += 1
    inputs.close()
    record = {"version": library.manifest.version, "files": checked, "key_ids": library.key_ids}
    show_done(args, record, f"version {library.manifest.version} is signed, {checked} files agree")
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Show entries and who signed them."""
    library = _open(args)
    manifest = library.manifest
    entries = {
        name: {
            "kind": "on-request" if isinstance(entry, GuestEntry) else "build-once",
            "files": {file.path: file.sha256.hex() for file in entry.files},
        }
        for name, entry in manifest.entries.items()
    }
    lines = [f"version {manifest.version}, signed by {', '.join(library.key_ids)}"]
    for name, entry in manifest.entries.items():
        lines.append(f"{name}: {entries[name]['kind']}")
        lines += [f"  {file.sha256.hex()[:16]}...  {file.path}" for file in entry.files]
        if entry.command_line is not None:
            lines.append(f"  command line: {entry.command_line}")
    record = {"version": manifest.version, "key_ids": library.key_ids, "entries": entries}
    show_done(args, record, "\n".join(lines))
    return 0


def _open(args: argparse.Namespace) -> Library:
    path = (args.manifest or _library(args) / MANIFEST).absolute()
    given = [parse_public_key(read_small(key.absolute(), MAX_KEY_FILE))
             for key in args.library_key]  # fmt: skip
    return open_library(path, [*given, *trusted_keys(_library(args) / KEYS)])


def _last_version(target: Path, keys: list[PublicKey]) -> int:
    """Give the version that is signed already, 0 for none."""
    return open_library(target, keys).manifest.version if target.exists() else 0


def _read_source(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_file(str(path), "library source").decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(
            "TDM-LIBRARY-SOURCE-BAD", f"{str(path)!a}: {error}", hint="correct the file, which is TOML"
        ) from error


def _library(args: argparse.Namespace) -> Path:
    return HostPaths(Path(args.host)).library


def _verb(
    verbs: Commands[argparse.ArgumentParser], name: str, run: object, words: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=words)
    add_json(parser)
    parser.set_defaults(run=run)
    return parser
