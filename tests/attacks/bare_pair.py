"""A real QEMU beside a real Tandem vTPM, without an operating system (`peers.bare_machine`)."""

from __future__ import annotations

import os

from peers.bare_machine import BareMachine, Model, tpm_arguments
from tandem.evidence.launch_plan import GLOBALS
from tests.integration.vtpm.pair_harness import PairUnderTest

CONTROL, FIRMWARE = 10, 14
WIRES = {"qtest": 11, "qmp": 12, "debug": 13}
# As the builder starts it: a reset ends the machine, and ACPI offers no sleep state.
ALWAYS = (
    *("-action", "reboot=shutdown"),
    *(word for name, value in GLOBALS.items() for word in ("-global", f"{name}={value}")),
)


def paired_machine(
    pair: PairUnderTest,
    *more: str,
    model: Model = "tpm-crb",
    control: int = -1,
    firmware: bytes = b"",
) -> BareMachine:
    """Start QEMU beside a pair's vTPM that is ready; its guest has not begun.

    `control`: a descriptor for its control channel instead of the pair's own end.  `firmware`
    stands in the place of SeaBIOS.
    """
    machine = BareMachine(model)
    given = machine.wires()
    memory = os.memfd_create("firmware")
    os.write(memory, firmware)
    if firmware:
        more += ("-bios", f"/proc/self/fd/{FIRMWARE}")
    command = machine.command(WIRES, (*ALWAYS, *tpm_arguments(f"fd={CONTROL}", model), *more))
    numbered = {WIRES[name]: descriptor for name, descriptor in given.items()}
    own = control < 0
    numbered |= {CONTROL: pair.control.fileno() if own else control, FIRMWARE: memory}
    pair.spawn_hypervisor(command, numbered)
    os.close(memory)
    if own:
        pair.control.close()
        pair.name_guest()
    machine.begin()
    return machine


class GuestOf:
    """The guest of a pair whose hypervisor is the harness's puppet, as a client of its TPM."""

    def __init__(self, pair: PairUnderTest) -> None:
        self._pair = pair

    def transceive(self, command: bytes) -> bytes:
        """Send one command, and wait for its response; b"" where the vTPM hung up."""
        return self._pair.execute(command)
