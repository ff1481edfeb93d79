"""Firmware logs of guests that booted by UEFI, beside the registers that their kernels showed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tandem.evidence.event_log import parse_event_log
from tandem.evidence.pcr_values import replay

LOGS = Path(__file__).parents[1] / "data" / "uefi"
SHOWN: dict[str, dict[str, str]] = json.loads((LOGS / "registers.json").read_bytes())


@pytest.mark.parametrize("name", SHOWN)
def test_a_guests_log_replays_to_what_its_kernel_showed(name: str) -> None:
    # Given a log, and registers as a kernel showed them
    log = (LOGS / name).read_bytes()

    # When the log is replayed
    values = replay(parse_event_log(log))["sha256"]

    # Then both agree; a register that nothing extended is zero
    shown = {int(index): value for index, value in SHOWN[name].items()}
    assert {index: values.get(index, bytes(32)).hex() for index in shown} == shown
