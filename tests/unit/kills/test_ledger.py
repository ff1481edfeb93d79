"""What guests say is taken at its word, and nothing that was acknowledged may be gone."""

from __future__ import annotations

import pytest

from kills.ledger import ZERO, Account, Console, Ledger

LAUNCH = {17: "17" * 32, 18: "18" * 32}
GREETING = (
    f"PCR 10 {ZERO}\nPCR 16 {ZERO}\nPCR 17 {LAUNCH[17]}\nPCR 18 {LAUNCH[18]}\n"  # of each launch
)


def ledger(*, keeps: bool = True) -> Ledger:
    return Ledger(accounts={"web": Account(keeps=keeps, launch=LAUNCH)})


def rules(of: Ledger, output: str) -> list[str]:
    """Have the guest launched anew and say this."""
    console = Console(guest="web", pid=1)
    return [found.rule for found in of.take(console, output.encode(), 5.0)]


def test_a_guest_that_finds_what_was_acknowledged_is_in_order() -> None:
    # Given a guest that counted to 2 and was killed
    book = ledger()
    assert rules(book, GREETING + "NV none\nACK 1\nACK 2\n") == []
    # When the next launch finds 2, and one after it 3, written and not acknowledged
    # Then both are in order
    assert rules(book, GREETING + "NV 2\n") == []
    assert rules(book, GREETING + "NV 3\n") == []
    assert (book.accounts["web"].launches, book.accounts["web"].acknowledged) == (3, 2)


@pytest.mark.parametrize("found", ["NV 1", "NV none"])
def test_less_than_was_acknowledged_is_lost(found: str) -> None:
    # Given an acknowledged 2
    book = ledger()
    rules(book, "NV none\nACK 1\nACK 2\n")
    # When the next launch finds less
    # Then something is lost
    assert rules(book, found + "\n") == ["lost"]


def test_what_was_found_once_must_not_go_again() -> None:
    # Given a 3 that was found and never acknowledged
    book = ledger()
    rules(book, "NV none\nACK 1\nACK 2\n")
    rules(book, "NV 3\n")
    # When the next launch finds 2
    # Then it is lost
    assert rules(book, "NV 2\n") == ["lost"]


def test_more_than_was_ever_written_is_invented() -> None:
    # Given an acknowledged 2
    book = ledger()
    rules(book, "NV none\nACK 1\nACK 2\n")
    # When the next launch finds 4
    # Then nobody wrote that
    assert rules(book, "NV 4\n") == ["invented"]


def test_an_ephemeral_vtpm_knows_nothing_of_the_last_launch() -> None:
    # Given an ephemeral vTPM that acknowledged 1
    book = ledger(keeps=False)
    rules(book, "NV none\nACK 1\n")
    # When the next launch finds nothing, or finds it again
    # Then only the former is in order
    assert rules(book, "NV none\n") == []
    assert rules(book, "NV 1\n") == ["invented"]


@pytest.mark.parametrize("index", [10, 16, 17, 18])
def test_a_register_of_another_launch_is_told(index: int) -> None:
    # Given a guest
    # When one of its registers is not as a new launch has it
    # Then that is told
    assert rules(ledger(), f"PCR {index} {'a5' * 32}\n") == ["pcr"]


def test_a_line_counts_once_it_is_whole() -> None:
    # Given a guest whose hypervisor dies within a line
    book, console = ledger(), Console(guest="web", pid=1)
    # When what it said comes in pieces, the last one cut off
    found = [*book.take(console, b"NV none\nAC", 1.0), *book.take(console, b"K 1\nACK 2", 2.0)]
    # Then only whole lines count
    assert found == []
    assert book.accounts["web"].durable == 1
    assert book.accounts["web"].heard == 2.0


def test_a_refusal_is_counted_and_strange_lines_are_told() -> None:
    # Given a guest
    book = ledger()
    # When its TPM refuses, and when it says what no such guest says
    # Then the one is counted, the other told
    assert rules(book, "ERR write 257\n") == []
    assert book.refused == {"write 0x101": 1}
    assert rules(book, "\xff\nNV\nPCR x y\n") == ["console"] * 3
