"""The launch against the library: each measured input beside what the manifest's entry has.

Only a log that the pair record names and that replays to the quoted registers is worth comparing;
those two are findings of their own, so a comparison here says what a log claims.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tandem.appraisal.pcrs import appraise_launch_replay
from tandem.appraisal.policy import Policy, PolicyText
from tandem.appraisal.rules import RULE_OF_TAG, Rule
from tandem.appraisal.verdict import Finding
from tandem.errors import Refused, UntrustedInput
from tandem.evidence.envelope import open_envelope
from tandem.evidence.event_log import parse_event_log, parse_launch_log
from tandem.evidence.launch import Blob, LaunchEvent, Tag
from tandem.evidence.launch_plan import (
    configuration_event,
    content_events,
    hypervisor_event,
    policy_event,
)
from tandem.evidence.manifest import (
    PAYLOAD_TYPE,
    GuestEntry,
    Manifest,
    ManifestFile,
    OnceEntry,
    parse_manifest,
)
from tandem.evidence.pair_record import PairRecord
from tandem.evidence.pcr_values import replay
from tandem.evidence.strict_json import is_plain

CONTENT_TAGS: Final = (Tag.FIRMWARE, Tag.KERNEL, Tag.COMMAND_LINE, Tag.INITRD, Tag.TABLES)
SHOWN: Final = 600  # characters of an event in a finding
NOTHING: Final = "nothing"


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
    if not isinstance(manifest.entries.get(policy.text.entry), GuestEntry):
        return None, (rule.broken(f"the manifest has no guest entry {policy.text.entry}"),)
    return manifest, (rule.holds(f"version {manifest.version}, signed by {signers}"),)


def appraise_recorded_manifest(manifest: Manifest, record: PairRecord) -> Finding:
    """Judge that the pair was built from this very manifest."""
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
    if not isinstance(entry, GuestEntry):  # appraise_manifest lets none such through
        return ()
    found = {tag: [event for event in events if event.tag is tag] for tag in Tag}
    expected = content_events(entry)
    configurations = [configuration_event(entry, each) for each in policy.accelerators]
    return (
        _builder(found[Tag.BUILDER], policy, record),
        _hypervisor(found[Tag.HYPERVISOR], manifest, policy),
        _same(Tag.POLICY, found[Tag.POLICY], [policy_event()]),
        _configuration(found[Tag.CONFIGURATION], configurations),
        _library(found[Tag.MANIFEST], manifest),
        *(
            _same(tag, found[tag], [event for event in expected if event.tag is tag])
            for tag in CONTENT_TAGS
        ),
        _nothing_else(found),
    )


def _same(tag: Tag, found: Sequence[LaunchEvent], wanted: Sequence[LaunchEvent]) -> Finding:
    """Compare all events of one kind, in their order, and show both where they differ."""
    measured, expected = _shown(found), _shown(wanted)
    if measured == expected:
        measured, expected = _raw(found), _raw(wanted)
    return RULE_OF_TAG[tag].judged(
        list(found) == list(wanted),
        f"measured as expected: {_shown(wanted)}",
        f"measured {measured}; expected {expected}",
    )


def _configuration(found: Sequence[LaunchEvent], allowed: Sequence[LaunchEvent]) -> Finding:
    rule = Rule.CONFIGURATION
    if len(found) == 1 and found[0] in allowed:
        accelerator = _fields(found[0]).get("accelerator")
        return rule.holds(f"the machine of the manifest's entry, accelerator {accelerator!a}")
    measured = _fields(found[0]) if len(found) == 1 else {}
    wanted = _fields(allowed[0]) if allowed else {}
    if allowed and measured.get("accelerator") in [_fields(e).get("accelerator") for e in allowed]:
        wanted["accelerator"] = measured["accelerator"]
    differences = [
        f"{key[:40]} is {_value(measured.get(key))}, expected {_value(wanted.get(key))}"
        for key in sorted(measured.keys() | wanted.keys())
        if measured.get(key) != wanted.get(key)
    ]
    return rule.broken("; ".join(differences)[:SHOWN] or f"{len(found)} configurations measured")


def _library(found: Sequence[LaunchEvent], manifest: Manifest) -> Finding:
    """Compare the measured library; the record's claim of it is a finding of its own."""
    fields = _fields(found[0]) if len(found) == 1 else {}
    wanted = {"sha256": manifest.digest.hex(), "version": manifest.version}
    measured = {key: fields.get(key) for key in wanted}
    return Rule.LIBRARY.judged(
        measured == wanted and type(fields.get("version")) is int,
        f"measured: version {manifest.version}, digest {manifest.digest.hex()}",
        f"measured {_shown(found)}; the policy's manifest is {_value(wanted)}",
    )


