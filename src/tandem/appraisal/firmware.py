"""A UEFI guest's boot against its prediction: firmware, Secure Boot, boot loader, kernel.

The quoted registers decide.  Where one is not as predicted and the guest's firmware log explains
it, the log says which part of the boot differs; without a log, every part of that register may.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tandem.appraisal.firmware_log import (
    BANK,
    PART_OF_REGISTER,
    SIGNERS_REGISTER,
    Difference,
    differences,
    states_secure_boot,
    tells_secure_boot,
)
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Finding
from tandem.errors import UntrustedInput
from tandem.evidence.event_log import Event, parse_event_log
from tandem.evidence.pcr_values import extend, replay
from tandem.evidence.prediction import REGISTERS, Part, Prediction
from tandem.values import SHA256_SIZE

PHASES_REGISTER: Final = 11
PHASES: Final = (  # what systemd-pcrphase (252) extends, in this order, as the system comes up
    *("enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final"),
)
IN_INITRD: Final = 2  # of these; an initrd may be without them
RULE_OF_PART: Final = {
    Part.FIRMWARE: Rule.UEFI_FIRMWARE,
    Part.KEYS: Rule.UEFI_KEYS,
    Part.SIGNER: Rule.UEFI_SIGNER,
    Part.BOOT_OPTIONS: Rule.UEFI_BOOT_OPTIONS,
    Part.PARTITIONS: Rule.UEFI_PARTITIONS,
    Part.LOADER: Rule.UEFI_LOADER,
    Part.KERNEL: Rule.UEFI_KERNEL,
    Part.COMMAND_LINE: Rule.UEFI_COMMAND_LINE,
    Part.INITRD: Rule.UEFI_INITRD,
    Part.PHASE: Rule.UEFI_PHASES,
}
SHOWN: Final = 3  # differences in one finding
Registers = Mapping[int, bytes]


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """What was found of the registers; `odd` are those that nothing explains."""

    agreeing: frozenset[int]
    odd: frozenset[int]
    differing: tuple[Difference, ...]


def appraise_firmware(
    prediction: Prediction | None, values: Registers, log: bytes | None, demanded: bool | None
) -> tuple[Finding, ...]:
    """Judge the quoted registers of a UEFI guest; `demanded` is a Secure Boot state."""
    if prediction is None:
        rules = (Rule.UEFI_QUOTED, Rule.SECURE_BOOT, *RULE_OF_PART.values())
        return tuple(rule.doubtful("the library's entry has no prediction") for rule in rules)
    events, findings = _read_log(log, values)
    judged = _judge(prediction, values, events)
    return (
        _quoted(prediction, values),
        *findings,
        _secure_boot(prediction, judged, events, demanded),
        *(_part(part, prediction, judged, values) for part in RULE_OF_PART),
    )


def appraise_without_firmware(demanded: bool | None) -> tuple[Finding, ...]:
    """Judge a guest that boots without UEFI: it has no Secure Boot."""
    if not demanded:
        return ()
    return (Rule.SECURE_BOOT.broken("the entry boots without UEFI, and so without Secure Boot"),)


def _quoted(prediction: Prediction, values: Registers) -> Finding:
    missing = [
        each for each in REGISTERS if each not in values and each not in prediction.unpredicted
    ]
    if missing:
        listed = ", ".join(map(str, missing))
        return Rule.UEFI_QUOTED.doubtful(f"PCR {listed} are predicted and not in the quote")
    return Rule.UEFI_QUOTED.holds("all predicted registers are in the quote")


def _read_log(
    log: bytes | None, values: Registers
) -> tuple[Mapping[int, Sequence[Event]], tuple[Finding, ...]]:
    """Read the guest's log; gives the events of the registers that it explains."""
    rule = Rule.UEFI_LOG
    if log is None:
        return {}, ()
    try:
        parsed = parse_event_log(log)
        replayed = replay(parsed).get(BANK)
    except UntrustedInput as error:
        return {}, (rule.unreadable(error),)
    if replayed is None:
        return {}, (rule.broken("the guest's firmware log has no SHA-256 digests"),)
    found: dict[int, list[Event]] = {each: [] for each in REGISTERS}
    for event in parsed.events:
        if event.extends and event.register in found:
            found[event.register].append(event)
    zero = bytes(SHA256_SIZE)
    explained = {
        register: events
        for register, events in found.items()
        if values.get(register, b"") in _after_phases(register, replayed.get(register, zero))
    }
    wrong = [str(each) for each in REGISTERS if each in values and each not in explained]
    return explained, (
        rule.judged(
            not wrong,
            "the guest's firmware log replays to its quoted registers",
            f"the guest's firmware log does not replay to PCR {', '.join(wrong)}",
        ),
    )


