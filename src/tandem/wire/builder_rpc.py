"""What the command line may ask of the domain builder, over `run/builder.sock`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tandem.wire.messages import LOCAL_LIMIT, MessageSet


@dataclass(frozen=True, kw_only=True)
class StartGuest:
    """Build the pair of the library entry `entry` and start it as guest `name`.

    `Progress` comes for each step, then `Guests` with the one pair.  Whoever closes the connection
    before that gives the launch up.
    """

    name: str
    entry: str
    manifest: str  # absolute path of the signed library; "" for the host's own
    keys: tuple[bytes, ...]  # public keys (PEM) trusted for this library beside the host's


@dataclass(frozen=True, kw_only=True)
class StopGuest:
    """Stop a guest; with `kill`, at once and without asking its system."""

    name: str
    kill: bool
    seconds: int  # how long its system may take before it is powered off


@dataclass(frozen=True, kw_only=True)
class PauseGuest:
    """Stop a guest's processors; `Guests` with the one pair comes when they stand still."""

    name: str


@dataclass(frozen=True, kw_only=True)
class ResumeGuest:
    """Let a paused guest go on; `Guests` with the one pair comes when it runs."""

    name: str


@dataclass(frozen=True, kw_only=True)
class RestartGuest:
    """Stop a guest and start it again, as a new pair; answered as `StartGuest` is.

    Whoever closes the connection gives nothing up.
    """

    name: str
    seconds: int  # how long its system may take before it is powered off


@dataclass(frozen=True, kw_only=True)
class AskEndings:
    """Ask how each guest's newest pair ended; `Guests` comes with an object for each ending."""


@dataclass(frozen=True, kw_only=True)
class AskGuests:
    """Ask for every pair that runs, or for all about the one of guest `name`."""

    name: str  # "" for all


@dataclass(frozen=True, kw_only=True)
class StartHostVtpm:
    """Start the host's own vTPM; `HostVtpm` comes when its device is there."""


@dataclass(frozen=True, kw_only=True)
class StopHostVtpm:
    """End the host's own vTPM, and its device with it."""


@dataclass(frozen=True, kw_only=True)
class AskHostVtpm:
    """Ask for the host's own vTPM; a start that is under way is waited for."""


@dataclass(frozen=True, kw_only=True)
class HostVtpm:
    """The host's own vTPM, as the JSON that `host vtpm status --json` prints."""

    vtpm: bytes


@dataclass(frozen=True, kw_only=True)
class AttachConsole:
    """Ask for a connection to the guest's serial console; it travels with `Attached`."""

    name: str


@dataclass(frozen=True, kw_only=True)
class AttachAttester:
    """Ask for a connection to the attester inside the guest (virtio-serial)."""

    name: str


@dataclass(frozen=True, kw_only=True)
class AttachDebugger:
    """Ask for a connection to the guest's debugger, where its entry has one."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Attached:
    """The connection travels along as a descriptor."""


@dataclass(frozen=True, kw_only=True)
class AskEvents:
    """Ask what happened to pairs after an event; one `Events` comes, a page of the oldest."""

    after: int  # the number of the last event that the asker has seen; 0 for none
    wait: bool  # where nothing came yet, until something does


@dataclass(frozen=True, kw_only=True)
class Events:
    """Events as the JSON lines that `tandem events --json` prints; the last one has `newest`."""

    lines: tuple[str, ...]
    last: int  # the number of the last of them, to ask on from
    missed: int  # events before these, after `after`, that are not kept any more
    more: bool  # others follow at once


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A step of a start is done."""

    step: str  # "measured", "vtpm ready" or "guest running"
    microseconds: int  # since the start was asked


@dataclass(frozen=True, kw_only=True)
class Guests:
    """The pairs, as the JSON that `guest list --json` prints (a list of objects)."""

    pairs: bytes
    more: bool  # another message with more of them follows


@dataclass(frozen=True, kw_only=True)
class GuestStopped:
    """Guest and vTPM are gone."""

    name: str


BUILDER_REQUESTS: Final = MessageSet(
    "command line to builder",
    StartGuest,
    StopGuest,
    PauseGuest,
    ResumeGuest,
    RestartGuest,
    AskGuests,
    AskEndings,
    AttachConsole,
    AttachAttester,
    AttachDebugger,
    StartHostVtpm,
    StopHostVtpm,
    AskHostVtpm,
    AskEvents,
    limit=LOCAL_LIMIT,
)
BUILDER_ANSWERS: Final = MessageSet(
    "builder to command line",
    Progress,
    Guests,
    GuestStopped,
    Attached,
    HostVtpm,
    Events,
    limit=LOCAL_LIMIT,
)
