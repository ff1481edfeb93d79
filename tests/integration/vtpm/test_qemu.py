"""An unmodified QEMU accepts the vTPM, and its firmware finds the launch measured already."""

from __future__ import annotations

from collections.abc import Callable

from tandem.evidence.event_log import parse_event_log
from tandem.evidence.pcr_values import replay
from tandem.wire import tpm_commands as tpm
from tests.attacks.bare_pair import paired_machine
from tests.attacks.tpm import Tpm, done
from tests.integration.vtpm.pair_harness import EVENTS, LAUNCH_LOG, PairUnderTest, gone


def register(machine: Tpm, number: int) -> bytes:
    """Read a PCR of the SHA-256 bank."""
    return done(machine, tpm.pcr_read([number])).parameters[-32:]


def test_firmware_of_an_unmodified_qemu_starts_the_tpm_and_the_launch_is_measured(
    make_pair: Callable[..., PairUnderTest],
) -> None:
    # Given a vTPM that waits, and a QEMU with SeaBIOS beside it
    pair = make_pair()
    pair.ready()
    machine = paired_machine(pair)

    # When the guest runs and its firmware has used the TPM
    machine.run_until()

    # Then SeaBIOS measured, and PCR 17 and 18 are what the launch log explains
    expected = replay(parse_event_log(LAUNCH_LOG))["sha256"]
    assert register(machine, 0) != bytes(32)
    assert register(machine, 17) == expected[17]
    assert register(machine, 18) == expected[18]
    assert {event.register for event in EVENTS} == {17, 18}


def test_qemu_that_quits_takes_its_vtpm_along(make_pair: Callable[..., PairUnderTest]) -> None:
    # Given a running QEMU
    pair = make_pair()
    pair.ready()
    machine = paired_machine(pair)

    # When it quits
    machine.qmp("quit")

    # Then the vTPM is gone within a second
    assert gone(pair.pidfd, 1.0)


def test_a_reset_of_the_machine_under_a_live_guest_ends_the_pair(
    make_pair: Callable[..., PairUnderTest],
) -> None:
    # Given a guest whose firmware has started the TPM
    pair = make_pair()
    pair.ready()
    machine = paired_machine(pair)
    machine.run_until()

    # When the machine is reset, which makes QEMU initialize the TPM again
    machine.qmp("system_reset")

    # Then both halves end
    assert gone(pair.pidfd, 2.0)
    assert gone(pair.guest_pidfd, 2.0)
