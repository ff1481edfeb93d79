"""Start the zygote: `python -m tandem.vtpm --channel-fd N`, N being the builder's socketpair."""

from __future__ import annotations

import tandem.vtpm.ahead  # isort: skip  # noqa: F401 - before everything else

import argparse
import os
import socket
import sys

from tandem.errors import HostError, TandemError
from tandem.vtpm.confinement import CallFilter
from tandem.vtpm.libtpms import Engine
from tandem.vtpm.zygote import Zygote


def main() -> int:
    """Serve the builder until it closes the channel."""
    parser = argparse.ArgumentParser(prog="python -m tandem.vtpm", description=__doc__)
    parser.add_argument("--channel-fd", type=int, required=True, help="inherited socketpair")
    arguments = parser.parse_args()
    # A session of its own, with all its children: no terminal can signal them, and the scheduler
    # has vTPM and hypervisor in one group (autogroups follow sessions; 1 us a round trip).
    if os.getpgrp() != os.getpid():
        os.setsid()
    try:
        if os.geteuid() != 0:
            raise HostError(
                "TDM-NOT-ROOT", "the zygote needs root", hint="start the builder as root"
            )
        channel = socket.socket(fileno=arguments.channel_fd)
        channel.set_inheritable(False)
        Zygote(channel, Engine(), CallFilter()).serve()
    except TandemError as error:
        sys.stderr.write(f"{error}\nhint: {error.hint}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
