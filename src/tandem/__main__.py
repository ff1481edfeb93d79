"""`python -m tandem`, and the command `tandem`.

`tandem tpm` goes a way of its own: it runs for each start of a stock tool, and what the other
commands import would take several times as long as it does.
"""

from __future__ import annotations

import sys

from tandem.cli import tpm


def main() -> int:
    """Run one command; gives its exit status."""
    host = tpm.named_host(sys.argv[1:])
    if host is not None:
        return tpm.main(host)
    try:
        from tandem.cli.main import main as run
    except KeyboardInterrupt:  # nothing is begun yet, and nothing is loaded that could say more
        sys.exit("tandem: interrupted [TDM-CLI-INTERRUPTED]")
    return run()


if __name__ == "__main__":
    sys.exit(main())
