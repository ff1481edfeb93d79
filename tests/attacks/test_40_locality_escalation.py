"""40: a guest takes a locality that is not its own, and resets the registers of a dynamic launch.

Attacker: the guest's kernel, which maps the TIS pages of localities 2 to 4; or its hypervisor.
Control: QEMU with a TIS on swtpm: PCR_Reset of PCR 20 is refused at locality 0 and done at 2, and
so stock tools accept a forged launch register.
Shows: the vTPM gives its guest localities 0 and 1 whatever its hypervisor asks for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from peers.bare_machine import plain_machine
from tandem.wire import tpm_commands as tpm
from tandem.wire.control import Command
from tandem.wire.tpm_commands import StartupType
from tests.attacks.bare_pair import GuestOf, paired_machine
from tests.attacks.quoting_tpm import quoted
from tests.attacks.tpm import done, run
from tests.integration.vtpm.pair_harness import PairUnderTest, gone

REGISTER = 20  # of a dynamic launch: reset at locality 2 and 4, PC Client PTP, 4.6.2
GOOD = hashlib.sha256(b"the launched system").digest()
RESET = tpm.command(0x13D, (REGISTER,), b"", [tpm.password()])  # TPM2_PCR_Reset
EXTEND = tpm.pcr_extend(REGISTER, {tpm.SHA256: GOOD})
CODE = slice(6, 10)


def test_control_a_guests_kernel_forges_a_launch_register(control: Path, tmp_path: Path) -> None:
    # Given a guest with a TIS, whose PCR 20 no launch wrote
    with plain_machine(control, model="tpm-tis") as plain:
        machine = plain.machine
        machine.run_until()
        refused = run(machine, RESET).code

        # When its kernel uses the page of locality 2
        reset = machine.at_locality(2, RESET)[CODE]
        extended = machine.at_locality(2, EXTEND)[CODE]
        forged = quoted(machine, (REGISTER,))

    # Then the register is as if the system had been launched, and stock tools accept it
    assert refused == tpm.Rc.LOCALITY
    assert (reset, extended) == (bytes(4), bytes(4))
    assert forged.passes_checkquote(tmp_path)
    expected = hashlib.sha256(bytes(32) + GOOD).digest()
    assert forged.quote.pcr_digest == hashlib.sha256(expected).digest()


@pytest.mark.parametrize("locality", [2, 3, 4])
def test_a_guests_kernel_does_not_get_the_locality(
    make_pair: Callable[..., PairUnderTest], locality: int
) -> None:
    # Given a guest of a machine that even has a TIS
    pair = make_pair()
    pair.ready()
    machine = paired_machine(pair, model="tpm-tis")
    machine.run_until()
    before = done(machine, tpm.pcr_read([REGISTER])).parameters

    # When its kernel uses the page of a higher locality
    answers = [machine.at_locality(locality, command)[CODE] for command in (RESET, EXTEND)]

    # Then neither is done, the register is as it was, and the guest is served on
    assert bytes(4) not in answers
    assert done(machine, tpm.pcr_read([REGISTER])).parameters == before
    assert not gone(pair.pidfd, 0.2)


@pytest.mark.parametrize("locality", [2, 3, 4, 255])
def test_a_hypervisor_cannot_set_it(pair: PairUnderTest, locality: int) -> None:
    # Given a live guest whose hypervisor is in the attacker's hands
    guest = GuestOf(pair)
    done(guest, tpm.startup(StartupType.CLEAR))

    # When it sets a higher locality, and the guest resets a register
    answer = pair.ask(Command.SET_LOCALITY, locality, 0, 0, 0)
    code = run(guest, RESET).code

    # Then the locality is refused, and so is the reset
    assert answer != bytes(4)
    assert code == tpm.Rc.LOCALITY
