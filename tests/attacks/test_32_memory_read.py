"""32: a debugger is attached to the vTPM, or its memory read: seeds, keys, what guests keep there.

Attacker: a local process; as the control has it, one of the vTPM's own user, as all swtpms of a
host commonly are.
Control: swtpm under a user of its own: another process of that user finds the guest's secret in
/proc/PID/mem, and attaches.
Shows: each vTPM and each hypervisor has a user of its own, and the kernel refuses even that user;
root on the host is in the trusted base, finds it, and each verdict says so.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.plain import wait_for_path
from peers.shared_swtpm import HOST, SharedTpm, free_ports
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import StartupType
from tests.attacks.bare_pair import GuestOf
from tests.attacks.strangers import NOBODY, tried
from tests.attacks.tpm import Tpm, done
from tests.integration.vtpm.pair_harness import GUEST_UID, VTPM_UID, PairUnderTest
from tests.unit.appraisal.forge import Forge

SECRET = b"what the guest keeps in its vTPM"
INDEX, PLAIN = 0x01500020, 0x02040004  # NO_DA, AUTHREAD, AUTHWRITE (TPMA_NV)
REFUSED = {"PermissionError"}
LOOKED = ("memory", "trace", "steal", "signal", "descriptors", "environment")


def keep_a_secret(client: Tpm) -> None:
    """Write it to an NV index of the guest's."""
    done(client, tpm.nv_define_space(tpm.OWNER, tpm.nv_public(INDEX, PLAIN, len(SECRET))))
    done(client, tpm.nv_write(INDEX, INDEX, SECRET, 0, tpm.password()))


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory of an unprivileged user, who can reach it."""
    with tempfile.TemporaryDirectory(prefix="tandem-swtpm-", dir="/var/tmp") as name:
        os.chown(name, NOBODY, NOBODY)
        yield Path(name)


def test_control_a_process_of_swtpms_user_finds_the_secret(directory: Path) -> None:
    # Given a swtpm under a user of its own, and a guest's secret in it
    port, pid_file = free_ports(), directory / "pid"
    process = subprocess.Popen(
        [
            *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={directory}"),
            *("--pid", f"file={pid_file}", "--flags", "not-need-init,startup-clear"),
            *("--server", f"type=tcp,bindaddr={HOST},port={port}"),
        ],
        user=NOBODY, group=NOBODY, extra_groups=[],
    )  # fmt: skip
    try:
        wait_for_path(pid_file)
        keep_a_secret(SharedTpm(port))

        # When another process of that user looks
        said = tried(NOBODY, process.pid, SECRET)
    finally:
        process.kill()
        process.wait()

    # Then it finds the secret, and could attach a debugger or take the sockets
    assert said["memory"] == "found"
    assert said["trace"] == "attached"
    assert said["steal"] == "taken"


@pytest.mark.parametrize("uid", [NOBODY, VTPM_UID, GUEST_UID, VTPM_UID + 2, GUEST_UID + 2])
def test_no_user_of_the_host_looks_into_a_vtpm(pair: PairUnderTest, uid: int) -> None:
    # Given a vTPM that keeps its guest's secret
    guest = GuestOf(pair)
    done(guest, tpm.startup(StartupType.CLEAR))
    keep_a_secret(guest)

    # When nobody, its own user, its hypervisor's and those of another pair look
    said = tried(uid, pair.pid, SECRET)

    # Then the kernel refuses each way; its own user, which is nobody else's, could stop it
    ways = {*LOOKED} - ({"signal"} if uid == VTPM_UID else set())
    assert {said[way] for way in ways} == REFUSED


@pytest.mark.parametrize("uid", [NOBODY, VTPM_UID, VTPM_UID + 2, GUEST_UID + 2])
def test_no_other_user_looks_into_a_hypervisor(pair: PairUnderTest, uid: int) -> None:
    # Given a pair
    done(GuestOf(pair), tpm.startup(StartupType.CLEAR))

    # When nobody, the vTPM's user and those of another pair look at its hypervisor
    said = tried(uid, pair.guest_pid, SECRET)

    # Then the kernel refuses each way
    assert {said[way] for way in LOOKED} == REFUSED


def test_root_is_in_the_trusted_base_and_each_verdict_says_so(pair: PairUnderTest) -> None:
    # Given a vTPM that keeps its guest's secret
    guest = GuestOf(pair)
    done(guest, tpm.startup(StartupType.CLEAR))
    keep_a_secret(guest)

    # When root looks
    said = tried(0, pair.pid, SECRET)

    # Then it is found: what a verifier is told is that root can
    assert said["memory"] == "found"
    assert "Root on the host is in the trusted base" in " ".join(Forge().verdict().notes)
