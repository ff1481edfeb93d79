"""39: PCR 17 is written at locality 4 over the control channel: a forged D-RTM.

Attacker: whoever reaches the control channel, up to the guest's own hypervisor.
Control: `swtpm_ioctl -h` makes PCR 17 of any data, after the guest has run.
Shows: the control channel has no such commands; PCR 17 and 18 are the builder's launch alone; an
FF...FF register, which no D-RTM ever wrote, is refused by name (launch-was-measured).
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from peers.shared_swtpm import HOST, SharedTpm
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Tier
from tandem.evidence.event_log import parse_event_log
from tandem.evidence.pcr_values import replay
from tandem.wire import tpm_commands as tpm
from tandem.wire.control import Command
from tandem.wire.tpm_commands import StartupType
from tests.attacks.bare_pair import GuestOf
from tests.attacks.quoting_tpm import measure, quoted
from tests.attacks.tpm import done, run
from tests.integration.vtpm.pair_harness import LAUNCH_LOG, PairUnderTest
from tests.unit.appraisal.forge import Forge

GOOD = b"the launch that a verifier expects"
PCR_RESET = 0x13D  # TPM_CC (Part 2, 6.5.2)


def test_control_anybody_writes_the_launch_register(shared: SharedTpm, tmp_path: Path) -> None:
    # Given a guest that nobody measured and that has run, and the launch that a verifier expects
    measure(shared, {9: b"\xee" * 32})
    blank = done(shared, tpm.pcr_read([17])).parameters[-32:]
    expected = hashlib.sha256(bytes(32) + hashlib.sha256(GOOD).digest()).digest()

    # When the data of that launch is hashed into it over the control channel
    forge = ["swtpm_ioctl", "--tcp", f"{HOST}:{shared.port + 1}", "-h", GOOD.decode()]
    subprocess.run(forge, check=True, timeout=20)
    forged = quoted(shared, (17,))

    # Then PCR 17 is the expected one, and stock tools accept its quote
    assert blank == b"\xff" * 32
    assert forged.passes_checkquote(tmp_path)
    assert forged.quote.pcr_digest == hashlib.sha256(expected).digest()


@pytest.mark.parametrize("started", [False, True])
def test_a_hypervisor_has_no_drtm_sequence(pair: PairUnderTest, started: bool) -> None:
    # Given a guest before its first Startup, or after
    guest = GuestOf(pair)
    if started:
        done(guest, tpm.startup(StartupType.CLEAR))

    # When its hypervisor sends the sequence
    answers = [
        pair.ask(Command.HASH_START),
        pair.ask_raw(Command.HASH_DATA.to_bytes(4) + len(GOOD).to_bytes(4) + GOOD, 4),
        pair.ask(Command.HASH_END),
    ]
    if not started:
        done(guest, tpm.startup(StartupType.CLEAR))

    # Then each is refused, and the registers are what the builder's log explains
    assert bytes(4) not in answers
    expected = replay(parse_event_log(LAUNCH_LOG))["sha256"]
    for register in (17, 18):
        assert done(guest, tpm.pcr_read([register])).parameters[-32:] == expected[register]


def test_a_guest_neither_extends_nor_resets_it(pair: PairUnderTest) -> None:
    # Given a measured guest, at each locality that it has
    guest = GuestOf(pair)
    done(guest, tpm.startup(StartupType.CLEAR))
    before = done(guest, tpm.pcr_read([17, 18])).parameters

    # When it extends and resets the launch registers
    codes = set()
    for locality in (0, 1):
        pair.ask(Command.SET_LOCALITY, locality, 0, 0, 0)
        for register in (17, 18):
            codes.add(run(guest, tpm.pcr_extend(register, {tpm.SHA256: bytes(32)})).code)
            codes.add(run(guest, tpm.command(PCR_RESET, (register,), b"", [tpm.password()])).code)

    # Then each gets TPM_RC_LOCALITY, and nothing changed
    assert codes == {tpm.Rc.LOCALITY}
    assert done(guest, tpm.pcr_read([17, 18])).parameters == before


def test_a_register_that_no_drtm_wrote_is_refused_by_name() -> None:
    # Given evidence with PCR 17 and 18 as every vTPM has them that nobody measured
    forge = Forge(vtpm_pcrs={17: b"\xff" * 32, 18: b"\xff" * 32})

    # When it is appraised
    verdict = forge.verdict()

    # Then a finding says that no launch was measured
    against = [each.rule for each in verdict.findings if each.tier is Tier.CONTRAINDICATED]
    assert Rule.LAUNCH_MEASURED.title in against
