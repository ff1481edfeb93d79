"""`tandem policy`: write down what is demanded of a guest, and check that it can be applied."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
from pathlib import Path
from typing import Final

from tandem.appraisal.anchor import open_anchor
from tandem.appraisal.policy import Policy, PolicyText, parse_policy, write_policy
from tandem.cli.output import add_json, hexadecimal, read_file, show_done, write_file
from tandem.errors import Refused, UsageError
from tandem.evidence.envelope import open_envelope, parse_public_key
from tandem.evidence.host_export import HostExport, parse_host_export
from tandem.evidence.launch_plan import ACCELERATORS
from tandem.evidence.manifest import PAYLOAD_TYPE, GuestEntry, parse_manifest
from tandem.installation import source_digest
from tandem.values import checked_name

HYPERVISOR: Final = "qemu-system-x86_64"
EXAMPLES: Final = """\
examples:
  tandem policy new --anchor anchor.json --anchor-key verifier.key.pub \\
      --manifest library.dsse.json --manifest-key library.key.pub \\
      --entry web --guest web-01 --export export.json -o policy.toml
  tandem policy check policy.toml
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the commands, their arguments and their help."""
    parser = commands.add_parser(
        "policy",
        help="say what is demanded of a guest",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _add_new(actions)
    check = actions.add_parser("check", help="say whether a policy and its files can be applied")
    check.add_argument("policy", metavar="POLICY")
    add_json(check)
    check.set_defaults(run=run_check)


def run_new(args: argparse.Namespace) -> int:
    """Write a policy whose files were all found to be in order."""
    export = parse_host_export(read_file(args.export, "host export"))
    _refuse_other_host(args, export)
    directory = Path(args.output).resolve().parent
    text = PolicyText(
        anchor_file=_relative(args.anchor, directory),
        anchor_key=_relative(args.anchor_key, directory),
        manifest_file=_relative(args.manifest, directory),
        manifest_keys=tuple(_relative(each, directory) for each in args.manifest_key),
        threshold=args.threshold,
        entry=checked_name(args.entry, "entry"),
        guest=checked_name(args.guest, "guest"),
        group=checked_name(args.group or _entry(args).group, "group"),
        user_data=None if args.user_data is None else hexadecimal(args.user_data, "user data"),
        hardware_root=not args.allow_no_hardware_root,
        host_pcrs=export.pcrs,
        accelerators=tuple(each for each in ACCELERATORS if each in args.accelerator)
        or ACCELERATORS,
        hypervisors=tuple(
            hashlib.sha256(read_file(each, "hypervisor")).digest() for each in _hypervisors(args)
        ),
        builders=tuple(hexadecimal(each, "builder digest") for each in args.builder)
        or (source_digest(),),
    )
    write_file(args.output, write_policy(text), "policy")
    _say(args, args.output, text, "written")
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Open everything that a policy names."""
    policy = load_policy(args.policy)
    open_anchor(policy.anchor, policy.anchor_key)
    manifest = open_envelope(
        policy.manifest, PAYLOAD_TYPE, policy.manifest_keys, policy.text.threshold
    )
    _guest_entry(manifest.payload, policy.text.entry)
    _say(args, args.policy, policy.text, "in order")
    return 0


def load_policy(path: str) -> Policy:
    """Read a policy and the files that it names; their signatures are the appraisal's to judge."""
    text = parse_policy(read_file(path, "policy"))
    directory = Path(path).resolve().parent
    return Policy(
        text=text,
        anchor=read_file(str(directory / text.anchor_file), "trust anchor"),
        anchor_key=parse_public_key(read_file(str(directory / text.anchor_key), "anchor key")),
        manifest=read_file(str(directory / text.manifest_file), "manifest"),
        manifest_keys=tuple(
            parse_public_key(read_file(str(directory / each), "manifest key"))
            for each in text.manifest_keys
        ),
    )


def _add_new(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    new = actions.add_parser("new", help="write a policy for one guest on one host")
    files = (
        ("--anchor", "trust anchor of the host"),
        ("--anchor-key", "public key that signed it"),
        ("--manifest", "signed library that the guest comes from"),
        ("--export", "the host's export: its PCR values are recorded"),
    )
    for option, summary in files:
        new.add_argument(option, required=True, metavar="FILE", help=summary)
    new.add_argument(
        *("--manifest-key",),
        required=True,
        action="append",
        metavar="FILE",
        help="public key of the library; repeat it for more",
    )
    new.add_argument("--threshold", type=int, default=1, metavar="N", help="keys that must sign")
    new.add_argument("--entry", required=True, metavar="NAME", help="entry of the library")
    new.add_argument("--guest", required=True, metavar="NAME", help="name of the guest")
    new.add_argument("--group", metavar="NAME", help="its group (default: the entry's)")
    new.add_argument("--user-data", metavar="HEX", help="user data that answers must be made for")
    new.add_argument(
        *("--allow-no-hardware-root",),
        action="store_true",
        help="trust a host without a proven hardware TPM, and say so in each verdict",
    )
    new.add_argument(
        *("--hypervisor",),
        action="append",
        default=[],
        metavar="FILE",
        help="executable that may run the guest, beside those in the library "
        f"(default: the {HYPERVISOR} installed here, if any)",
    )
    new.add_argument(
        *("--builder",),
        action="append",
        default=[],
        metavar="HEX",
        help="source digest of a Tandem that may build the pair (default: that of this one)",
    )
    new.add_argument(
        *("--accelerator",),
        action="append",
        default=[],
        choices=ACCELERATORS,
        help="allow this one (default: any)",
    )
    new.add_argument("-o", "--output", required=True, metavar="POLICY", help="file to write")
    add_json(new)
    new.set_defaults(run=run_new)


def _refuse_other_host(args: argparse.Namespace, export: HostExport) -> None:
    key = parse_public_key(read_file(args.anchor_key, "anchor key"))
    anchor = open_anchor(read_file(args.anchor, "trust anchor"), key)
    if anchor.ak.encoded != export.ak.encoded:
        raise Refused(
            "TDM-POLICY-OTHER-HOST",
            "the export is of another host than the trust anchor",
            hint="give the export that this anchor was enrolled from, or enrol the host again",
        )


def _entry(args: argparse.Namespace) -> GuestEntry:
    keys = [parse_public_key(read_file(each, "manifest key")) for each in args.manifest_key]
    envelope = read_file(args.manifest, "manifest")
    opened = open_envelope(envelope, PAYLOAD_TYPE, keys, args.threshold)
    return _guest_entry(opened.payload, args.entry)


def _guest_entry(payload: bytes, name: str) -> GuestEntry:
    entry = parse_manifest(payload).entries.get(name)
    if not isinstance(entry, GuestEntry):
        raise UsageError(
            "TDM-POLICY-NO-ENTRY",
            f"the library has no guest entry {name[:64]!a}",
            hint="name an entry of kind on-request that the library has",
        )
    return entry


def _hypervisors(args: argparse.Namespace) -> list[str]:
    """Give the executables named, else the one installed here: the same package's, as a rule."""
    here = shutil.which(HYPERVISOR)
    return args.hypervisor or ([here] if here else [])


def _say(args: argparse.Namespace, path: str, text: PolicyText, done: str) -> None:
    record = {"policy": path, "guest": text.guest, "entry": text.entry, "group": text.group}
    show_done(args, record, f"{path}: guest {text.guest} from entry {text.entry}, {done}")


def _relative(path: str, directory: Path) -> str:
    return os.path.relpath(Path(path).resolve(), directory)
