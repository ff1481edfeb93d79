"""The session as both threads of a vTPM see it: one frozen value, replaced under a lock."""

from __future__ import annotations

import _thread
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tandem.vtpm.handover import Handover
from tandem.vtpm.session import Phase, Session, Step, decide, not_started, starting
from tandem.wire.control import Request

GUEST_SECONDS: Final = 5.0  # the builder names the guest's process before it lets the guest run


class SharedSession:
    """Holds `current`; the control thread decides with it, the data thread begins the launch.

    `guest_started` stays true once a Startup was begun: there is something to end in order.
    """

    def __init__(self, session: Session) -> None:
        self.current = session
        self.guest_watched: Handover[None] = Handover()
        self.guest_started = False
        self._lock = _thread.allocate_lock()

    def decide(self, request: Request) -> Step:
        """Decide a control request."""
        with self._lock:
            step = decide(self.current, request)
            self.current = step.session
        return step

    def begin(self) -> bool:
        """Begin the guest's first Startup, unless its end could not be seen or it may not start."""
        if not self.guest_watched.wait(GUEST_SECONDS):
            return False
        self.guest_started = self._replace(starting)
        return self.guest_started

    def give_up(self) -> None:
        """Take the beginning back: the Startup failed."""
        self._replace(not_started)
        self.guest_started = False

    def end(self) -> None:
        """End the session."""
        with self._lock:
            self.current = replace(self.current, phase=Phase.ENDED)

    def _replace(self, follow: Callable[[Session], Session | None]) -> bool:
        with self._lock:
            following = follow(self.current)
            if following is not None:
                self.current = following
        return following is not None
