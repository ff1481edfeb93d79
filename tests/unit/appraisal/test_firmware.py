"""A UEFI guest's boot against its prediction: what differs is named, whatever it is."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.appraisal.firmware import PHASES, appraise_firmware, appraise_without_firmware
from tandem.appraisal.firmware_log import describe, part_of
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Finding, Tier
from tandem.evidence.event_log import Event, parse_event_log
from tandem.evidence.guid import EFI_GLOBAL_VARIABLE
from tandem.evidence.pcr_values import extend, replay
from tandem.evidence.prediction import REGISTERS, Part, Prediction, of_digests
from tandem.evidence.uefi_boot import variable_data

DATA = Path(__file__).parents[2] / "vectors" / "data" / "uefi"
LOG = (DATA / "systemd-boot-secure.bin").read_bytes()
EVENTS = tuple(event for event in parse_event_log(LOG).events if event.extends)
SHOWN: dict[str, dict[str, str]] = json.loads((DATA / "registers.json").read_bytes())
QUOTED = {int(each): bytes.fromhex(value)
          for each, value in SHOWN["systemd-boot-secure.bin"].items()
          if int(each) in REGISTERS}  # fmt: skip
VAR_CONFIG, IPL, APPLICATION = 0x80000001, 0x0D, 0x80000003
Change = Callable[[Event], Event | None]


def prediction_of(events: tuple[Event, ...], secure_boot: bool = True) -> Prediction:
    """The prediction that a boot was as."""
    return Prediction(
        secure_boot=secure_boot,
        events=tuple(
            of_digests(
                each.register,
                part_of(each),
                describe(each),
                {"sha256": (each.digests["sha256"],), "sha384": (bytes(48),)},
            )
            for each in events
        ),
        unpredicted={},
    )


PREDICTION = prediction_of(EVENTS)


def log_of(events: tuple[Event, ...]) -> bytes:
    """A log with these events, in SHA-256 alone."""
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBIHHB", 0, 0, 2, 0, 2, 1, 0x0B, 32, 0)
    log = struct.pack("<II20xI", 0, 3, len(spec)) + spec
    for each in events:
        log += struct.pack("<IIIH", each.register, each.kind, 1, 0x0B) + each.digests["sha256"]
        log += struct.pack("<I", len(each.data)) + each.data
    return log


def boot(change: Change) -> tuple[dict[int, bytes], bytes]:
    """A boot in which events were others, or left out: its registers and its log."""
    events = tuple(other for each in EVENTS if (other := change(each)) is not None)
    log = log_of(events)
    replayed = replay(parse_event_log(log))["sha256"]
    return {each: replayed.get(each, bytes(32)) for each in REGISTERS}, log


def with_data(event: Event, data: bytes, hashed: bytes | None = None) -> Event:
    digest = hashlib.sha256(data if hashed is None else hashed).digest()
    return replace(event, data=data, digests={"sha256": digest})


def of(findings: tuple[Finding, ...], rule: Rule) -> Finding:
    [found] = [each for each in findings if each.rule == rule.title]
    return found


def broken(findings: tuple[Finding, ...]) -> set[str]:
    return {each.rule for each in findings if each.tier is Tier.CONTRAINDICATED}


def other_loader(event: Event) -> Event:
    first = next(each for each in EVENTS if each.kind == APPLICATION)
    return with_data(event, event.data, b"another loader") if event is first else event


def other_kernel(event: Event) -> Event:
    last = [each for each in EVENTS if each.kind == APPLICATION][-1]
    return with_data(event, event.data, b"another image") if event is last else event


def other_command_line(event: Event) -> Event:
    if event.register == 12:
        return with_data(event, "init=/bin/sh\0".encode("utf-16-le"))
    return event


def other_db(event: Event) -> Event:
    if event.register == 7 and b"d\0b\0" in event.data[32:36] and event.kind == VAR_CONFIG:
        return with_data(event, event.data + b"one more")
    return event


def secure_boot_off(event: Event) -> Event | None:
    if event.register == 7 and event.kind == 0x800000E0:
        return None
    if event.register == 7 and b"S\0e\0c\0" in event.data[32:40]:
        return with_data(event, variable_data(EFI_GLOBAL_VARIABLE, "SecureBoot", b"\0"))
    return event


def other_initrd(event: Event) -> Event:
    name = ".initrd\0".encode("utf-16-le")
    if event.register == 11 and event.data == name:
        return with_data(event, event.data, b"another initrd")
    return event


def test_a_boot_as_predicted_is_affirmed_in_every_part() -> None:
    # Given the registers of a real guest with Secure Boot, and its log
    # When they are appraised against a prediction of just that
    findings = appraise_firmware(PREDICTION, QUOTED, LOG, True)

    # Then every finding affirms, and the state of Secure Boot is said
    assert {each.tier for each in findings} == {Tier.AFFIRMING}
    assert "Secure Boot is on" in of(findings, Rule.SECURE_BOOT).found


def test_no_log_is_needed_where_all_is_as_predicted() -> None:
    # Given registers alone
    # When they are appraised
    findings = appraise_firmware(PREDICTION, QUOTED, None, None)

    # Then every finding affirms
    assert {each.tier for each in findings} == {Tier.AFFIRMING}


@pytest.mark.parametrize(
    ("change", "rules", "words"),
    [
        (other_loader, {Rule.UEFI_LOADER}, "BOOTX64.EFI"),
        (other_kernel, {Rule.UEFI_LOADER}, "tandem.efi"),
        (other_command_line, {Rule.UEFI_COMMAND_LINE}, "init=/bin/sh"),
        (other_db, {Rule.UEFI_KEYS}, "variable db: 943 bytes"),
        (other_initrd, {Rule.UEFI_KERNEL}, ".initrd"),
        (secure_boot_off, {Rule.SECURE_BOOT, Rule.UEFI_SIGNER}, "Secure Boot is off"),
    ],
)
def test_what_was_changed_is_named(change: Change, rules: set[Rule], words: str) -> None:
    # Given a boot in which one thing was another than predicted
    values, log = boot(change)

    # When its registers and its log are appraised
    findings = appraise_firmware(PREDICTION, values, log, True)

    # Then that part is contraindicated, and no other, with words that name it
    assert broken(findings) == {rule.title for rule in rules}
    assert any(words in of(findings, rule).found for rule in rules)


def test_without_a_log_every_part_of_the_register_may_be_what_differs() -> None:
    # Given a boot with another command line, and no log of it
    values, _ = boot(other_command_line)

    # When its registers are appraised
    findings = appraise_firmware(PREDICTION, values, None, None)

    # Then the register is named, and so is all that it is of
    assert broken(findings) == {Rule.UEFI_COMMAND_LINE.title}
    assert "PCR 12 is" in of(findings, Rule.UEFI_COMMAND_LINE).found


@pytest.mark.parametrize("register", REGISTERS)
def test_a_register_that_nothing_explains_is_held_against_a_part(register: int) -> None:
    # Given a guest that extended one register, also one where nothing was to be measured
    values = QUOTED | {register: extend(QUOTED[register], bytes(32), "sha256")}

    # When it is appraised without a log
    findings = appraise_firmware(PREDICTION, values, None, None)

    # Then a part of the boot is contraindicated, and names the register
    assert any(
        each.tier is Tier.CONTRAINDICATED and f"PCR {register} is" in each.found
        for each in findings
    )


def test_what_a_log_calls_secure_boot_is_not_excused() -> None:
    # Given a guest that extended PCR 7 by something else, which its log calls SecureBoot
    first = next(each for each in EVENTS if each.register == 7)
    state = variable_data(EFI_GLOBAL_VARIABLE, "SecureBoot", b"\1")
    log = log_of((*EVENTS, with_data(first, state, b"another key")))
    values = QUOTED | {7: replay(parse_event_log(log))["sha256"][7]}

    # When it is appraised
    findings = appraise_firmware(PREDICTION, values, log, True)

    # Then the state is contraindicated, though the first event of the register says it
    assert broken(findings) == {Rule.SECURE_BOOT.title}
    assert "measured besides" in of(findings, Rule.SECURE_BOOT).found


def test_a_register_that_did_not_start_from_zero_is_not_as_predicted() -> None:
    # Given a guest whose TPM was started at locality 3, with the events that were predicted
    locality = b"StartupLocality\0\3"
    event = replace(EVENTS[0], kind=3, data=locality, digests={"sha256": bytes(32)})
    log = log_of((event, *EVENTS))
    values = QUOTED | {0: replay(parse_event_log(log))["sha256"][0]}

    # When it is appraised
    findings = appraise_firmware(PREDICTION, values, log, None)

    # Then the firmware is contraindicated, though no event differs
    assert Rule.UEFI_FIRMWARE.title in broken(findings)
    assert of(findings, Rule.UEFI_LOG).tier is Tier.AFFIRMING


def test_a_prediction_that_says_nothing_affirms_no_part() -> None:
    # Given a prediction without events, of which no register could be predicted
    prediction = replace(PREDICTION, events=(), unpredicted=dict.fromkeys(REGISTERS, "unknown"))

    # When a boot is appraised by it
    findings = appraise_firmware(prediction, QUOTED, LOG, None)

    # Then every part that has registers of its own is in doubt
    doubtful = {each.rule for each in findings if each.tier is Tier.WARNING}
    parts = {rule.title for rule in Rule if rule.title.endswith("-as-predicted")}
    assert doubtful == parts - {Rule.UEFI_PHASES.title}


def test_a_prediction_whose_events_do_not_say_its_state_proves_none() -> None:
    # Given a prediction that claims Secure Boot, of a boot that was without
    values, log = boot(secure_boot_off)
    events = tuple(other for each in EVENTS if (other := secure_boot_off(each)) is not None)

    # When just that boot is appraised by it
    findings = appraise_firmware(prediction_of(events, secure_boot=True), values, log, True)

    # Then the state is not affirmed
    assert of(findings, Rule.SECURE_BOOT).tier is Tier.WARNING


def test_a_log_of_another_boot_explains_nothing() -> None:
    # Given registers of a boot with another loader, and the log of the boot that was predicted
    values, _ = boot(other_loader)

    # When they are appraised
    findings = appraise_firmware(PREDICTION, values, LOG, None)

    # Then the log is refused, and the register is not excused by it
    assert Rule.UEFI_LOG.title in broken(findings)
    assert Rule.UEFI_LOADER.title in broken(findings)


def test_a_register_that_is_not_quoted_is_in_doubt() -> None:
    # Given a quote without PCR 4
    values = {each: value for each, value in QUOTED.items() if each != 4}

    # When it is appraised
    findings = appraise_firmware(PREDICTION, values, None, None)

    # Then what the register is of is in doubt, and how to ask for it is said
    assert of(findings, Rule.UEFI_LOADER).tier is Tier.WARNING
    assert "PCR 4 are predicted" in of(findings, Rule.UEFI_QUOTED).found
    assert "--pcrs" in of(findings, Rule.UEFI_QUOTED).remedy


def test_secure_boot_that_the_policy_forbids_is_broken_though_predicted() -> None:
    # Given a guest with Secure Boot, as its entry has it
    # When the policy demands it off
    findings = appraise_firmware(PREDICTION, QUOTED, LOG, False)

    # Then that alone is broken
    assert broken(findings) == {Rule.SECURE_BOOT.title}


def test_a_state_that_comes_later_in_the_log_does_not_count() -> None:
    # Given a boot with Secure Boot off, whose kernel extends PCR 7 by what would say it is on
    on = variable_data(EFI_GLOBAL_VARIABLE, "SecureBoot", b"\1")
    events = tuple(other for each in EVENTS if (other := secure_boot_off(each)) is not None)
    first = next(each for each in events if each.register == 7)
    log = log_of((*events, with_data(first, on)))
    values = {each: bytes(32) for each in REGISTERS} | replay(parse_event_log(log))["sha256"]

    # When it is appraised
    findings = appraise_firmware(PREDICTION, values, log, True)

    # Then Secure Boot is off
    assert "Secure Boot is off" in of(findings, Rule.SECURE_BOOT).found


@pytest.mark.parametrize("count", range(len(PHASES) + 1))
def test_phases_of_a_systemd_guest_do_not_change_the_verdict(count: int) -> None:
    # Given a guest whose systemd extended PCR 11 as it came up
    value = QUOTED[11]
    for phase in PHASES[:count]:
        value = extend(value, hashlib.sha256(phase.encode()).digest(), "sha256")

    # When it is appraised
    findings = appraise_firmware(PREDICTION, QUOTED | {11: value}, LOG, None)

    # Then every finding affirms
    assert {each.tier for each in findings} == {Tier.AFFIRMING}


def test_what_could_not_be_predicted_is_in_doubt_with_the_reason() -> None:
    # Given a prediction that stops at an unknown boot loader
    reasons = dict.fromkeys((4, 5, 7, 8, 9, 11, 12, 13, 14), "an unknown boot loader")
    prediction = replace(PREDICTION, unpredicted=reasons)

    # When a boot is appraised by it
    findings = appraise_firmware(prediction, QUOTED, LOG, None)

    # Then the loader is in doubt for that reason, and the firmware is affirmed
    assert of(findings, Rule.UEFI_LOADER).tier is Tier.WARNING
    assert "an unknown boot loader" in of(findings, Rule.UEFI_LOADER).found
    assert of(findings, Rule.UEFI_BOOT_OPTIONS).tier is Tier.AFFIRMING
    assert "Secure Boot is on" in of(findings, Rule.SECURE_BOOT).found


def test_an_entry_without_a_prediction_leaves_everything_in_doubt() -> None:
    # Given an entry that was signed without one
    # When a boot is appraised
    findings = appraise_firmware(None, QUOTED, LOG, None)

    # Then nothing is affirmed
    assert {each.tier for each in findings} == {Tier.WARNING}


def test_secure_boot_cannot_be_demanded_of_a_guest_without_uefi() -> None:
    # Given an entry that boots directly
    # When the policy demands Secure Boot, and when it does not
    # Then it is broken, and nothing is said
    assert broken(appraise_without_firmware(True)) == {Rule.SECURE_BOOT.title}
    assert appraise_without_firmware(None) == ()


def test_every_part_of_a_boot_has_a_rule() -> None:
    # Given all parts
    # When a boot as predicted is appraised
    rules = {each.rule for each in appraise_firmware(PREDICTION, QUOTED, LOG, None)}

    # Then there is a finding for each, and one on Secure Boot's state
    assert len(rules) == len(Part) + 2
