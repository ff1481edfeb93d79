"""What a child makes arrives whole, and a failure there is a failure here."""

from __future__ import annotations

import pytest

from tandem.errors import HostError
from tandem.vtpm.forking import made_in_child
from tandem.vtpm.handover import Handover


def test_what_a_child_makes_arrives_whole() -> None:
    # Given more than a pipe holds
    # When a child makes it
    made = made_in_child(lambda: bytes(1 << 20))

    # Then all of it is here
    assert made == bytes(1 << 20)


def test_a_child_that_fails_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    # Given something that fails
    def fail() -> bytes:
        raise ValueError("no such thing")

    # When a child makes it
    with pytest.raises(HostError) as error:
        made_in_child(fail)

    # Then there is an error with a code, and standard error says why
    assert error.value.code == "TDM-ZYGOTE-NOT-READY"
    assert "no such thing" in capfd.readouterr().err


def test_a_handover_is_waited_for_and_its_first_item_counts() -> None:
    # Given a handover without its item
    handover: Handover[int] = Handover()

    # When it is waited for in vain, then given twice
    assert not handover.wait(0.01)
    handover.give(1)
    handover.give(2)

    # Then the first counts, however often it is taken
    assert handover.done
    assert handover.take() == handover.take() == 1
