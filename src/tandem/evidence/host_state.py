"""A host's state: what chosen registers hold in each bank, and the policy that demands just that.

JSON, `tandem-host-state-1`, values in lower-case hexadecimal.  Nothing in it is secret.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tandem.errors import Refused
from tandem.evidence.pcr_values import REGISTERS
from tandem.evidence.strict_json import Place, parse_json
from tandem.evidence.tpm_types import Algorithm

FORMAT: Final = "tandem-host-state-1"
MAX_STATE: Final = 64 * 1024
MAX_GENERATION: Final = (1 << 63) - 1
BANKS: Final[Mapping[str, Algorithm]] = {"sha256": Algorithm.SHA256, "sha384": Algorithm.SHA384}
TPM_CC_POLICY_PCR: Final = 0x0000017F  # TPM 2.0 Part 2, 6.5.2
EMPTY_POLICY: Final = bytes(32)
_SELECT_SIZE: Final = 3  # bytes of the bitmap of 24 registers


@dataclass(frozen=True, kw_only=True)
class HostState:
    """Register values by bank (hashlib's name), the same registers in each."""

    banks: Mapping[str, Mapping[int, bytes]]

    @property
    def registers(self) -> tuple[int, ...]:
        """The registers that the state speaks of."""
        return tuple(sorted(next(iter(self.banks.values()))))

    def differing(self, other: HostState) -> tuple[int, ...]:
        """Give the registers whose values are not the same in both, in any bank."""
        mine, others = set(self._values()), set(other._values())
        return tuple(sorted({register for _, register, _ in mine ^ others}))

    def _values(self) -> list[tuple[str, int, bytes]]:
        return [
            (bank, register, value)
            for bank, values in self.banks.items()
            for register, value in values.items()
        ]


@dataclass(frozen=True, kw_only=True)
class StateDocument:
    """A state as it travels to whoever approves it: of which subject, under which generation."""

    subject: str
    generation: int
    state: HostState


def refuse_blank(state: HostState) -> None:
    """Refuse a state with a register that nothing was measured into, in any bank."""
    blank = {
        register: value for _, register, value in sorted(state._values()) if len(set(value)) == 1
    }
    if blank:
        names, shown = ", ".join(map(str, sorted(blank))), blank[min(blank)][:1].hex()
        raise Refused(
            "TDM-SEAL-UNMEASURED-PCR",
            f"PCR {names} holds {shown} only: nothing was measured into it, and sealing to it "
            "protects nothing",
            hint="choose registers that the host's boot extends, with --pcrs",
        )


def pcr_policy(state: HostState) -> bytes:
    """Give the policy digest after one TPM2_PolicyPCR over the whole state (Part 3, 23.7)."""
    values = hashlib.sha256(
        b"".join(state.banks[bank][index] for bank in _ordered(state) for index in state.registers)
    )
    command = TPM_CC_POLICY_PCR.to_bytes(4)
    return hashlib.sha256(EMPTY_POLICY + command + selection(state) + values.digest()).digest()


def selection(state: HostState) -> bytes:
    """Give the TPML_PCR_SELECTION of the state (Part 2, 10.9.7), banks in the order of `BANKS`."""
    bitmap = sum(1 << index for index in state.registers).to_bytes(_SELECT_SIZE, "little")
    banks = [struct.pack(">HB", BANKS[bank], _SELECT_SIZE) + bitmap for bank in _ordered(state)]
    return len(banks).to_bytes(4) + b"".join(banks)


def write_state(document: StateDocument) -> bytes:
    """Write a state for whoever is to approve it."""
    fields = {
        "format": FORMAT,
        "subject": document.subject,
        "generation": document.generation,
        "state": state_fields(document.state),
    }
    return json.dumps(fields, indent=1, sort_keys=True).encode("ascii") + b"\n"


def parse_state(data: bytes) -> StateDocument:
    """Read a state, or refuse it and name the place that is wrong."""
    root = parse_json(data, "host state", "TDM-HOST-STATE-BAD", MAX_STATE)
    fields = root.fields(("format", "subject", "generation", "state"))
    fields["format"].one_of(FORMAT)
    return StateDocument(
        subject=read_subject(fields["subject"]),
        generation=fields["generation"].integer(1, MAX_GENERATION),
        state=read_state(fields["state"]),
    )


def state_fields(state: HostState) -> dict[str, dict[str, str]]:
    """Give a state as a JSON value."""
    return {
        bank: {str(index): values[index].hex() for index in sorted(values)}
        for bank, values in state.banks.items()
    }


def read_state(place: Place) -> HostState:
    """Read a state: SHA-256 always, and the same registers in every bank."""
    banks = {
        name: _read_bank(bank, hashlib.new(name).digest_size)
        for name, bank in place.fields(("sha256",), tuple(BANKS)).items()
    }
    registers = banks["sha256"].keys()
    if not registers or any(values.keys() != registers for values in banks.values()):
        place.refuse("no register, or not the same registers in each bank")
    return HostState(banks=banks)


def read_subject(place: Place) -> str:
    """Read whose secrets a state opens: `host`, or `group/` and its name."""
    kind, slash, name = place.text(128).partition("/")
    if slash and kind == "group":
        place.replaced(name).name()
    elif place.value != "host":
        place.refuse("neither `host` nor `group/NAME`")
    return str(place.value)


def _read_bank(place: Place, size: int) -> dict[int, bytes]:
    known = {str(index) for index in REGISTERS}
    return {int(name): value.hexadecimal(size) for name, value in place.fields((), known).items()}


def _ordered(state: HostState) -> list[str]:
    return [bank for bank in BANKS if bank in state.banks]
