"""The host's own vTPM: at most one, started by the builder that everything else here starts from.

Its two halves are a process and a device of the kernel's that lives as long as that process holds
it, so there is nothing to tie together.  A builder that dies leaves both alive; the next one adopts
them.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

from tandem import channel as channels
from tandem.builder.actions import READY_SECONDS, Actions, vtpm_uid
from tandem.builder.attendance import Living
from tandem.builder.door import knock, make_door
from tandem.builder.library import MANIFEST, Library, open_library, read_trust
from tandem.builder.measure import Launch
from tandem.builder.own_launch import (
    ENDED,
    FAILED,
    FORMAT,
    RUNNING,
    STARTING,
    OwnJournal,
    OwnLaunch,
)
from tandem.builder.own_process import OwnProcess
from tandem.builder.running_host import HostVtpmSettings, find_host, read_settings
from tandem.builder.supervisor import MAX_SLOTS
from tandem.channel import Channel, Closed
from tandem.errors import HostError, Refused, TandemError
from tandem.evidence.event_log import write_launch_log
from tandem.evidence.host_plan import HOST, host_events
from tandem.hypervisor.descriptors import Descriptors
from tandem.hypervisor.process import Process, boot_id, find
from tandem.hypervisor.vtpm_proxy import ProxyDevice, new_device, open_proxy
from tandem.log import get_logger
from tandem.settings import HostPaths
from tandem.wire.manager_rpc import OpenPair
from tandem.wire.zygote_rpc import STATUS_REPORTS, STATUS_REQUESTS, SpawnVtpm

UID: Final = vtpm_uid(MAX_SLOTS)  # no pair has this slot
SHOWN_SECONDS: Final = 60.0  # for the kernel's Startup and self-test, once the vTPM is ready
DOOR: Final = "host-vtpm.sock"
log = get_logger("builder")


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What a launch is made of, before anything runs."""

    settings: HostVtpmSettings
    library: Library
    launch: Launch
    first_of_boot: bool


