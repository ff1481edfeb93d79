"""IMA lists: an earlier quote is explained by a part of the list; an altered one is refused."""

from __future__ import annotations

import pytest

from tandem.errors import UntrustedInput
from tandem.evidence.ima_log import parse_ima_log, replay_ima
from tests.unit.evidence.ima_writer import Kernel, named_digest


def test_a_list_that_grew_since_the_quote_explains_it_by_its_beginning() -> None:
    # Given a register quoted after two files, and a list with a third
    kernel = Kernel()
    kernel.file("/usr/bin/a")
    kernel.file("/usr/bin/b")
    quoted = kernel.values["sha256"]
    kernel.file("/usr/bin/c")

    # When the list is replayed
    replayed = replay_ima(parse_ima_log(kernel.log), quoted)

    # Then two entries explain it
    assert replayed is not None
    assert replayed.entries == 2


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_list_without_one_entry_explains_nothing(missing: int) -> None:
    # Given a kernel that measured three files, and its list without one of them
    kernel, shortened = Kernel(), Kernel()
    for number in range(3):
        kernel.file(f"/usr/bin/{number}")
        if number != missing:
            shortened.file(f"/usr/bin/{number}")

    # When the shortened list is replayed
    # Then it does not explain the register
    assert replay_ima(parse_ima_log(shortened.log), kernel.values["sha256"]) is None
    assert replay_ima(parse_ima_log(kernel.log), kernel.values["sha256"]) is not None


def test_a_violation_is_named_and_extends_all_ones() -> None:
    # Given a kernel that could not measure a script
    kernel = Kernel()
    kernel.file("/usr/bin/a")
    kernel.violate("/usr/bin/script")

    # When its list is read and replayed
    entries = parse_ima_log(kernel.log)

    # Then the violation has its path, and the list explains the register
    assert [each.path for each in entries if each.violates] == ["/usr/bin/script"]
    assert replay_ima(entries, kernel.values["sha256"]) is not None


def test_a_violation_hidden_behind_a_digest_explains_nothing() -> None:
    # Given the list of a kernel that violated, with the digest of the fields put in
    kernel, hidden = Kernel(), Kernel()
    kernel.violate("/usr/bin/script")
    hidden.measure("ima-ng", b"sha256:\0" + bytes(32), b"/usr/bin/script\0")

    # When it is replayed
    # Then it does not explain the register
    assert replay_ima(parse_ima_log(hidden.log), kernel.values["sha256"]) is None


def test_a_changed_path_is_refused() -> None:
    # Given a list with another path in it
    kernel = Kernel()
    kernel.file("/usr/bin/evil")
    # When it is read
    with pytest.raises(UntrustedInput) as caught:
        parse_ima_log(kernel.log.replace(b"/usr/bin/evil", b"/usr/bin/good"))
    # Then it is refused by name
    assert caught.value.code == "TDM-IMA-LIST-ALTERED"


@pytest.mark.parametrize(
    "fields",
    [
        ("ima-none", (b"sha256:\0" + bytes(32), b"/a\0")),
        ("ima-ng", (b"sha256:\0" + bytes(32),)),
        ("ima-ng", (named_digest(b""), b"/a\0", b"more")),
    ],
)
def test_what_is_not_understood_is_refused(fields: tuple[str, tuple[bytes, ...]]) -> None:
    # Given an unknown template, one field too few, and one too many
    kernel = Kernel()
    kernel.measure(fields[0], *fields[1])
    # When it is read
    # Then it is refused
    with pytest.raises(UntrustedInput):
        parse_ima_log(kernel.log)


def test_nothing_measured_is_explained_by_any_list() -> None:
    # Given a register that nothing was extended into
    # When an empty list is replayed
    replayed = replay_ima(parse_ima_log(b""), bytes(32))
    # Then no entry explains it
    assert replayed is not None
    assert replayed.entries == 0
