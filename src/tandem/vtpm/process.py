"""One vTPM from its fork to its end: confined, prepared, then one guest served, once."""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tandem.channel import Channel, Closed
from tandem.errors import UNEXPECTED_EXIT_STATUS, TandemError
from tandem.privileges import drop_privileges
from tandem.vtpm.commands import CommandServer, Handler
from tandem.vtpm.confinement import CallFilter, limit_vtpm
from tandem.vtpm.deep_quotes import DeepQuoter
from tandem.vtpm.handover import Handover
from tandem.vtpm.launch import Launch
from tandem.vtpm.libtpms import Engine
from tandem.vtpm.mailbox import Mailbox
from tandem.vtpm.manager_client import ManagerClient
from tandem.vtpm.preparation import PreparedVtpm, prepare
from tandem.vtpm.saving import Saver
from tandem.vtpm.server import BROKEN, ControlServer, Ending
from tandem.vtpm.session import Session
from tandem.vtpm.shared_session import SharedSession
from tandem.vtpm.state import open_slots
from tandem.vtpm.vendor import Capabilities, VendorCommand
from tandem.vtpm.warm_up import give_back
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import Code, StartupType
from tandem.wire.zygote_rpc import (
    STATUS_REPORTS,
    STATUS_REQUESTS,
    SpawnVtpm,
    VtpmEnded,
    VtpmReady,
)

LAST_SECONDS: Final = 0.7  # for the last commit: the guest is gone, and we are within a second


@dataclass(frozen=True)
class VtpmDescriptors:
    """What comes with SpawnVtpm, in this order."""

    key_channel: int
    control: int
    status: int
    state_directory: int


class DataThread:
    """A thread that does the one piece of work it is given; its end shows on an eventfd."""

    def __init__(self) -> None:
        self.work: Handover[Callable[[], None]] = Handover()
        self.ended = os.eventfd(0)
        self.ending: Ending | None = BROKEN  # until it is known better
        _thread.start_new_thread(self._run, ())

    def ends_within(self, seconds: float) -> bool:
        """Wait for the end; tell whether it came."""
        waiting = select.poll()
        waiting.register(self.ended, select.POLLIN)
        return bool(waiting.poll(seconds * 1000))

    def _run(self) -> None:
        """Wait for the work, do it, and keep the reason if it failed."""
        try:
            self.work.take()()
            self.ending = None
        except TandemError as error:
            self.ending = Ending(code=error.code, reason=error.problem)
        finally:
            os.eventfd_write(self.ended, 1)


def run_vtpm(
    spawn: SpawnVtpm, descriptors: VtpmDescriptors, engine: Engine, calls: CallFilter
) -> int:
    """Live one vTPM's life, and give its exit status."""
    began = time.monotonic()
    status = Channel(
        socket.socket(fileno=descriptors.status), sends=STATUS_REPORTS, receives=STATUS_REQUESTS
    )
    manager = ManagerClient(socket.socket(fileno=descriptors.key_channel))
    control = socket.socket(fileno=descriptors.control)
    control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    try:
        welcome = manager.hello()
        slots = open_slots(descriptors.state_directory, spawn.uid)
        os.close(descriptors.state_directory)
        drop_privileges(spawn.uid)
        limit_vtpm()
        thread = DataThread()
        calls.load()
        vtpm = prepare(spawn, engine, manager, welcome(), slots)
    except TandemError as error:
        _report(status, Ending(code=error.code, reason=error.problem))
        return error.exit_status
    with contextlib.suppress(Closed):  # a builder that dies leaves its pairs alive
        microseconds = int((time.monotonic() - began) * 1e6)
        status.send(VtpmReady(manufactured=vtpm.manufactured, microseconds=microseconds))
    give_back()
    ending = _serve(spawn, engine, vtpm, manager, control, status, thread)
    _report(status, ending)
    return UNEXPECTED_EXIT_STATUS if ending is BROKEN else 0


def _serve(
    spawn: SpawnVtpm,
    engine: Engine,
    vtpm: PreparedVtpm,
    manager: ManagerClient,
    control: socket.socket,
    status: Channel,
    thread: DataThread,
) -> Ending:
    """Serve the guest until either half of the pair ends."""
    size, smallest, largest = engine.set_buffer_size(0)
    shared = SharedSession(
        Session(buffer_size=size, smallest_buffer=smallest, largest_buffer=largest)
    )
    quoter = DeepQuoter(
        engine=engine,
        manager=manager,
        ak_auth=vtpm.keys.ak_auth,
        prepared=vtpm.prepared,
        launch_log=spawn.launch_log,
    )
    mailbox = Mailbox(engine, vtpm.keys.mailbox_auth, quoter.framed_answer)
    launch = Launch(
        engine=engine,
        life=shared,
        events=vtpm.events,
        firmware=spawn.firmware,
        prepare=mailbox.clear,
    )
    special: dict[int, Handler] = {
        Code.STARTUP: launch.startup,
        Code.SHUTDOWN: mailbox.shutdown,
        Code.NV_WRITE: mailbox.write,
        Code.GET_CAPABILITY: Capabilities(engine).execute,
        Code.DEEP_QUOTE: VendorCommand(quoter.framed_answer).execute,
    }
    commands = CommandServer(engine, shared, special, vtpm.saver.save)
    connection: Handover[socket.socket | None] = Handover()
    thread.work.give(lambda: _serve_commands(commands, connection, shared, engine, vtpm.saver))
    server = ControlServer(control, status, shared, connection, engine.cancel)
    ending = server.run(thread.ended)
    shared.end()
    engine.cancel()
    connection.give(None)
    if server.data is not None:
        with contextlib.suppress(OSError):  # the hypervisor's end is closed already
            server.data.shutdown(socket.SHUT_RDWR)
    ended = thread.ends_within(LAST_SECONDS)
    return thread.ending or ending if ended else ending


def _serve_commands(
    commands: CommandServer,
    handed: Handover[socket.socket | None],
    shared: SharedSession,
    engine: Engine,
    saver: Saver,
) -> None:
    """Serve the one data connection there is, then end the launch in order."""
    connection = handed.take()
    if connection is not None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            commands.serve(connection)
    if shared.guest_started:
        engine.run(tpm.shutdown(StartupType.CLEAR))
        saver.save()
    engine.power_off()


def _report(status: Channel, ending: Ending) -> None:
    with contextlib.suppress(Closed):
        status.send(VtpmEnded(code=ending.code, reason=ending.reason[:1000]))
