"""`tandem library trust`: whose libraries this host builds from, and how many must have signed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from tandem.builder.inputs import read_small
from tandem.builder.library import KEYS, MAX_KEY_FILE, TRUST, read_trust
from tandem.cli.output import add_json, show_done, write_file
from tandem.errors import UsageError
from tandem.evidence.envelope import key_id, parse_public_key
from tandem.evidence.signers import MAX_SIGNERS
from tandem.privileges import require_root
from tandem.settings import HostPaths

EXAMPLES: Final = """\
examples:
  tandem library trust                                        who is trusted now?
  tandem library trust library.key.pub
  tandem library trust alice.pub bob.pub carol.pub --threshold 2
"""


def declare(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = verbs.add_parser(
        "trust",
        help="say whose libraries this host builds from",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("keys", nargs="*", type=Path, metavar="PUB", help="public keys to trust")
    parser.add_argument(
        "--threshold",
        type=int,
        metavar="K",
        help="how many trusted keys must sign a library (default: as before, or 1)",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Take keys over into the host's folder, set the threshold, and show what is trusted."""
    folder = HostPaths(Path(args.host)).library / KEYS
    if args.keys or args.threshold is not None:
        require_root("`tandem library trust`", "nobody else may say whom the builder trusts")
        pems = {path: read_small(path.absolute(), MAX_KEY_FILE) for path in args.keys}
        names = {path: key_id(parse_public_key(pem)) for path, pem in pems.items()}
        known = {key_id(key) for key in read_trust(folder).keys}
        _check(args.threshold, len(known | set(names.values())))
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for path, pem in pems.items():
            if names[path] not in known:
                write_file(str(folder / f"{names[path][:16]}.pub"), pem, "public key")
        if args.threshold is not None:
            write_file(str(folder / TRUST), f"threshold = {args.threshold}\n".encode(), "trust")
    trust = read_trust(folder)
    ids = sorted(key_id(key) for key in trust.keys)
    text = f"a library takes {trust.threshold} of {len(ids)} keys:\n" + "\n".join(ids)
    record = {"key_ids": ids, "threshold": trust.threshold}
    show_done(args, record, text if ids else "no key is trusted: see `tandem library keygen`")
    return 0


def _check(threshold: int | None, keys: int) -> None:
    if keys > MAX_SIGNERS or (threshold is not None and not 1 <= threshold <= keys):
        raise UsageError(
            "TDM-LIBRARY-THRESHOLD",
            f"{threshold or 1} of {keys} keys cannot be asked for: it takes 1 to {MAX_SIGNERS} "
            "keys, and a threshold of no more than there are",
            hint="name more keys, or a lower --threshold",
        )
