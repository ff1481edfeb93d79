"""`python -m tandem`: the same as the command `tandem`."""

from __future__ import annotations

import sys

try:
    from tandem.cli.main import main
except KeyboardInterrupt:  # nothing is begun yet, and nothing is loaded that could say more
    sys.exit("tandem: interrupted [TDM-CLI-INTERRUPTED]")

sys.exit(main())
