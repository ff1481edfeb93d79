"""What the Manager measures into an embedded pTPM, and the log that explains it."""

from __future__ import annotations

import json
import os

from tandem.evidence.event_log import parse_event_log
from tandem.evidence.pcr_values import replay
from tandem.manager.host_log import coming_state, embedded_log, measure_host


def test_the_log_explains_what_the_registers_will_hold() -> None:
    # Given the measurements of this host
    entries = measure_host()
    # When their log is replayed as a verifier does
    replayed = replay(parse_event_log(embedded_log(entries)))
    # Then it gives the state that is predicted, in both banks
    state = coming_state(entries, (8, 9))
    assert {bank: dict(values) for bank, values in state.banks.items()} == replayed


def test_kernel_and_software_are_named() -> None:
    # Given the measurements of this host
    kernel, software = (json.loads(data) for _, _, data in measure_host())
    # When they are read
    # Then they name the running kernel, and the code that builds pairs
    assert kernel["release"] == os.uname().release
    assert len(bytes.fromhex(software["tandem"])) == 32
