"""The launch against the library: each measured input beside what the manifest's entry has.

Only a log that the pair record names and that replays to the quoted registers is worth comparing;
those two are findings of their own, so a comparison here says what a log claims.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeGuard

from tandem.appraisal.host_launch import appraise_host_events
from tandem.appraisal.launch_events import (
    CONTENT_TAGS,
    SHOWN,
    compare_events,
    event_fields,
    judge_builder,
    judge_debugger,
    show_events,
    show_value,
)
from tandem.appraisal.pcrs import appraise_launch_replay
from tandem.appraisal.policy import Policy, PolicyText
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Finding
from tandem.errors import Refused, UntrustedInput
from tandem.evidence.envelope import open_envelope
from tandem.evidence.event_log import parse_event_log, parse_launch_log
from tandem.evidence.guest_entry import GuestEntry, UefiBoot
from tandem.evidence.host_plan import HOST
from tandem.evidence.launch import Blob, LaunchEvent, Tag
from tandem.evidence.launch_plan import (
    configuration_event,
    content_events,
    hypervisor_event,
    policy_event,
)
from tandem.evidence.manifest import PAYLOAD_TYPE, Manifest, OnceEntry, parse_manifest
from tandem.evidence.manifest_file import ManifestFile
from tandem.evidence.pair_record import PairRecord
from tandem.evidence.pcr_values import replay

SHA256: Final = re.compile("[0-9a-f]{64}")
SHA384: Final = re.compile("[0-9a-f]{96}")


def appraise_manifest(policy: Policy) -> tuple[Manifest | None, tuple[Finding, ...]]:
    """Open the library that the policy names."""
    rule = Rule.MANIFEST_SIGNED
    try:
        opened = open_envelope(
            policy.manifest, PAYLOAD_TYPE, policy.manifest_keys, policy.text.threshold
        )
        manifest = parse_manifest(opened.payload)
    except (UntrustedInput, Refused) as error:
        return None, (rule.unreadable(error),)
    signers = ", ".join(each[:16] for each in opened.key_ids)
    if not can_be_launched(manifest.entries.get(policy.text.entry)):
        reason = f"the manifest has no entry {policy.text.entry} of a guest or the host"
        return None, (rule.broken(reason),)
    return manifest, (rule.holds(f"version {manifest.version}, signed by {signers}"),)


def can_be_launched(entry: GuestEntry | OnceEntry | None) -> TypeGuard[GuestEntry | OnceEntry]:
    """Whether a launch can be of this entry: a guest's, or that of the host's own vTPM."""
    return isinstance(entry, GuestEntry) or (entry is not None and entry.role == HOST)


def appraise_recorded_manifest(manifest: Manifest, record: PairRecord) -> Finding:
    """Judge that the pair was built from this very manifest, before its time was over."""
    expires, started = manifest.expires, record.started_at
    if expires is not None and started >= expires.timestamp():
        return Rule.MANIFEST_RECORDED.broken(
            f"the pair was started at {started} (Unix time), and version {manifest.version} of "
            f"library {manifest.name} expired at {int(expires.timestamp())}"
        )
    found = f"version {record.manifest_version}, digest {record.manifest_digest.hex()}"
    wanted = f"version {manifest.version}, digest {manifest.digest.hex()}"
    return Rule.MANIFEST_RECORDED.judged(
        (record.manifest_version, record.manifest_digest) == (manifest.version, manifest.digest),
        f"the pair was built from {found}",
        f"the pair was built from {found}; the policy names {wanted}",
    )


def read_launch(
    log: bytes, registers: Mapping[int, bytes]
) -> tuple[tuple[LaunchEvent, ...] | None, Finding]:
    """Read the launch log and judge that it explains the quoted registers."""
    try:
        events = parse_launch_log(log)
        values = replay(parse_event_log(log))["sha256"]
    except UntrustedInput as error:
        return None, Rule.LAUNCH_LOG_REPLAYS.unreadable(error)
    return events, appraise_launch_replay(values, registers)


def appraise_events(
    events: Sequence[LaunchEvent], manifest: Manifest, policy: PolicyText, record: PairRecord
) -> tuple[Finding, ...]:
    """Judge every event of a launch against the manifest's entry, one finding for each kind."""
    entry = manifest.entries[policy.entry]
    found = {tag: [event for event in events if event.tag is tag] for tag in Tag}
    if isinstance(entry, OnceEntry):
        return appraise_host_events(found, entry, policy, record)
    expected = content_events(entry, _kept_variables(entry, found[Tag.VARIABLES]))
    configurations = [configuration_event(entry, each) for each in policy.accelerators]
    return (
        judge_builder(found[Tag.BUILDER], policy, record),
        _hypervisor(found[Tag.HYPERVISOR], manifest, policy),
        compare_events(Tag.POLICY, found[Tag.POLICY], [policy_event()]),
        _configuration(found[Tag.CONFIGURATION], configurations),
        judge_debugger(found[Tag.CONFIGURATION], policy),
        _library(found[Tag.MANIFEST], manifest),
        *(
            compare_events(tag, found[tag], [event for event in expected if event.tag is tag])
            for tag in CONTENT_TAGS
        ),
    )


