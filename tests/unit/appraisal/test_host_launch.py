"""The launch of a host's own vTPM, beside what the library says of that host."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tandem.appraisal.rules import RULE_OF_TAG
from tandem.appraisal.verdict import Tier
from tandem.evidence.host_plan import RunningHost, host_events
from tandem.evidence.launch import LaunchEvent, Tag, json_event
from tests.unit.appraisal.forge import Forge, blob, finding, library, library_file

BUILD_ID = bytes(range(20))
HOST = RunningHost(
    release="6.1.0-56-amd64",
    build_id=BUILD_ID,
    command_line="root=/dev/sda1 quiet",
    firmware="Vendor 1.2 01/01/2026",
    kernel=blob("vmlinuz"),
    initrd=blob("initrd"),
)
ENTRY: dict[str, object] = {
    "kind": "build-once",
    "role": "host",
    "kernel": library_file("vmlinuz"),
    "initrd": library_file("initrd"),
    "build_id": BUILD_ID.hex(),
    "command_line": "root=/dev/sda1 quiet",
    "firmware_version": "Vendor 1.2 01/01/2026",
}


def events_of(host: RunningHost, *, first_of_boot: bool = True) -> list[LaunchEvent]:
    return list(host_events("0.1.0", bytes(32), host, first_of_boot=first_of_boot))


def forge(events: list[LaunchEvent], **entry: object) -> Forge:
    """Give evidence of a host's own vTPM; `entry` changes the library's entry, None takes away."""
    manifest: dict[str, Any] = library()
    changed = {key: value for key, value in (ENTRY | entry).items() if value is not None}
    manifest["entries"]["host"] = changed
    return Forge(
        library=manifest,
        entry="host",
        guest="host",
        events=events,
        record_changes={"hypervisor": "host", "vtpm": "host"},
        policy_changes={"entry": "host", "guest": "host"},
    )


def test_a_host_that_is_what_its_entry_says_is_trusted() -> None:
    # Given the launch of a host's own vTPM, and an entry with every reference value
    forged = forge(events_of(HOST))
    # When it is appraised
    verdict = forged.verdict()
    # Then nothing is in doubt
    assert [each for each in verdict.findings if each.tier is not Tier.AFFIRMING] == []


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"command_line": "root=/dev/sda1 init=/bin/sh"}, "command-line-matches-manifest"),
        ({"kernel": blob("another")}, "kernel-matches-manifest"),
        ({"kernel": None}, "kernel-matches-manifest"),
        ({"build_id": bytes(20)}, "kernel-matches-manifest"),
        ({"initrd": blob("another")}, "initrd-matches-manifest"),
        ({"initrd": None}, "initrd-matches-manifest"),
        ({"firmware": "Vendor 1.1 01/01/2020"}, "firmware-matches-manifest"),
    ],
)
def test_a_host_that_differs_is_named_for_what_differs(changes: dict[str, Any], rule: str) -> None:
    # Given a host of which one thing is not as its entry says
    forged = forge(events_of(replace(HOST, **changes)))
    # When it is appraised
    verdict = forged.verdict()
    # Then that rule is broken, and no other
    broken = [each.rule for each in verdict.findings if each.tier is Tier.CONTRAINDICATED]
    assert broken == [rule]


@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        ({"kernel": None, "build_id": None}, "kernel-matches-manifest"),
        ({"kernel": None}, "kernel-matches-manifest"),
        ({"build_id": None}, "kernel-matches-manifest"),
        ({"initrd": None}, "initrd-matches-manifest"),
        ({"command_line": None}, "command-line-matches-manifest"),
        ({"firmware_version": None}, "firmware-matches-manifest"),
    ],
)
def test_what_the_entry_does_not_say_is_in_doubt(entry: dict[str, Any], rule: str) -> None:
    # Given an entry without a reference value for something that was measured
    forged = forge(events_of(HOST), **entry)
    # When the host is appraised
    verdict = forged.verdict()
    # Then that is in doubt, and the verdict with it
    doubtful = [each.rule for each in verdict.findings if each.tier is Tier.WARNING]
    assert doubtful == [rule]
    assert verdict.tier is Tier.WARNING


def test_what_neither_host_nor_entry_knows_is_no_demand() -> None:
    # Given a host without an initrd, and an entry that names none
    forged = forge(events_of(replace(HOST, initrd=None)), initrd=None)
    # When it is appraised
    # Then it is trusted
    assert forged.verdict().tier is Tier.AFFIRMING


def test_a_vtpm_started_again_within_a_boot_is_not_trusted() -> None:
    # Given a launch that was not the first of its boot
    forged = forge(events_of(HOST, first_of_boot=False))
    # When it is appraised
    said = finding(forged.verdict(), "configuration-matches-manifest")
    # Then the verdict says what that means
    assert said.tier is Tier.CONTRAINDICATED
    assert "started again under the running host" in said.found


def test_a_guest_that_shows_the_events_of_a_host_is_not_taken_for_one() -> None:
    # Given a pair that a hypervisor runs, with the launch log of a host
    forged = forge(events_of(HOST))
    forged.record_changes["hypervisor"] = "qemu 7.2.22"
    # When it is appraised as the host
    said = finding(forged.verdict(), "hypervisor-is-known")
    # Then the pair record gives it away
    assert said.tier is Tier.CONTRAINDICATED


@pytest.mark.parametrize("tag", Tag)
def test_one_event_too_many_of_a_host_is_never_trusted(tag: Tag) -> None:
    # Given a host that measured one thing more than its entry has, whatever it is of
    forged = forge([*events_of(HOST), json_event(tag, {"sha256": "ab" * 32})])

    # When it is appraised
    verdict = forged.verdict()

    # Then the rule of its kind is broken
    assert RULE_OF_TAG[tag].title in {
        each.rule for each in verdict.findings if each.tier is Tier.CONTRAINDICATED
    }
