"""Room for the vTPM's own work where the guest has filled every slot of the engine.

libtpms has three slots for transient objects and three for loaded sessions (TpmProfile.h).  What a
guest holds in one is saved, and restored under the same handle before the guest is answered.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tandem.errors import HostError
from tandem.vtpm.libtpms import Engine
from tandem.wire import tpm_commands as tpm

SLOTS: Final = 3  # MAX_LOADED_OBJECTS and MAX_LOADED_SESSIONS


@contextmanager
def object_slot(engine: Engine) -> Iterator[None]:
    """Keep one transient slot free: an AK that is persistent is loaded into one for each use."""
    handles = _handles(engine, tpm.TRANSIENT_FIRST)
    if len(handles) < SLOTS:
        yield
        return
    parked = handles[-1]
    context = engine.run(tpm.context_save(parked)).parameters
    engine.run(tpm.flush_context(parked))
    try:
        yield
    finally:
        _restore(engine, context, parked)


@contextmanager
def session_slot(engine: Engine) -> Iterator[None]:
    """Keep one slot for a loaded session free; saving a session empties its slot."""
    handles = _handles(engine, tpm.LOADED_SESSION_FIRST)
    if len(handles) < SLOTS:
        yield
        return
    parked = handles[-1]
    context = engine.run(tpm.context_save(parked)).parameters
    try:
        yield
    finally:
        _restore(engine, context, parked)


def _handles(engine: Engine, first: int) -> tuple[int, ...]:
    """Give the handles in use from `first` on (TPML_HANDLE, Part 2, 10.9.4)."""
    asked = tpm.get_capability(tpm.CAPABILITY_HANDLES, first, SLOTS)
    parameters = engine.run(asked).parameters
    _, _, count = struct.unpack_from(">BII", parameters)
    return struct.unpack_from(f">{count}I", parameters, 9)


def _restore(engine: Engine, context: bytes, handle: int) -> None:
    restored = engine.run(tpm.context_load(context), with_handle=True).handle
    if restored != handle:
        raise HostError(
            "TDM-VTPM-HANDLE-MOVED",
            f"a guest's handle {handle:#x} came back as {restored:#x}",
            hint="start the guest again and report this: the vTPM must not change handles",
        )
