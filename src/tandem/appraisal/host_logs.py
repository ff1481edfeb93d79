"""The host's own logs: what explains its quoted PCRs, where the verifier is given them.

The firmware's event log is fixed since boot, and the pair record names it.  The kernel's IMA list
grows, so a quote is explained by its beginning.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Finding
from tandem.errors import UntrustedInput
from tandem.evidence.event_log import Event, EventLog, parse_event_log
from tandem.evidence.ima_log import IMA_REGISTER, ImaEntry, parse_ima_log, replay_ima
from tandem.evidence.launch import EV_EVENT_TAG
from tandem.evidence.pair_record import PairRecord
from tandem.evidence.pcr_values import replay
from tandem.values import SHA256_SIZE

BANK: Final = "sha256"
SHOWN: Final = 8  # events or files named in one finding
# Events whose digest is of their own data (PC Client Platform Firmware Profile 1.06, table 27);
# others name what is not in the log: code, or a boot loader's command.
SELF_DESCRIBING: Final = {
    0x00000004: "EV_SEPARATOR",
    0x00000005: "EV_ACTION",
    EV_EVENT_TAG: "EV_EVENT_TAG",
    0x00000008: "EV_S_CRTM_VERSION",
    0x00000011: "EV_OMIT_BOOT_DEVICE_EVENTS",
    0x80000001: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    0x80000006: "EV_EFI_GPT_EVENT",
    0x80000007: "EV_EFI_ACTION",
}
LINUX_STUB_TAGS: Final = (0x8F3B22EC, 0x8F3B22ED)  # initrd and load options, hashed as content


def appraise_host_log(
    log: bytes, record: PairRecord, values: Mapping[int, bytes]
) -> tuple[Finding, ...]:
    """Judge the host's event log by the pair record and by the quoted registers."""
    recorded = _recorded(log, record)
    try:
        parsed = parse_event_log(log)
        replayed = replay(parsed).get(BANK)
    except UntrustedInput as error:
        return (recorded, Rule.HOST_LOG_REPLAYS.unreadable(error))
    if replayed is None:
        return (recorded, Rule.HOST_LOG_REPLAYS.broken("the log has no SHA-256 digests"))
    return (recorded, _replays(replayed, values), _describes(parsed))


def appraise_ima_list(
    data: bytes, values: Mapping[int, bytes], allowed: tuple[str, ...]
) -> tuple[Finding, ...]:
    """Judge the IMA list by the quoted register, and what it says up to there."""
    rule = Rule.IMA_REPLAYS
    try:
        entries = parse_ima_log(data)
    except UntrustedInput as error:
        return (rule.unreadable(error),)
    quoted = values.get(IMA_REGISTER)
    if quoted is None:
        return (
            rule.broken(f"the host does not quote PCR {IMA_REGISTER}: the list proves nothing"),
        )
    if not any(quoted):  # as where IMA is off, or began before the kernel had found the TPM
        return (
            rule.broken(
                f"the kernel extended nothing into PCR {IMA_REGISTER}: the list proves nothing"
            ),
        )
    found = replay_ima(entries, quoted)
    if found is None:
        return (
            rule.broken(
                f"no part of the list's {len(entries)} entries leads to the quoted PCR "
                f"{IMA_REGISTER}, {quoted.hex()}"
            ),
        )
    way = ", as SHA-1 digests" if found.padded else ""
    later = len(entries) - found.entries
    replays = rule.holds(
        f"{found.entries} entries lead to the quoted PCR {IMA_REGISTER}{way}; {later} are newer"
    )
    return (replays, _clean(entries[: found.entries], allowed))


def _recorded(log: bytes, record: PairRecord) -> Finding:
    digest = hashlib.sha256(log).digest()
    return Rule.HOST_LOG_RECORDED.judged(
        hmac.compare_digest(digest, record.host_log_digest),
        f"the host's log has the digest in the pair record, {digest.hex()}",
        f"the host's log has digest {digest.hex()}, the pair record has "
        f"{record.host_log_digest.hex()}",
    )


def _replays(replayed: Mapping[int, bytes], values: Mapping[int, bytes]) -> Finding:
    """Compare register for register; one that was extended by nothing in the log is unexplained."""
    rule = Rule.HOST_LOG_REPLAYS
    judged = {index: value for index, value in values.items() if index != IMA_REGISTER}
    wrong = [index for index in judged if index in replayed and replayed[index] != judged[index]]
    if wrong:
        return rule.broken(
            "; ".join(
                f"PCR {index}: log {replayed[index].hex()}, quoted {judged[index].hex()}"
                for index in sorted(wrong)
            )
        )
    untouched = (bytes(SHA256_SIZE), b"\xff" * SHA256_SIZE)
    others = [index for index in judged if index not in replayed and judged[index] not in untouched]
    if others:
        return rule.doubtful(f"the log has no event of PCR {_listed(others)}, which was extended")
    same = sorted(judged.keys() & replayed.keys())
    if not same:
        return rule.doubtful("the log extends none of the quoted PCRs")
    return rule.holds(f"the host's log replays to PCR {_listed(same)}")


def _describes(log: EventLog) -> Finding:
    """Judge that events which carry what they measured carry that and nothing else."""
    rule = Rule.HOST_LOG_DESCRIBES
    events = [event for event in log.events if event.extends and _is_self_describing(event)]
    wrong = [event for event in events if not _is_of_its_data(event)]
    if wrong:
        named = "; ".join(
            f"{SELF_DESCRIBING[event.kind]} in PCR {event.register} at offset {event.offset}"
            for event in wrong[:SHOWN]
        )
        return rule.broken(f"{len(wrong)} events say other than what was measured: {named}")
    return rule.holds(f"all {len(events)} events that carry what was measured carry just that")


def _is_self_describing(event: Event) -> bool:
    if event.kind == EV_EVENT_TAG:
        return int.from_bytes(event.data[:4], "little") not in LINUX_STUB_TAGS
    return event.kind in SELF_DESCRIBING


def _is_of_its_data(event: Event) -> bool:
    return event.digests.get(BANK) == hashlib.sha256(event.data).digest()


def _clean(entries: tuple[ImaEntry, ...], allowed: tuple[str, ...]) -> Finding:
    """Judge that the kernel measured all that it let happen.

    A violation extends all ones, so that it happened is proven, and its path is not.
    """
    rule = Rule.IMA_CLEAN
    paths = sorted({entry.path for entry in entries if entry.violates})
    others = [path for path in paths if path not in allowed]
    named = ", ".join(f"{path[:200]!a}" for path in (others or paths)[:SHOWN])
    if others:
        return rule.broken(
            f"{len(others)} files were changed while they were used, so what ran was not measured: "
            f"{named}"
        )
    if paths:
        return rule.holds(f"violations of {named}, by the list's word; the policy allows these")
    return rule.holds(f"no violation in {len(entries)} entries")


def _listed(registers: list[int]) -> str:
    return ", ".join(map(str, sorted(registers)))
