"""Platform configuration registers: quoted as stated, launched at all, and as they were recorded.

Values travel beside a quote and count only where the quote's digest is over exactly them.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final

from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Finding
from tandem.evidence.attest import Quote
from tandem.evidence.ima_log import IMA_REGISTER
from tandem.evidence.pcr_values import pcr_digest
from tandem.evidence.tpm_types import Algorithm, PcrSelection
from tandem.values import LAUNCH_REGISTERS, SHA256_SIZE

NO_DRTM: Final = b"\xff" * SHA256_SIZE  # what PCR 17-22 hold from Startup on (PC Client PTP, 4.6)


def appraise_quoted(rule: Rule, quote: Quote, values: Mapping[int, bytes]) -> Finding:
    """Judge that the values are those that the quote is over, register for register."""
    registers = tuple(sorted(values))
    if quote.selections != (PcrSelection(hash=Algorithm.SHA256, registers=registers),):
        return rule.broken(f"the quote is not over SHA-256 PCR {_listed(registers)}")
    digest = pcr_digest(values)
    return rule.judged(
        hmac.compare_digest(digest, quote.pcr_digest),
        f"PCR {_listed(registers)} have the quoted digest",
        f"the values have digest {digest.hex()}, quoted is {quote.pcr_digest.hex()}",
    )


def appraise_launch_registers(values: Mapping[int, bytes]) -> Finding:
    """Judge that a D-RTM sequence ran: without one, PCR 17 and 18 are all ones."""
    rule = Rule.LAUNCH_MEASURED
    missing = [index for index in LAUNCH_REGISTERS if index not in values]
    if missing:
        return rule.broken(f"PCR {_listed(missing)} are not in the quote")
    untouched = [index for index in LAUNCH_REGISTERS if values[index] == NO_DRTM]
    if untouched:
        return rule.broken(f"no D-RTM happened: PCR {_listed(untouched)} are FF..FF")
    return rule.holds("PCR 17 and 18 were set by a D-RTM sequence before the guest ran")


def appraise_launch_replay(replayed: Mapping[int, bytes], values: Mapping[int, bytes]) -> Finding:
    """Judge that the launch log explains PCR 17 and 18."""
    wrong = [
        f"PCR {index}: log {_value(replayed, index)}, quoted {_value(values, index)}"
        for index in LAUNCH_REGISTERS
        if replayed.get(index, bytes(SHA256_SIZE)) != values.get(index)
    ]
    return Rule.LAUNCH_LOG_REPLAYS.judged(
        not wrong, "the launch log replays to PCR 17 and 18", "; ".join(wrong)
    )


def appraise_host(values: Mapping[int, bytes], recorded: Mapping[int, bytes]) -> Finding:
    """Judge the host's registers; one that either side lacks differs, and never agrees.

    The register that the kernel extends with every file it measures is explained by its IMA list
    alone, unless a value is recorded for it.
    """
    rule = Rule.HOST_PCRS_RECORDED
    expected = values.keys() - ({IMA_REGISTER} - recorded.keys())
    if not recorded:
        return rule.doubtful("neither policy nor anchor has values of host PCRs")
    wrong = [
        f"PCR {index} is {_value(values, index)}, recorded {_value(recorded, index)}"
        for index in sorted(expected | recorded.keys())
        if values.get(index) != recorded.get(index)
    ]
    return rule.judged(
        not wrong, f"PCR {_listed(sorted(recorded))} have the recorded values", "; ".join(wrong)
    )


def _value(values: Mapping[int, bytes], index: int) -> str:
    return values[index].hex() if index in values else "absent"


def _listed(registers: tuple[int, ...] | list[int]) -> str:
    return ", ".join(map(str, registers)) or "(none)"
