"""24: a bank of registers that no firmware extends is extended by the guest as it likes.

Attacker: the guest's root (CVE-2021-42299, "TPM Carte Blanche").
Control: swtpm with its default banks; firmware measures into SHA-1 alone, the attacker extends a
good boot's digests into SHA-256, and stock tools accept the quote over that bank.
Shows: a vTPM has two banks, and each launch is measured into both before the guest's first command,
where the guest cannot extend (TPM_RC_LOCALITY); a bank that lacks it breaks launch-log-replays, and
launch-was-measured where no D-RTM even began (FF...FF).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from peers.shared_swtpm import SharedTpm
from tandem.appraisal.rules import Rule
from tandem.values import LAUNCH_REGISTERS
from tandem.wire import tpm_commands as tpm
from tests.attacks.quoting_tpm import GOOD_BOOT, measure, quoted
from tests.attacks.tpm import done
from tests.attacks.verdicts import against
from tests.integration.vtpm.guest import Guest
from tests.integration.vtpm.pair_harness import PairUnderTest
from tests.unit.appraisal.forge import Forge

EVIL = hashlib.sha1(b"an evil kernel", usedforsecurity=False).digest()
SIZES = {tpm.SHA256: 32, tpm.SHA384: 48}


def test_control_the_other_bank_says_what_it_is_told(shared: SharedTpm, tmp_path: Path) -> None:
    # Given firmware that measured an evil boot, into SHA-1 alone
    for register in GOOD_BOOT:
        done(shared, tpm.pcr_extend(register, {tpm.SHA1: EVIL}))

    # When the guest extends the digests of a good one into SHA-256
    measure(shared)
    forged = quoted(shared, tuple(GOOD_BOOT))

    # Then that is what is quoted
    values = [hashlib.sha256(bytes(32) + GOOD_BOOT[each]).digest() for each in sorted(GOOD_BOOT)]
    assert forged.passes_checkquote(tmp_path)
    assert forged.quote.pcr_digest == hashlib.sha256(b"".join(values)).digest()


def test_each_bank_of_a_vtpm_has_the_launch(pair: PairUnderTest) -> None:
    # Given a guest that has just started its TPM
    guest = Guest(pair)
    guest.start()

    # When it looks for banks without the launch, and extends what there is
    unused = [guest.run(tpm.pcr_read([17], bank)).parameters for bank in (tpm.SHA1, tpm.SHA512)]
    values = {bank: guest.run(tpm.pcr_read([17], bank)).parameters[-size:]
              for bank, size in SIZES.items()}  # fmt: skip
    codes = [
        guest.code(tpm.pcr_extend(register, {bank: bytes(size)}))
        for register in LAUNCH_REGISTERS
        for bank, size in SIZES.items()
    ]

    # Then others have no register, both have the launch, and neither is the guest's to extend
    assert all(parameters[-4:] == bytes(4) for parameters in unused)
    assert all(values[bank] not in (bytes(size), b"\xff" * size) for bank, size in SIZES.items())
    assert codes == [tpm.Rc.LOCALITY] * 4


@pytest.mark.parametrize(
    ("value", "rules"),
    [
        (bytes(32), [Rule.LAUNCH_LOG_REPLAYS]),
        (b"\xff" * 32, [Rule.LAUNCH_MEASURED, Rule.LAUNCH_LOG_REPLAYS]),
    ],
    ids=["zeros", "ones"],
)
def test_a_bank_without_the_launch_is_named(value: bytes, rules: list[Rule]) -> None:
    # Given evidence of a bank whose launch registers nobody extended
    forge = Forge(vtpm_pcrs=dict.fromkeys(LAUNCH_REGISTERS, value))

    # When it is appraised
    found = against(forge.verdict())

    # Then the launch was not measured there
    assert found == [rule.title for rule in rules]
