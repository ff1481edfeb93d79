"""Launch logs: written one way, read back only so, and replayed from zero."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from tandem.errors import UntrustedInput
from tandem.evidence.event_log import (
    Event,
    EventLog,
    parse_event_log,
    parse_launch_log,
    write_launch_log,
)
from tandem.evidence.launch import LaunchEvent, Tag, command_line_event
from tandem.evidence.launch_plan import builder_event
from tandem.evidence.pcr_values import extend, pcr_digest, replay

BUILDER = builder_event("0.1.0", bytes(32))
KERNEL = LaunchEvent(tag=Tag.KERNEL, data=b"{}")
COMMAND_LINE = command_line_event("quiet")


def test_a_launch_log_is_read_back_in_extension_order() -> None:
    # Given events in no order
    log = write_launch_log([COMMAND_LINE, KERNEL, BUILDER])

    # When their log is read
    events = parse_launch_log(log)

    # Then they stand in the order in which they are extended
    assert events == (BUILDER, KERNEL, COMMAND_LINE)


def test_registers_start_from_zero_and_take_the_hash_of_each_tagged_event() -> None:
    # Given a log of one event in PCR 17 and two in PCR 18
    log = write_launch_log([BUILDER, KERNEL, COMMAND_LINE])

    # When it is replayed
    values = replay(parse_event_log(log))

    # Then each bank is what a TPM computes after a D-RTM sequence
    for bank, size in (("sha256", 32), ("sha384", 48)):
        hashed = [hashlib.new(bank, e.encode()).digest() for e in (BUILDER, KERNEL, COMMAND_LINE)]
        eighteen = extend(extend(bytes(size), hashed[1], bank), hashed[2], bank)
        assert values[bank] == {17: extend(bytes(size), hashed[0], bank), 18: eighteen}


def test_a_long_log_is_gone_through_a_fixed_number_of_times() -> None:
    # Given a log of many events, none of which says from where PCR 0 starts
    class Counted(tuple[Event, ...]):
        passes = 0

        def __iter__(self) -> Iterator[Event]:
            self.passes += 1
            return super().__iter__()

    event = Event(offset=0, register=0, kind=1, digests={"sha1": bytes(20)}, data=b"")
    events = Counted([event] * 100)

    # When it is replayed
    replay(EventLog(banks=("sha1",), events=events))

    # Then that was looked for once, and not for each event
    assert events.passes == 2


def test_a_quote_digest_is_over_the_registers_by_index() -> None:
    # Given two registers out of order
    values = {18: b"\x02" * 32, 17: b"\x01" * 32}

    # When they are digested
    digest = pcr_digest(values)

    # Then the lower index comes first
    assert digest == hashlib.sha256(b"\x01" * 32 + b"\x02" * 32).digest()


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (write_launch_log([KERNEL]), "builder"),
        (write_launch_log([]), "builder"),
        (write_launch_log([BUILDER, KERNEL])[:-1], "needs"),
        (write_launch_log([BUILDER, KERNEL]) + b"\0", "needs"),
        (write_launch_log([BUILDER, KERNEL]).replace(b"{}", b"[]"), "digest"),
        (write_launch_log([BUILDER]) + write_launch_log([BUILDER]), "digest"),
    ],
)
def test_any_other_launch_log_is_refused(log: bytes, reason: str) -> None:
    # Given a log that `write_launch_log` does not make
    # When it is read
    with pytest.raises(UntrustedInput) as caught:
        parse_launch_log(log)

    # Then the refusal says why
    assert reason in caught.value.problem


def test_events_in_another_order_are_refused() -> None:
    # Given a log with two events exchanged
    header = len(write_launch_log([]))
    kernel, line = (write_launch_log([BUILDER, e]) for e in (KERNEL, COMMAND_LINE))
    builder = len(write_launch_log([BUILDER]))
    log = kernel[:builder] + line[builder:] + kernel[builder:]
    assert log[:header] == kernel[:header]

    # When it is read
    # Then the order is refused, although every digest is right
    with pytest.raises(UntrustedInput, match="out of order"):
        parse_launch_log(log)
