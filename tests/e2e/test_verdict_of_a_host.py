"""All that a verifier can be given: a host's logs, a group's list, a vTPM's certificates."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from demo import attacks, good_run
from demo.good_run import GUEST
from demo.stage import Stage
from peers.console import Console

EK_CERTIFICATE, EK_CHAIN = "0x01c00002", ("0x01c00100", "0x01c00101")


@pytest.fixture(scope="module")
def console(stage: Stage) -> Iterator[Console]:
    """The console of a running guest, at its shell."""
    stage.tandem("guest", "start", GUEST)
    with stage.console(GUEST) as console:
        attacks.ready(console)
        yield console


def nv_of_the_guest(console: Console, *indices: str) -> bytes:
    """Read NV indices, those that are there, with the guest's own tools."""
    console.run("rm -f all")
    for index in indices:
        console.run(f"tpm2_nvread -C {index} {index} 2>/dev/null >> all; true")
    return base64.b64decode(console.run("base64 all"))


def found(verdict: dict[str, Any], rule: str) -> dict[str, Any]:
    finding: dict[str, Any]
    [finding] = [each for each in verdict["findings"] if each["rule"] == rule]
    return finding


def test_a_host_is_judged_by_all_that_it_can_show_until_its_vtpm_is_revoked(
    stage: Stage, console: Console
) -> None:
    # Given a guest's evidence with the host's logs in it, the certificates that its vTPM keeps,
    # and the group's list of revoked ones
    work, nonce = stage.work, secrets.token_hex(32)
    (work / "ek").write_bytes(nv_of_the_guest(console, EK_CERTIFICATE, *EK_CHAIN))
    evidence = work / "whole.json"
    stage.tandem("guest", "attest", GUEST, "--nonce", nonce, "--host-log", "-o", evidence)
    stage.tandem("group", "crl", "default", "-o", work / "before.crl")

    # When it is appraised, and again after the vTPM was destroyed
    given = ("--ek-certificate", work / "ek", "--crl")
    before = good_run.verify(stage, evidence, nonce, *given, work / "before.crl")
    stage.tandem("guest", "stop", GUEST, "--kill")
    key = work / "approval.key"
    stage.tandem("vtpm", "destroy", GUEST, "--key", key)
    stage.tandem("group", "crl", "default", "-o", work / "after.crl")
    after = good_run.verify(stage, evidence, nonce, *given, work / "after.crl")

    # Then everything holds first, the vTPM's own EK and the host's registers among it
    assert before["trusted"], before
    assert "is the record's" in found(before, "vtpm-ek-is-certified")["found"]
    assert "PCR 8, 9" in found(before, "host-log-replays")["found"]
    assert found(before, "state-cannot-be-rolled-back")["found"].startswith("nothing")

    # And afterwards the list, and nothing else, speaks against it
    against = [each["rule"] for each in after["findings"] if each["tier"] != "AFFIRMING"]
    assert against == ["vtpm-is-not-revoked"]
