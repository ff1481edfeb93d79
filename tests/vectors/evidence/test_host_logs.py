"""Firmware logs of real machines as a host's: they explain registers, and say what they carry."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.appraisal.host_logs import appraise_host_log
from tandem.appraisal.verdict import Tier
from tandem.evidence.event_log import parse_event_log
from tandem.evidence.pcr_values import replay
from tests.unit.appraisal.forge import Forge

LOGS = Path(__file__).parents[1] / "data" / "eventlog"
AGILE = [
    *("arch-linux-workstation.bin", "crypto_agile_eventlog"),
    *("event-sd-boot-fedora37.bin", "ubuntu-2104-no-dbx.bin"),
]


@pytest.mark.parametrize("name", AGILE)
def test_a_machines_own_log_is_a_hosts_and_a_changed_one_is_not(name: str) -> None:
    # Given a machine's log, the registers that it leads to, and a record with its digest
    log = (LOGS / name).read_bytes()
    registers = replay(parse_event_log(log))["sha256"]
    record = replace(Forge().record(), host_log_digest=hashlib.sha256(log).digest())

    # When it is judged as a host's log, and when its last event is missing
    whole = appraise_host_log(log, record, registers)
    last = parse_event_log(log).events[-1].offset
    short = appraise_host_log(log[:last], record, registers)

    # Then the first holds in all that is asked of it, and the second does not
    assert [each.tier for each in whole] == [Tier.AFFIRMING] * 3
    assert all(each.tier is not Tier.AFFIRMING for each in short[:2])


@pytest.mark.parametrize("name", ["debian-10.bin", "event-uefi-sha1-log.bin"])
def test_a_log_of_sha1_alone_explains_no_register(name: str) -> None:
    # Given a log without the bank that is quoted
    log = (LOGS / name).read_bytes()
    record = replace(Forge().record(), host_log_digest=hashlib.sha256(log).digest())

    # When it is judged
    [_, replayed] = appraise_host_log(log, record, {0: bytes(32)})

    # Then it does not have what is quoted
    assert replayed.tier is Tier.CONTRAINDICATED
    assert "no SHA-256 digests" in replayed.found
