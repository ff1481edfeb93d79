"""`tandem library diff`: what two libraries differ in, or what signing a source would change."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
from pathlib import Path
from typing import Final

from tandem.builder.inputs import read_small
from tandem.builder.library import MANIFEST
from tandem.cli.library_sign import SOURCE, make_payload
from tandem.cli.output import add_json, show_done
from tandem.errors import UsageError
from tandem.evidence.envelope import MAX_ENVELOPE, peek
from tandem.evidence.manifest import Manifest, parse_manifest
from tandem.evidence.manifest_diff import differences
from tandem.settings import HostPaths

DIFFERENT: Final = 1  # exit status, as of diff(1)
EXAMPLES: Final = """\
examples:
  tandem library diff                                  the signed library, and its source now
  tandem library diff old.dsse.json                    an older one, and the signed library
  tandem library diff old.dsse.json new.dsse.json

No signature is checked here: see `tandem library verify`.
exit status: 0 the same, 1 different
"""


def declare(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = verbs.add_parser(
        "diff",
        help="show what differs between two libraries, or what signing would change",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", nargs="?", type=Path, help=f"a signed {MANIFEST}")
    parser.add_argument("new", nargs="?", type=Path, help="another, or a source (.toml)")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare; the source's files are digested as if it were signed now."""
    library = HostPaths(Path(args.host)).library
    old = args.old or library / MANIFEST
    new = args.new or (library / MANIFEST if args.old else library / SOURCE)
    before = _read(old.absolute(), like=None)
    after = _read(new.absolute(), like=before)
    found = differences(before, after)
    lines = [f"{each.place}\n  - {each.before}\n  + {each.after}" for each in found]
    record = {
        "old": {"file": str(old), "version": before.version},
        "new": {"file": str(new), "version": after.version},
        "differences": [dataclasses.asdict(each) for each in found],
    }
    show_done(args, record, "\n".join(lines) or f"{old} and {new} say the same")
    return DIFFERENT if found else 0


def _read(path: Path, like: Manifest | None) -> Manifest:
    if path.suffix != ".toml":
        return parse_manifest(peek(read_small(path, MAX_ENVELOPE))[0], str(path))
    if like is None:
        raise UsageError(
            "TDM-LIBRARY-DIFF-SOURCE",
            f"{path} is a source: it is compared with a signed library before it",
            hint="name the signed library first",
        )
    now = datetime.datetime.now(datetime.UTC)
    ids = like.signers.key_ids
    payload = make_payload(path, like.version, ids, now, copies=False)
    return parse_manifest(payload, str(path))
