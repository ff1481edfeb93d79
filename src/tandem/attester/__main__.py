"""Start the attester: `python3 -m tandem_attester --nonce HEX -o FILE`, or `--serve`."""

from __future__ import annotations

import json
import sys

from .collect import collect
from .failure import AttesterError
from .guest_tpm import GuestTpm
from .port import Port, find_port
from .request import LAUNCH_REGISTERS, Request, make_request
from .serve import serve

EXIT_STATUS = 3  # as HostError has it: what is wrong is here, not in the request


def main(arguments: list[str]) -> int:
    """Serve, or collect once; the only place where an error becomes an exit status."""
    try:
        if arguments == ["--serve"]:  # without the argument parser, which takes long to load
            serve(Port(find_port()), collect_once)
        return collect_by_hand(arguments)
    except AttesterError as error:
        print(f"tandem-attester: {error}\n  hint: {error.hint}", file=sys.stderr)
        return EXIT_STATUS


def collect_once(request: Request) -> dict[str, str]:
    """Open the TPM for one request, so that no program of the guest is kept from it."""
    tpm = GuestTpm()
    try:
        return collect(tpm, request)
    finally:
        tpm.close()


def collect_by_hand(arguments: list[str]) -> int:
    """Collect evidence for the nonce on the command line."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="tandem-attester", description="Collect evidence of this guest with its own TPM."
    )
    parser.add_argument("--serve", action="store_true", help="answer over virtio-serial instead")
    parser.add_argument("--nonce", required=True, help="the verifier's nonce, 64 hex digits")
    parser.add_argument("--user-data", default="", help="what to bind, up to 64 bytes in hex")
    parser.add_argument(
        "--pcr", type=int, action="append", default=list(LAUNCH_REGISTERS), help="quote it as well"
    )
    parser.add_argument("-o", "--output", default="-", help="file to write; - is standard output")
    options = parser.parse_args(arguments)
    request = make_request(options.nonce, options.user_data, options.pcr)
    text = json.dumps(collect_once(request), sort_keys=True) + "\n"
    if options.output == "-":
        sys.stdout.write(text)
    else:
        with open(options.output, "w", encoding="ascii") as file:
            file.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
