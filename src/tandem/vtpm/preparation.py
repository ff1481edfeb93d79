"""From power-on to where the guest finds the engine: its state saved, its record complete.

The Manager is asked for what comes next before its last answer is awaited.
"""

from __future__ import annotations

from dataclasses import dataclass

from tandem.errors import HostError
from tandem.evidence.event_log import parse_launch_log
from tandem.evidence.launch import LaunchEvent
from tandem.values import Secret
from tandem.vtpm.keys import VtpmKeys, derive_keys
from tandem.vtpm.launch import LAUNCH_RESTARTS
from tandem.vtpm.libtpms import Engine
from tandem.vtpm.manager_client import ManagerClient, Membership
from tandem.vtpm.provisioning import manufacture, power_cycle
from tandem.vtpm.saving import Saver
from tandem.vtpm.state import StateSlots, VtpmState
from tandem.wire import tpm_commands as tpm
from tandem.wire.manager_rpc import Prepared, Welcome
from tandem.wire.tpm_commands import StartupType
from tandem.wire.zygote_rpc import SpawnVtpm


@dataclass(frozen=True, kw_only=True)
class PreparedVtpm:
    """A vTPM that waits for its guest."""

    keys: VtpmKeys
    events: tuple[LaunchEvent, ...]
    prepared: Prepared
    saver: Saver
    manufactured: bool


def prepare(
    spawn: SpawnVtpm,
    engine: Engine,
    manager: ManagerClient,
    welcome: Welcome,
    slots: tuple[int, int],
) -> PreparedVtpm:
    """Bring the engine to where its guest's Startup finds it, its state saved."""
    if welcome.pair_id != spawn.pair_id:
        raise HostError(
            "TDM-VTPM-OTHER-PAIR",
            "the key channel belongs to another pair than the one to be started",
            hint="restart the host's services, then start the guest again",
        )
    key, former = Secret(welcome.key), welcome.former_state_key
    keys = derive_keys(key)
    store = StateSlots(
        slots,
        Secret(welcome.state_key),
        welcome.vtpm_id,
        former=Secret(former) if former else None,
    )
    state = _power_on(engine, keys, manager, welcome, store)
    reset_count, _ = tpm.parse_counts(engine.run(tpm.read_clock()))
    prepared = manager.prepare(
        ek=state.ek, ak=state.ak, reset_count=reset_count + 1, restart_count=LAUNCH_RESTARTS
    )
    # What is saved is the state before the orderly Shutdown that follows: a guest that loses power
    # from here on left its TPM unorderly, and the next launch must find it so.  The guest's own
    # Startup adds nothing that the next launch would not count again: it needs no save.
    saver = Saver(engine=engine, slots=store, manager=manager, ek=state.ek, ak=state.ak)
    saved = saver.begin()
    power_cycle(engine)
    engine.changed = False
    vtpm = PreparedVtpm(
        keys=keys,
        events=parse_launch_log(spawn.launch_log),
        prepared=prepared(),
        saver=saver,
        manufactured=welcome.state_version == 0,
    )
    saved()
    manager.remember(
        Membership(
            pair_id=spawn.pair_id,
            record=vtpm.prepared.record,
            ak=state.ak,
            ticket=Secret(vtpm.prepared.ticket),
            key=key,
            newest=lambda: (store.version, store.digest),
        )
    )
    return vtpm


def _power_on(
    engine: Engine, keys: VtpmKeys, manager: ManagerClient, welcome: Welcome, store: StateSlots
) -> VtpmState:
    """Start the engine on the state that the Manager names, or manufacture where it names none."""
    if welcome.state_version == 0:
        engine.power_on()
        engine.run(tpm.startup(StartupType.CLEAR))
        return manufacture(engine, keys, manager.certify)
    state = store.read_newest(welcome.state_version, welcome.state_digest)
    engine.permanent = state.engine
    engine.power_on()
    engine.run(tpm.startup(StartupType.CLEAR))
    return state
