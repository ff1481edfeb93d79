"""Tandem's own Manager with one pTPM quote for each deep quote: what batching is measured against.

`python -m peers.unbatched_manager --host DIR [--ready-fd N]`, as the Manager itself.
"""

from __future__ import annotations

import sys

from tandem.manager import __main__, deep_quotes

if __name__ == "__main__":
    deep_quotes.BATCH_MOST = 1  # type: ignore[misc]  # the one difference
    sys.exit(__main__.main())
