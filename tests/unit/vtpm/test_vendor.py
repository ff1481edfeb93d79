"""The vendor command pages its answer, and capabilities list it without faking anything else."""

from __future__ import annotations

import struct

import pytest

from tandem.vtpm.vendor import PAGE_SIZE, VendorCommand, with_vendor_command, with_vendor_counts
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import Code, Rc

REQUEST = bytes(36)


def ask(vendor: VendorCommand, offset: int, request: bytes = b"") -> tuple[int, bytes]:
    answer = vendor.execute(tpm.command(Code.DEEP_QUOTE, parameters=offset.to_bytes(4) + request))
    return int.from_bytes(answer[6:10]), answer[10:]


def test_an_answer_comes_whole_in_pages() -> None:
    # Given an answer longer than two pages
    whole = bytes(range(256)) * 28
    vendor = VendorCommand(lambda request: whole)

    # When it is asked for, and then page after page
    pages: list[bytes] = []
    while len(b"".join(pages)) < len(whole):
        offset = len(b"".join(pages))
        code, body = ask(vendor, offset, REQUEST if offset == 0 else b"")
        assert code == 0
        total, size = struct.unpack_from(">IH", body)
        assert total == len(whole)
        pages.append(body[6 : 6 + size])

    # Then the pages are the answer
    assert b"".join(pages) == whole
    assert max(map(len, pages)) == PAGE_SIZE


@pytest.mark.parametrize(
    ("offset", "request_bytes", "code"),
    [
        (0, b"", Rc.SIZE_1),
        (0, bytes(101), Rc.SIZE_1),
        (3000, REQUEST, Rc.SIZE_1),
        (3000, b"", Rc.VALUE_1),
        (0xFFFFFFFF, b"", Rc.VALUE_1),
    ],
)
def test_a_page_that_is_not_there_is_refused(offset: int, request_bytes: bytes, code: int) -> None:
    # Given a vTPM that was not asked yet
    vendor = VendorCommand(lambda request: b"answer")

    # When a page out of place is asked for
    # Then a TPM's own code says why
    assert ask(vendor, offset, request_bytes)[0] == code


@pytest.mark.parametrize("command", [b"", bytes(4), bytes(13), tpm.command(Code.DEEP_QUOTE)])
def test_a_short_command_is_refused(command: bytes) -> None:
    # Given a command without an offset
    # When it is executed
    answer = VendorCommand(lambda request: b"").execute(command)

    # Then its size is wrong
    assert answer == tpm.response(Rc.COMMAND_SIZE)


def commands(more: int, *codes: int) -> bytes:
    head = struct.pack(">BII", more, tpm.CAPABILITY_COMMANDS, len(codes))
    return tpm.response(0, head + b"".join(code.to_bytes(4) for code in codes))


@pytest.mark.parametrize(
    ("answer", "first", "asked", "expected"),
    [
        (commands(0, 0x11F, 0x120), 0x11F, 254, commands(0, 0x11F, 0x120, 0x20000001)),
        (commands(0, 0x11F, 0x120), 0x11F, 2, commands(1, 0x11F, 0x120)),
        (commands(1, 0x11F), 0x11F, 1, commands(1, 0x11F)),
        (commands(0), 0x20000001, 1, commands(0, 0x20000001)),
        (commands(0), 0x20000002, 1, commands(0)),
        (commands(0), 0x20000001, 0, commands(1)),
    ],
)
def test_the_command_is_last_in_its_list(
    answer: bytes, first: int, asked: int, expected: bytes
) -> None:
    # Given the engine's list from `first` on, at most `asked` long
    # When the vendor command is added
    # Then it stands at the end, or moreData says that it comes
    assert with_vendor_command(answer, first, asked) == expected


def test_the_command_is_counted() -> None:
    # Given TPM_PT_TOTAL_COMMANDS, LIBRARY_COMMANDS and VENDOR_COMMANDS of an engine
    def properties(total: int, library: int, vendor: int) -> bytes:
        values = ((0x129, total), (0x12A, library), (0x12B, vendor))
        head = struct.pack(">BII", 0, tpm.CAPABILITY_PROPERTIES, len(values))
        return tpm.response(0, head + b"".join(struct.pack(">II", *each) for each in values))

    # When the vendor command is counted
    # Then total and vendor go up by one
    assert with_vendor_counts(properties(110, 110, 0)) == properties(111, 110, 1)
