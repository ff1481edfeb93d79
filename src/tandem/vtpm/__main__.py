"""Start the zygote: `python -m tandem.vtpm --channel-fd N`, N being the builder's socketpair."""

from __future__ import annotations

import argparse
import os
import select
import socket
import sys

from tandem.errors import HostError, TandemError
from tandem.privileges import end_with_parent


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
        end_with_parent()  # from here on, not only once it serves
        channel = socket.socket(fileno=arguments.channel_fd)
        channel.set_inheritable(False)
        if not _is_closed(channel):
            _serve(channel)
    except TandemError as error:
        sys.stderr.write(f"{error}\nhint: {error.hint}\n")
        return error.exit_status
    return 0


def _is_closed(channel: socket.socket) -> bool:
    """Tell whether the builder died before the kernel would have ended this process with it."""
    poll = select.poll()
    poll.register(channel, 0)
    return bool(poll.poll(0))


def _serve(channel: socket.socket) -> None:
    """Import everything, which on a busy host takes seconds, then serve."""
    import tandem.vtpm.ahead  # isort: skip  # noqa: F401 - before all that is ours

    from tandem.vtpm.confinement import CallFilter
    from tandem.vtpm.libtpms import Engine
    from tandem.vtpm.zygote import Zygote

    Zygote(channel, Engine(), CallFilter()).serve()


if __name__ == "__main__":
    sys.exit(main())
