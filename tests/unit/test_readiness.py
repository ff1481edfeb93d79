"""How a start is reported: ready, an error, or nothing at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from tandem.errors import HostError, Refused, UntrustedInput
from tandem.readiness import Readiness, wait_until_ready

SECONDS = 2.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


def test_a_service_that_takes_requests_is_ready(pipe: tuple[int, int]) -> None:
    # Given a service that starts
    reading, writing = pipe
    # When it announces itself, and fails later
    with contextlib.suppress(HostError), Readiness(writing) as readiness:
        readiness.announce()
        raise HostError("TDM-X", "later", hint="none")
    # Then it was ready, and nothing else is said
    assert wait_until_ready(reading, SECONDS)
    assert os.read(reading, 1) == b""


@pytest.mark.parametrize(
    "error",
    [
        Refused("TDM-ROLLBACK-STORE", "an older copy", hint="put back the newest"),
        UntrustedInput("TDM-FIELD-BAD", "damaged", hint="none", offset=7),
    ],
)
def test_an_error_is_raised_where_the_start_was_asked_for(
    pipe: tuple[int, int], error: Refused | UntrustedInput
) -> None:
    # Given a service that cannot start
    reading, writing = pipe
    with pytest.raises(type(error)), Readiness(writing):
        raise error
    # When its starter waits
    with pytest.raises(type(error)) as raised:
        wait_until_ready(reading, SECONDS)
    # Then it gets the same error, with its exit status
    assert (raised.value.code, raised.value.hint) == (error.code, error.hint)
    assert raised.value.exit_status == error.exit_status


def test_a_service_that_dies_is_not_ready(pipe: tuple[int, int]) -> None:
    # Given a service that is killed
    reading, writing = pipe
    os.close(writing)
    # When its starter waits
    # Then it is told at once
    assert not wait_until_ready(reading, SECONDS)


def test_a_service_that_hangs_is_not_waited_for(pipe: tuple[int, int]) -> None:
    # Given a service that says nothing
    reading, writing = pipe
    # When the time is over
    ready = wait_until_ready(reading, 0.01)
    # Then it is not ready
    assert not ready
    os.close(writing)


def test_nobody_who_waits_is_no_error() -> None:
    # Given a service started by hand, and one whose starter has gone
    reading, writing = os.pipe()
    os.close(reading)
    # When both announce themselves
    Readiness(None).announce()
    Readiness(writing).announce()
    # Then neither fails, and the descriptor is closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writing)
