"""Messages and descriptors cross a channel whole, and nothing leaks when they do not."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from tandem.channel import Channel, Closed, pair
from tandem.errors import HostError, Refused, UntrustedInput
from tandem.wire.manager_rpc import (
    VTPM_ANSWERS,
    VTPM_REQUESTS,
    CommitState,
    EkCertificates,
    Hello,
    StateCommitted,
)
from tandem.wire.messages import failure

Ends = tuple[Channel, Channel]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A vTPM's end and the Manager's end of one channel."""
    ours, theirs = pair()
    vtpm = Channel(ours, sends=VTPM_REQUESTS, receives=VTPM_ANSWERS)
    manager = Channel(theirs, sends=VTPM_ANSWERS, receives=VTPM_REQUESTS)
    yield vtpm, manager
    vtpm.close()
    manager.close()


def open_descriptors() -> int:
    """Count this process's descriptors."""
    return len(os.listdir("/proc/self/fd"))


def test_a_descriptor_travels_with_its_message(ends: Ends) -> None:
    # Given a pipe's writing end
    vtpm, manager = ends
    reading, writing = os.pipe()

    # When it is sent with a message
    vtpm.send(Hello(), [writing])
    os.close(writing)
    message, [received] = manager.receive(expected_descriptors=1)

    # Then the other side holds the same pipe, closed on exec
    os.write(received, b"x")
    assert (message, os.read(reading, 1)) == (Hello(), b"x")
    assert not os.get_inheritable(received)
    os.close(received)
    os.close(reading)


def test_a_surplus_descriptor_is_closed_and_refused(ends: Ends) -> None:
    # Given a message with a descriptor that nobody asked for
    vtpm, manager = ends
    before = open_descriptors()
    vtpm.send(Hello(), [0])

    # When it arrives
    with pytest.raises(UntrustedInput) as refusal:
        manager.receive()

    # Then it is refused, and its descriptor is closed
    assert refusal.value.code == "TDM-MESSAGE-DESCRIPTORS"
    assert open_descriptors() == before


def test_descriptors_of_an_unreadable_message_are_closed(ends: Ends) -> None:
    # Given noise that carries a descriptor
    vtpm, manager = ends
    before = open_descriptors()
    socket.send_fds(vtpm.sock, [b"noise"], [0])

    # When it arrives
    with pytest.raises(UntrustedInput):
        manager.receive(expected_descriptors=1)

    # Then nothing stays open
    assert open_descriptors() == before


def test_a_message_longer_than_the_protocol_allows_is_refused(ends: Ends) -> None:
    # Given more bytes than any message of the protocol has
    vtpm, manager = ends
    vtpm.sock.send(b"\xa0" * (VTPM_REQUESTS.limit + 100))

    # When they arrive
    # Then they are refused by name
    with pytest.raises(UntrustedInput) as refusal:
        manager.receive()
    assert refusal.value.code == "TDM-MESSAGE-TRUNCATED"


def test_an_answer_that_reports_an_error_raises_it(ends: Ends) -> None:
    # Given a Manager that refuses
    vtpm, manager = ends
    manager.send(failure(Refused("TDM-STATE-OLDER", "older", hint="h")))

    # When a vTPM asks
    with pytest.raises(Refused) as refusal:
        vtpm.ask(CommitState(version=1, digest=b""), StateCommitted)

    # Then the refusal arrives as itself
    assert refusal.value.code == "TDM-STATE-OLDER"


def test_another_answer_than_asked_for_is_out_of_place(ends: Ends) -> None:
    # Given a Manager that answers something else
    vtpm, manager = ends
    manager.send(EkCertificates(rsa=b"", ecc=b"", chain=b""))

    # When a vTPM asks
    # Then that is a fault of the host
    with pytest.raises(HostError) as fault:
        vtpm.ask(CommitState(version=1, digest=b""), StateCommitted)
    assert fault.value.code == "TDM-MESSAGE-OUT-OF-PLACE"


def test_the_end_of_the_other_side_is_told_apart_from_every_message(ends: Ends) -> None:
    # Given a Manager that is gone
    vtpm, manager = ends
    manager.close()

    # When a vTPM sends or waits
    # Then both say that the channel is closed
    with pytest.raises(Closed):
        vtpm.receive()
    with pytest.raises(Closed):
        vtpm.send(Hello())
