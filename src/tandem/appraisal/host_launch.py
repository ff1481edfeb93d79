"""The launch of a host's own vTPM, against the library's entry for that host.

The builder measures a host that runs already, so these events say what that host shows of itself;
that it can be believed is what the pTPM's registers are for, and rules of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tandem.appraisal.launch_events import (
    compare_events,
    event_fields,
    judge_builder,
    show_events,
)
from tandem.appraisal.policy import PolicyText
from tandem.appraisal.rules import RULE_OF_TAG, Rule
from tandem.appraisal.verdict import Finding, Tier
from tandem.evidence.host_plan import HOST, firmware_event, host_configuration_event
from tandem.evidence.launch import LaunchEvent, Tag, blob_event, command_line_event
from tandem.evidence.manifest import OnceEntry
from tandem.evidence.pair_record import PairRecord

# What is not measured of a host.
NOT_PART: Final = (Tag.POLICY, Tag.MANIFEST, Tag.TABLES, Tag.DISK, Tag.VARIABLES)


def appraise_host_events(
    found: Mapping[Tag, Sequence[LaunchEvent]],
    entry: OnceEntry,
    policy: PolicyText,
    record: PairRecord,
) -> tuple[Finding, ...]:
    """Judge every event, one finding for each kind; what the entry leaves open is in doubt."""
    return (
        judge_builder(found[Tag.BUILDER], policy, record),
        _driver(found[Tag.HYPERVISOR], record),
        _device(found[Tag.CONFIGURATION]),
        Rule.NO_DEBUGGER.holds("there is no machine that could have one: the host is the guest"),
        _kernel(found[Tag.KERNEL], entry),
        *(_against(tag, found[tag], wanted) for tag, wanted in _wanted(entry).items()),
        *(compare_events(tag, found[tag], []) for tag in NOT_PART),
    )


def _wanted(entry: OnceEntry) -> dict[Tag, LaunchEvent | None]:
    """Give the events that the entry has reference values for; None where it has none."""
    initrd, line, firmware = entry.initrd, entry.command_line, entry.firmware_version
    return {
        Tag.INITRD: None if initrd is None else blob_event(Tag.INITRD, initrd.blob),
        Tag.COMMAND_LINE: None if line is None else command_line_event(line),
        Tag.FIRMWARE: None if firmware is None else firmware_event(firmware),
    }


def _driver(found: Sequence[LaunchEvent], record: PairRecord) -> Finding:
    """Judge that this is a host's own vTPM: no hypervisor stands between."""
    return Rule.HYPERVISOR.judged(
        record.hypervisor == HOST and not found,
        "none: the vTPM is the host's own",
        f"the pair record has {record.hypervisor[:64]!a}, measured is {show_events(found)}; "
        "expected the host's own vTPM, without a hypervisor",
    )


def _device(found: Sequence[LaunchEvent]) -> Finding:
    rule = Rule.CONFIGURATION
    if list(found) == [host_configuration_event(first_of_boot=True)]:
        return rule.holds("the kernel's vTPM proxy, the first one since the host booted")
    if list(found) == [host_configuration_event(first_of_boot=False)]:
        return rule.broken(
            "the vTPM was started again under the running host: what its PCR 0 to 16 say of the "
            "time since the boot proves nothing"
        )
    return rule.broken(f"measured {show_events(found)}; expected the kernel's vTPM proxy")


def _kernel(found: Sequence[LaunchEvent], entry: OnceEntry) -> Finding:
    """Judge the kernel that runs, by its build id, and the file that it should come from."""
    rule = Rule.KERNEL
    if not found or event_fields(found[0]).keys() != {"build_id", "release"}:
        return rule.broken(f"measured {show_events(found)}; expected the running kernel first")
    running = event_fields(found[0])
    file = compare_events(
        Tag.KERNEL, found[1:], [blob_event(Tag.KERNEL, entry.kernel.blob)] if entry.kernel else []
    )
    what = f"{running['release']!a}, build id {running['build_id']!a}"[:200]
    if entry.build_id is not None and running["build_id"] != entry.build_id.hex():
        return rule.broken(f"{what} runs; expected build id {entry.build_id.hex()}")
    if entry.kernel is None and found[1:]:
        return rule.doubtful(f"{what} runs; no reference value for {show_events(found[1:])}")
    explained = f"{what} runs; its file: {file.found}"
    if file.tier is not Tier.AFFIRMING:
        return rule.broken(explained)
    if entry.build_id is None:
        return rule.doubtful(f"no reference value for the running kernel; {explained}")
    return rule.holds(explained)


def _against(tag: Tag, found: Sequence[LaunchEvent], wanted: LaunchEvent | None) -> Finding:
    """Compare with what the entry says; one that says nothing of what was measured leaves doubt."""
    if wanted is None and found:
        return RULE_OF_TAG[tag].doubtful(f"no reference value; measured {show_events(found)}")
    return compare_events(tag, found, [wanted] if wanted is not None else [])
