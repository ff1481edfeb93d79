"""Whether platformAuth and lockoutAuth are set, asked of the engine, which tells nobody else."""

from __future__ import annotations

import struct
from typing import Final

from tandem.evidence.authorizations import Authorizations, Standing
from tandem.vtpm.libtpms import CommandFailed, Engine
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import Rc

PERMANENT: Final = 0x200  # TPM_PT_PERMANENT (Part 2, 6.13), a TPMA_PERMANENT (8.6)
LOCKOUT_AUTH_SET: Final = 1 << 2
PROPERTY: Final = struct.Struct(">BIIII")  # moreData, capability, count, property, value
REFUSALS: Final = {Rc.HIERARCHY_1: Standing.DISABLED, Rc.BAD_AUTH_1: Standing.SET}


def read_authorizations(engine: Engine) -> Authorizations:
    """Look at both; platformAuth by a command that does nothing, tried with an empty one.

    The platform's authorization has no dictionary attack protection (Part 1, 19.8.3), so that a
    try that fails has no effect.
    """
    return Authorizations(
        platform=_platform(engine),
        lockout=Standing.SET if lockout_is_set(engine) else Standing.EMPTY,
    )


def lockout_is_set(engine: Engine) -> bool:
    """Whether lockoutAuth is set."""
    asked = tpm.get_capability(tpm.CAPABILITY_PROPERTIES, PERMANENT, 1)
    value: int = PROPERTY.unpack(engine.run(asked).parameters)[-1]
    return bool(value & LOCKOUT_AUTH_SET)


def _platform(engine: Engine) -> Standing:
    try:
        engine.run(tpm.clock_rate_adjust(tpm.PLATFORM))
    except CommandFailed as failure:
        if failure.rc in REFUSALS:
            return REFUSALS[Rc(failure.rc)]
        raise
    return Standing.EMPTY
