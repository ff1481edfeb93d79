"""`tandem verifier`: keys, and the enrolment of hosts as trust anchors."""

from __future__ import annotations

import argparse
import os
import secrets
import select
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from typing import Final

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tandem.appraisal.anchor import (
    Standing,
    anchor_of,
    certified_tpm,
    quoted_state,
    seal_anchor,
    standing_of,
)
from tandem.appraisal.enrolment import (
    CREDENTIAL_SIZE,
    check_proof,
    credential_for,
    make_credential,
    refuse_weak_ak,
    write_challenge,
)
from tandem.cli.output import (
    PRIVATE,
    add_json,
    create_file,
    read_file,
    show_done,
    write_file,
)
from tandem.errors import HostError, UsageError
from tandem.evidence.certificate_files import parse_certificates
from tandem.evidence.certificates import Certificate
from tandem.evidence.enrolment import MAX_PROOF, parse_proof
from tandem.evidence.envelope import PrivateKey, key_id, parse_private_key
from tandem.evidence.host_export import HostExport, parse_host_export

ACTIVATE_SECONDS: Final = 120
REMARK: Final = {
    Standing.VENDOR: "its EK is certified by the given TPM vendor",
    Standing.UNPROVEN: "no vendor's certificate shows that its TPM is hardware",
    Standing.EMBEDDED: "no hardware root: embedded TPM",
}
EXAMPLES: Final = """\
examples:
  tandem verifier keygen -o verifier.key      writes verifier.key.pub, too
  tandem host export -o export.json
  tandem verifier enroll export.json --key verifier.key -o anchor.json
  tandem verifier enroll export.json --key verifier.key -o anchor.json \\
      --via 'ssh root@host tandem host activate' --ek-root vendor.pem

without a connection to the host:
  tandem verifier challenge export.json --secret secret -o challenge.json
  tandem host activate < challenge.json > proof.json          (on the host)
  tandem verifier enroll export.json --key verifier.key -o anchor.json \\
      --proof proof.json --secret secret
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the commands, their arguments and their help."""
    parser = commands.add_parser(
        "verifier",
        help="make keys, and enrol hosts as trust anchors",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    keygen = actions.add_parser("keygen", help="make an Ed25519 key pair")
    keygen.add_argument(
        *("-o", "--output"), required=True, metavar="KEY", help="private key; KEY.pub the public"
    )
    add_json(keygen)
    keygen.set_defaults(run=run_keygen)
    challenge = actions.add_parser("challenge", help="make the challenge that a host activates")
    challenge.add_argument("export", metavar="EXPORT", help="what `tandem host export` wrote")
    challenge.add_argument("--secret", required=True, metavar="FILE", help="where to keep it")
    challenge.add_argument("-o", "--output", default="-", metavar="FILE", help="default: stdout")
    challenge.set_defaults(run=run_challenge)
    _add_enroll(actions)


def run_keygen(args: argparse.Namespace) -> int:
    """Write a new key pair; existing files stay."""
    key = PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    create_file(args.output, private, "private key", PRIVATE)
    create_file(f"{args.output}.pub", public, "public key")
    record = {"key": args.output, "public_key": f"{args.output}.pub"}
    identity = key_id(key.public_key())
    show_done(args, {**record, "key_id": identity}, f"{args.output}.pub: key {identity}")
    return 0


def run_challenge(args: argparse.Namespace) -> int:
    """Write a challenge for the host, and keep its secret."""
    secret, exported = secrets.token_bytes(CREDENTIAL_SIZE), read_file(args.export, "host export")
    challenge = _challenge(parse_host_export(exported), credential_for(secret, exported))
    create_file(args.secret, secret, "secret", PRIVATE)
    write_file(args.output, challenge, "challenge")
    return 0


def run_enroll(args: argparse.Namespace) -> int:
    """Have the host prove that AK and EK are in one TPM, and sign the anchor."""
    if (args.proof is None) != (args.secret is None):
        raise UsageError(
            "TDM-ENROL-PROOF-ALONE",
            "--proof and --secret belong together",
            hint="give both, from one `tandem verifier challenge`",
        )
    key = parse_private_key(read_file(args.key, "private key"))
    exported = read_file(args.export, "host export")
    export = parse_host_export(exported)
    roots, intermediates = _certificates(args.ek_root), _certificates(args.ek_intermediate)
    standing = standing_of(export, intermediates, roots, datetime.now(UTC))
    if args.proof is not None:
        credential = credential_for(read_file(args.secret, "secret"), exported)
        answer = read_file(args.proof, "proof")
    else:
        credential = credential_for(secrets.token_bytes(CREDENTIAL_SIZE), exported)
        answer = _activate(_command(args), _challenge(export, credential))
    proof = parse_proof(answer)
    quote = check_proof(export, exported, credential, proof)
    fields = anchor_of(export, standing, quoted_state(quote, proof.pcrs), int(time.time()))
    write_file(args.output, seal_anchor(fields, key), "trust anchor")
    name, tpm = export.ak.name.hex(), certified_tpm(export)
    record = {
        "anchor": args.output,
        "ak_name": name,
        "standing": str(standing),
        "tpm": None if tpm is None else str(tpm),
        "epoch": export.epoch,
        "pcrs": {str(index): value.hex() for index, value in sorted(proof.pcrs.items())},
    }
    lines = [
        f"host AK {name} enrolled; {REMARK[standing]}",
        f"EK certificate: {'none' if tpm is None else f'TPM {tpm}'}",
        f"quoted: PCR {', '.join(map(str, sorted(proof.pcrs)))}; epoch {export.epoch}",
    ]
    show_done(args, record, "\n".join(lines))
    return 0


def _add_enroll(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    enroll = actions.add_parser(
        "enroll", help="prove that a host's AK is in its TPM and write the trust anchor"
    )
    enroll.add_argument("export", metavar="EXPORT", help="what `tandem host export` wrote")
    enroll.add_argument("--key", required=True, metavar="FILE", help="private key that signs it")
    enroll.add_argument("-o", "--output", required=True, metavar="ANCHOR", help="file to write")
    enroll.add_argument(
        "--via",
        metavar="CMD",
        help="takes the challenge on stdin, gives the proof on stdout "
        "(default: `tandem host activate` here)",
    )
    enroll.add_argument("--proof", metavar="FILE", help="proof made elsewhere; needs --secret")
    enroll.add_argument("--secret", metavar="FILE", help="secret of the challenge it answers")
    enroll.add_argument(
        *("--ek-root",),
        action="append",
        default=[],
        metavar="FILE",
        help="certificates of TPM vendors' CAs, one of which must vouch for the host's EK",
    )
    enroll.add_argument(
        *("--ek-intermediate",),
        action="append",
        default=[],
        metavar="FILE",
        help="certificates of CAs below them, beside those that the TPM brings",
    )
    add_json(enroll)
    enroll.set_defaults(run=run_enroll)


def _challenge(export: HostExport, credential: bytes) -> bytes:
    refuse_weak_ak(export.ak)
    challenge = make_credential(export.ek, export.ak.name, credential, secrets.token_bytes)
    return write_challenge(challenge)


def _command(args: argparse.Namespace) -> list[str]:
    if args.via is None:
        return [sys.executable, "-m", "tandem", "--host", str(args.host), "host", "activate"]
    try:
        command = shlex.split(args.via)
    except ValueError as error:
        raise _bad_command(f"--via cannot be read: {error}") from error
    if not command:
        raise _bad_command("--via names no command")
    return command


def _activate(command: list[str], challenge: bytes) -> bytes:
    """Have the host answer; until it is enrolled, it may answer anything, without an end."""
    ends = time.monotonic() + ACTIVATE_SECONDS
    try:
        with tempfile.TemporaryFile() as asked:
            asked.write(challenge)
            asked.seek(0)
            process = subprocess.Popen(  # noqa: S603 - the operator's own command
                command, stdin=asked, stdout=subprocess.PIPE
            )
        with process:
            try:
                answer = _receive(process, ends)
                status = process.wait(max(0, ends - time.monotonic()))
            finally:
                process.kill()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _not_activated(command, str(error)) from error
    if status:
        raise _not_activated(command, f"exit status {status}")
    return answer


def _receive(process: subprocess.Popen[bytes], ends: float) -> bytes:
    """Read to the end, or as much as no proof has."""
    answer, descriptor = b"", process.stdout.fileno() if process.stdout else -1
    while select.select([descriptor], [], [], max(0, ends - time.monotonic()))[0]:
        received = os.read(descriptor, MAX_PROOF)
        answer += received
        if not received:
            return answer
        if len(answer) > MAX_PROOF:
            raise OSError(f"more than {MAX_PROOF} bytes")
    raise subprocess.TimeoutExpired(process.args, ACTIVATE_SECONDS)


def _not_activated(command: list[str], problem: str) -> HostError:
    return HostError(
        "TDM-ENROL-NO-PROOF",
        f"`{shlex.join(command)}` gave no proof: {problem}",
        hint="see what it printed; is the host provisioned and its Manager running?",
    )


def _bad_command(problem: str) -> UsageError:
    return UsageError(
        "TDM-ENROL-COMMAND", problem, hint="write it as in --via 'ssh host tandem host activate'"
    )


def _certificates(paths: list[str]) -> list[Certificate]:
    found: list[Certificate] = []
    for path in paths:
        found += parse_certificates(read_file(path, "CA certificate"))
    return found
