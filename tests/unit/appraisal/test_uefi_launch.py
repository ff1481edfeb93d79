"""The launch of a UEFI guest against the library: its variables and its disks."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Tier
from tandem.evidence.guest_entry import GuestEntry
from tandem.evidence.launch import LaunchEvent, Tag, blob_event, json_event
from tandem.evidence.launch_plan import (
    builder_event,
    configuration_event,
    content_events,
    hypervisor_event,
    manifest_event,
    policy_event,
)
from tandem.evidence.prediction import REGISTERS, Prediction
from tests.unit.appraisal.forge import Forge, blob, finding, guest_entry, library, library_file

WRITTEN = blob_event(Tag.VARIABLES, blob("what the guest made of it"))
GARBLED = json_event(Tag.VARIABLES, {"size": 1, "sha256": "ab" * 31, "sha384": "cd" * 48})
MORE = json_event(Tag.VARIABLES, {"size": 1, "sha256": "ab" * 32, "sha384": "cd" * 48, "x": 1})


def uefi_library(*, keep_variables: bool, **changes: object) -> dict[str, object]:
    boot = {
        "method": "uefi",
        "firmware": library_file("OVMF_CODE_4M.fd"),
        "variables": library_file("OVMF_VARS_4M.fd"),
        "keep_variables": keep_variables,
        "secure_boot": False,
        "roms": [library_file("kvmvapic.bin")],
        **changes,
    }
    disks = [
        {"id": "system", "kind": "image", "file": library_file("system.img")},
        {"id": "scratch", "kind": "data", "path": "scratch.img"},
    ]
    entries: Any = library()["entries"]
    return library(entries={**entries, "web": guest_entry(boot=boot, disks=disks)})


def appraised(
    *variables: LaunchEvent, keep_variables: bool, disks: tuple[LaunchEvent, ...] | None = None
) -> dict[str, Tier]:
    """Appraise a launch with these events of variables, and of disks; tiers by the rule's title."""
    manifest = Forge(library=uefi_library(keep_variables=keep_variables)).manifest
    entry = manifest.entries["web"]
    assert isinstance(entry, GuestEntry)
    measured = content_events(entry)
    kept = [each for each in measured if each.tag not in (Tag.VARIABLES, Tag.DISK)]
    found = disks if disks is not None else tuple(e for e in measured if e.tag is Tag.DISK)
    events = [
        builder_event("0.1.0", bytes(32)),
        hypervisor_event("qemu", "7.2.22", blob("qemu-system-x86_64")),
        configuration_event(entry, "tcg"),
        policy_event(),
        manifest_event(manifest.digest, manifest.version, ["key"]),
        *(*kept, *found, *variables),
    ]
    verdict = Forge(library=uefi_library(keep_variables=keep_variables), events=events).verdict()
    rules = (Rule.VARIABLES, Rule.DISKS, Rule.CONFIGURATION)
    return {rule.title: finding(verdict, rule.title).tier for rule in rules}


TEMPLATE = blob_event(Tag.VARIABLES, blob("OVMF_VARS_4M.fd"))


@pytest.mark.parametrize(
    ("variables", "keep_variables", "tier"),
    [
        ((TEMPLATE,), False, Tier.AFFIRMING),
        ((WRITTEN,), False, Tier.CONTRAINDICATED),
        ((), False, Tier.CONTRAINDICATED),
        ((TEMPLATE,), True, Tier.AFFIRMING),
        ((WRITTEN,), True, Tier.AFFIRMING),
        ((), True, Tier.CONTRAINDICATED),
        ((WRITTEN, WRITTEN), True, Tier.CONTRAINDICATED),
        ((GARBLED,), True, Tier.CONTRAINDICATED),
        ((MORE,), True, Tier.CONTRAINDICATED),
    ],
)
def test_only_an_entry_that_says_so_has_variables_of_the_guests_own(
    variables: tuple[LaunchEvent, ...], keep_variables: bool, tier: Tier
) -> None:
    # Given a launch that measured these stores of variables
    # When it is appraised
    tiers = appraised(*variables, keep_variables=keep_variables)
    # Then a fresh copy must be the library's, and a kept one be measured, once and well formed
    assert tiers[Rule.VARIABLES.title] is tier
    assert tiers[Rule.DISKS.title] is Tier.AFFIRMING
    assert tiers[Rule.CONFIGURATION.title] is Tier.AFFIRMING


@pytest.mark.parametrize(
    ("said", "demanded", "tier"),
    [
        (False, None, Tier.AFFIRMING),
        (True, None, Tier.CONTRAINDICATED),
        (True, False, Tier.AFFIRMING),
        (False, True, Tier.CONTRAINDICATED),
    ],
)
def test_an_entry_that_says_secure_boot_demands_it(
    said: bool, demanded: bool | None, tier: Tier
) -> None:
    # Given a boot that was predicted to be without Secure Boot, and was, because the store of
    # variables has no keys, whatever the entry says of it
    prediction = Prediction(secure_boot=False, events=(), unpredicted={}).document()
    made = uefi_library(keep_variables=False, secure_boot=said, prediction=prediction)
    zeros = dict.fromkeys(REGISTERS, bytes(32))

    # When it is appraised
    verdict = Forge(
        library=made, vtpm_pcrs=zeros, policy_changes={"secure_boot": demanded}
    ).verdict()

    # Then the policy decides, and where it is silent the entry does
    assert finding(verdict, Rule.SECURE_BOOT.title).tier is tier


def test_another_disk_is_named() -> None:
    # Given a launch from another image, with the same disk for data
    other = json_event(Tag.DISK, {"id": "system", "kind": "data", "content": "untrusted data"})
    # When it is appraised
    tiers = appraised(TEMPLATE, keep_variables=False, disks=(other,))
    # Then the disks are what is broken
    assert tiers[Rule.DISKS.title] is Tier.CONTRAINDICATED
