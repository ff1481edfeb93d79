"""Who uses the broker, and what each connection holds in the TPM."""

from __future__ import annotations

from dataclasses import dataclass, field

from tandem.wire.broker_rights import Rights
from tandem.wire.tpm_commands import TRANSIENT_FIRST


@dataclass(frozen=True, kw_only=True)
class Client:
    """A user of the host; all connections of one user are one client."""

    uid: int
    rights: Rights


@dataclass(eq=False)
class Object:
    """A transient object or a sequence; loaded, saved, or both at once while nothing changes it."""

    exempt: bool  # from dictionary attack protection
    changes: bool  # a sequence: what was saved is stale once it was used
    real: int | None = None  # the gate's handle, while it is loaded
    context: bytes = b""  # TPMS_CONTEXT as the gate gave it; neither of the two: it is lost


@dataclass(eq=False)
class Session:
    """A session; its handle is the TPM's own, for the Name of a session is its handle."""

    handle: int
    uid: int
    holder: object | None  # the connection; None while the client keeps it as a saved context
    exempt: bool = True  # not bound to what is under dictionary attack protection
    kept_as: int = 0  # sequence of the newest context that the client has of it
    context: bytes = b""  # TPMS_CONTEXT as the gate gave it, while it is not loaded
    sequence: int = 0  # of that context
    lost: bool = False


@dataclass(eq=False)
class Holdings:
    """What one connection holds: objects by the handles that it knows, and sessions."""

    objects: dict[int, Object] = field(default_factory=dict)
    sessions: dict[int, Session] = field(default_factory=dict)

    def add(self, item: Object) -> int:
        """Give an object the lowest free handle."""
        handle = TRANSIENT_FIRST
        while handle in self.objects:
            handle += 1
        self.objects[handle] = item
        return handle

    def is_exempt(self, handle: int) -> bool:
        """Whether wrong authorizations with or of what has this handle never count."""
        return (self.objects.get(handle) or self.sessions[handle]).exempt
