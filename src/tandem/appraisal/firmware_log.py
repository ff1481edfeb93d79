"""A guest's firmware log beside the prediction: which part of the boot differs, in words.

Only a register that the log replays to is compared.  What an event was of is the log's word; that
something else was measured than predicted is proven by its digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final

from tandem.evidence.boot_options import FILE_PATH, path_nodes
from tandem.evidence.event_log import Event
from tandem.evidence.guid import EFI_GLOBAL_VARIABLE
from tandem.evidence.prediction import Part, PredictedEvent, Prediction
from tandem.evidence.uefi_boot import variable_data

BANK: Final = "sha256"
EV_EFI_ACTION: Final = 0x80000007
EV_EFI_GPT: Final = 0x80000006
EV_EFI_AUTHORITY: Final = 0x800000E0
VARIABLES: Final = (0x80000001, 0x80000002, 0x8000000C, EV_EFI_AUTHORITY)
EV_IPL: Final = 0x0000000D
EV_SEPARATOR: Final = 0x00000004
EV_EVENT_TAG: Final = 0x00000006
INITRD_TAG: Final = b"\xec\x22\x3b\x8f"  # Linux's 0x8F3B22EC
APPLICATION: Final = 0x80000003
SHOWN: Final = 160
MAX_EVENTS: Final = 1024  # of one register, that are compared one by one
PART_OF_REGISTER: Final = {
    0: Part.FIRMWARE,
    1: Part.BOOT_OPTIONS,
    2: Part.FIRMWARE,
    3: Part.FIRMWARE,
    4: Part.LOADER,
    5: Part.PARTITIONS,
    6: Part.FIRMWARE,
    7: Part.KEYS,
    8: Part.COMMAND_LINE,
    9: Part.COMMAND_LINE,
    11: Part.KERNEL,
    12: Part.COMMAND_LINE,
    13: Part.INITRD,
    14: Part.KEYS,
}
SIGNERS_REGISTER: Final = 7


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Where a boot was another than predicted; `found` or `wanted` is empty where there is none."""

    register: int
    part: Part
    wanted: str
    found: str

    def __str__(self) -> str:
        if not self.found:
            return f"PCR {self.register}: not measured: {self.wanted}"
        if not self.wanted:
            return f"PCR {self.register}: measured besides: {self.found}"
        return f"PCR {self.register}: predicted {self.wanted}; measured {self.found}"


def differences(
    register: int, wanted: Sequence[PredictedEvent], found: Sequence[Event]
) -> tuple[Difference, ...]:
    """Compare the events of one register, in their order; equal neighbours pair what changed."""
    if len(found) > MAX_EVENTS:
        part = PART_OF_REGISTER[register]
        return (_besides(register, part, f"{len(found)} events, more than {MAX_EVENTS}"),)
    digests = [event.digests.get(BANK, b"") for event in found]
    measured = set(digests)
    keys = [
        next((each for each in event.digests[BANK] if each in measured), event.digests[BANK][0])
        for event in wanted
    ]
    result: list[Difference] = []
    matcher = SequenceMatcher(a=keys, b=digests, autojunk=False)
    for operation, start, end, first, last in matcher.get_opcodes():
        if operation == "equal":
            continue
        others = list(found[first:last])
        for event in wanted[start:end]:
            other = _counterpart(event, others)
            what = describe(other) if other is not None else ""
            result.append(
                Difference(register=register, part=event.part, wanted=event.what, found=what)
            )
        result += [_besides(register, part_of(each), describe(each)) for each in others]
    return tuple(result)


def part_of(event: Event) -> Part:
    """Give the part of the boot that an event is of."""
    if event.kind in (EV_EFI_ACTION, EV_SEPARATOR):
        return Part.PHASE
    if event.kind == EV_EFI_AUTHORITY:
        return Part.SIGNER
    if event.register == 7 and _variable(event)[0] == "SecureBoot":
        return Part.SECURE_BOOT
    if event.kind == EV_EVENT_TAG and event.data.startswith(INITRD_TAG):
        return Part.INITRD
    return PART_OF_REGISTER.get(event.register, Part.FIRMWARE)


def describe(event: Event) -> str:
    """Say what an event is of, in printable ASCII."""
    digest = event.digests.get(BANK, b"").hex()[:16]
    if event.kind in VARIABLES:
        name, data = _variable(event)
        what = f"variable {name}: {len(data)} bytes"
        if name == "SecureBoot" and len(data) == 1:
            what = f"variable {name}: {'on' if data[0] else 'off'}"
    elif event.kind == EV_IPL:
        what = _text(event.data)
    elif event.kind == EV_EVENT_TAG:
        what = _text(event.data[8:])
    elif event.kind == EV_EFI_ACTION:
        what = _text(event.data)
    elif event.kind == APPLICATION:
        what = f"an application at {_path(event.data)}"
    else:
        what = f"an event of kind {event.kind:#x}"
    return f"{ascii(what)[1:-1][:SHOWN]}, digest {digest}..."


def states_secure_boot(events: Sequence[Event]) -> bool | None:
    """Give the Secure Boot state that register 7 proves: its first event is of nothing else."""
    first = events[0].digests.get(BANK) if events else None
    return {digest_of(state): state for state in (True, False)}.get(first or b"")


def tells_secure_boot(prediction: Prediction) -> bool | None:
    """Give the state that a prediction claims, if the first event of its register 7 is of it."""
    first = next(iter(prediction.of(7)), None)
    on = digest_of(True)
    if prediction.secure_boot:
        return True if first is not None and first.digests[BANK] == (on,) else None
    return False if first is None or on not in first.digests[BANK] else None


def digest_of(state: bool) -> bytes:
    """Give the digest of the event that says whether Secure Boot is on."""
    data = variable_data(EFI_GLOBAL_VARIABLE, "SecureBoot", bytes([state]))
    return hashlib.sha256(data).digest()


def _besides(register: int, part: Part, found: str) -> Difference:
    return Difference(register=register, part=part, wanted="", found=found)


def _counterpart(event: PredictedEvent, others: list[Event]) -> Event | None:
    """Take the event that stands in the place of a predicted one: of the same part, if any is."""
    same = [each for each in others if part_of(each) is event.part]
    near = same or [each for each in others if part_of(each) is not Part.PHASE]
    if not near or event.part is Part.PHASE:
        return None
    others.remove(near[0])
    return near[0]


def _variable(event: Event) -> tuple[str, bytes]:
    """Read UEFI_VARIABLE_DATA as far as it goes."""
    count = int.from_bytes(event.data[16:24], "little")
    name = event.data[32 : 32 + 2 * min(count, 256)]
    return name.decode("utf-16-le", "replace"), event.data[32 + 2 * count :]


def _text(data: bytes) -> str:
    """Read UTF-16 or ASCII, whichever it looks like."""
    wide = len(data) >= 2 and data[1] == 0
    return data.decode("utf-16-le" if wide else "utf-8", "replace").rstrip("\0")


def _path(data: bytes) -> str:
    """Read the file in the device path of UEFI_IMAGE_LOAD_EVENT."""
    files = [node for kind, node in path_nodes(data[32:]) if kind == FILE_PATH]
    names = [each.decode("utf-16-le", "replace").rstrip("\0") for each in files]
    return "".join(names) or "no file"
