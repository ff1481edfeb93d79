"""What every hypervisor driver owes the builder.

A driver starts a machine that is paused, from descriptors whose content was measured, and starts
nothing that the measured configuration does not hold.  It keeps no state of its own that a builder
started anew would miss: `adopt` finds everything again in the pair's directory.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, auto
from pathlib import Path
from typing import Protocol

from tandem.evidence.guest_entry import DirectBoot, UefiBoot
from tandem.evidence.launch import Blob
from tandem.evidence.launch_plan import Accelerator
from tandem.hypervisor.process import Process


class End(StrEnum):
    """Why a machine is gone; of what happened while no builder listened, only that it is."""

    GONE = auto()  # its hypervisor was killed, or crashed
    POWERED_OFF = auto()  # by its system
    REBOOT = auto()  # its guest asked for a reset: the pair is to be started anew
    PANICKED = auto()  # its kernel said so (pvpanic)
    WATCHDOG = auto()  # nobody fed its watchdog
    SLEPT = auto()  # it suspended to memory, from which nobody returns with the same TPM


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a launch measures of a hypervisor; `executable` is a path, opened for each launch."""

    name: str
    version: str
    executable: Path
    blob: Blob


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Descriptors of what the machine is given; None is what it is not given.

    Sealed memfds of what is measured whole; ROMs by the name they load as, disks by their id.
    """

    firmware: int
    kernel: int | None
    initrd: int | None
    variables: int | None  # written by the firmware
    roms: Mapping[str, int]
    disks: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a machine is created from."""

    configuration: Mapping[str, object]  # as measured: launch_plan.machine_configuration
    command_line: str | None
    hypervisor: Blob  # as measured: `create_paused` runs this one or none
    inputs: Inputs
    vtpm_control: int  # the hypervisor's end of the vTPM's control channel
    directory: Path  # of the pair, the builder's alone; the driver's sockets and logs live in it


@dataclass(frozen=True, kw_only=True)
class Execution:
    """A process to be started beside the vTPM; `inherited` maps its numbers to descriptors here."""

    argv: tuple[str, ...]
    executable: int
    output: int  # for standard output and error
    groups: tuple[int, ...]
    inherited: Mapping[int, int]


class Launcher(Protocol):
    """Starts a process in the PID namespace of the pair's vTPM, without privilege."""

    async def __call__(self, execution: Execution) -> Process:
        """Start it, or raise HostError with nothing left running."""


class Guest(Protocol):
    """One machine, from its creation until it is gone."""

    @property
    def process(self) -> Process:
        """The hypervisor's process."""

    async def resume(self) -> None:
        """Let the first, or next, instruction run; for a running machine nothing changes."""

    async def pause(self) -> None:
        """Stop its processors between two instructions; for a paused machine nothing changes."""

    async def ask_to_stop(self) -> None:
        """Press the power button (ACPI); whether the guest follows is its own affair."""

    def kill(self) -> None:
        """End the process at once; a process that is gone is left alone."""

    async def wait(self) -> End:
        """Wait until the process is gone, and say why."""

    async def connect_console(self) -> socket.socket:
        """Give a new connection to the serial console; Refused when somebody has it."""

    async def connect_attester(self) -> socket.socket:
        """Give a new connection to the attester's port; Refused when somebody has it."""

    async def connect_debugger(self) -> socket.socket:
        """Give a new connection for a debugger; Refused where none was configured or one is there.

        It speaks gdb's remote protocol, and may read and change all of the machine.
        """

    async def close(self) -> None:
        """Let go of the machine without touching it; after this only `adopt` reaches it."""


class Hypervisor(Protocol):
    """A kind of hypervisor on this host."""

    def identify(self) -> Identity:
        """Say what would be started; HostError when it is not there or too old."""

    def accelerator(self, cpu: str) -> Accelerator:
        """Say what would run the instructions of a `cpu`, tried and not only looked for."""

    def policy(self) -> bytes:
        """Give the confinement that its machines run under, as a launch measures it."""

    def check(
        self, boot: DirectBoot | UefiBoot, rom_names: tuple[str, ...], inputs: Inputs
    ) -> None:
        """Refuse inputs with which the machine would load something that was not measured."""

    async def create_paused(self, plan: Plan, launch: Launcher) -> Guest:
        """Create the machine and hold it before its first instruction.

        When this raises, no process is left and the pair's directory may hold files only.
        """

    async def adopt(self, directory: Path, process: Process) -> Guest:
        """Take over a machine that an earlier builder created and that still runs."""

    def last_end(self, directory: Path) -> End:
        """Say why a machine of this directory is gone that nobody heard go."""
