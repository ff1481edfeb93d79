"""`tandem library sign` and `countersign`: a source becomes a manifest, and its signers sign it."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tandem.builder.inputs import read_small
from tandem.builder.library import KEYS, MANIFEST, MAX_KEY_FILE, read_trust
from tandem.cli import library_predict, library_source
from tandem.cli.library_files import LibraryFiles
from tandem.cli.library_terms import TABLE, header, read_terms
from tandem.cli.output import add_json, read_file, show_done, shown_path, write_file
from tandem.errors import HostError, Refused
from tandem.evidence.envelope import (
    MAX_ENVELOPE,
    PrivateKey,
    PublicKey,
    add_signature,
    key_id,
    open_envelope,
    parse_private_key,
    seal_envelope,
)
from tandem.evidence.manifest import PAYLOAD_TYPE, Manifest, parse_manifest
from tandem.evidence.strict_toml import parse_toml
from tandem.settings import HostPaths

SOURCE: Final = "library.toml"
MAX_SOURCE: Final = 1024 * 1024
SIGN_EXAMPLES: Final = """\
examples:
  tandem library sign --key library.key
  tandem library sign --key old.key --key new.key    a new key takes over
"""
COUNTERSIGN_EXAMPLES: Final = """\
examples:
  tandem library show && tandem library diff last-week.dsse.json library.dsse.json
  tandem library countersign --key bob.key           bob agrees to what alice signed
"""
Commands = argparse._SubParsersAction


def declare(verbs: Commands[argparse.ArgumentParser]) -> None:
    """Declare both commands."""
    sign = verbs.add_parser(
        "sign",
        help="digest every file and sign the library",
        epilog=SIGN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sign.add_argument("source", nargs="?", type=Path, help="the source (TOML)")
    sign.add_argument(
        "--key", type=Path, required=True, action="append", metavar="FILE",
        help="private key (PEM); more than once to sign with several",
    )  # fmt: skip
    sign.add_argument("--version", type=int, help="default: one more than the last")
    add_json(sign)
    sign.set_defaults(run=run_sign)
    countersign = verbs.add_parser(
        "countersign",
        help="add a signature to a signed library, as it is",
        epilog=COUNTERSIGN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    countersign.add_argument("manifest", nargs="?", type=Path, help=f"a signed {MANIFEST}")
    countersign.add_argument(
        "--key", type=Path, required=True, metavar="FILE", help="private key (PEM)"
    )
    add_json(countersign)
    countersign.set_defaults(run=run_countersign)


def run_sign(args: argparse.Namespace) -> int:
    """Digest the files that the source names, and sign; the version always rises."""
    paths = HostPaths(Path(args.host))
    source = (args.source or paths.library / SOURCE).absolute()
    keys = [_private_key(path) for path in args.key]
    public = [key.public_key() for key in keys]
    target = source.parent / MANIFEST
    last = _last_version(target, [*public, *read_trust(paths.library / KEYS).keys])
    version = last + 1 if args.version is None else args.version
    if version <= last:
        raise Refused(
            "TDM-LIBRARY-VERSION",
            f"version {version} does not rise above {last}, the last one signed",
            hint="leave --version out",
        )
    ids = sorted({key_id(key) for key in public})
    payload = make_payload(source, version, ids, datetime.datetime.now(datetime.UTC))
    manifest = parse_manifest(payload, str(source))
    write_file(str(target), seal_envelope(payload, PAYLOAD_TYPE, *keys), "library")
    names = ", ".join(sorted(manifest.entries))
    _show(args, target, manifest, ids, f"signed version {version} of {target}: {names}")
    return 0


def run_countersign(args: argparse.Namespace) -> int:
    """Sign what is signed already; only a key that the library names, or the host trusts, may."""
    paths = HostPaths(Path(args.host))
    target = (args.manifest or paths.library / MANIFEST).absolute()
    key = _private_key(args.key)
    data = add_signature(_read_manifest(target), key)
    trusted = [key.public_key(), *read_trust(paths.library / KEYS).keys]
    opened = open_envelope(data, PAYLOAD_TYPE, trusted)
    manifest = parse_manifest(opened.payload)
    mine = key_id(key.public_key())
    if mine not in manifest.signers.key_ids:
        raise Refused(
            "TDM-LIBRARY-NOT-A-SIGNER",
            f"version {manifest.version} of library {manifest.name} takes {manifest.signers}, and "
            f"this is key {mine[:8]}…",
            hint="sign with a key that the library names; to let another key take over, name it "
            "in the source ([library] signers) and sign anew",
        )
    write_file(str(target), data, "library")
    text = f"signed version {manifest.version} of {target}, too"
    _show(args, target, manifest, opened.key_ids, text)
    return 0


def make_payload(
    source: Path,
    version: int,
    signing: Sequence[str],
    now: datetime.datetime,
    *,
    copies: bool = True,
) -> bytes:
    """Give the manifest that a source asks for, every file digested; `signing` are key ids.

    Files from elsewhere are copied into the library, unless `copies` says not to.
    """
    data = read_file(str(source), "library source")
    root = parse_toml(data, shown_path(source), "TDM-LIBRARY-SOURCE-BAD", MAX_SOURCE)
    fields = root.fields(("entries",), (TABLE,))
    terms = read_terms(fields.get(TABLE))
    entries = root.replaced({"entries": fields["entries"].value})
    files = LibraryFiles(directory=source.parent, copies=copies)
    document = library_source.manifest(entries, files, version)
    document |= header(terms, source.parent, signing, now)
    return library_predict.with_predictions(document, source)


def _show(
    args: argparse.Namespace,
    target: Path,
    manifest: Manifest,
    signed: Sequence[str],
    text: str,
) -> None:
    complete = manifest.signers.are_met_by(signed)
    record = {
        "manifest": str(target),
        "name": manifest.name,
        "version": manifest.version,
        "expires": manifest.expires.isoformat() if manifest.expires else None,
        "key_ids": signed,
        "complete": complete,
        "sha256": manifest.digest.hex(),
        "entries": sorted(manifest.entries),
    }
    if not complete:
        text += f"\nnot complete: it takes {manifest.signers}; see `tandem library countersign`"
    show_done(args, record, text)


def _last_version(target: Path, keys: Sequence[PublicKey]) -> int:
    """Give the version that one of the keys signed already, 0 for none."""
    if not target.exists():
        return 0
    return parse_manifest(open_envelope(_read_manifest(target), PAYLOAD_TYPE, keys).payload).version


def _read_manifest(path: Path) -> bytes:
    if not path.exists():
        raise HostError(
            "TDM-LIBRARY-MISSING",
            f"there is no signed library at {path}",
            hint="sign its source with `tandem library sign`",
        )
    return read_small(path, MAX_ENVELOPE)


def _private_key(path: Path) -> PrivateKey:
    return parse_private_key(read_small(path.absolute(), MAX_KEY_FILE))
