"""How each action of the life cycle is carried out on a pair.

Actions report by posting events and decide nothing.  A failure is raised; the supervisor posts the
event that stands for it.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tandem import channel as channels
from tandem.builder.directories import Directories
from tandem.builder.door import make_door
from tandem.builder.entry_inputs import EntryInputs, open_inputs
from tandem.builder.exchange import close_all, receive
from tandem.builder.inputs import InputStore
from tandem.builder.journal import Journal
from tandem.builder.library import (
    check_built_once,
    guest_entry,
    open_library,
    read_trust,
)
from tandem.builder.lifecycle import Action, Event, State
from tandem.builder.manager_link import ManagerLink
from tandem.builder.measure import Builder, Measured, measure
from tandem.builder.pair import Pair, Resolved
from tandem.builder.zygote import Zygote
from tandem.channel import Channel, Closed
from tandem.errors import HostError, TandemError, UntrustedInput
from tandem.evidence.envelope import parse_public_key
from tandem.evidence.guest_entry import DirectBoot, GuestEntry, LockoutAuth, PlatformAuth
from tandem.evidence.launch_plan import machine_configuration
from tandem.hypervisor.driver import End, Execution, Guest, Hypervisor, Inputs, Plan
from tandem.hypervisor.process import Process
from tandem.log import get_logger
from tandem.settings import UID_BASE
from tandem.wire.manager_rpc import OpenPair
from tandem.wire.zygote_rpc import (
    STATUS_REPORTS,
    STATUS_REQUESTS,
    EndVtpm,
    GuestStarted,
    SpawnVtpm,
    VtpmEnded,
    VtpmReady,
)

READY_SECONDS: Final = 60.0  # for the vTPM: manufacture, certificates, first commit
END_SECONDS: Final = 2.0  # for a vTPM to end in order
DYING_SECONDS: Final = 1.0  # from a monitor's end to its process's
VTPM_UIDS: Final = UID_BASE + 0x1000
Watching = Callable[[Coroutine[Any, Any, None]], object]
log = get_logger("builder")


def vtpm_uid(slot: int) -> int:
    """Give the user that the vTPM in `slot` runs as; its hypervisor has the next one."""
    return VTPM_UIDS + 2 * slot


@dataclass(frozen=True, kw_only=True)
class Actions:
    """The means, shared by all pairs; `watch` runs a coroutine beside them."""

    builder: Builder
    hypervisor: Hypervisor
    keys: Path
    inputs: InputStore
    directories: Directories
    journal: Journal
    manager: ManagerLink
    zygote: Zygote
    watch: Watching

    async def carry_out(self, action: Action, pair: Pair) -> None:
        """Do what the table says."""
        methods: dict[Action, Callable[[Pair], Awaitable[None]]] = {
            Action.MEASURE: self.measure,
            Action.OPEN_PAIR: self.open_pair,
            Action.CLOSE_PAIR: self.close_pair,
            Action.FORK_VTPM: self.fork_vtpm,
            Action.END_VTPM: self.end_vtpm,
            Action.CREATE_GUEST_PAUSED: self.create_guest_paused,
            Action.RESUME_GUEST: self.resume_guest,
            Action.PAUSE_GUEST: self.pause_guest,
            Action.STOP_GUEST: self.stop_guest,
            Action.KILL_GUEST: self.kill_guest,
            Action.START_AGAIN: self.start_again,
        }
        await methods[action](pair)

    async def measure(self, pair: Pair) -> None:
        """Look the order up, open its inputs and measure the launch; the hashing in a thread."""
        await asyncio.to_thread(self._measure, pair)
        pair.note_step("measured")
        pair.post(Event.MEASUREMENT_MATCHED)

    async def open_pair(self, pair: Pair) -> None:
        """Let the Manager open the launch."""
        resolved = _resolved(pair)
        opened, pair.holds.key_channel = await self.manager.open_pair(
            OpenPair(
                guest=pair.order.guest,
                vtpm=pair.order.guest,
                group=resolved.entry.group,
                ephemeral=resolved.entry.ephemeral,
                launch_log_digest=resolved.launch.log_digest,
                hypervisor=f"{resolved.hypervisor.name} {resolved.hypervisor.version}",
                builder=self.builder.version,
                manifest_digest=resolved.library.manifest.digest,
                manifest_version=resolved.library.manifest.version,
                library=resolved.library.manifest.name,
                signers=resolved.library.key_ids,
                successors=resolved.library.manifest.signers.key_ids,
                threshold=resolved.library.manifest.signers.threshold,
            )
        )
        pair.note(
            pair_id=opened.pair_id.hex(),
            launch_number=opened.launch_number,
            ephemeral=resolved.entry.ephemeral,
            accelerator=resolved.accelerator,
            launch_log=resolved.launch.log.hex(),
        )
        pair.post(Event.PAIR_OPENED)

    async def close_pair(self, pair: Pair) -> None:
        """Let the Manager close the launch; its key channel's end has the same effect."""
        with suppress(TandemError):
            await self.manager.close_pair(bytes.fromhex(pair.entry.pair_id))

    async def fork_vtpm(self, pair: Pair) -> None:
        """Start the vTPM on anonymous sockets, and watch it."""
        self.directories.make_pair(pair.entry.pair_id)
        uid = vtpm_uid(pair.entry.slot)
        state = self.directories.open_vtpm(
            pair.order.guest, pair.entry.pair_id, uid, ephemeral=pair.entry.ephemeral
        )
        door = make_door(self.directories.pair(pair.entry.pair_id))
        control, vtpm_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        status, vtpm_status = channels.pair()
        pair.holds.control = control.detach()
        pair.holds.status = Channel(status, sends=STATUS_REQUESTS, receives=STATUS_REPORTS)
        message = SpawnVtpm(
            pair_id=bytes.fromhex(pair.entry.pair_id),
            launch_log=_resolved(pair).launch.log,
            firmware=_firmware_sets_platform_auth(_resolved(pair).entry),
            strict=_resolved(pair).entry.lockout_auth is LockoutAuth.STRICT,
            uid=uid,
        )
        key_channel = pair.holds.key_channel
        if key_channel is None:
            raise _out_of_order("no key channel")
        with vtpm_control, vtpm_status:
            descriptors = (key_channel, vtpm_control.fileno(), vtpm_status.fileno(), state, door)
            try:
                vtpm = await self.zygote.spawn_vtpm(message, descriptors)
            finally:
                os.close(state)
                os.close(door)
                os.close(key_channel)
                pair.holds.key_channel = None
        pair.holds.vtpm, pair.vtpm_code = vtpm, ""
        self.watch(self.watch_vtpm(pair, vtpm))
        pair.note(vtpm_pid=vtpm.name.pid, vtpm_start_time=vtpm.name.start_time)
        self.store(pair)

    async def watch_vtpm(self, pair: Pair, vtpm: Process, *, ready: bool = False) -> None:
        """Post what the vTPM reports, and at last that it is gone; `ready`: it has been so."""
        hearing = asyncio.create_task(self._hear_vtpm(pair, ready=ready))
        try:
            await vtpm.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    await hearing  # what it said before it went
        finally:
            hearing.cancel()
        pair.post(Event.VTPM_GONE)

    async def end_vtpm(self, pair: Pair) -> None:
        """Ask the vTPM to end in order, and end it when it does not."""
        vtpm = pair.holds.vtpm
        if vtpm is None:
            return
        if pair.holds.status is not None:
            with suppress(Closed):
                pair.holds.status.send(EndVtpm())
        try:
            async with asyncio.timeout(END_SECONDS):
                await vtpm.wait()
        except TimeoutError:
            vtpm.kill()

    async def create_guest_paused(self, pair: Pair) -> None:
        """Start the hypervisor on the measured descriptors, beside the vTPM."""
        resolved, holds = _resolved(pair), pair.holds
        if holds.inputs is None or holds.control is None:
            raise _out_of_order("no inputs")
        plan = Plan(
            configuration=machine_configuration(resolved.entry, resolved.accelerator),
            command_line=resolved.entry.boot.command_line,
            hypervisor=resolved.hypervisor.blob,
            inputs=_lent(holds.inputs),
            vtpm_control=holds.control,
            directory=self.directories.pair(pair.entry.pair_id),
        )

        async def launch(execution: Execution) -> Process:
            pair_id, uid = bytes.fromhex(pair.entry.pair_id), vtpm_uid(pair.entry.slot) + 1
            process = await self.zygote.spawn_hypervisor(pair_id, uid, execution)
            pair.note_step("hypervisor executed")
            holds.hypervisor = process
            holds.close_launch()
            return process

        guest = await self.hypervisor.create_paused(plan, launch)
        holds.guest = guest
        name = guest.process.name
        pair.note(hypervisor_pid=name.pid, hypervisor_start_time=name.start_time)
        self.watch(self.watch_guest(pair))
        pair.post(Event.GUEST_CREATED)

    async def watch_guest(self, pair: Pair) -> None:
        """Post that the guest is gone, and whether it wants to come back."""
        if pair.holds.guest is not None:
            end = pair.heard_end = await pair.holds.guest.wait()
            pair.post(Event.GUEST_REBOOTED if end is End.REBOOT else Event.GUEST_GONE)

    async def resume_guest(self, pair: Pair) -> None:
        """Tie the vTPM to the hypervisor's process, once, and let the guest run.

        Where a half is gone there is nothing to let run: its end is an event of its own.
        """
        guest = _guest(pair)
        if not pair.coupled and not self._couple(pair, guest):
            return
        await self._hold_as_wanted(pair, guest)
        if not pair.running.is_set():
            pair.note_step("guest running")
            self.store(pair)
            pair.note_running()

    def _couple(self, pair: Pair, guest: Guest) -> bool:
        """Tell the vTPM which process its guest is; False where either is gone."""
        if not guest.process.alive or pair.holds.status is None:
            pair.fail(
                HostError(
                    "TDM-GUEST-ENDED",
                    "the guest ended before it ran",
                    hint="see its console with `tandem guest console --log`",
                )
            )
            return False
        try:
            pair.holds.status.send(GuestStarted(), [guest.process.pidfd])
        except Closed:
            pair.fail(
                HostError(
                    "TDM-VTPM-ENDED", "the vTPM ended before its guest ran", hint="start it again"
                )
            )
            return False
        pair.coupled = True
        return True

    async def pause_guest(self, pair: Pair) -> None:
        """Stop the guest's processors."""
        await self._hold_as_wanted(pair, _guest(pair))

    async def _hold_as_wanted(self, pair: Pair, guest: Guest) -> None:
        """Pause the guest or let it run, as the pair's state says once its turn has come."""
        async with pair.leading:
            pauses = pair.state is State.PAUSED or not pair.coupled
            await _lead(guest, guest.pause if pauses else guest.resume)

    async def stop_guest(self, pair: Pair) -> None:
        """Ask the guest's system to power off, and give it its time."""
        guest = _guest(pair)
        await _lead(guest, guest.ask_to_stop)
        self.watch(self._expire(pair))

    async def kill_guest(self, pair: Pair) -> None:
        """End the hypervisor's process at once."""
        if pair.holds.hypervisor is not None:
            pair.holds.hypervisor.kill()

    async def start_again(self, pair: Pair) -> None:
        """Let the supervisor start the guest as a new pair, once this one is cleared away."""
        pair.start_again = True

    def store(self, pair: Pair) -> None:
        """Store where the pair stands; a pair that cannot be found again is not kept running."""
        if not pair.entry.pair_id:
            return  # nothing runs yet that would have to be found
        try:
            self.journal.store(pair.entry)
        except OSError as error:
            if pair.unstored:
                return
            pair.unstored = True
            pair.fail(
                HostError(
                    "TDM-JOURNAL-UNWRITABLE",
                    f"cannot write the builder's journal: {error.strerror}",
                    hint="free space below the host directory",
                )
            )
            pair.post(Event.KILL_ASKED)

    async def clear_away(self, pair: Pair) -> None:
        """Give back all that the pair took; its processes are gone."""
        await pair.holds.close()
        if pair.entry.pair_id:
            self.directories.remove_pair(pair.entry.pair_id)
            self.directories.forget_empty_vtpm(pair.order.guest)
            with suppress(OSError):  # a stale entry is cleared away at the next start
                self.journal.remove(pair.entry.pair_id)

    def _measure(self, pair: Pair) -> None:
        order = pair.order
        given = [parse_public_key(key) for key in order.keys]
        library = open_library(order.manifest, read_trust(self.keys).beside(given))
        library.manifest.require_current(datetime.datetime.now(datetime.UTC))
        entry = guest_entry(library, order.entry)
        check_built_once(library, self.inputs)
        pair.holds.inputs = inputs = open_inputs(
            library, entry, self.inputs, self.directories.variables(order.guest)
        )
        self.hypervisor.check(entry.boot, tuple(inputs.roms), _lent(inputs))
        identity = self.hypervisor.identify()
        accelerator = self.hypervisor.accelerator(entry.machine.cpu)
        measured = Measured(
            name=identity.name,
            version=identity.version,
            blob=identity.blob,
            accelerator=accelerator,
            policy=self.hypervisor.policy(),
        )
        variables = None if inputs.variables is None else inputs.variables.blob
        launch = measure(
            self.builder, measured, library.manifest, library.key_ids, entry, variables
        )
        pair.resolved = Resolved(
            library=library,
            entry=entry,
            accelerator=accelerator,
            hypervisor=identity,
            launch=launch,
        )

    async def _hear_vtpm(self, pair: Pair, *, ready: bool) -> None:
        """Read the vTPM's reports until it closes; not being ready in time ends it."""
        status, vtpm = pair.holds.status, pair.holds.vtpm
        if status is None or vtpm is None:
            return
        try:
            async with asyncio.timeout(None if ready else READY_SECONDS) as limit:
                while True:
                    report, descriptors = await receive(status)
                    close_all(descriptors)  # none is due, and a vTPM may be its guest's by now
                    match report:
                        case VtpmReady() if not ready:
                            ready = True
                            limit.reschedule(None)
                            pair.note_step("vtpm ready")
                            pair.post(Event.VTPM_READY)
                        case VtpmEnded(code=code, reason=reason):
                            log.info("vtpm.ended", guest=pair.guest_name, pair=pair.entry.pair_id,
                                     code=code, problem=reason)  # fmt: skip
                            pair.hear_last_words(code, reason)
                            pair.vtpm_code = code
                        case _:
                            pass  # a kind of report that only tells
        except Closed:
            return
        except UntrustedInput as error:
            log.warning("vtpm.hostile", guest=pair.guest_name, **error.as_record())
            pair.fail(error)
            vtpm.kill()
        except TimeoutError:
            pair.fail(
                HostError(
                    "TDM-VTPM-SLOW",
                    f"the vTPM was not ready within {READY_SECONDS:.0f} s",
                    hint="see whether the Manager and its TPM answer: tandem host status",
                )
            )
            vtpm.kill()

    async def _expire(self, pair: Pair) -> None:
        """Tell when the guest's time for an orderly stop is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(pair.stop_seconds):
                await pair.ended.wait()
                return
        pair.post(Event.GUEST_UNRULY)


async def _lead(guest: Guest, order: Callable[[], Awaitable[None]]) -> None:
    """Give the guest's hypervisor an order; one that is ending takes none, and need not."""
    try:
        await order()
    except HostError:
        try:
            async with asyncio.timeout(DYING_SECONDS):
                await guest.process.wait()
        except TimeoutError:
            pass
        if guest.process.alive:
            raise


