"""A device of this host's kernel in the hypervisor's place: how the host's own vTPM is reached.

The kernel's vTPM proxy (tpm_vtpm_proxy, linux/vtpm_proxy.h) hands over one whole command at a time
and takes one whole response.  It runs Startup and self-test itself, and says with a command of its
own which locality what follows comes from; nobody but the kernel can send that one.
"""

from __future__ import annotations

import errno
import os
import select
import struct
from collections.abc import Callable, Mapping
from typing import Final

from tandem.values import Locality
from tandem.vtpm.builder_line import BuilderLine, close_all
from tandem.vtpm.commands import WRONG_SIZE, Handler
from tandem.vtpm.libtpms import MAX_COMMAND, Engine
from tandem.vtpm.server import BUILDER_GONE, END_ASKED, Ending
from tandem.vtpm.watch import Source, Watch
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import HEADER, Rc
from tandem.wire.zygote_rpc import EndVtpm, VtpmNoted

SET_LOCALITY: Final = 0x20001000  # TPM2_CC_SET_LOCALITY of the kernel's vTPM proxy
LOCALITY_REQUEST: Final = struct.Struct(">HIIB")  # header, locality
OPEN_LOCALITIES: Final = (Locality.GUEST, Locality.GUEST_LOADER)
DEVICE_GONE: Final = Ending(
    code="TDM-VTPM-DEVICE-GONE", reason="the kernel gave the vTPM's device up; its log says why"
)


class Device:
    """The descriptor that stands for the device: closing it takes the device away.

    `stop` may be called from another thread; all else belongs to the one that serves.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._stop = os.eventfd(0)  # made before the filter of system calls
        self._waiting = select.poll()
        self._waiting.register(descriptor, select.POLLIN)
        self._waiting.register(self._stop, select.POLLIN)

    def receive(self) -> bytes | None:
        """Wait for a command; None when there will be none any more."""
        while True:
            ready = dict(self._waiting.poll())
            if self._stop in ready or ready[self._descriptor] & ~select.POLLIN:
                return None
            try:
                return os.read(self._descriptor, MAX_COMMAND)
            except BrokenPipeError:
                return None

    def send(self, response: bytes | memoryview) -> None:
        """Answer the command received last, unless the kernel waits for it no longer."""
        try:
            os.write(self._descriptor, response)
        except BrokenPipeError:
            return  # the next `receive` says so
        except OSError as error:
            if error.errno != errno.EIO:  # it timed out, and the next command is there already
                raise

    def stop(self) -> None:
        """Have `receive` give up."""
        os.eventfd_write(self._stop, 1)


class KernelLife:
    """What a launch settles with its guest, where the guest is the kernel that runs already."""

    def __init__(self) -> None:
        self.guest_started = False

    def begin(self) -> bool:
        """Begin the first Startup."""
        self.guest_started = True
        return True

    def give_up(self) -> None:
        """Take the beginning back: the Startup failed."""
        self.guest_started = False


class DeviceServer:
    """Serves the kernel's commands, one at a time, in the only thread on the engine."""

    def __init__(
        self, engine: Engine, special: Mapping[int, Handler], save: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._special = {**special, SET_LOCALITY: self._set_locality}
        self._save = save

    def serve(self, device: Device) -> None:
        """Answer commands until the device goes or is given up."""
        while (command := device.receive()) is not None:
            device.send(self.answer(command))

    def answer(self, command: bytes) -> bytes | memoryview:
        """Execute one command, and return when what it changed would survive power loss."""
        if len(command) < HEADER.size:
            return WRONG_SIZE
        _, size, code = HEADER.unpack_from(command)
        if size != len(command):
            return WRONG_SIZE
        answer = self._special.get(code, self._engine.answer)(command)
        if self._engine.changed:
            self._save()
        return answer

    def _set_locality(self, command: bytes) -> bytes:
        if len(command) != LOCALITY_REQUEST.size:
            return WRONG_SIZE
        locality = LOCALITY_REQUEST.unpack(command)[-1]
        if locality not in OPEN_LOCALITIES:
            return tpm.response(Rc.LOCALITY)
        self._engine.locality = locality
        return tpm.response(Rc.SUCCESS)


def wait_for_end(line: BuilderLine, commands_ended: int) -> Ending:
    """Wait until the builder asks for the end, or the serving thread has none left to serve.

    A builder that dies leaves the vTPM alive, for the next one to adopt, once it has noted it.
    """
    watch, noted = Watch(), False
    line.watch(watch)
    watch.add(Source.COMMANDS, commands_ended)
    while True:
        for source in watch.wait():
            match source:
                case Source.COMMANDS:
                    return DEVICE_GONE
                case Source.DOOR:
                    line.open_door()
                    continue
                case _:
                    heard = line.hear()
            if heard is None and not noted:
                return BUILDER_GONE
            message, descriptors = heard or (None, [])
            close_all(descriptors)
            noted |= isinstance(message, VtpmNoted)
            if isinstance(message, EndVtpm):
                return END_ASKED