def _builder(found: Sequence[LaunchEvent], policy: PolicyText, record: PairRecord) -> Finding:
    """Compare with the policy's builders: what a builder says of itself alone proves nothing."""
    rule = Rule.BUILDER
    fields = _fields(found[0]) if len(found) == 1 else {}
    digest = fields.get("sha256")
    what = f"{fields.get('name')!a} {fields.get('version')!a}, {digest!a}"[:SHOWN]
    if not isinstance(digest, str) or record.builder != fields.get("version"):
        return rule.broken(f"measured {what}; the pair record has {record.builder[:64]!a}")
    if not policy.builders:
        return rule.doubtful(f"no reference value; measured {what}")
    if digest not in {each.hex() for each in policy.builders}:
        return rule.broken(f"measured {what}, which the policy does not name")
    return rule.holds(f"{what}, as in the pair record")


def _hypervisor(found: Sequence[LaunchEvent], manifest: Manifest, policy: PolicyText) -> Finding:
    rule = Rule.HYPERVISOR
    fields = _fields(found[0]) if len(found) == 1 else {}
    digest = str(fields.get("sha256"))
    named = {each.hex() for each in policy.hypervisors}
    listed = [each for each in _host_files(manifest) if each.sha256.hex() == digest]
    if digest in named or any(_is_blob(found[0], fields, each.blob) for each in listed):
        return rule.holds(f"{fields.get('name')!a} {fields.get('version')!a}, SHA-256 {digest}")
    if not named and not _host_files(manifest):
        return rule.doubtful(f"no reference value; measured {_shown(found)}")
    return rule.broken(f"measured {_shown(found)}, which neither policy nor manifest names")


def _is_blob(event: LaunchEvent, fields: Mapping[str, Any], blob: Blob) -> bool:
    name, version = str(fields.get("name")), str(fields.get("version"))
    return event == hypervisor_event(name, version, blob)


def _host_files(manifest: Manifest) -> list[ManifestFile]:
    """Give the files of the host that the library names."""
    return [
        file
        for entry in manifest.entries.values()
        if isinstance(entry, OnceEntry) and entry.role == "host"
        for file in entry.files
    ]


def _nothing_else(found: Mapping[Tag, Sequence[LaunchEvent]]) -> Finding:
    others = [event for tag in found if tag not in RULE_OF_TAG for event in found[tag]]
    return Rule.NOTHING_ELSE.judged(
        not others,
        "every measured input is one that the manifest's entry has",
        f"measured besides: {_shown(others)}",
    )


def _fields(event: LaunchEvent) -> dict[str, Any]:
    """Read an event's JSON; anything else has no fields."""
    try:
        value = json.loads(event.data.decode("ascii")) if is_plain(event.data) else None
    except (UnicodeDecodeError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _shown(events: Iterable[LaunchEvent]) -> str:
    """Show events in printable ASCII, whatever bytes they hold."""
    return " and ".join(_shown_event(event) for event in events)[:SHOWN] or NOTHING


def _shown_event(event: LaunchEvent) -> str:
    fields = _fields(event)
    if fields.keys() == {"command_line"}:
        return ascii(fields["command_line"])
    if event.tag in CONTENT_TAGS and fields.keys() == {"sha256", "sha384", "size"}:
        return f"SHA-256 {fields['sha256']!a} of {fields['size']!a} bytes"
    return _raw([event])


def _raw(events: Iterable[LaunchEvent]) -> str:
    shown = (event.data[:SHOWN].decode("ascii", "backslashreplace") for event in events)
    return " and ".join(ascii(each)[1:-1] for each in shown)[:SHOWN] or NOTHING


def _value(value: object) -> str:
    return json.dumps(value, sort_keys=True)[:200]
