"""Events as systemd's journal takes them."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from tandem.log import as_line
from tandem.system_journal import SystemJournal, entry, is_journal

RECORD = {
    "time": "2026-01-01T00:00:00.000+00:00",
    "level": "warning",
    "process": "builder",
    "event": "pair.failed",
    "guest": "web",
    "problem": "two\nlines",
    "count": 3,
    "pair": b"\xab",
}


def fields_of(data: bytes) -> dict[str, str]:
    """Read a datagram as journald does."""
    found = {}
    while data:
        name, _, data = data.partition(b"\n")
        (length,) = struct.unpack("<Q", data[:8])
        found[name.decode()] = data[8 : 8 + length].decode()
        assert data[8 + length : 9 + length] == b"\n"
        data = data[9 + length :]
    return found


def test_an_event_has_its_line_and_a_field_for_each_member() -> None:
    # Given an event with text, a number, bytes, and a newline that must not end its field
    # When it is written as a journal entry
    fields = fields_of(entry(RECORD))
    # Then all of it can be asked for
    assert fields["MESSAGE"] == as_line(RECORD)
    assert fields["PRIORITY"] == "4"
    assert fields["SYSLOG_IDENTIFIER"] == "tandem-builder"
    assert fields["TANDEM_GUEST"] == "web"
    assert fields["TANDEM_PROBLEM"] == "two\nlines"
    assert fields["TANDEM_COUNT"] == "3"
    assert fields["TANDEM_PAIR"] == "ab"


def test_an_event_is_one_datagram(tmp_path: Path) -> None:
    # Given a socket in journald's place
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "socket"))
        # When an event is sent
        assert SystemJournal(tmp_path / "socket").take(RECORD)
        # Then it arrives whole
        assert fields_of(journald.recv(65536))["TANDEM_EVENT"] == "pair.failed"


def test_without_journald_the_event_is_not_taken(tmp_path: Path) -> None:
    # Given no socket
    # When an event is sent
    # Then the log knows that it must write it itself
    assert not SystemJournal(tmp_path / "socket").take(RECORD)


def test_the_journals_stream_is_known_by_device_and_inode(tmp_path: Path) -> None:
    # Given a descriptor, and what systemd says of the journal's stream
    descriptor = os.open(tmp_path, os.O_RDONLY)
    status = os.fstat(descriptor)
    # When both are compared
    # Then only that very one is the journal
    assert is_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}, descriptor)
    assert not is_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"}, descriptor)
    assert not is_journal({}, descriptor)
    os.close(descriptor)
