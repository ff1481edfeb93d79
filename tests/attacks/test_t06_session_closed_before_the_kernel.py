"""T6: a boot loader closes its TPM session before the kernel opens one: the vTPM must stay (R3).

Attacker: nobody: pv-grub does it, and the guest is left without its vTPM.
Control: swtpm with `--terminate`, the usual way to have it end with its guest; it ends at the first
disconnect.
Shows: firmware, loader and kernel may each begin and end; the registers of the launch stand.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from peers.shared_swtpm import HOST, SharedTpm, free_ports
from tandem.evidence.event_log import parse_event_log
from tandem.evidence.pcr_values import replay
from tandem.wire import tpm_commands as tpm
from tests.attacks.bare_pair import paired_machine
from tests.attacks.quoting_tpm import GOOD_BOOT, measure
from tests.attacks.tpm import done
from tests.integration.vtpm.pair_harness import LAUNCH_LOG, PairUnderTest, gone


def test_control_swtpm_ends_at_the_first_disconnect(tmp_path: Path) -> None:
    # Given a swtpm that is to end with its guest
    port = free_ports()
    process = subprocess.Popen(
        [
            *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={tmp_path}", "--terminate"),
            *("--server", f"type=tcp,bindaddr={HOST},port={port}"),
            *("--flags", "not-need-init,startup-clear"),
        ]
    )
    loader = SharedTpm(port)

    # When a boot loader measures, and closes its session
    for _ in range(100):
        try:
            measure(loader, {8: GOOD_BOOT[8]})
            break
        except ConnectionRefusedError:
            assert process.poll() is None
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.05)

    # Then the vTPM is gone, and the kernel finds none
    assert process.wait(5) == 0
    with pytest.raises(ConnectionRefusedError):
        measure(loader, {9: GOOD_BOOT[9]})


def test_the_vtpm_stays_when_firmware_and_loader_give_it_up(
    make_pair: Callable[..., PairUnderTest],
) -> None:
    # Given a machine whose firmware has used the TPM and given it up
    pair = make_pair()
    pair.ready()
    machine = paired_machine(pair)
    machine.run_until()
    machine.give_the_tpm_up()

    # When a loader measures and gives it up as well, and the kernel opens it at last
    measure(machine, {8: GOOD_BOOT[8]})
    machine.give_the_tpm_up()
    measure(machine, {9: GOOD_BOOT[9]})

    # Then it is the same vTPM, whose launch registers stand, and it lives
    expected = replay(parse_event_log(LAUNCH_LOG))["sha256"]
    assert done(machine, tpm.pcr_read([17])).parameters[-32:] == expected[17]
    assert done(machine, tpm.pcr_read([8])).parameters[-32:] != bytes(32)
    assert not gone(pair.pidfd, 0.2)
