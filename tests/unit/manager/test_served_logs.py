"""The host's logs, page by page: whole, from an offset, and while they grow."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from tandem.errors import HostError, Refused
from tandem.evidence.ima_log import MAX_IMA_LOG
from tandem.manager.host import Host
from tandem.manager.host_requests import HostRequests
from tandem.manager.room import Room
from tandem.manager.served_logs import PAGE, ServedLog, fixed_log, growing_log
from tandem.wire.manager_rpc import AskHostLog, HostLogPage
from tests.unit.evidence.ima_writer import Kernel
from tests.unit.manager.software_host import software_host


def fetch(log: ServedLog, offset: int = 0) -> bytes:
    data = b""
    while page := log.page(offset + len(data)).data:
        data += page
    return data


def test_a_log_is_fetched_page_by_page_with_its_digest() -> None:
    # Given a log of several pages
    whole = os.urandom(2 * PAGE + 7)
    log = fixed_log(whole)

    # When it is fetched whole, and from an offset
    # Then it is the same, and the digest is that of all
    assert fetch(log) == whole
    assert fetch(log, 100) == whole[100:]
    assert log.page(0).digest == hashlib.sha256(whole).digest()
    assert log.page(len(whole) + 5).data == b""


def test_a_log_that_grows_is_read_on_from_where_it_ended(tmp_path: Path) -> None:
    # Given a reader who has all of a log, which then grows
    path = tmp_path / "list"
    path.write_bytes(b"first")
    log = growing_log(os.open(path, os.O_RDONLY))
    had = fetch(log)
    with path.open("ab") as file:
        file.write(b"second")

    # When the reader asks for what follows
    more = log.page(len(had))

    # Then it gets just that, and the digest of all
    assert (had, more.data, more.total) == (b"first", b"second", 11)
    assert more.digest == hashlib.sha256(b"firstsecond").digest()


def test_a_log_without_end_is_refused() -> None:
    # Given a log that never ends
    log = ServedLog(lambda offset: bytes(MAX_IMA_LOG // 4 + 1))
    # When it is asked for
    with pytest.raises(HostError) as caught:
        log.page(0)
    # Then that is an error of the host, by name
    assert caught.value.code == "TDM-HOST-LOG-TOO-LONG"


def test_a_log_that_cannot_be_read_is_an_error_of_the_host(tmp_path: Path) -> None:
    # Given a descriptor that does not give bytes
    log = growing_log(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
    # When it is asked for
    with pytest.raises(HostError) as caught:
        log.page(0)
    # Then the error says so
    assert caught.value.code == "TDM-HOST-LOG-UNREADABLE"


class Handlers:
    """A room that keeps the handlers, to be asked directly."""

    def __init__(self, host: Host) -> None:
        self._handlers: dict[type, Callable[[Any, Any], Any]] = {}
        HostRequests(host, lambda: cast("Any", None)).join(cast("Room", self))

    def on(self, kind: type, handler: Callable[[Any, Any], Any]) -> None:
        self._handlers[kind] = handler

    def log(self, name: str, offset: int = 0) -> HostLogPage:
        page: HostLogPage = self._handlers[AskHostLog](None, AskHostLog(log=name, offset=offset))
        return page


def test_a_host_whose_kernel_measures_files_quotes_that_and_gives_its_list(tmp_path: Path) -> None:
    # Given a host whose kernel keeps an IMA list, which grows
    host, _ = software_host(tmp_path)
    kernel, path = Kernel(), tmp_path / "ima"
    kernel.file("/usr/bin/a")
    path.write_bytes(kernel.log)
    measured = replace(host, ima_list=os.open(path, os.O_RDONLY))
    handlers = Handlers(measured)

    # When its logs are asked for, before and after another file was measured
    before = handlers.log("ima")
    kernel.file("/usr/bin/b")
    path.write_bytes(kernel.log)
    after = handlers.log("ima", before.total)

    # Then the list goes on where it ended, and the host quotes the kernel's register, too
    assert before.data + after.data == kernel.log
    assert handlers.log("events").data == host.log
    assert measured.quoted_registers == (8, 9, 10)


def test_a_host_without_an_ima_list_says_so(tmp_path: Path) -> None:
    # Given a host whose kernel measures nothing into its pTPM
    host, _ = software_host(tmp_path)
    # When its list is asked for
    with pytest.raises(Refused) as caught:
        Handlers(host).log("ima")
    # Then that is refused, and its register is not quoted
    assert caught.value.code == "TDM-HOST-LOG-ABSENT"
    assert host.quoted_registers == (8, 9)
