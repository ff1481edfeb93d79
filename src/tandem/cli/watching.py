"""What happens to pairs, read from the builder page after page, across its restarts."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tandem.cli.builder_client import ABSENT, GONE, BuilderClient
from tandem.errors import HostError
from tandem.wire.builder_rpc import Events

RETRY_SECONDS: Final = 0.5


def past(host: Path) -> Iterator[Events]:
    """Give what the builder still knows of the past."""
    last, more = 0, True
    with BuilderClient(host) as builder:
        while more:
            page = builder.events(last)
            last, more = page.last, page.more
            yield page


def onwards(host: Path, idle_seconds: float | None = None) -> Iterator[Events | None]:
    """Give the past, then what happens, for ever; None after each idle time without anything.

    HostError when there is no builder at first; one that goes away later is waited for.
    """
    last, met, away = 0, False, False
    while True:
        try:
            with BuilderClient(host) as builder:
                met, away = True, False
                while True:
                    builder.ask_events(last, wait=True)
                    while not select.select([builder], [], [], idle_seconds)[0]:
                        yield None
                    page = builder.take_events()
                    last = page.last
                    yield page
        except HostError as error:
            if not met or error.code not in (ABSENT, GONE):
                raise
            if not away:
                print("tandem: the builder is away, waiting for it", file=sys.stderr, flush=True)
            away = True
            time.sleep(RETRY_SECONDS)
            yield None
