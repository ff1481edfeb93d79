"""The guest's first Startup: CLEAR, and within it the launch measurements into PCR 17 and 18.

The measurements are made as a D-RTM sequence, then by extends at locality 4, before the guest gets
its response: it never sees the registers without them, and it can neither extend nor reset them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from tandem.evidence.launch import LaunchEvent
from tandem.values import Locality
from tandem.vtpm.authorizations import lockout_is_set
from tandem.vtpm.libtpms import Engine
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import Rc, StartupType

AUTH_SIZE: Final = 32
STARTUP_CLEAR: Final = tpm.startup(StartupType.CLEAR)
STARTUP_STATE: Final = tpm.startup(StartupType.STATE)
CODE_FIELD: Final = slice(6, 10)
# Startup(CLEAR) after an orderly Shutdown sets restartCount to 0 and adds one to resetCount; the
# D-RTM sequence then counts as a restart (_TPM_Hash_End, Part 3, 22.10).
LAUNCH_RESTARTS: Final = 1


class Life(Protocol):
    """What a launch must settle with the control channel."""

    guest_started: bool

    def begin(self) -> bool:
        """Take the vTPM from initialized to started, unless the hypervisor said otherwise."""

    def give_up(self) -> None:
        """Take that back: the Startup failed."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch; `firmware` sets platformAuth itself, as SeaBIOS and OVMF do.

    `strict`: lockoutAuth is set here, at random, where it is empty; nobody knows it ever after.
    """

    engine: Engine
    life: Life
    events: Sequence[LaunchEvent]
    firmware: bool
    strict: bool
    prepare: Callable[[], None]  # work of this launch that needs the engine started

    def startup(self, command: bytes) -> bytes | memoryview:
        """Execute a Startup: the first one that may succeed carries the launch with it."""
        if self.life.guest_started or command not in (STARTUP_CLEAR, STARTUP_STATE):
            return self.engine.answer(command)  # too late, or not well formed: the engine says so
        if command == STARTUP_STATE:
            return tpm.response(Rc.VALUE_1)
        if not self.life.begin():
            return tpm.response(Rc.FAILURE)
        answer = bytes(self.engine.answer(command))
        if int.from_bytes(answer[CODE_FIELD]) != Rc.SUCCESS:
            self.life.give_up()
            return answer
        self._measure()
        if not self.firmware:
            auth = os.urandom(AUTH_SIZE)
            self.engine.run(tpm.hierarchy_change_auth(tpm.PLATFORM, auth))
        locked = self.strict and self._lock()
        self.prepare()
        # The vTPM saved what else matters of this before its guest came.
        self.engine.changed = locked
        return answer

    def _lock(self) -> bool:
        """Set lockoutAuth, and tell whether it was empty: it is part of the permanent state."""
        if lockout_is_set(self.engine):
            return False
        auth = os.urandom(AUTH_SIZE)
        self.engine.run(tpm.hierarchy_change_auth(tpm.LOCKOUT, auth))
        return True

    def _measure(self) -> None:
        first, *others = self.events
        self.engine.hash_sequence(first.encode())
        with self.engine.at_locality(Locality.LAUNCH):
            for event in others:
                encoded = event.encode()
                digests = {
                    tpm.SHA256: hashlib.sha256(encoded).digest(),
                    tpm.SHA384: hashlib.sha384(encoded).digest(),
                }
                self.engine.run(tpm.pcr_extend(event.register, digests))
