"""PCR values of one bank: computed from an event log, and digested as a quote digests them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

from tandem.errors import UntrustedInput
from tandem.evidence.event_log import EventLog
from tandem.evidence.strict_json import Place
from tandem.values import SHA256_SIZE

REGISTERS: Final = range(24)  # PC Client Platform TPM Profile, section 4.6
RESETTABLE: Final = (16, 23)  # by anybody, at locality 0 (PC Client PTP, section 4.6)
RELIABLE: Final = tuple(each for each in REGISTERS if each not in RESETTABLE)


def extend(value: bytes, digest: bytes, bank: str) -> bytes:
    """Give the register's new value: hash of old value and digest (TPM 2.0 Part 1, 17.3)."""
    return hashlib.new(bank, value + digest).digest()


def replay(log: EventLog) -> dict[str, dict[int, bytes]]:
    """Give what each register that the log extends must hold, by bank.

    Registers start from zero: PCR 17 and 18 too, because a D-RTM sequence sets them to it.  PCR 0
    starts from the locality of the platform's Startup.
    """
    values: dict[str, dict[int, bytes]] = {bank: {} for bank in log.banks}
    locality = log.startup_locality  # looked for once
    for event in log.events:
        if not event.extends:
            continue
        if event.register not in REGISTERS:
            raise UntrustedInput(
                "TDM-EVENT-LOG-REGISTER",
                f"event log: an event extends PCR {event.register}, which no TPM has",
                hint="read the log again from its source; do not edit it",
                offset=event.offset,
            )
        for bank, digest in event.digests.items():
            start = _start(bank, event.register, locality)
            old = values[bank].get(event.register, start)
            values[bank][event.register] = extend(old, digest, bank)
    return values


def pcr_digest(values: Mapping[int, bytes]) -> bytes:
    """Give the digest that a SHA-256 quote holds over these registers (Part 2, 10.12.4)."""
    return hashlib.sha256(b"".join(values[index] for index in sorted(values))).digest()


def read_pcrs(place: Place, registers: Iterable[int] = REGISTERS) -> dict[int, bytes]:
    """Read values of the SHA-256 bank, by index, from a document that may name these registers."""
    known = {str(index) for index in registers}
    return {
        int(index): value.hexadecimal(SHA256_SIZE)
        for index, value in place.fields((), known).items()
    }


def _start(bank: str, register: int, startup_locality: int) -> bytes:
    size = hashlib.new(bank).digest_size
    return (startup_locality if register == 0 else 0).to_bytes(size)
