"""Saving a vTPM's state: on disk, then at the Manager, and only then is the guest answered."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.vtpm.libtpms import Engine
from tandem.vtpm.manager_client import Awaited, ManagerClient
from tandem.vtpm.state import StateSlots, VtpmState


@dataclass(frozen=True, kw_only=True)
class Saver:
    """Saves one vTPM's state; `ek` and `ak` are the TPMT_PUBLICs kept with it."""

    engine: Engine
    slots: StateSlots
    manager: ManagerClient
    ek: bytes
    ak: bytes

    def save(self) -> None:
        """Return when the engine's state would survive power loss."""
        self.begin()()

    def begin(self) -> Awaited[None]:
        """Save the state on disk and hand it to the Manager, whose answer is yet to be awaited."""
        state = VtpmState(engine=self.engine.permanent, ek=self.ek, ak=self.ak)
        digest = self.slots.write(state)
        self.engine.changed = False
        answer = self.manager.commit(self.slots.version + 1, digest)

        def wait() -> None:
            answer()
            self.slots.committed()

        return wait
