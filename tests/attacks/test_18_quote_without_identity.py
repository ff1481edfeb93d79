"""18: two guests of a tenant have equal registers, and show each other's deep quote.

Attacker: root of one guest, who has another guest's answer for the same nonce.
Control: two swtpm with equal registers, and a third as the host's, which quotes for nonce and
registers alone, as Xen's vtpmmgr does with flags 0 (mgmt_authority.c, vtpm_do_quote): either
guest's deep quote passes for the other's.
Shows: the record (guest, vTPM, launch) is in what both TPMs sign; exchanged, it breaks
vtpm-quote-is-for-this-request and deep-quote-holds-record-and-vtpm-quote.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from peers.shared_swtpm import shared_swtpm
from tandem.appraisal.rules import Rule
from tandem.evidence.deep_quote import leaf_hash, qualifying_data, quote_digest
from tandem.evidence.pair_record import record_digest
from tests.attacks.quoting_tpm import GOOD_BOOT, NONCE, measure, quoted
from tests.attacks.verdicts import against
from tests.unit.appraisal.forge import Forge


def test_control_one_guests_deep_quote_passes_for_the_others(tmp_path: Path) -> None:
    # Given two guests of one image, and their host's TPM
    registers = []
    for name in ("one", "two", "host"):
        (tmp_path / name).mkdir()
    for name in ("one", "two"):
        with shared_swtpm(tmp_path / name) as tpm:
            measure(tpm)
            registers.append(quoted(tpm, tuple(GOOD_BOOT)).quote.pcr_digest)

    # When the host quotes for the first one's registers, and the second shows that for its own
    with shared_swtpm(tmp_path / "host") as host:
        shown = quoted(host, (0,), over_registers(registers[0]))

    # Then it is signed, and what a verifier of the second expects
    assert shown.holds
    assert shown.quote.qualifying_data == over_registers(registers[1])


def over_registers(registers: bytes) -> bytes:
    """Give what vtpmmgr has the host's TPM sign: a nonce and registers, and no identity."""
    return hashlib.sha256(b"DQUT" + NONCE + registers).digest()


def test_what_both_tpms_sign_differs_between_equal_guests() -> None:
    # Given two guests that differ in their names alone, down to their vTPM's key
    one, two = Forge(), Forge(guest="web-02")
    records = [record_digest(each.record().encode()) for each in (one, two)]

    # When their answers for one nonce are made with one salt
    authorizations = one.authorizations
    asked = [qualifying_data(NONCE, b"", each, authorizations) for each in records]
    leaves = [leaf_hash(bytes(32), each, quote_digest(b"", b"")) for each in records]

    # Then neither TPM signs the same for both
    assert asked[0] != asked[1]
    assert leaves[0] != leaves[1]


def test_an_answer_with_another_guests_record_is_refused() -> None:
    # Given the answer of web-02, an equal guest
    forge = Forge(guest="web-02")
    own = Forge(vtpm_ak=forge.vtpm_ak).record().encode()

    # When it is shown with web-01's record, which names the same AK and the same launch log
    forge.answer_changes = {"record": own}
    verdict = forge.verdict()

    # Then both quotes say that it is not theirs
    assert {Rule.VTPM_QUOTE_QUALIFIED.title, Rule.LEAF_QUOTED.title} <= set(against(verdict))
