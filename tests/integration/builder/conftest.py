"""Fixtures: one host for the tests of a module, without guests before each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.builder.running_host import RunningHost


@pytest.fixture(scope="module")
def running_host() -> Iterator[RunningHost]:
    host = RunningHost()
    yield host
    host.close()


@pytest.fixture
def host(running_host: RunningHost) -> Iterator[RunningHost]:
    yield running_host
    running_host.stop_all()
