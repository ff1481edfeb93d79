"""One claim broken at a time: the finding that names it, and no other, turns against the guest."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tandem.appraisal.appraise import appraise
from tandem.appraisal.rules import OPTIONAL, RULE_OF_TAG, UEFI, Rule
from tandem.appraisal.verdict import Tier
from tandem.evidence.authorizations import Authorizations, Standing
from tandem.evidence.envelope import PrivateKey
from tandem.evidence.launch import LaunchEvent, Tag, blob_event, json_event
from tandem.evidence.pcr_values import pcr_digest
from tests.unit.appraisal.forge import (
    NONCE,
    NOW,
    Forge,
    blob,
    finding,
    guest_entry,
    host_log_of,
    kernel_of_the_host,
    library,
    library_file,
    new_key,
)
from tests.unit.evidence.ima_writer import Kernel

OTHER = bytes(32)
NO_DRTM = b"\xff" * 32


def other_entry(**changes: object) -> dict[str, Any]:
    """A forge whose guest is from another entry of the same library."""
    entries = {**library()["entries"], "other": guest_entry(**changes)}  # type: ignore[dict-item]
    return {"library": library(entries=entries), "entry": "other"}


def own_entry(**changes: object) -> dict[str, Any]:
    """A forge whose library has another entry for the guest that the policy names."""
    entries = {**library()["entries"], "web": guest_entry(**changes)}  # type: ignore[dict-item]
    return {"library": library(entries=entries)}


def with_event(*events: LaunchEvent, without: Tag | None = None) -> dict[str, Any]:
    kept = [event for event in Forge().measured() if event.tag is not without]
    return {"library": LIBRARY, "events": [*kept, *events]}


def stood(platform: Standing, lockout: Standing) -> dict[str, Any]:
    """A vTPM whose authorizations stood so when it quoted."""
    return {"authorizations": Authorizations(platform=platform, lockout=lockout).encode()}


def violated(*paths: str) -> Kernel:
    """A kernel that let a file be changed while it was used."""
    kernel = kernel_of_the_host()
    for path in paths:
        kernel.violate(path)
    return kernel


CA = new_key()
OTHER_EK = rsa.generate_private_key(65537, 2048).public_key()
MEASURED = kernel_of_the_host().values
LIBRARY = library()
BROKEN: list[tuple[str, set[Rule], dict[str, Any]]] = [
    ("host AK not enrolled", {Rule.HOST_AK_ENROLLED}, {"enrolled_ak": new_key()}),
    ("pTPM quote: magic", {Rule.PTPM_QUOTE_MADE}, {"ptpm_magic": 0x01020304}),
    ("pTPM quote: a certification", {Rule.PTPM_QUOTE_MADE}, {"ptpm_kind": 0x8017}),
    ("pTPM quote: signer", {Rule.PTPM_QUOTE_SIGNED}, {"host_signer": new_key()}),
    (
        "host PCRs: not recorded",
        {Rule.HOST_PCRS_RECORDED},
        {"policy_changes": {"host_pcrs": {0: OTHER, 7: OTHER}}},
    ),
    (
        "host PCRs: not enrolled",
        {Rule.HOST_PCRS_RECORDED, Rule.HOST_LOG_REPLAYS},
        {
            "host_pcrs": Forge().registers() | {0: b"\x07" * 32},
            "state_changes": {"pcrs": {"0": OTHER.hex(), "7": OTHER.hex()}},
        },
    ),
    ("path: too short", {Rule.PATH_FITS}, {"answer_changes": {"path": ()}}),
    ("path: outside", {Rule.PATH_FITS}, {"answer_changes": {"leaf_index": 4}}),
    ("leaf: other salt", {Rule.LEAF_QUOTED}, {"answer_changes": {"salt": OTHER}}),
    ("leaf: other place", {Rule.LEAF_QUOTED}, {"answer_changes": {"leaf_index": 2}}),
    ("nonce", {Rule.NONCE_FRESH}, {"nonce": OTHER}),
    ("user data", {Rule.USER_DATA}, {"policy_changes": {"user_data": b"channel"}}),
    ("issuing key: other CA", {Rule.ISSUER_CERTIFIED, Rule.EK_CERTIFIED}, {"rogue_ca": new_key()}),
    (
        "issuing key: no certificate",
        {Rule.ISSUER_CERTIFIED},
        {"answer_changes": {"issuer_certificate": b""}},
    ),
    (
        "issuing key: the CA itself",
        {Rule.AK_CERTIFIED},
        {"ca": CA, "answer_changes": {"issuer_certificate": Forge(ca=CA).ca_certificate()}},
    ),
    ("AK: other issuing key", {Rule.AK_CERTIFIED}, {"rogue_issuer": True}),
    ("AK: other record", {Rule.AK_CARRIES_RECORD}, {"certified_changes": {"launch_number": 1}}),
    ("AK: other counts", {Rule.AK_CARRIES_RECORD}, {"certified_changes": {"reset_count": 4}}),
    ("EK: another", {Rule.EK_CERTIFIED}, {"certified_ek": OTHER_EK}),
    (
        "EK: not the record's",
        {Rule.EK_CERTIFIED},
        {"record_changes": {"ek_name": b"\x00\x0b" + OTHER}},
    ),
    ("list: another CA's", {Rule.NOT_REVOKED}, {"crl_key": new_key()}),
    ("vTPM", {Rule.VTPM_EXPECTED}, {"policy_changes": {"vtpm": "db-01"}}),
    ("vTPM's EK", {Rule.VTPM_EXPECTED}, {"policy_changes": {"ek_name": b"\0\x0b" + b"\1" * 32}}),
    ("pTPM: fewer resets", {Rule.PTPM_FORWARD}, {"host_counts": (0, 9)}),
    ("pTPM: fewer restarts", {Rule.PTPM_FORWARD}, {"host_counts": (1, 0)}),
    ("pTPM: clock", {Rule.PTPM_FORWARD}, {"host_clock": 123455}),
    (
        "pTPM: clock, by more than a power cut takes",
        {Rule.PTPM_FORWARD},
        {"host_counts": (2, 0), "state_changes": {"clock": 1 << 23}},
    ),
    (
        "pTPM: reset, and that is forbidden",
        {Rule.PTPM_FORWARD},
        {"host_counts": (2, 0), "policy_changes": {"same_boot": True}},
    ),
    ("epoch: an older one", {Rule.HOST_EPOCH}, {"anchor_changes": {"epoch": 2}}),
    (
        "rollback: a window",
        {Rule.ROLLBACK},
        {"record_changes": {"rollback_window": 60}, "policy_changes": {"strict_rollback": True}},
    ),
    ("host log: another", {Rule.HOST_LOG_RECORDED}, {"record_changes": {"host_log_digest": OTHER}}),
    (
        "host log: other register",
        {Rule.HOST_LOG_REPLAYS},
        {"host_log": host_log_of((0, 4, bytes(4)), (7, 4, b"\xff" * 4))},
    ),
    ("host log: unreadable", {Rule.HOST_LOG_REPLAYS}, {"host_log": b"damaged"}),
    ("IMA list: another", {Rule.IMA_REPLAYS}, {"kernel": Kernel(log=b"", values=MEASURED)}),
    ("IMA list: unreadable", {Rule.IMA_REPLAYS}, {"kernel": Kernel(log=b"?", values=MEASURED)}),
    ("IMA list: nothing measured", {Rule.IMA_REPLAYS}, {"kernel": Kernel()}),
    ("IMA list: violation", {Rule.IMA_CLEAN}, {"kernel": violated("/usr/bin/script")}),
    ("AK: name", {Rule.AK_NAMED}, {"record_changes": {"ak_name": b"\x00\x0b" + OTHER}}),
    ("guest", {Rule.GUEST_EXPECTED}, {"policy_changes": {"guest": "db-01"}}),
    ("group", {Rule.GROUP_EXPECTED}, {"policy_changes": {"group": "tenant"}}),
    (
        "group without CA",
        {Rule.GROUP_EXPECTED, Rule.ISSUER_CERTIFIED, Rule.EK_CERTIFIED, Rule.NOT_REVOKED},
        {"group": "tenant"},
    ),
    ("vTPM quote: magic", {Rule.VTPM_QUOTE_MADE}, {"vtpm_magic": 0}),
    ("vTPM quote: signer", {Rule.VTPM_QUOTE_SIGNED}, {"vtpm_signer": new_key()}),
    (
        "vTPM quote: other user data",
        {Rule.VTPM_QUOTE_QUALIFIED},
        {"answer_changes": {"user_data": b"relay"}},
    ),
    ("vTPM reset", {Rule.VTPM_NOT_RESET}, {"counts": (4, 1)}),
    ("vTPM resumed", {Rule.VTPM_NOT_RESET}, {"counts": (3, 2)}),
    ("vTPM cleared", {Rule.VTPM_NOT_RESET}, {"counts": (0, 0)}),
    ("vTPM AK of the owner", {Rule.COUNTS_SHOWN}, {"hierarchy": 0x40000001}),
    (
        "vTPM PCRs not quoted",
        {Rule.VTPM_PCRS_QUOTED, Rule.LAUNCH_LOG_REPLAYS},
        {"answer_changes": {"vtpm_pcrs": {17: OTHER, 18: OTHER}}},
    ),
    (
        "no D-RTM",
        {Rule.LAUNCH_MEASURED, Rule.LAUNCH_LOG_REPLAYS},
        {"vtpm_pcrs": {17: NO_DRTM, 18: NO_DRTM}},
    ),
    (
        "PCR 18 not quoted",
        {Rule.LAUNCH_MEASURED, Rule.LAUNCH_LOG_REPLAYS},
        {"vtpm_pcrs": {17: OTHER}},
    ),
    (
        "launch log: other digest",
        {Rule.LAUNCH_LOG_RECORDED},
        {"record_changes": {"launch_log_digest": OTHER}},
    ),
    ("log does not replay", {Rule.LAUNCH_LOG_REPLAYS}, {"vtpm_pcrs": {17: OTHER, 18: OTHER}}),
    (
        "log unreadable",
        {Rule.LAUNCH_LOG_RECORDED, Rule.LAUNCH_LOG_REPLAYS},
        {"launch_log": b"damaged"},
    ),
    ("manifest version", {Rule.MANIFEST_RECORDED}, {"record_changes": {"manifest_version": 6}}),
    ("manifest digest", {Rule.MANIFEST_RECORDED}, {"record_changes": {"manifest_digest": OTHER}}),
    ("builder", {Rule.BUILDER}, {"record_changes": {"builder": "6.6.6"}}),
    ("builder not named", {Rule.BUILDER}, {"policy_changes": {"builders": (b"\x01" * 32,)}}),
    ("hypervisor", {Rule.HYPERVISOR}, {"hypervisor": "qemu-with-a-debugger"}),
    ("machine", {Rule.CONFIGURATION}, other_entry(machine={**guest_entry()["machine"], "cpus": 2})),  # type: ignore[dict-item]
    ("accelerator", {Rule.CONFIGURATION}, {"policy_changes": {"accelerators": ("kvm",)}}),
    ("a debugger", {Rule.NO_DEBUGGER}, own_entry(debugger=True)),
    ("empty platformAuth", {Rule.PLATFORM_AUTH}, stood(Standing.EMPTY, Standing.EMPTY)),
    (
        "empty lockoutAuth of a strict entry",
        {Rule.LOCKOUT_AUTH},
        own_entry(lockout_auth="strict") | stood(Standing.SET, Standing.EMPTY),
    ),
    (
        "authorizations",
        {Rule.PLATFORM_AUTH, Rule.LOCKOUT_AUTH},
        {"authorizations": b"\xa1"},
    ),
    (
        "another's authorizations",
        {Rule.VTPM_QUOTE_QUALIFIED},
        {"answer_changes": stood(Standing.SET, Standing.SET)},
    ),
    ("firmware", {Rule.FIRMWARE}, other_entry(firmware=library_file("other"))),
    ("kernel", {Rule.KERNEL}, other_entry(kernel=library_file("other"))),
    ("command line", {Rule.COMMAND_LINE}, other_entry(command_line="init=/bin/sh")),
    ("initrd", {Rule.INITRD}, other_entry(initrd=library_file("other"))),
    ("ROMs", {Rule.TABLES}, other_entry(roms=[])),
    ("a disk", {Rule.DISKS}, with_event(blob_event(Tag.DISK, blob("disk")))),
    ("a store of variables", {Rule.VARIABLES}, with_event(blob_event(Tag.VARIABLES, blob("v")))),
    ("a second kernel", {Rule.KERNEL}, with_event(blob_event(Tag.KERNEL, blob("second")))),
    ("no confinement", {Rule.CONFINEMENT}, with_event(without=Tag.POLICY)),
    ("no library", {Rule.LIBRARY}, with_event(without=Tag.MANIFEST)),
    ("no initrd", {Rule.INITRD}, with_event(without=Tag.INITRD)),
    (
        "hostile event",
        {Rule.HYPERVISOR},
        with_event(
            LaunchEvent(tag=Tag.HYPERVISOR, data=b'{"sha256":[1],"size":{}}\xff\n\x1b[2J'),
            without=Tag.HYPERVISOR,
        ),
    ),
    (
        "hostile machine",
        {Rule.CONFIGURATION, Rule.NO_DEBUGGER},
        with_event(
            LaunchEvent(tag=Tag.CONFIGURATION, data=b'{"\\u001b[2J\\nweb-01: trusted": 1}'),
            without=Tag.CONFIGURATION,
        ),
    ),
]


def test_complete_evidence_is_trusted() -> None:
    # Given evidence in which every claim is true
    forge = Forge()

    # When it is appraised
    verdict = forge.verdict()

    # Then each rule has one finding, all affirm, and the waived hardware root is still told
    assert [each.rule for each in verdict.findings if each.tier is not Tier.AFFIRMING] == []
    assert sorted(each.rule for each in verdict.findings) == sorted(
        rule.title for rule in Rule if rule not in UEFI
    )
    assert verdict.word == "trusted"
    assert "no hardware root: embedded TPM" in finding(verdict, Rule.HARDWARE_ROOT.title).found
    assert any("Root on the host" in note for note in verdict.notes)


@pytest.mark.parametrize(
    ("rules", "changes"), [each[1:] for each in BROKEN], ids=[each[0] for each in BROKEN]
)
def test_each_broken_claim_is_named(rules: set[Rule], changes: dict[str, Any]) -> None:
    # Given evidence with one claim broken
    forge = Forge(**changes)

    # When it is appraised
    verdict = forge.verdict()

    # Then the findings that name it contradict, no other does, and the guest is not trusted
    against = {each.rule for each in verdict.findings if each.tier is Tier.CONTRAINDICATED}
    assert against == {rule.title for rule in rules}
    assert verdict.word == "not trusted"
    assert all(each.found.isprintable() for each in verdict.findings)


def test_host_pcr_values_beside_the_quote_are_not_believed() -> None:
    # Given recorded values in the answer and others in the quote
    forge = Forge()
    good = forge.registers()
    forge.host_pcrs = dict.fromkeys(good, OTHER)
    forge.answer_changes = {"ptpm_pcrs": good}
    forge.policy_changes = {"host_pcrs": good}

    # When it is appraised
    found = finding(forge.verdict(), Rule.HOST_PCRS_QUOTED.title)

    # Then the digest in the quote tells
    assert found.tier is Tier.CONTRAINDICATED
    assert pcr_digest(good).hex() in found.found


def test_a_replay_is_called_one() -> None:
    # Given the answer to another nonce
    verdict = Forge().verdict(nonce=OTHER)

    # When its freshness is read
    found = finding(verdict, Rule.NONCE_FRESH.title)

    # Then the finding says replay, and names both nonces
    assert found.tier is Tier.CONTRAINDICATED
    assert "replay" in found.found
    assert NONCE.hex() in found.found
    assert OTHER.hex() in found.found


def test_a_changed_command_line_is_shown_beside_the_expected_one() -> None:
    # Given a guest with another command line
    verdict = Forge(**other_entry(command_line="init=/bin/sh")).verdict()

    # When the finding is read
    found = finding(verdict, "command-line-matches-manifest").found

    # Then both are there
    assert "'init=/bin/sh'" in found
    assert "'console=ttyS0 quiet'" in found


@pytest.mark.parametrize(
    ("standing", "required", "tier", "words"),
    [
        ("embedded", True, Tier.WARNING, "no hardware root: embedded TPM"),
        ("unproven", True, Tier.WARNING, "no hardware root shown"),
        ("unproven", False, Tier.AFFIRMING, "no hardware root shown"),
        ("vendor", True, Tier.AFFIRMING, "vendor certified"),
    ],
)
def test_a_host_without_a_hardware_root_is_told(
    standing: str, required: bool, tier: Tier, words: str
) -> None:
    # Given a host of that standing and a policy that demands or waives a hardware root
    forge = Forge(standing=standing, policy_changes={"hardware_root": required})

    # When its evidence is appraised
    verdict = forge.verdict()

    # Then the finding has that tier and says what is known
    found = finding(verdict, Rule.HARDWARE_ROOT.title)
    assert found.tier is tier
    assert words in found.found
    assert verdict.tier is tier


def test_an_anchor_signed_by_somebody_else_is_refused() -> None:
    # Given a policy that names another key than signed the anchor
    forge = Forge()
    policy = replace(forge.policy(), anchor_key=PrivateKey.generate().public_key())

    # When evidence is appraised by it
    verdict = forge.verdict(policy)

    # Then the anchor is refused, and the host's AK proves nothing
    assert finding(verdict, Rule.ANCHOR_SIGNED.title).tier is Tier.CONTRAINDICATED
    assert "proves nothing" in finding(verdict, Rule.HOST_AK_ENROLLED.title).found


def test_a_manifest_signed_by_somebody_else_is_refused() -> None:
    # Given a policy with another library key
    forge = Forge()
    policy = replace(forge.policy(), manifest_keys=(PrivateKey.generate().public_key(),))

    # When evidence is appraised by it
    verdict = forge.verdict(policy)

    # Then the manifest is refused, and what depends on it was not checked
    assert finding(verdict, Rule.MANIFEST_SIGNED.title).tier is Tier.CONTRAINDICATED
    assert finding(verdict, Rule.KERNEL.title).tier is Tier.WARNING


def test_a_certificate_out_of_its_time_is_refused() -> None:
    # Given valid evidence
    forge = Forge()

    # When it is appraised two years later
    verdict = forge.verdict(at=NOW + datetime.timedelta(days=800))

    # Then the certificate is out of force
    assert finding(verdict, Rule.AK_IN_FORCE.title).tier is Tier.CONTRAINDICATED


def test_a_builder_that_no_policy_names_is_doubtful() -> None:
    # Given evidence whose builder is known by its own word alone
    forge = Forge(policy_changes={"builders": ()})

    # When it is appraised
    verdict = forge.verdict()

    # Then that one claim is in doubt, and so is the guest
    assert finding(verdict, Rule.BUILDER.title).tier is Tier.WARNING
    assert verdict.tier is Tier.WARNING


def test_a_hypervisor_without_reference_value_is_doubtful() -> None:
    # Given a library that names no file of the host
    entries = {"web": guest_entry()}
    forge = Forge(library=library(entries=entries))

    # When the policy names none either, and when it does
    without = forge.verdict()
    forge.policy_changes = {"hypervisors": (blob(forge.hypervisor).sha256,)}
    named = forge.verdict()

    # Then the first verdict doubts it and the second does not
    assert finding(without, Rule.HYPERVISOR.title).tier is Tier.WARNING
    assert finding(named, Rule.HYPERVISOR.title).tier is Tier.AFFIRMING


def test_a_record_of_another_format_is_a_finding() -> None:
    # Given an answer whose record is no pair record
    forge = Forge(record_changes={"format": "tandem-pair-record-9"})

    # When it is appraised
    verdict = forge.verdict()

    # Then the record is refused and nothing that needs it affirms
    assert finding(verdict, Rule.RECORD_READABLE.title).tier is Tier.CONTRAINDICATED
    assert finding(verdict, Rule.AK_NAMED.title).tier is Tier.WARNING


def test_what_the_guest_says_of_itself_is_shown_as_unproven() -> None:
    # Given evidence with the attester's own words
    forge = Forge(guest_facts={"kernel": "6.1\x1b[2J", "depth": [[[]]]})

    # When it is appraised
    verdict = forge.verdict()

    # Then they are notes in printable letters, and change nothing
    said = [note for note in verdict.notes if "proven by nothing" in note]
    assert len(said) == 2
    assert all(note.isprintable() for note in said)
    assert verdict.tier is Tier.AFFIRMING


@pytest.mark.parametrize("broken", [b"", b"{}", b"TDQ1", b"\xff" * 100])
def test_unreadable_evidence_is_a_finding_with_its_offset(broken: bytes) -> None:
    # Given bytes that are no evidence
    policy = Forge().policy()

    # When they are appraised
    verdict = appraise(broken, policy, NONCE, NOW)

    # Then that is the one contradiction, and every other rule was not checked
    against = [each for each in verdict.findings if each.tier is Tier.CONTRAINDICATED]
    assert [each.rule for each in against] == [Rule.EVIDENCE_READABLE.title]
    assert len(verdict.findings) == len(Rule) - len(OPTIONAL)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (stood(Standing.DISABLED, Standing.EMPTY), "the platform hierarchy is disabled"),
        (stood(Standing.SET, Standing.SET), "platformAuth is set, by the guest's firmware"),
        (
            own_entry(platform_auth="vtpm") | stood(Standing.SET, Standing.EMPTY),
            "platformAuth is set, by the vTPM",
        ),
        (own_entry(lockout_auth="strict") | stood(Standing.SET, Standing.SET), "is set"),
    ],
)
def test_an_authorization_that_nobody_can_use_is_in_order(
    changes: dict[str, Any], found: str
) -> None:
    # Given a vTPM whose guest can use neither authorization of the platform
    # When it is appraised
    verdict = Forge(**changes).verdict()

    # Then both are told, and nothing is held against it
    assert verdict.word == "trusted"
    assert found in finding(verdict, Rule.PLATFORM_AUTH.title).found
    assert "lockoutAuth is" in finding(verdict, Rule.LOCKOUT_AUTH.title).found


def test_a_debugger_that_the_policy_allows_is_told() -> None:
    # Given a guest that root on its host may debug, and a policy that allows it
    forge = Forge(**own_entry(debugger=True), policy_changes={"debugger": True})

    # When it is appraised
    verdict = forge.verdict()

    # Then it is trusted, and the verdict says who may debug it
    assert verdict.word == "trusted"
    assert "root on the host may debug" in finding(verdict, Rule.NO_DEBUGGER.title).found


@pytest.mark.parametrize("tag", Tag)
def test_one_event_too_many_is_never_trusted(tag: Tag) -> None:
    # Given a launch that measured one thing more than the entry has, whatever it is of
    more = json_event(tag, {"sha256": "ab" * 32})
    forge = Forge(events=[*Forge().measured(), more])

    # When it is appraised
    verdict = forge.verdict()

    # Then the rule of its kind is broken
    assert RULE_OF_TAG[tag].title in {
        each.rule for each in verdict.findings if each.tier is Tier.CONTRAINDICATED
    }
