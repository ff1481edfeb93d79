"""What the Manager measures into an embedded pTPM, and the log that explains it."""

from __future__ import annotations

import hashlib
import json
import os

from tandem.evidence.event_log import parse_event_log
from tandem.evidence.pcr_values import replay
from tandem.manager.host_log import embedded_log, extensions, measure_host


def test_the_log_explains_what_is_extended() -> None:
    # Given the measurements of this host
    entries = measure_host()
    registers = {8: bytes(32), 9: bytes(32)}
    for register, digest in extensions(entries):
        registers[register] = hashlib.sha256(registers[register] + digest).digest()
    # When their log is replayed as a verifier does
    replayed = replay(parse_event_log(embedded_log(entries)))["sha256"]
    # Then it gives the same registers
    assert {index: replayed[index] for index in registers} == registers


def test_kernel_and_software_are_named() -> None:
    # Given the measurements of this host
    kernel, software = (json.loads(data) for _, _, data in measure_host())
    # When they are read
    # Then they name the running kernel, and the code that builds pairs
    assert kernel["release"] == os.uname().release
    assert len(bytes.fromhex(software["tandem"])) == 32
