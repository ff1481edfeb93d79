"""T10: a guest saves its registers by Shutdown(STATE), and its next launch resumes them.

Attacker: the guest's kernel, at the end of one launch and the beginning of the next.
Control: two runs of swtpm on one state directory; the registers of the first launch stand under the
launch register (PCR 17) of the second (R2).
Shows: the first Startup is CLEAR, or gets TPM_RC_VALUE, whatever the guest sent last.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from peers import plain
from peers.swtpm_control import SwtpmControl
from tandem.evidence.event_log import parse_event_log
from tandem.evidence.pcr_values import replay
from tandem.wire import tpm_commands as tpm
from tandem.wire.control import Command
from tandem.wire.tpm_commands import StartupType
from tests.attacks.bare_pair import GuestOf
from tests.attacks.quoting_tpm import GOOD_BOOT, measure, quoted
from tests.attacks.tpm import done, run
from tests.integration.vtpm.pair_harness import LAUNCH_LOG, PairUnderTest, gone

LAUNCH = {1: b"what the first launch loads", 2: b"what the second launch loads"}
REGISTERS = (*GOOD_BOOT, 17)
VALUE_1 = 0x1C4  # TPM_RC_VALUE of the first parameter


def launch(control: Path, number: int, kind: StartupType) -> SwtpmControl:
    """Power a swtpm on and start it, PCR 17 measured from outside as a builder would do it."""
    swtpm = SwtpmControl(control)
    assert swtpm.ask(Command.INIT, 0) == bytes(4)
    done(swtpm, tpm.startup(kind))
    swtpm.ask(Command.HASH_START)
    swtpm.ask(Command.HASH_DATA, len(LAUNCH[number]), data=LAUNCH[number])
    swtpm.ask(Command.HASH_END)
    return swtpm


def test_control_the_registers_of_the_first_launch_are_quoted_in_the_second(tmp_path: Path) -> None:
    # Given a good launch that ends with Shutdown(STATE), and its quote
    with plain.swtpm(tmp_path) as control, launch(control, 1, StartupType.CLEAR) as guest:
        measure(guest)
        first = quoted(guest, REGISTERS)
        done(guest, tpm.shutdown(StartupType.STATE))

    # When the next launch is of something else, which resumes and measures nothing
    with plain.swtpm(tmp_path) as control, launch(control, 2, StartupType.STATE) as guest:
        second = quoted(guest, tuple(GOOD_BOOT))
        both = quoted(guest, REGISTERS)

    # Then stock tools accept the old registers, and PCR 17 is the new launch's
    assert second.passes_checkquote(tmp_path)
    assert second.ak.name == first.ak.name
    assert both.quote.pcr_digest != first.quote.pcr_digest
    with plain.swtpm(tmp_path) as control, launch(control, 1, StartupType.CLEAR) as guest:
        measure(guest)
        assert quoted(guest, tuple(GOOD_BOOT)).quote.pcr_digest == second.quote.pcr_digest


@pytest.mark.parametrize("last", list(StartupType))
def test_the_next_launch_cannot_resume(
    make_pair: Callable[..., PairUnderTest], last: StartupType
) -> None:
    # Given a guest that measured a good boot, sent Shutdown, and was killed
    first = begun(make_pair)
    done(GuestOf(first), tpm.startup(StartupType.CLEAR))
    measure(GuestOf(first))
    done(GuestOf(first), tpm.shutdown(last))
    first.kill_guest()
    assert gone(first.pidfd, 1.0)

    # When the first command of the next launch is Startup(STATE)
    second = begun(make_pair)
    guest = GuestOf(second)
    code = run(guest, tpm.startup(StartupType.STATE)).code

    # Then it is refused, CLEAR works, nothing was resumed, and the launch is measured
    assert code == VALUE_1
    done(guest, tpm.startup(StartupType.CLEAR))
    assert {register: read(guest, register) for register in GOOD_BOOT} == dict.fromkeys(
        GOOD_BOOT, bytes(32)
    )
    assert read(guest, 17) == replay(parse_event_log(LAUNCH_LOG))["sha256"][17]


def begun(make_pair: Callable[..., PairUnderTest]) -> PairUnderTest:
    """Give a pair whose guest is about to start its TPM."""
    pair = make_pair()
    pair.ready()
    pair.start_guest()
    pair.connect()
    return pair


def read(client: GuestOf, register: int) -> bytes:
    """Read a PCR of the SHA-256 bank."""
    return done(client, tpm.pcr_read([register])).parameters[-32:]
