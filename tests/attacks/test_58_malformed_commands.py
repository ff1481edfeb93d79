"""58: a malformed command makes the vTPM crash, or worse, under its guest.

Attacker: the guest's root (CVE-2023-1017, CVE-2025-49133 in libtpms; CVE-2021-3746 in swtpm).
Control: QEMU on swtpm, which is ended as such a command ends it (SIGSEGV; this libtpms has no known
one left); the guest runs on, without its TPM, and is none the wiser.
Shows: no command of thousands with a wrong tag, handle, code, body or size harms the vTPM; and
where it dies all the same, its guest does not outlive it.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
from pathlib import Path

import pytest

from peers.bare_machine import plain_machine
from peers.plain import wait_for_path
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import StartupType
from tests.attacks.bare_pair import GuestOf
from tests.attacks.tpm import RC_SUCCESS, done, get_random
from tests.integration.vtpm.pair_harness import PairUnderTest, gone

COUNT = 2000
LARGEST = 3968  # of a CRB
CODES = (*range(0x11F, 0x198), 0x20000001, 0x20000002, 0, 0xFFFFFFFF)


def malformed(chance: random.Random) -> bytes:
    """Write a command that nobody means: its parts are of the right kind, and do not fit."""
    body = bytes(chance.randrange(256) for _ in range(chance.choice((0, 1, 4, 9, 30, 200, 1100))))
    handles = chance.choice((0, 1, 2, 3))
    body = b"".join(chance.choice((0x40000001, 0x4000000C, 0x80000000, 0x01400101, 0)).to_bytes(4)
                    for _ in range(handles)) + body  # fmt: skip
    tag = chance.choice((0x8001, 0x8002, 0xC4, 0))
    return struct.pack(">HII", tag, 10 + len(body), chance.choice(CODES)) + body


def test_control_the_guest_outlives_its_tpm(tmp_path: Path) -> None:
    # Given a guest on swtpm
    path = tmp_path / "ctrl.sock"
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={tmp_path}"]
    swtpm = subprocess.Popen([*command, "--ctrl", f"type=unixio,path={path}"])
    try:
        wait_for_path(path)
        with plain_machine(path) as plain:
            plain.machine.run_until()
            plain.machine.qmp("cont")

            # When its vTPM crashes
            swtpm.send_signal(signal.SIGSEGV)
            swtpm.wait(10)

            # Then it runs on
            with pytest.raises(subprocess.TimeoutExpired):
                plain.process.wait(1.5)
            plain.machine.wait_for_status("running")
    finally:
        swtpm.kill()
        swtpm.wait()


def test_malformed_commands_are_answered(pair: PairUnderTest) -> None:
    # Given a guest that has started its TPM
    guest = GuestOf(pair)
    done(guest, tpm.startup(StartupType.CLEAR))
    seed = int.from_bytes(os.urandom(4))
    chance = random.Random(seed)  # noqa: S311 (to be repeated)

    # When it sends thousands of commands that are none
    for _ in range(COUNT):
        command = malformed(chance)
        answer = guest.transceive(command)

        # Then each is answered in form
        assert answer, f"seed {seed}: the vTPM hung up at {command.hex()}: {pair.ended()}"
        assert len(answer) == int.from_bytes(answer[2:6]) <= LARGEST

    # And the vTPM serves
    done(guest, get_random())


@pytest.mark.parametrize("size", [0, 9, 5000, 1 << 31])
def test_a_size_that_is_none_ends_both_or_is_refused(pair: PairUnderTest, size: int) -> None:
    # Given a guest that has started its TPM, and a hypervisor in the attacker's hands
    guest = GuestOf(pair)
    done(guest, tpm.startup(StartupType.CLEAR))

    # When it sends a command of a size that no TPM has
    answer = guest.transceive(struct.pack(">HII", tpm.NO_SESSIONS, size, tpm.Code.READ_CLOCK))

    # Then it is not executed: it is refused, or nothing is left of the pair
    if answer:
        assert int.from_bytes(answer[6:10]) != RC_SUCCESS
    else:
        assert gone(pair.pidfd, 1.0)
        assert gone(pair.guest_pidfd, 1.0)


def test_a_guest_does_not_outlive_its_vtpm(pair: PairUnderTest) -> None:
    # Given a guest that has started its TPM
    done(GuestOf(pair), tpm.startup(StartupType.CLEAR))

    # When its vTPM is killed (a fault of its own ends it as surely, and cannot be sent to it: it is
    # the init of its PID namespace)
    signal.pidfd_send_signal(pair.pidfd, signal.SIGKILL)

    # Then both are gone within a second
    assert gone(pair.pidfd, 1.0)
    assert gone(pair.guest_pidfd, 1.0)
