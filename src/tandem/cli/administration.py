"""Requests that an administrator signs, with a key in a file or with a program that has the key."""

from __future__ import annotations

import argparse
import shlex
import subprocess
from typing import Final

from tandem.cli.approval_keys import private_approval_key
from tandem.cli.manager_client import ManagerClient
from tandem.errors import UsageError
from tandem.wire.administration import ACTIONS, Action, sign_action, signed_bytes
from tandem.wire.group_rpc import Administer, Administered, AskChallenge, Challenge

HOST_KEY: Final = "the host's private approval key (PEM)"
GROUP_KEY: Final = "the group's private key (PEM); of the host's own group, its approval key"
SIGNATURE_MOST: Final = 72  # bytes: ECDSA-Sig-Value of P-256, DER


def add_key(parser: argparse.ArgumentParser, whose: str) -> None:
    """Declare how a request is signed."""
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--key", metavar="FILE", help=whose)
    given.add_argument(
        "--sign-with",
        metavar="COMMAND",
        help="program that signs standard input with that key (ECDSA, SHA-256, DER), as "
        "'ssh vault openssl dgst -sha256 -sign red.key'",
    )


def administer(manager: ManagerClient, args: argparse.Namespace, action: Action) -> None:
    """Have the Manager do what the administrator signs, once."""
    key = private_approval_key(args.key) if args.key else None
    encoded = ACTIONS.encode(action)
    asked = manager.ask(AskChallenge(), Challenge)
    if key is not None:
        signature = sign_action(key, asked.challenge, asked.host, encoded)
    else:
        signature = _signed(args.sign_with, signed_bytes(asked.challenge, asked.host, encoded))
    manager.ask(Administer(action=encoded, signature=signature), Administered)


def _signed(command: str, data: bytes) -> bytes:
    """Have a program sign; what it says on standard error is its user's to read."""
    try:
        done = subprocess.run(  # noqa: S603 - the administrator's own program, without a shell
            shlex.split(command), input=data, stdout=subprocess.PIPE, check=False
        )
    except (OSError, ValueError) as error:  # ValueError: quotes that do not end, or no word
        raise _not_signed(command, str(error)) from error
    if done.returncode or not 0 < len(done.stdout) <= SIGNATURE_MOST:
        said = f"status {done.returncode}, {len(done.stdout)} bytes of signature"
        raise _not_signed(command, said)
    return done.stdout


def _not_signed(command: str, problem: str) -> UsageError:
    return UsageError(
        "TDM-CLI-NOT-SIGNED",
        f"{command[:80]!a} does not sign: {problem}",
        hint="name a program that reads what is to be signed and writes an ECDSA signature in DER",
    )
