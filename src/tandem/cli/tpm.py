"""`tandem tpm`: this host's broker on standard input and output, for libtss2-tcti-cmd.

Stock tools run it anew each time they start, so nothing is imported here that an error alone needs.
What passes are raw TPM commands and responses; the broker is who reads them.
"""

from __future__ import annotations

import os
import socket

TYPE_CHECKING = False  # the module `typing` takes as long to load as all the rest
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from tandem.errors import HostError, TandemError

DEFAULT_HOST = "/var/lib/tandem"  # as in tandem.settings, whose import takes too long here
HOST_VARIABLE = "TANDEM_HOST"
SOCKET = "broker.sock"
RUN = "run"
PIECE = 4096  # as large as commands and responses are
HEADER_SIZE = 10
INPUT, OUTPUT = 0, 1
EXAMPLES = """\
examples:
  export TPM2TOOLS_TCTI="cmd:tandem tpm"
  tpm2_getrandom --hex 8
  tpm2_pcrread -T "cmd:tandem --host /srv/tandem tpm" sha256:7
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and its help."""
    from argparse import RawDescriptionHelpFormatter

    parser = commands.add_parser(
        "tpm",
        help="pass raw TPM commands to the broker (for tcti-cmd)",
        description="Pass TPM 2.0 commands from standard input to this host's broker, and its "
        "responses to standard output.",
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=lambda args: run(str(args.host)))


def named_host(arguments: Sequence[str]) -> str | None:
    """Give the host where a command line is this command's and nothing more, else None."""
    match arguments:
        case ["tpm"]:
            return os.environ.get(HOST_VARIABLE) or DEFAULT_HOST
        case ["--host", host, "tpm"] if host:
            return host
        case _:
            return None


def run(host: str) -> int:
    """Pass a command, then its response, until there are no more commands."""
    with connected(host) as sock:
        broker = sock.fileno()
        while command := _whole(INPUT):
            try:
                sock.sendall(command)
                response = _whole(broker)
            except ConnectionError:
                response = b""
            if not response:
                raise _hung_up(host)
            _write(response)
    return 0


def _whole(descriptor: int) -> bytes:
    """Read a command or a response: its header says how long it is; what ends early is as it is."""
    data = os.read(descriptor, PIECE)
    while data and (len(data) < HEADER_SIZE or len(data) < int.from_bytes(data[2:6], "big")):
        more = os.read(descriptor, PIECE)
        if not more:
            break
        data += more
    return data


def connected(host: str) -> socket.socket:
    """Connect to the broker; the name goes through a descriptor, for 108 bytes are not many."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        directory = os.open(f"{host}/{RUN}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{directory}/{SOCKET}")
        finally:
            os.close(directory)
    except OSError as error:
        sock.close()
        raise _absent(host, error) from error
    return sock


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(OUTPUT, data) :]


def _absent(host: str, error: OSError) -> HostError:
    from tandem.errors import HostError

    return HostError(
        "TDM-BROKER-ABSENT",
        f"the broker of {host} cannot be reached: {error.strerror}",
        hint="start the host's services with `sudo tandem host up`",
    )


def _hung_up(host: str) -> HostError:
    from tandem.errors import HostError

    return HostError(
        "TDM-BROKER-HUNG-UP",
        f"the broker of {host} closed the connection",
        hint="its log, run/broker.log, says why: no right to use it, or a broken command",
    )


def main(host: str) -> int:
    """Run, and report as `tandem.cli.main` does, without its imports where nothing is wrong."""
    try:
        return run(host)
    except BrokenPipeError:  # whoever read the responses left
        return 0
    except _raised_on_purpose() as error:
        from tandem.cli.output import show_error

        show_error(error, as_json=False)
        return error.exit_status


def _raised_on_purpose() -> type[TandemError]:
    """Give the base of our errors; asked for only once something was raised."""
    from tandem.errors import TandemError

    return TandemError
