"""12: another machine takes the place of a guest behind its live vTPM, registers and all.

Attacker: host administrator, who owns the path between hypervisor and swtpm.
Control: QEMU on swtpm is killed; a second QEMU with an evil kernel is put on the same swtpm through
a relay that keeps the reset from it; its quote is the good guest's.
Shows: the vTPM serves one process, once: another one on its channel, of its own PID namespace or
not, ends the pair (TDM-VTPM-STRANGER); and one that never spoke ends with the first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from peers.bare_machine import plain_machine
from peers.swtpm_control import ResetHider, SwtpmControl
from peers.tiny_kernel import tiny_kernel
from tests.attacks.bare_pair import paired_machine
from tests.attacks.quoting_tpm import measure, quoted
from tests.integration.vtpm.pair_harness import PairUnderTest, gone

REGISTERS = (0, 2, 4, 7, 8, 9)


@pytest.fixture
def kernels(tmp_path: Path) -> dict[str, tuple[str, ...]]:
    """Give QEMU's arguments for a good kernel and an evil one."""
    found: dict[str, tuple[str, ...]] = {}
    for name in ("good", "evil"):
        path = tmp_path / name
        path.write_bytes(tiny_kernel(name))
        path.chmod(0o644)
        found[name] = ("-kernel", str(path), "-append", "quiet")
    return found


def test_control_the_evil_guest_quotes_the_good_ones_registers(
    control: Path, tmp_path: Path, kernels: dict[str, tuple[str, ...]]
) -> None:
    # Given a good guest, measured and quoted, then killed
    with plain_machine(control, *kernels["good"]) as plain:
        plain.machine.run_until(b"booted good.")
        measure(plain.machine)
        good = quoted(plain.machine, REGISTERS)

    # When another machine boots an evil kernel on the same vTPM, which hears of no reset
    relay = tmp_path / "relay.sock"
    with SwtpmControl(control) as attacker:
        ResetHider(relay, attacker)
        with plain_machine(relay, *kernels["evil"]) as plain:
            plain.machine.run_until(b"booted evil.")
            forged = quoted(plain.machine, REGISTERS)

    # Then stock tools accept the evil guest's quote as the good one's
    assert forged.passes_checkquote(tmp_path)
    assert forged.ak.name == good.ak.name
    assert forged.quote.pcr_digest == good.quote.pcr_digest
    assert forged.quote.reset_count == good.quote.reset_count


def test_a_second_machine_on_the_channel_ends_the_pair(
    make_pair: Callable[..., PairUnderTest],
) -> None:
    # Given a measured guest, and a builder that kept its end of the control channel
    pair = make_pair()
    pair.ready()
    kept = pair.control.dup()
    good = paired_machine(pair)
    good.run_until()
    measure(good)
    first = pair.guest_pidfd

    # When a second QEMU is started beside it on that channel
    with kept:
        paired_machine(pair, control=kept.fileno())

    # Then the first thing that it says ends the pair: vTPM, guest and itself
    assert pair.ended().code == "TDM-VTPM-STRANGER"
    assert gone(pair.pidfd, 1.0)
    assert gone(first, 1.0)


def test_a_machine_that_waits_for_the_first_to_end_ends_with_it(
    make_pair: Callable[..., PairUnderTest],
) -> None:
    # Given a measured guest, and beside it a process that waits for its place
    pair = make_pair()
    pair.ready()
    machine = paired_machine(pair)
    machine.run_until()
    first = pair.guest_pidfd
    pair.spawn_hypervisor(("/bin/sleep", "1000"), {})
    second, pair.guest_pidfd = pair.guest_pidfd, first

    # When the guest is killed
    pair.kill_guest()

    # Then vTPM and the one that waited are gone within a second
    assert gone(pair.pidfd, 1.0)
    assert gone(second, 1.0)
