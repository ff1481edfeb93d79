"""Fixtures: one host for the tests of a module, and a guest on it that has reached its shell."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from peers.console import PROMPT_MARK, Console
from tandem.cli.guest import connect_console
from tests.integration.builder.running_host import RunningHost

BOOT_SECONDS = 60.0


@pytest.fixture(scope="module")
def running_host() -> Iterator[RunningHost]:
    host = RunningHost()
    yield host
    host.close()


@pytest.fixture
def host(running_host: RunningHost) -> Iterator[RunningHost]:
    yield running_host
    running_host.stop_all()


@pytest.fixture
def console(host: RunningHost) -> Iterator[Console]:
    """The console of the guest `web`, at its shell."""
    host.start()
    with Console(connect_console(host.host, "web")) as console:
        console.wait_for(PROMPT_MARK, BOOT_SECONDS)
        yield console
