"""Why a pair is gone, told from what was heard of it."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.builder.endings import OF_ASKED, OF_GUEST, WORDS, Heard, Reason, judge
from tandem.builder.lifecycle import Event
from tandem.errors import HostError
from tandem.hypervisor.driver import End

FAILURE = HostError("TDM-QEMU-FAILED", "QEMU ended before it answered", hint="read what it says")


@pytest.mark.parametrize(
    ("heard", "reason", "code"),
    [
        ({"guest": End.POWERED_OFF, "vtpm_code": "TDM-VTPM-SHUT-DOWN"}, Reason.POWERED_OFF, ""),
        ({"guest": End.REBOOT, "vtpm_code": "TDM-VTPM-HUNG-UP"}, Reason.REBOOTED, ""),
        ({"guest": End.PANICKED}, Reason.PANICKED, ""),
        ({"guest": End.PANICKED, "asked": Event.STOP_ASKED}, Reason.PANICKED, ""),
        ({"guest": End.WATCHDOG, "vtpm_code": ""}, Reason.WATCHDOG, ""),
        ({"guest": End.SLEPT}, Reason.SLEPT, ""),
        ({"guest": End.POWERED_OFF, "asked": Event.STOP_ASKED}, Reason.STOPPED, ""),
        ({"guest": End.GONE, "asked": Event.KILL_ASKED}, Reason.KILLED, ""),
        ({"guest": End.GONE, "asked": Event.RESTART_ASKED}, Reason.RESTARTED, ""),
        ({"guest": End.GONE, "vtpm_code": "TDM-VTPM-GUEST-GONE"}, Reason.CRASHED, ""),
        ({"guest": End.GONE, "vtpm_code": "TDM-VTPM-END-ASKED"}, Reason.CRASHED, ""),
        ({"guest": End.GONE, "vtpm_code": None}, Reason.CRASHED, ""),  # found by a later builder
        ({"guest": End.GONE, "vtpm_code": ""}, Reason.VTPM_ENDED, ""),  # it was killed
        (
            {"guest": End.GONE, "vtpm_code": "TDM-VTPM-RESET-REFUSED"},
            *(Reason.VTPM_ENDED, "TDM-VTPM-RESET-REFUSED"),
        ),
        ({"failure": FAILURE}, Reason.FAILED, "TDM-QEMU-FAILED"),
        ({"failure": FAILURE, "vtpm_code": ""}, Reason.FAILED, "TDM-QEMU-FAILED"),
        ({"failure": FAILURE, "asked": Event.KILL_ASKED}, Reason.KILLED, ""),
    ],
)
def test_the_reason_is_told_from_what_was_heard(
    heard: dict[str, Any], reason: Reason, code: str
) -> None:
    # Given what a builder heard of a pair that is gone
    # When the reason is settled
    found = judge(Heard(**heard))
    # Then it is that one, with the code that belongs to it
    assert (found[0], found[2]) == (reason, code)


def test_a_failure_is_told_in_its_own_words() -> None:
    # Given a start that failed
    # When the reason is settled
    # Then it is what the error says
    assert judge(Heard(failure=FAILURE))[1] == FAILURE.problem


def test_every_way_to_end_has_a_reason_and_words() -> None:
    # Given every end that a driver tells, and every end that is asked for
    # When they are looked up
    # Then none is left out, and each reason can be said
    assert {*OF_GUEST} == {*End} - {End.GONE}
    assert {*OF_ASKED} == {Event.STOP_ASKED, Event.KILL_ASKED, Event.RESTART_ASKED}
    assert {*WORDS} == {*Reason}
