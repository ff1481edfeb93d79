"""Ending: why a pair is gone, from what the builder heard of it; kept after the pair is not.

Pure.  A guest that left by itself, one that was ended by somebody and one whose vTPM failed look
alike once their processes are gone, so the reason is settled while everything is at hand.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum, auto
from typing import Final

from tandem.builder.lifecycle import Event
from tandem.errors import TandemError
from tandem.hypervisor.driver import End


class Reason(StrEnum):
    """Why a pair is gone."""

    STOPPED = auto()
    KILLED = auto()
    RESTARTED = auto()
    POWERED_OFF = auto()
    REBOOTED = auto()
    PANICKED = auto()
    WATCHDOG = auto()
    SLEPT = auto()
    CRASHED = auto()
    VTPM_ENDED = auto()
    FAILED = auto()


WORDS: Final = {
    Reason.STOPPED: "it was stopped",
    Reason.KILLED: "it was powered off",
    Reason.RESTARTED: "it was restarted",
    Reason.POWERED_OFF: "its system powered off",
    Reason.REBOOTED: "its system rebooted",
    Reason.PANICKED: "its kernel panicked",
    Reason.WATCHDOG: "its watchdog ran out",
    Reason.SLEPT: "it suspended to memory, which its configuration forbids",
    Reason.CRASHED: "its hypervisor ended unasked",
    Reason.VTPM_ENDED: "its vTPM ended unasked",
    Reason.FAILED: "it could not be led on",
}
UNEXPECTED: Final = frozenset(
    {Reason.PANICKED, Reason.WATCHDOG, Reason.SLEPT, Reason.CRASHED, Reason.VTPM_ENDED}
    | {Reason.FAILED}
)
OF_GUEST: Final = {
    End.POWERED_OFF: Reason.POWERED_OFF,
    End.REBOOT: Reason.REBOOTED,
    End.PANICKED: Reason.PANICKED,
    End.WATCHDOG: Reason.WATCHDOG,
    End.SLEPT: Reason.SLEPT,
}
OF_ASKED: Final = {
    Event.STOP_ASKED: Reason.STOPPED,
    Event.KILL_ASKED: Reason.KILLED,
    Event.RESTART_ASKED: Reason.RESTARTED,
}
VTPM_FOLLOWED: Final = frozenset(
    {"TDM-VTPM-GUEST-GONE", "TDM-VTPM-HUNG-UP", "TDM-VTPM-SHUT-DOWN", "TDM-VTPM-END-ASKED", None}
)
"""What a vTPM says whose guest was gone first; one that was killed says nothing ("")."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The end of one pair; `code` is the failure's or the vTPM's own, where there is one."""

    guest: str
    pair_id: str
    launch_number: int
    ended_at: float  # Unix seconds
    reason: str
    words: str
    code: str

    def as_record(self) -> dict[str, object]:
        """Give what `guest list --ended --json` prints."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What the builder heard of a pair until it ended."""

    failure: TandemError | None = None
    asked: Event | None = None  # the newest end that somebody asked for
    guest: End | None = None
    vtpm_code: str | None = None  # what the vTPM reported as it went; None: it could not be heard


def judge(heard: Heard) -> tuple[Reason, str, str]:
    """Give the reason, its words, and the code that belongs to it."""
    own = OF_GUEST.get(heard.guest) if heard.guest is not None else None
    reason, code = own or Reason.CRASHED, ""
    if own in (Reason.PANICKED, Reason.WATCHDOG, Reason.SLEPT):
        pass
    elif heard.asked is not None:
        reason = OF_ASKED[heard.asked]
    elif heard.failure is not None:
        return Reason.FAILED, heard.failure.problem, heard.failure.code
    elif own is None and heard.vtpm_code not in VTPM_FOLLOWED:
        reason, code = Reason.VTPM_ENDED, heard.vtpm_code or ""
    return reason, WORDS[reason], code
