"""`tandem`: finds the command, runs it, and makes its error an exit status.

A group's module is imported only when its command is named, so that `tandem verify` needs neither
libtpms nor a TPM's libraries.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from tandem.cli.output import INTERRUPTED, MAX_SHOWN, show_error
from tandem.errors import HostError, TandemError, UsageError
from tandem.installation import installed_version
from tandem.settings import DEFAULT_HOST, HOST_VARIABLE

GROUPS: Final = {  # module and help; the order is that of a first use
    "doctor": ("tandem.cli.doctor", "say what this host lacks and how to get it"),
    "host": ("tandem.cli.host", "provision and run this host"),
    "group": ("tandem.cli.group", "divide this host among tenants: keys, limits, certificates"),
    "vtpm": ("tandem.cli.vtpm", "look at persistent vTPMs, destroy them or make them anew"),
    "library": ("tandem.cli.library", "make and sign the library of guests"),
    "guest": ("tandem.cli.guest", "start, stop and look at guests"),
    "events": ("tandem.cli.events", "watch what happens to guests"),
    "verifier": ("tandem.cli.verifier", "make keys, and enrol hosts as trust anchors"),
    "policy": ("tandem.cli.policy", "say what is demanded of a guest"),
    "verify": ("tandem.cli.verify", "appraise evidence by a policy"),
    "broker": ("tandem.cli.broker", "say who may do what with the physical TPM"),
    "tpm": ("tandem.cli.tpm", "pass raw TPM commands to the broker (for tcti-cmd)"),
    "attacks": ("tandem.cli.attacks", "run the attacks that Tandem must refuse, with controls"),
    "completion": ("tandem.cli.completion", "print a completion script for a shell"),
}
EXAMPLES: Final = """\
examples:
  tandem doctor                       what is missing on this host?
  tandem host init                    provision it, once
  tandem guest start web              build the library's entry `web` as a pair
  tandem verify evidence.json --policy policy.toml --nonce 00ff...
                                      is this guest what the policy demands?

exit status: 0 done or trusted; 2 usage; 3 host; 4 untrusted input; 5 refused; 130 interrupted;
verify: 10 in doubt, 11 contraindicated, 12 nothing checked
"""


class Parser(argparse.ArgumentParser):
    """A parser that reports as every other part of Tandem does."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise UsageError("TDM-CLI-USAGE", message, hint=f"see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the only place where an error becomes an exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    try:
        args = build_parser(named_group(arguments)).parse_args(arguments)
        status: int = args.run(args)
        sys.stdout.flush()
    except TandemError as error:
        show_error(error, as_json=as_json)
        return error.exit_status
    except KeyboardInterrupt:
        show_error(_interrupted(), as_json=as_json)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tandem"):
            raise  # a defect
        show_error(_part_missing(error), as_json=as_json)
        return HostError.exit_status
    except OSError as error:  # what no command expected, as a name that is too long
        show_error(_from_system(error), as_json=as_json)
        return HostError.exit_status
    return status


def named_group(arguments: Sequence[str]) -> str | None:
    """Give the group that the command line names, whatever options precede it."""
    words = iter(arguments)
    for word in words:
        if word == "--host":
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None


def build_parser(*groups: str | None) -> Parser:
    """Make the parser with the given groups in full and the others by name alone."""
    parser = Parser(
        prog="tandem",
        description="Guests and their vTPMs as measured pairs, attested down to the physical TPM.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tandem {installed_version()}")
    parser.add_argument(
        "--host",
        metavar="DIR",
        type=_directory,
        default=os.environ.get(HOST_VARIABLE) or str(DEFAULT_HOST),
        help=f"the host's directory (default: ${HOST_VARIABLE}, else {DEFAULT_HOST})",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, (module, summary) in GROUPS.items():
        if name in groups:
            importlib.import_module(module).add_parser(commands)
        else:
            commands.add_parser(name, help=summary, add_help=False)
    return parser


def _directory(text: str) -> Path:
    """Read a directory's name; an empty one is a variable that was not set, seldom meant as `.`."""
    if not text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text[:MAX_SHOWN]!a} cannot be a host's directory")
    return Path(text)


def _interrupted() -> UsageError:
    return UsageError(
        "TDM-CLI-INTERRUPTED",
        "interrupted",
        hint="what was half done is taken back; give the command again",
    )


def _from_system(error: OSError) -> HostError:
    where = f"{str(error.filename)[:MAX_SHOWN]!a}: " if error.filename else ""
    return HostError(
        "TDM-CLI-SYSTEM",
        f"{where}{error.strerror or error}",
        hint="check the path, its permissions and the space left",
    )


def _part_missing(error: ModuleNotFoundError) -> HostError:
    return HostError(
        "TDM-CLI-PART-MISSING",
        f"this command needs the Python module {error.name}, which is not installed",
        hint="install the host's part: pip install 'tandem[host]'",
    )
