"""41: registers that anybody may reset, 16 and 23, are relied upon.

Attacker: the guest's root, or a user of the host's TPM.
Control: swtpm; PCR 23 is reset at locality 0 and a good digest extended: the quote is as before
(PC Client Platform TPM Profile, 4.6).
Shows: a launch is in PCR 17 and 18, which no guest resets (TPM_RC_LOCALITY); a policy that names
PCR 16 or 23 of the host is refused (TDM-POLICY-BAD).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from peers.shared_swtpm import SharedTpm
from tandem.appraisal.policy import parse_policy, write_policy
from tandem.errors import UntrustedInput
from tandem.values import LAUNCH_REGISTERS
from tandem.wire import tpm_commands as tpm
from tests.attacks.quoting_tpm import measure, quoted
from tests.attacks.tpm import done
from tests.integration.vtpm.guest import Guest
from tests.integration.vtpm.pair_harness import PairUnderTest
from tests.unit.appraisal.forge import Forge

PCR_RESET = 0x13D  # TPM_CC (Part 2, 6.5.2)
DEBUG, APPLICATION = 16, 23


def reset(register: int) -> bytes:
    """TPM2_PCR_Reset (Part 3, 22.8)."""
    return tpm.command(PCR_RESET, (register,), b"", [tpm.password()])


def test_control_an_evil_boot_is_good_again(shared: SharedTpm, tmp_path: Path) -> None:
    # Given a policy that knows a good value of PCR 23, where something evil was measured since
    measure(shared, {APPLICATION: bytes(32)})
    good = quoted(shared, (APPLICATION,)).quote.pcr_digest
    measure(shared, {APPLICATION: b"\xee" * 32})
    assert quoted(shared, (APPLICATION,)).quote.pcr_digest != good

    # When the guest resets it, and extends the good digest
    done(shared, reset(APPLICATION))
    measure(shared, {APPLICATION: bytes(32)})
    forged = quoted(shared, (APPLICATION,))

    # Then it is as the policy wants it
    assert forged.passes_checkquote(tmp_path)
    assert forged.quote.pcr_digest == good


def test_the_launch_is_where_nobody_resets_it(pair: PairUnderTest) -> None:
    # Given a guest, whose PCR 16 and 23 are its own to reset
    guest = Guest(pair)
    guest.start()
    assert [guest.code(reset(each)) for each in (DEBUG, APPLICATION)] == [0, 0]
    before = [guest.register(each) for each in LAUNCH_REGISTERS]

    # When it resets the launch's
    codes = [guest.code(reset(each)) for each in LAUNCH_REGISTERS]

    # Then it may not, and they stand
    assert codes == [tpm.Rc.LOCALITY] * 2
    assert [guest.register(each) for each in LAUNCH_REGISTERS] == before


@pytest.mark.parametrize("register", [DEBUG, APPLICATION])
def test_a_policy_cannot_rely_on_them(register: int) -> None:
    # Given a policy that names such a register of the host
    forge = Forge(policy_changes={"host_pcrs": {0: bytes(32), register: bytes(32)}})
    written = write_policy(forge.policy_text())

    # When it is read
    with pytest.raises(UntrustedInput) as raised:
        parse_policy(written)

    # Then it is refused, and the register named
    assert str(register) in raised.value.problem