class OwnVtpm:
    """Starts, watches and ends the host's own vTPM; one request at a time."""

    def __init__(self, paths: HostPaths, actions: Actions, tasks: asyncio.TaskGroup) -> None:
        self._paths = paths
        self._actions = actions
        self._tasks = tasks
        self._journal = OwnJournal(paths.builder / "host-vtpm.json")
        self._newest = self._journal.newest()
        self._process: OwnProcess | None = None
        self._gone = asyncio.Event()
        self._failure: TandemError | None = None
        self._turn = asyncio.Lock()

    async def newest(self) -> tuple[OwnLaunch | None, TandemError | None]:
        """Give the newest launch, and why a start failed since; one under way is waited for."""
        async with self._turn:
            return self._newest, self._failure

    async def adopt(self) -> None:
        """Take up the vTPM that an earlier builder left running, or end one left half-made."""
        launch = self._newest
        if launch is None or launch.boot != boot_id() or launch.state in (ENDED, FAILED):
            return
        process = find(launch.vtpm)
        if process is None:
            self._note_end(ENDED)
            return
        adopted = self._live(process, knock(self._paths.builder, DOOR))
        log.info("host-vtpm.adopted", pair=launch.pair_id, state=launch.state)
        if launch.state != RUNNING:
            await adopted.kill()
            await self._gone.wait()

    def living(self) -> list[Living]:
        """Give the vTPM where it lives, for a Manager that was started again."""
        if self._process is None or self._newest is None:
            return []
        pair_id = bytes.fromhex(self._newest.pair_id)
        return [Living(pair_id=pair_id, vtpm=HOST, status=self._process.status)]

    async def start_if_wanted(self) -> None:
        """Start the vTPM where the host's settings want one; a failure is logged and shown."""
        try:
            if self._process is None and read_settings(self._paths.host_vtpm).start:
                await self.start()
        except TandemError as error:
            self._failure = error
            log.warning("host-vtpm.failed", **error.as_record())

    async def start(self) -> OwnLaunch:
        """Start the vTPM, and give its launch when the kernel shows its device."""
        async with self._turn:
            if self._process is not None:
                raise Refused(
                    "TDM-HOST-VTPM-RUNNING",
                    "the host's vTPM runs already",
                    hint="see `tandem host vtpm status`; one started after a stop is measured as "
                    "not the first of its boot",
                )
            with Descriptors() as opened:
                proxy = opened.keep(open_proxy())
                plan = await asyncio.to_thread(self._plan)
                launch = await self._launch(plan, proxy)
            self._failure = None
            return launch

    async def stop(self) -> None:
        """End the vTPM in order; its device goes with it."""
        async with self._turn:
            if self._process is None:
                raise Refused(
                    "TDM-HOST-VTPM-NOT-RUNNING",
                    "the host has no vTPM that runs",
                    hint="start it with `tandem host vtpm start`",
                )
            await self._process.end()
            await self._gone.wait()

    async def end(self) -> None:
        """End it with the host's services, if it runs; a start under way is given up."""
        if self._turn.locked() and self._process is not None:
            await self._process.kill()
        with suppress(Refused):
            await self.stop()

    def _plan(self) -> _Plan:
        """Read settings and library, and measure the running host."""
        settings = read_settings(self._paths.host_vtpm)
        trust = read_trust(self._actions.keys)
        library = open_library(self._paths.library / MANIFEST, trust)
        library.manifest.require_current(datetime.datetime.now(datetime.UTC))
        builder, newest = self._actions.builder, self._newest
        first = newest is None or newest.leaves_first(boot_id())
        events = host_events(
            builder.version, builder.digest, find_host(settings), first_of_boot=first
        )
        launch = Launch(events=events, log=write_launch_log(events))
        return _Plan(settings=settings, library=library, launch=launch, first_of_boot=first)

    async def _launch(self, plan: _Plan, proxy: int) -> OwnLaunch:
        """Open the launch at the Manager, make device and process, and wait for the kernel."""
        manifest = plan.library.manifest
        opened, key_channel = await self._actions.manager.open_pair(
            OpenPair(
                guest=HOST,
                vtpm=HOST,
                group=plan.settings.group,
                ephemeral=False,
                launch_log_digest=plan.launch.log_digest,
                hypervisor=HOST,
                builder=self._actions.builder.version,
                manifest_digest=manifest.digest,
                manifest_version=manifest.version,
                library=manifest.name,
                signers=plan.library.key_ids,
                successors=manifest.signers.key_ids,
                threshold=manifest.signers.threshold,
            )
        )
        planned = OwnLaunch(
            format=FORMAT,
            boot=boot_id(),
            first_of_boot=plan.first_of_boot,
            state=STARTING,
            pair_id=opened.pair_id.hex(),
            launch_number=opened.launch_number,
            launch_log=plan.launch.log.hex(),
            device=0,
            vtpm_pid=0,
            vtpm_start_time=0,
            started_at=int(time.time()),
        )
        async with self._given_up_on_failure(opened.pair_id):
            with Descriptors() as passed_on:  # once they are, the vTPM alone keeps the device alive
                passed_on.keep(key_channel)
                device = new_device(proxy)
                passed_on.keep(device.descriptor)
                self._note(replace(planned, device=device.number))
                process = await self._spawn(planned, key_channel, device)
            name = process.name
            self._change(vtpm_pid=name.pid, vtpm_start_time=name.start_time)
            process.tell_noted()
            await self._wait_until_shown(process, device)
        launch = self._change(state=RUNNING)
        log.info("host-vtpm.started", pair=launch.pair_id, device=launch.device,
                 launch=launch.launch_number, first_of_boot=launch.first_of_boot)  # fmt: skip
        return launch

    @asynccontextmanager
    async def _given_up_on_failure(self, pair_id: bytes) -> AsyncIterator[None]:
        """Leave no process behind where the start fails; with it, the device and the launch go."""
        try:
            yield
        except TandemError:
            if self._process is not None:
                await self._process.kill()
                await self._gone.wait()
            with suppress(TandemError):  # the vTPM's end closed it, if there was one
                await self._actions.manager.close_pair(pair_id)
            self._actions.directories.forget_empty_vtpm(HOST)
            if self._newest is not None and self._newest.pair_id == pair_id.hex():
                self._note_end(FAILED)
            raise

    async def _spawn(self, launch: OwnLaunch, key_channel: int, device: ProxyDevice) -> OwnProcess:
        """Have the zygote fork the vTPM, with the device in a hypervisor's place."""
        message = SpawnVtpm(
            pair_id=bytes.fromhex(launch.pair_id),
            launch_log=bytes.fromhex(launch.launch_log),
            firmware=False,  # nobody but the vTPM sets platformAuth
            uid=UID,
            device=True,
        )
        state = self._actions.directories.open_vtpm(HOST, launch.pair_id, UID, ephemeral=False)
        door = make_door(self._paths.builder, DOOR)
        status, vtpm_status = channels.pair()
        descriptors = (key_channel, device.descriptor, vtpm_status.fileno(), state, door)
        with vtpm_status:
            try:
                process = await self._actions.zygote.spawn_vtpm(message, descriptors)
            except TandemError:
                status.close()
                raise
            finally:
                os.close(state)
                os.close(door)
        return self._live(process, Channel(status, sends=STATUS_REQUESTS, receives=STATUS_REPORTS))

    async def _wait_until_shown(self, process: OwnProcess, device: ProxyDevice) -> None:
        """Wait for the vTPM, then for the kernel, unless the vTPM ends before."""
        gone = asyncio.create_task(self._gone.wait())
        shown = asyncio.create_task(device.wait_until_shown())
        try:
            async with asyncio.timeout(READY_SECONDS):
                await process.hear_ready()
            await asyncio.wait(
                (gone, shown), timeout=SHOWN_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
        except Closed as error:
            raise _not_started("its process has ended") from error
        except TimeoutError as error:
            raise _not_started(f"it was not ready within {READY_SECONDS:.0f} s") from error
        finally:
            gone.cancel()
            shown.cancel()
        if not device.shown or self._gone.is_set():
            raise _not_started("the kernel did not take the device up")

    def _live(self, process: Process, status: Channel | None) -> OwnProcess:
        self._process = living = OwnProcess(process, status)
        self._gone.clear()
        self._tasks.create_task(self._watch(living))
        return living

    async def _watch(self, living: OwnProcess) -> None:
        """Note the end of the vTPM, whatever ends it."""
        await living.wait()
        launch = self._note_end(ENDED)
        log.info("host-vtpm.ended", pair=launch.pair_id)
        with suppress(TandemError):  # its key channel's end has the same effect
            await self._actions.manager.close_pair(bytes.fromhex(launch.pair_id))
        self._process = None
        self._gone.set()

    def _note_end(self, state: str) -> OwnLaunch:
        """Store that the newest launch is over; a full disk must not end the builder with it."""
        launch = replace(self._known(), state=state)
        try:
            self._note(launch)
        except HostError as error:  # the next builder finds no process of that name
            log.warning("host-vtpm.not-stored", **error.as_record())
        return launch

    def _change(self, **changes: object) -> OwnLaunch:
        return self._note(replace(self._known(), **changes))  # type: ignore[arg-type]

    def _note(self, launch: OwnLaunch) -> OwnLaunch:
        self._newest = launch
        self._journal.store(launch)
        return launch

    def _known(self) -> OwnLaunch:
        if self._newest is None:
            raise _not_started("there is no launch to change")
        return self._newest


def _not_started(problem: str) -> HostError:
    return HostError(
        "TDM-HOST-VTPM-NOT-STARTED",
        f"the host's vTPM did not start: {problem}",
        hint="see run/builder.log of the host, and the kernel's log (dmesg) for its device",
    )