def _guest(pair: Pair) -> Guest:
    if pair.holds.guest is None:
        raise _out_of_order("no guest")
    return pair.holds.guest


def _lent(inputs: EntryInputs) -> Inputs:
    """Give the hypervisor the descriptors of the inputs; they stay the pair's."""
    return Inputs(
        firmware=inputs.firmware.descriptor,
        kernel=None if inputs.kernel is None else inputs.kernel.descriptor,
        initrd=None if inputs.initrd is None else inputs.initrd.descriptor,
        variables=None if inputs.variables is None else inputs.variables.descriptor,
        roms={name: rom.descriptor for name, rom in inputs.roms.items()},
        disks=inputs.disks,
    )


def _firmware_sets_platform_auth(entry: GuestEntry) -> bool:
    """Whether the guest's firmware sets it: OVMF always does."""
    boot = entry.boot
    return not isinstance(boot, DirectBoot) or boot.platform_auth is PlatformAuth.FIRMWARE


def _resolved(pair: Pair) -> Resolved:
    if pair.resolved is None:
        raise _out_of_order("no measurement")
    return pair.resolved


def _out_of_order(what: str) -> HostError:
    return HostError(
        "TDM-BUILDER-OUT-OF-ORDER",
        f"a pair has {what} where its state says that it must",
        hint="report this defect; the pair was given up",
    )
