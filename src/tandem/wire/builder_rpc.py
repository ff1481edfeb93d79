"""What the command line may ask of the domain builder, over `run/builder.sock`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tandem.wire.messages import LOCAL_LIMIT, MessageSet


@dataclass(frozen=True, kw_only=True)
class StartGuest:
    """Build the pair of the library entry `entry` and start it as guest `name`."""

    name: str
    entry: str
    manifest: str  # absolute path of the signed library; "" for the host's own


@dataclass(frozen=True, kw_only=True)
class StopGuest:
    """Stop a guest; with `kill`, at once and without asking its system."""

    name: str
    kill: bool


@dataclass(frozen=True, kw_only=True)
class AskGuests:
    """Ask for every pair that runs, or for those of one guest (`name`)."""

    name: str  # "" for all


@dataclass(frozen=True, kw_only=True)
class AttachConsole:
    """Ask for a connection to the guest's serial console; it travels with `Attached`."""

    name: str


@dataclass(frozen=True, kw_only=True)
class AttachAttester:
    """Ask for a connection to the attester inside the guest (virtio-serial)."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Attached:
    """The connection travels along as a descriptor."""


@dataclass(frozen=True, kw_only=True)
class Guests:
    """The pairs, as the JSON that `guest list --json` prints (a list of objects)."""

    pairs: bytes


@dataclass(frozen=True, kw_only=True)
class GuestStopped:
    """Guest and vTPM are gone."""

    name: str


BUILDER_REQUESTS: Final = MessageSet(
    "command line to builder",
    StartGuest,
    StopGuest,
    AskGuests,
    AttachConsole,
    AttachAttester,
    limit=LOCAL_LIMIT,
)
BUILDER_ANSWERS: Final = MessageSet(
    "builder to command line", Guests, GuestStopped, Attached, limit=LOCAL_LIMIT
)
