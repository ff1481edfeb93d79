"""`tandem policy`: write down what is demanded of a guest, and check that it can be applied."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
from pathlib import Path
from typing import Final

from tandem.appraisal.anchor import Anchor, open_anchor
from tandem.appraisal.launch import can_be_launched
from tandem.appraisal.policy import Policy, PolicyText, parse_policy, write_policy
from tandem.cli.output import add_json, hexadecimal, read_file, show_done, write_file
from tandem.errors import Refused, UsageError
from tandem.evidence.certificates import Certificate
from tandem.evidence.envelope import open_envelope, parse_public_key
from tandem.evidence.guest_entry import GuestEntry
from tandem.evidence.launch_plan import ACCELERATORS
from tandem.evidence.manifest import PAYLOAD_TYPE, OnceEntry, parse_manifest
from tandem.evidence.pair_record import NAME_SIZE
from tandem.evidence.revocation import parse_revocation_list, signed_by
from tandem.installation import source_digest
from tandem.values import checked_name

HYPERVISOR: Final = "qemu-system-x86_64"
EXAMPLES: Final = """\
examples:
  tandem policy new --anchor anchor.json --anchor-key verifier.key.pub \\
      --manifest library.dsse.json --manifest-key library.key.pub \\
      --entry web --guest web-01 -o policy.toml
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
    entry = _entry(args)
    group = checked_name(args.group or entry.group, "group")
    key = parse_public_key(read_file(args.anchor_key, "anchor key"))
    _refuse_without_authority(open_anchor(read_file(args.anchor, "trust anchor"), key), group)
    directory = Path(args.output).resolve().parent
    text = PolicyText(
        anchor_file=_relative(args.anchor, directory),
        anchor_key=_relative(args.anchor_key, directory),
        manifest_file=_relative(args.manifest, directory),
        manifest_keys=tuple(_relative(each, directory) for each in args.manifest_key),
        threshold=args.threshold,
        entry=checked_name(args.entry, "entry"),
        guest=checked_name(args.guest, "guest"),
        group=group,
        vtpm=None if args.vtpm is None else checked_name(args.vtpm, "vTPM"),
        ek_name=None if args.ek_name is None else _ek_name(args.ek_name),
        user_data=None if args.user_data is None else hexadecimal(args.user_data, "user data"),
        hardware_root=not args.allow_no_hardware_root,
        strict_rollback=args.strict_rollback,
        same_boot=args.same_boot,
        event_log=args.event_log,
        secure_boot=args.secure_boot,
        debugger=args.allow_debugger,
        ima_violations=() if args.ima else None,
        crl_file=None if args.crl is None else _relative(args.crl, directory),
        accelerators=tuple(each for each in ACCELERATORS if each in args.accelerator)
        or ACCELERATORS,
        hypervisors=tuple(
            hashlib.sha256(read_file(each, "hypervisor")).digest() for each in _hypervisors(args)
        ),
        builders=tuple(hexadecimal(each, "builder digest") for each in args.builder)
        or (source_digest(),),
    )
    written = write_policy(text)
    parse_policy(written)  # refuses what no policy can say, such as a path that is not ASCII
    write_file(args.output, written, "policy")
    _say(args, args.output, text, "written")
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Open everything that a policy names."""
    policy = load_policy(args.policy)
    anchor = open_anchor(policy.anchor, policy.anchor_key)
    _refuse_without_authority(anchor, policy.text.group)
    if policy.crl is not None:
        _refuse_foreign_list(policy.crl, anchor.authorities[policy.text.group])
    manifest = open_envelope(
        policy.manifest, PAYLOAD_TYPE, policy.manifest_keys, policy.text.threshold
    )
    _launched_entry(manifest.payload, policy.text.entry)
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
        crl=None
        if text.crl_file is None
        else read_file(str(directory / text.crl_file), "revocation list"),
    )


def _add_new(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    new = actions.add_parser("new", help="write a policy for one guest on one host")
    files = (
        ("--anchor", "trust anchor of the host"),
        ("--anchor-key", "public key that signed it"),
        ("--manifest", "signed library that the guest comes from"),
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
    new.add_argument("--vtpm", metavar="NAME", help="name of its vTPM, if that matters")
    new.add_argument("--ek-name", metavar="HEX", help="TPM Name of its vTPM's EK, if that matters")
    new.add_argument("--user-data", metavar="HEX", help="user data that answers must be made for")
    new.add_argument(
        *("--allow-no-hardware-root",),
        action="store_true",
        help="trust a host without a proven hardware TPM, and say so in each verdict",
    )
    demands = (
        ("--strict-rollback", "demand that no vTPM state can be rolled back"),
        ("--same-boot", "refuse the host once it was reset since its enrolment"),
        ("--event-log", "demand the host's event log"),
        ("--ima", "demand the host's IMA list, without violations"),
    )
    for option, summary in demands:
        new.add_argument(option, action="store_true", help=summary)
    new.add_argument(
        *("--secure-boot",),
        action=argparse.BooleanOptionalAction,
        help="demand it on, or off (default: as in the library's entry)",
    )
    new.add_argument(
        *("--allow-debugger",),
        action="store_true",
        help="trust a guest that root on its host may debug, and say so in each verdict",
    )
    new.add_argument(
        "--crl", metavar="FILE", help="demand this list of the group's revoked certificates"
    )
    _add_references(new)
    new.add_argument("-o", "--output", required=True, metavar="POLICY", help="file to write")
    add_json(new)
    new.set_defaults(run=run_new)


def _add_references(new: argparse.ArgumentParser) -> None:
    """Declare what the guest may be run by."""
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


def _refuse_without_authority(anchor: Anchor, group: str) -> None:
    if group not in anchor.authorities:
        raise Refused(
            "TDM-POLICY-NO-AUTHORITY",
            f"the trust anchor has no CA for group {group}: no guest of it could be trusted",
            hint="enrol the host again if the group is newer than the anchor, or name another",
        )


def _refuse_foreign_list(crl: bytes, authority: Certificate) -> None:
    if not signed_by(parse_revocation_list(crl), authority):
        raise Refused(
            "TDM-POLICY-FOREIGN-LIST",
            "the revocation list is not signed by the CA that the trust anchor has for the group",
            hint="fetch the group's list with `tandem group crl`",
        )


def _ek_name(text: str) -> bytes:
    name = hexadecimal(text, "EK name")
    if len(name) != NAME_SIZE:
        raise UsageError(
            "TDM-POLICY-EK-NAME",
            f"the EK's Name has {len(name)} bytes, not {NAME_SIZE}",
            hint="give the Name that a verdict shows, 000b and 64 digits",
        )
    return name


def _entry(args: argparse.Namespace) -> GuestEntry | OnceEntry:
    keys = [parse_public_key(read_file(each, "manifest key")) for each in args.manifest_key]
    envelope = read_file(args.manifest, "manifest")
    opened = open_envelope(envelope, PAYLOAD_TYPE, keys, args.threshold)
    return _launched_entry(opened.payload, args.entry)


def _launched_entry(payload: bytes, name: str) -> GuestEntry | OnceEntry:
    entry = parse_manifest(payload).entries.get(name)
    if not can_be_launched(entry):
        raise UsageError(
            "TDM-POLICY-NO-ENTRY",
            f"the library has no entry {name[:64]!a} of a guest or the host",
            hint="name an entry of kind on-request, or one of role host, that the library has",
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