def _configuration(found: Sequence[LaunchEvent], allowed: Sequence[LaunchEvent]) -> Finding:
    rule = Rule.CONFIGURATION
    if len(found) == 1 and found[0] in allowed:
        accelerator = event_fields(found[0]).get("accelerator")
        return rule.holds(f"the machine of the manifest's entry, accelerator {accelerator!a}")
    measured = event_fields(found[0]) if len(found) == 1 else {}
    wanted = event_fields(allowed[0]) if allowed else {}
    if allowed and measured.get("accelerator") in [
        event_fields(e).get("accelerator") for e in allowed
    ]:
        wanted["accelerator"] = measured["accelerator"]
    differences = [
        f"{key[:40]!a} is {show_value(measured.get(key))}, expected {show_value(wanted.get(key))}"
        for key in sorted(measured.keys() | wanted.keys())
        if measured.get(key) != wanted.get(key)
    ]
    return rule.broken("; ".join(differences)[:SHOWN] or f"{len(found)} configurations measured")


def _kept_variables(entry: GuestEntry, found: Sequence[LaunchEvent]) -> Blob | None:
    """Take a guest's own store of variables as measured: what it does shows in PCR 1 and 7."""
    if not isinstance(entry.boot, UefiBoot) or not entry.boot.keep_variables or len(found) != 1:
        return None
    fields = event_fields(found[0])
    size, sha256, sha384 = fields.get("size"), str(fields.get("sha256")), str(fields.get("sha384"))
    if type(size) is not int or not (SHA256.fullmatch(sha256) and SHA384.fullmatch(sha384)):
        return None
    return Blob(size=size, sha256=bytes.fromhex(sha256), sha384=bytes.fromhex(sha384))


def _library(found: Sequence[LaunchEvent], manifest: Manifest) -> Finding:
    """Compare the measured library; the record's claim of it is a finding of its own."""
    fields = event_fields(found[0]) if len(found) == 1 else {}
    wanted = {"sha256": manifest.digest.hex(), "version": manifest.version}
    measured = {key: fields.get(key) for key in wanted}
    return Rule.LIBRARY.judged(
        measured == wanted and type(fields.get("version")) is int,
        f"measured: version {manifest.version}, digest {manifest.digest.hex()}",
        f"measured {show_events(found)}; the policy's manifest is {show_value(wanted)}",
    )


def _hypervisor(found: Sequence[LaunchEvent], manifest: Manifest, policy: PolicyText) -> Finding:
    rule = Rule.HYPERVISOR
    fields = event_fields(found[0]) if len(found) == 1 else {}
    digest = str(fields.get("sha256"))
    named = {each.hex() for each in policy.hypervisors}
    listed = [each for each in _host_files(manifest) if each.sha256.hex() == digest]
    if digest in named or any(_is_blob(found[0], fields, each.blob) for each in listed):
        return rule.holds(f"{fields.get('name')!a} {fields.get('version')!a}, SHA-256 {digest}")
    if not named and not _host_files(manifest):
        return rule.doubtful(f"no reference value; measured {show_events(found)}")
    return rule.broken(f"measured {show_events(found)}, which neither policy nor manifest names")


def _is_blob(event: LaunchEvent, fields: Mapping[str, Any], blob: Blob) -> bool:
    name, version = str(fields.get("name")), str(fields.get("version"))
    return event == hypervisor_event(name, version, blob)


def _host_files(manifest: Manifest) -> list[ManifestFile]:
    """Give the files of the host that the library names."""
    return [
        file
        for entry in manifest.entries.values()
        if isinstance(entry, OnceEntry) and entry.role == "host"
        for file in entry.others
    ]
