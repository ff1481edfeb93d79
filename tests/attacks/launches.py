"""Launches of changed library entries: what the vTPM's registers hold, and what a verifier finds.

The events are the builder's own for an entry; the vTPM is a real one.  The verifier has the library
as it was before the change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from peers.bare_machine import plain_machine
from tandem.appraisal.verdict import Tier, Verdict
from tandem.evidence.event_log import write_launch_log
from tandem.evidence.launch import LaunchEvent
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import StartupType
from tests.attacks.bare_pair import GuestOf
from tests.attacks.quoting_tpm import Quoted, quoted
from tests.attacks.tpm import done
from tests.integration.vtpm.pair_harness import PairUnderTest
from tests.unit.appraisal.forge import Forge, guest_entry, library

FIRMWARE_AND_LOADER = tuple(range(16))


def changed(**changes: object) -> list[LaunchEvent]:
    """Give the events of a launch whose entry was changed by somebody who can sign libraries."""
    entries = {**library()["entries"], "web": guest_entry(**changes)}  # type: ignore[dict-item]
    return Forge(library=library(entries=entries)).measured()


def registers_of(
    make_pair: Callable[..., PairUnderTest], events: list[LaunchEvent]
) -> dict[int, bytes]:
    """Launch a real vTPM with these events; give PCR 17 and 18 as its guest reads them."""
    pair = make_pair(launch_log=write_launch_log(Forge(events=events).measured()))
    pair.ready()
    pair.start_guest()
    pair.connect()
    guest = GuestOf(pair)
    done(guest, tpm.startup(StartupType.CLEAR))
    return {
        register: done(guest, tpm.pcr_read([register])).parameters[-32:] for register in (17, 18)
    }


def verdict_on(events: list[LaunchEvent]) -> Verdict:
    """Appraise complete evidence of such a launch by the unchanged library."""
    return Forge(events=events).verdict()


def against(verdict: Verdict) -> Mapping[str, Any]:
    """Give the findings against the evidence, by rule."""
    return {each.rule: each for each in verdict.findings if each.tier is Tier.CONTRAINDICATED}


def booted(control: Any, *arguments: str, said: bytes) -> Quoted:
    """Boot a machine on plain swtpm until its kernel has spoken; quote PCR 0 to 15."""
    with plain_machine(control, *arguments) as plain:
        plain.machine.run_until(said)
        return quoted(plain.machine, FIRMWARE_AND_LOADER)
