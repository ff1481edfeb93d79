"""23: entries of the host's event log are dropped, reordered, or say other than was measured.

Attacker: root on the host, who hands the log over.
Control: a plain swtpm that was extended with the true events, and a verifier that replays the
digests, as many do.
Shows: the log is replayed to the quoted registers and each description hashed again; the finding
names which it is.
"""

from __future__ import annotations

import hashlib

import pytest

from peers.shared_swtpm import SharedTpm
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Tier
from tandem.evidence.event_log import parse_event_log, write_log
from tandem.evidence.pcr_values import replay
from tandem.wire import tpm_commands as tpm
from tests.attacks.tpm import done
from tests.unit.appraisal.forge import Forge

ACTION, SEPARATOR = 0x80000007, 0x4
TRUE = [(7, ACTION, b"DMA protection disabled"), (7, SEPARATOR, bytes(4))]
LOG = write_log(TRUE)
RENAMED = LOG.replace(b"DMA protection disabled", b"DMA protection  enabled")


def test_control_a_renamed_event_replays_to_the_tpms_register(shared: SharedTpm) -> None:
    # Given a TPM that measured what the platform really did
    for register, _, data in TRUE:
        digest = hashlib.sha256(data).digest()
        done(shared, tpm.pcr_extend(register, {tpm.SHA256: digest}))

    # When a verifier replays a log whose first event says the contrary
    replayed = replay(parse_event_log(RENAMED))["sha256"][7]

    # Then it explains the register, and is believed
    assert replayed == done(shared, tpm.pcr_read([7])).parameters[-32:]
    assert b"DMA protection  enabled" in parse_event_log(RENAMED).events[0].data


@pytest.mark.parametrize(
    ("log", "rule"),
    [
        (RENAMED, Rule.HOST_LOG_DESCRIBES),
        (write_log(TRUE[1:]), Rule.HOST_LOG_REPLAYS),
        (write_log(TRUE[::-1]), Rule.HOST_LOG_REPLAYS),
        (write_log([*TRUE, (7, ACTION, b"Exit Boot Services")]), Rule.HOST_LOG_REPLAYS),
        (LOG[:-1], Rule.HOST_LOG_REPLAYS),
    ],
    ids=["renamed", "dropped", "reordered", "added", "cut"],
)
def test_a_log_that_was_tampered_with_is_named(log: bytes, rule: Rule) -> None:
    # Given a host that quotes the register as it is, and a log that was worked on
    registers = {7: replay(parse_event_log(LOG))["sha256"][7]}
    forge = Forge(host_log=log, policy_changes={"ima_violations": None})
    forge.host_pcrs = registers
    honest = Forge(host_log=LOG, policy_changes={"ima_violations": None}, host_pcrs=registers)

    # When both are appraised, the record naming each log
    found = {each.rule: each for each in forge.verdict().findings}[rule.title]
    clean = {each.rule: each for each in honest.verdict().findings}[rule.title]

    # Then the tampered one is contradicted
    assert clean.tier is Tier.AFFIRMING
    assert found.tier is Tier.CONTRAINDICATED
