"""Launch events beside what they should be: one finding for each kind, both sides shown.

Events are what a log claims, so whatever bytes they hold is printable here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from tandem.appraisal.policy import PolicyText
from tandem.appraisal.rules import RULE_OF_TAG, Rule
from tandem.appraisal.verdict import Finding
from tandem.evidence.launch import LaunchEvent, Tag
from tandem.evidence.pair_record import PairRecord
from tandem.evidence.strict_json import is_plain

CONTENT_TAGS: Final = (
    *(Tag.FIRMWARE, Tag.KERNEL, Tag.COMMAND_LINE, Tag.INITRD, Tag.TABLES),
    *(Tag.DISK, Tag.VARIABLES),
)
SHOWN: Final = 600  # characters of an event in a finding
NOTHING: Final = "nothing"


def compare_events(
    tag: Tag, found: Sequence[LaunchEvent], wanted: Sequence[LaunchEvent]
) -> Finding:
    """Compare all events of one kind, in their order, and show both where they differ."""
    measured, expected = show_events(found), show_events(wanted)
    if measured == expected:
        measured, expected = _raw(found), _raw(wanted)
    return RULE_OF_TAG[tag].judged(
        list(found) == list(wanted),
        f"measured as expected: {show_events(wanted)}",
        f"measured {measured}; expected {expected}",
    )


def judge_builder(found: Sequence[LaunchEvent], policy: PolicyText, record: PairRecord) -> Finding:
    """Compare with the policy's builders: what a builder says of itself alone proves nothing."""
    rule = Rule.BUILDER
    fields = event_fields(found[0]) if len(found) == 1 else {}
    digest = fields.get("sha256")
    what = f"{fields.get('name')!a} {fields.get('version')!a}, {digest!a}"[:SHOWN]
    if not isinstance(digest, str) or record.builder != fields.get("version"):
        return rule.broken(f"measured {what}; the pair record has {record.builder[:64]!a}")
    if not policy.builders:
        return rule.doubtful(f"no reference value; measured {what}")
    if digest not in {each.hex() for each in policy.builders}:
        return rule.broken(f"measured {what}, which the policy does not name")
    return rule.holds(f"{what}, as in the pair record")


def judge_debugger(found: Sequence[LaunchEvent], policy: PolicyText) -> Finding:
    """Judge that the machine has no debugger, whatever the library says of it."""
    configured = event_fields(found[0]).get("debugger") if len(found) == 1 else None
    if configured is True and policy.debugger:
        return Rule.NO_DEBUGGER.holds("root on the host may debug the guest; the policy allows it")
    return Rule.NO_DEBUGGER.judged(
        configured is False,
        "the machine has no debugger",
        f"the machine's debugger is {show_value(configured)}: root on the host may read and "
        "change the guest",
    )


def event_fields(event: LaunchEvent) -> dict[str, Any]:
    """Read an event's JSON; anything else has no fields."""
    try:
        value = json.loads(event.data.decode("ascii")) if is_plain(event.data) else None
    except (UnicodeDecodeError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def show_events(events: Iterable[LaunchEvent]) -> str:
    """Show events in printable ASCII, whatever bytes they hold."""
    return " and ".join(_shown_event(event) for event in events)[:SHOWN] or NOTHING


def _shown_event(event: LaunchEvent) -> str:
    fields = event_fields(event)
    if fields.keys() == {"command_line"}:
        return ascii(fields["command_line"])
    if event.tag in CONTENT_TAGS and fields.keys() == {"sha256", "sha384", "size"}:
        return f"SHA-256 {fields['sha256']!a} of {fields['size']!a} bytes"
    return _raw([event])


def _raw(events: Iterable[LaunchEvent]) -> str:
    shown = (event.data[:SHOWN].decode("ascii", "backslashreplace") for event in events)
    return " and ".join(ascii(each)[1:-1] for each in shown)[:SHOWN] or NOTHING


def show_value(value: object) -> str:
    """Show a JSON value."""
    return json.dumps(value, sort_keys=True)[:200]