def _judge(
    prediction: Prediction, values: Registers, events: Mapping[int, Sequence[Event]]
) -> _Judged:
    agreeing, odd = set(), set()
    differing: list[Difference] = []
    for register in REGISTERS:
        if register in prediction.unpredicted or register not in values:
            continue
        if values[register] in _allowed(prediction, register):
            agreeing.add(register)
            continue
        found = (
            differences(register, prediction.of(register), events[register])
            if register in events
            else ()
        )
        differing += found
        if not found:  # no log, or one like predicted: a PCR 0 that started from a locality
            odd.add(register)
    return _Judged(agreeing=frozenset(agreeing), odd=frozenset(odd), differing=tuple(differing))


def _allowed(prediction: Prediction, register: int) -> set[bytes]:
    values = prediction.values(register)
    return {each for value in values for each in _after_phases(register, value)}


def _after_phases(register: int, value: bytes) -> Iterator[bytes]:
    """Give a register's value, and what it becomes while systemd brings the system up."""
    yield value
    if register != PHASES_REGISTER:
        return
    for first in (0, IN_INITRD):
        current = value
        for phase in PHASES[first:]:
            current = extend(current, hashlib.sha256(phase.encode("ascii")).digest(), BANK)
            yield current


def _secure_boot(
    prediction: Prediction,
    judged: _Judged,
    events: Mapping[int, Sequence[Event]],
    demanded: bool | None,
) -> Finding:
    """Judge the state: proven by register 7 as predicted, or by the log that explains it."""
    rule = Rule.SECURE_BOOT
    state = (
        tells_secure_boot(prediction)
        if 7 in judged.agreeing
        else states_secure_boot(events.get(7, ()))
    )
    others = [each for each in judged.differing if each.part is Part.SECURE_BOOT]
    if state is None:
        return rule.doubtful("nothing quoted proves whether Secure Boot is on")
    word = "on" if state else "off"
    if demanded is not None and state != demanded:
        return rule.broken(f"Secure Boot is {word}; demanded is the other state")
    if state != prediction.secure_boot:
        return rule.broken(f"Secure Boot is {word}, which is not predicted for the library's entry")
    if others:
        return rule.broken("; ".join(map(str, others[:SHOWN])))
    by = "as demanded" if demanded is not None else "as predicted for the library's entry"
    return rule.holds(f"Secure Boot is {word}, {by}")


def _part(part: Part, prediction: Prediction, judged: _Judged, values: Registers) -> Finding:
    """Judge one part of the boot, over all registers that hold something of it."""
    rule = RULE_OF_PART[part]
    registers = _registers(part, prediction)
    differing = [each for each in judged.differing if each.part is part]
    if differing:
        more = f"; {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        return rule.broken("; ".join(map(str, differing[:SHOWN])) + more)
    odd = [each for each in registers if each in judged.odd]
    if odd:
        return rule.broken("; ".join(_unexplained(each, prediction, values) for each in odd))
    unknown = [each for each in registers if each in prediction.unpredicted]
    if unknown:
        return rule.doubtful(
            f"PCR {_listed(unknown)} could not be predicted: {prediction.unpredicted[unknown[0]]}"
        )
    missing = [each for each in registers if each not in values]
    if missing:
        return rule.doubtful(f"PCR {_listed(missing)} is not in the quote")
    if not registers:
        return rule.holds("nothing of it is predicted, and nothing was measured")
    return rule.holds(f"as predicted in PCR {_listed(registers)}")


def _registers(part: Part, prediction: Prediction) -> list[int]:
    """Give the registers that hold something of a part, or would: each register has such a part."""
    predicted = {event.register for event in prediction.events if event.part is part}
    would = {register for register, each in PART_OF_REGISTER.items() if each is part}
    return sorted(predicted | would | ({SIGNERS_REGISTER} if part is Part.SIGNER else set()))


def _unexplained(register: int, prediction: Prediction, values: Registers) -> str:
    parts = ", ".join(dict.fromkeys(event.part.value for event in prediction.of(register)))
    wanted = prediction.values(register)[0].hex()
    return (
        f"PCR {register} is {values[register].hex()}, predicted {wanted}; without a log that "
        f"explains it, any of these may differ: {parts or 'nothing was to be measured there'}"
    )


def _listed(registers: Iterable[int]) -> str:
    return ", ".join(map(str, registers))
