"""What the builder asks of the zygote and of each vTPM that it started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tandem.wire.messages import LOCAL_LIMIT, MessageSet

# Builder to zygote, over an inherited socketpair.


@dataclass(frozen=True, kw_only=True)
class SpawnVtpm:
    """Fork a vTPM as PID 1 of a PID namespace.

    With it travel five descriptors: key channel (to the Manager), control channel (the vTPM's end)
    or, for the host's own vTPM, the kernel's device, status channel (the vTPM's end), directory
    that holds the vTPM's state slots, door (a socket that listens for the next builder).
    """

    pair_id: bytes
    launch_log: bytes
    firmware: bool  # the guest has firmware that sets platformAuth; else the vTPM does
    uid: int  # user and group id that the vTPM runs as
    strict: bool = False  # the vTPM sets lockoutAuth, where it is empty
    device: bool = False  # serves a device of this host's kernel, not a hypervisor


@dataclass(frozen=True, kw_only=True)
class SpawnHypervisor:
    """Fork the guest's hypervisor into the PID namespace of `pair_id`'s vTPM and execute it.

    With it travel: the executable, standard output and error, then the descriptors that the new
    process inherits under the numbers in `numbers`.
    """

    pair_id: bytes
    argv: tuple[str, ...]
    uid: int
    groups: tuple[int, ...]
    numbers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Spawned:
    """The process runs; its pidfd travels with the answer."""

    pid: int


# Between builder and vTPM, over the status channel, or a later builder's connection to the door.


@dataclass(frozen=True, kw_only=True)
class VtpmReady:
    """The vTPM waits for its hypervisor; seconds are this launch's own time."""

    manufactured: bool
    microseconds: int


@dataclass(frozen=True, kw_only=True)
class GuestStarted:
    """The hypervisor runs; its pidfd travels along, and the vTPM ends when that process does."""


@dataclass(frozen=True, kw_only=True)
class VtpmNoted:
    """The host's own vTPM is in the builder's journal: it outlives the builder from here on."""


@dataclass(frozen=True, kw_only=True)
class NewKeyChannel:
    """A Manager was started again; with it travels the vTPM's end of a key channel to it."""

    nonce: bytes


@dataclass(frozen=True, kw_only=True)
class EndVtpm:
    """End now, in order: Shutdown(CLEAR), last commit, exit."""


@dataclass(frozen=True, kw_only=True)
class VtpmEnded:
    """The vTPM's last words: why it ends, as a stable code (TDM-...)."""

    code: str
    reason: str


ZYGOTE_REQUESTS: Final = MessageSet(
    "builder to zygote", SpawnVtpm, SpawnHypervisor, limit=LOCAL_LIMIT
)
ZYGOTE_ANSWERS: Final = MessageSet("zygote to builder", Spawned, limit=LOCAL_LIMIT)
STATUS_REQUESTS: Final = MessageSet(
    "builder to vTPM", GuestStarted, VtpmNoted, NewKeyChannel, EndVtpm, limit=LOCAL_LIMIT
)
STATUS_REPORTS: Final = MessageSet("vTPM to builder", VtpmReady, VtpmEnded, limit=LOCAL_LIMIT)
