"""One vTPM from its fork to its end: confined, prepared, then one guest served, once.

The guest is a hypervisor's, or, for the host's own vTPM, the kernel that runs here.
"""

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

from tandem.channel import Channel
from tandem.errors import UNEXPECTED_EXIT_STATUS, TandemError
from tandem.privileges import drop_privileges
from tandem.vtpm.ak_certificate import AkCertificate
from tandem.vtpm.builder_line import BuilderLine
from tandem.vtpm.commands import CommandServer, Handler
from tandem.vtpm.confinement import CallFilter, limit_vtpm
from tandem.vtpm.deep_quotes import DeepQuoter
from tandem.vtpm.device import Device, DeviceServer, KernelLife, wait_for_end
from tandem.vtpm.handover import Handover
from tandem.vtpm.launch import Launch, Life
from tandem.vtpm.libtpms import Engine
from tandem.vtpm.mailbox import Mailbox
from tandem.vtpm.manager_client import ManagerClient
from tandem.vtpm.preparation import PreparedVtpm, prepare
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
KERNEL_LAST_SECONDS: Final = 8.0  # the same, where no guest's end is waited for


@dataclass(frozen=True)
class VtpmDescriptors:
    """What comes with SpawnVtpm, in this order."""

    key_channel: int
    control: int  # or the kernel's device
    status: int
    state_directory: int
    door: int


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
    line = BuilderLine(status, socket.socket(fileno=descriptors.door), manager.key_channels)
    served = Device(descriptors.control) if spawn.device else _control(descriptors.control)
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
        _report(line, Ending(code=error.code, reason=error.problem))
        return error.exit_status
    microseconds = int((time.monotonic() - began) * 1e6)
    line.tell(VtpmReady(manufactured=vtpm.manufactured, microseconds=microseconds))
    give_back()
    launch = _Launched(
        spawn=spawn, engine=engine, vtpm=vtpm, manager=manager, line=line, thread=thread
    )
    ending = launch.serve(served)
    _report(line, ending)
    return UNEXPECTED_EXIT_STATUS if ending is BROKEN else 0


@dataclass(frozen=True, kw_only=True)
class _Launched:
    """A vTPM that is ready for its guest."""

    spawn: SpawnVtpm
    engine: Engine
    vtpm: PreparedVtpm
    manager: ManagerClient
    line: BuilderLine
    thread: DataThread

    def serve(self, served: socket.socket | Device) -> Ending:
        """Serve the guest until it or the builder ends the launch."""
        if isinstance(served, Device):
            return self._serve_kernel(served)
        return self._serve_hypervisor(served)

    def _serve_hypervisor(self, control: socket.socket) -> Ending:
        """Serve the guest of a hypervisor until either half of the pair ends."""
        engine, thread = self.engine, self.thread
        size, smallest, largest = engine.set_buffer_size(0)
        shared = SharedSession(
            Session(buffer_size=size, smallest_buffer=smallest, largest_buffer=largest)
        )
        commands = CommandServer(engine, shared, self._special(shared), self.vtpm.saver.save)
        connection: Handover[socket.socket | None] = Handover()
        thread.work.give(lambda: self._serve_commands(commands, connection, shared))
        server = ControlServer(control, self.line, shared, connection, engine.cancel)
        ending = server.run(thread.ended)
        shared.end()
        engine.cancel()
        connection.give(None)
        if server.data is not None:
            with contextlib.suppress(OSError):  # the hypervisor's end is closed already
                server.data.shutdown(socket.SHUT_RDWR)
        return self._last(ending, LAST_SECONDS)

    def _serve_kernel(self, device: Device) -> Ending:
        """Serve this host's kernel until its device goes or the builder wants the end."""
        life = KernelLife()
        server = DeviceServer(self.engine, self._special(life), self.vtpm.saver.save)

        def work() -> None:
            server.serve(device)
            self._end_in_order(life)

        self.thread.work.give(work)
        ending = wait_for_end(self.line, self.thread.ended)
        device.stop()
        self.engine.cancel()
        return self._last(ending, KERNEL_LAST_SECONDS)

    def _special(self, life: Life) -> dict[int, Handler]:
        """Give the commands that the engine does not execute alone."""
        engine, vtpm = self.engine, self.vtpm
        certificate = AkCertificate(
            self.manager, vtpm.prepared.ak_certificate, vtpm.prepared.issuer_certificate
        )
        quoter = DeepQuoter(
            engine=engine,
            manager=self.manager,
            ak_auth=vtpm.keys.ak_auth,
            prepared=vtpm.prepared,
            certificate=certificate,
            launch_log=self.spawn.launch_log,
        )
        mailbox = Mailbox(engine, vtpm.keys.mailbox_auth, certificate, quoter.framed_answer)
        launch = Launch(
            engine=engine,
            life=life,
            events=vtpm.events,
            firmware=self.spawn.firmware,
            strict=self.spawn.strict,
            prepare=mailbox.clear,
        )
        return {
            Code.STARTUP: launch.startup,
            Code.SHUTDOWN: mailbox.shutdown,
            Code.NV_WRITE: mailbox.write,
            Code.NV_READ: mailbox.read,
            Code.GET_CAPABILITY: Capabilities(engine).execute,
            Code.DEEP_QUOTE: VendorCommand(quoter.framed_answer).execute,
        }

    def _serve_commands(
        self,
        commands: CommandServer,
        handed: Handover[socket.socket | None],
        shared: SharedSession,
    ) -> None:
        """Serve the one data connection there is, then end the launch in order."""
        connection = handed.take()
        if connection is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                commands.serve(connection)
        self._end_in_order(shared)

    def _end_in_order(self, life: Life) -> None:
        """Leave a state that the next launch finds orderly."""
        if life.guest_started:
            self.engine.run(tpm.shutdown(StartupType.CLEAR))
            self.vtpm.saver.save()
        self.engine.power_off()

    def _last(self, ending: Ending, seconds: float) -> Ending:
        """Give the thread its time to end; what it failed of is the reason before any other."""
        ended = self.thread.ends_within(seconds)
        return self.thread.ending or ending if ended else ending


def _control(descriptor: int) -> socket.socket:
    """Give the vTPM's end of the control channel, on which each message names its sender."""
    control = socket.socket(fileno=descriptor)
    control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return control


def _report(line: BuilderLine, ending: Ending) -> None:
    line.tell(VtpmEnded(code=ending.code, reason=ending.reason[:1000]))
