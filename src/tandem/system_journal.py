"""systemd's journal: an event with fields of its own, for `journalctl TANDEM_GUEST=web`.

Journal Native Protocol (systemd.io, journald): one datagram for an entry; each field is its name, a
newline, the length of its value in 64 bits, little-endian, the value, and a newline.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tandem.log import as_json, as_line, write_to

ADDRESS: Final = Path("/run/systemd/journal/socket")
PRIORITIES: Final = {"info": "6", "warning": "4", "error": "3"}  # syslog(3)
NOT_IN_A_NAME: Final = re.compile(r"[^A-Z0-9]")
MAX_NAME: Final = 64  # of a field, as journald takes it


def is_journal(environment: Mapping[str, str], descriptor: int) -> bool:
    """Whether a descriptor is the journal's own stream (systemd.exec(5), JOURNAL_STREAM)."""
    status = os.fstat(descriptor)
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class SystemJournal:
    """A connection to journald that never waits."""

    def __init__(self, address: Path = ADDRESS) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._address = str(address)

    def take(self, record: Mapping[str, object]) -> bool:
        """Send an event; False where journald cannot take it now, or not as large as it is."""
        try:
            self._socket.sendto(entry(record), self._address)
        except OSError:
            return False
        return True


def use_journal(environment: Mapping[str, str], descriptor: int) -> None:
    """Have this process's log sent to the journal, where `descriptor` leads there anyhow."""
    if is_journal(environment, descriptor):
        write_to(SystemJournal().take)


def entry(record: Mapping[str, object]) -> bytes:
    """Write an event as a journal entry: its whole line of JSON, and each member as a field."""
    fields = {
        "MESSAGE": as_line(record),
        "PRIORITY": PRIORITIES[str(record["level"])],
        "SYSLOG_IDENTIFIER": f"tandem-{record['process']}",
        **{_name(key): _text(value) for key, value in record.items()},
    }
    return b"".join(_field(name, value.encode()) for name, value in fields.items())


def _name(key: str) -> str:
    return ("TANDEM_" + NOT_IN_A_NAME.sub("_", key.upper()))[:MAX_NAME]


def _text(value: object) -> str:
    return value if isinstance(value, str) else as_json(value).strip('"')


def _field(name: str, value: bytes) -> bytes:
    return name.encode("ascii") + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
