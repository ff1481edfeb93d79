"""38: another process uses a vTPM's control channel: reads its state, resets it, hashes into it.

Attacker: a local process that reaches the socket; an escaped guest's hypervisor.
Control: `swtpm_ioctl --save` and `--load` by anybody: the vTPM is copied, keys and all.
Shows: the channel is a socket pair without a name, and the first who speaks on it is the only one
(TDM-VTPM-STRANGER); another user cannot take the descriptor; and the one hypervisor has no request
that reads or writes state.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from peers.shared_swtpm import HOST, SharedTpm, shared_swtpm
from tandem.builder.door import DOOR
from tandem.wire import tpm_commands as tpm
from tandem.wire.control import BODIES, Command, Request
from tandem.wire.tpm_commands import StartupType
from tandem.wire.zygote_rpc import STATUS_REQUESTS, EndVtpm
from tests.attacks.bare_pair import GuestOf
from tests.attacks.quoting_tpm import quoted
from tests.attacks.strangers import NOBODY, names_of_sockets, tried
from tests.attacks.tpm import done
from tests.integration.vtpm.pair_harness import GUEST_UID, PairUnderTest, gone

OTHERS = (NOBODY, GUEST_UID + 2)  # nobody, and the hypervisor of another pair
KNOCK = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.settimeout(10)
try:
    sock.connect(sys.argv[1])
    sock.send(bytes.fromhex(sys.argv[2]))
    print(sock.recv(64))
except OSError as error:
    print(type(error).__name__)
"""
STRANGE = (
    *(Command.HASH_START, Command.HASH_DATA, Command.HASH_END, Command.STORE_VOLATILE),
    *(Command.GET_STATEBLOB, Command.SET_STATEBLOB, Command.GET_CONFIG, Command.GET_INFO),
    Command.LOCK_STORAGE,
)


def test_control_anybody_copies_the_vtpm(shared: SharedTpm, tmp_path: Path) -> None:
    # Given a vTPM whose key a verifier knows
    known = quoted(shared)
    blob, elsewhere = tmp_path / "blob", tmp_path / "elsewhere"
    elsewhere.mkdir()

    # When a process saves its state by its control channel, and loads it into one of its own
    swtpm_ioctl(shared, "--save", "permanent", str(blob))
    with shared_swtpm(elsewhere) as copy:
        swtpm_ioctl(copy, "--stop")
        swtpm_ioctl(copy, "--load", "permanent", str(blob))
        swtpm_ioctl(copy, "-i")
        done(copy, tpm.startup(StartupType.CLEAR))
        forged = quoted(copy)

    # Then the copy quotes with the same key, and stock tools accept it
    assert forged.passes_checkquote(tmp_path)
    assert forged.ak.name == known.ak.name


def test_there_is_nothing_to_connect_to_and_nothing_to_take(pair: PairUnderTest) -> None:
    # Given a live pair
    done(GuestOf(pair), tpm.startup(StartupType.CLEAR))

    # When its named sockets are looked for, and other users take descriptors of either half
    names = [*names_of_sockets(pair.pid), *names_of_sockets(pair.guest_pid)]
    said = [
        tried(uid, pid)[way]
        for uid in OTHERS
        for pid in (pair.pid, pair.guest_pid)
        for way in ("steal", "descriptors")
    ]

    # Then the one with a name is the builder's, and they get none, nor see their numbers
    assert [Path(name).name for name in names] == [DOOR]
    assert set(said) == {"PermissionError"}


def test_a_door_that_stands_open_is_the_builders_all_the_same(pair: PairUnderTest) -> None:
    # Given a live pair, and a door to its vTPM that an administrator opened to everybody
    done(GuestOf(pair), tpm.startup(StartupType.CLEAR))
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o711)
        door = Path(name) / DOOR
        os.link(pair.doors / DOOR, door)
        door.chmod(0o777)

        # When another user connects as the next builder would, and asks for the end
        end = subprocess.run(
            [sys.executable, "-c", KNOCK, str(door), STATUS_REQUESTS.encode(EndVtpm()).hex()],
            capture_output=True, text=True, check=True,
        )  # fmt: skip

    # Then he is not heard, the vTPM lives, and its own builder is
    assert end.stdout.strip() in {"b''", "ConnectionResetError", "BrokenPipeError"}
    assert not gone(pair.pidfd, 0.3)
    pair.status.send(EndVtpm())
    assert pair.ended().code == "TDM-VTPM-END-ASKED"


def test_a_second_speaker_ends_the_pair(make_pair: Callable[..., PairUnderTest]) -> None:
    # Given a live guest, and somebody who got a copy of its hypervisor's end
    pair = make_pair()
    pair.ready()
    copy = pair.control.dup()
    pair.start_guest()
    pair.connect()
    done(GuestOf(pair), tpm.startup(StartupType.CLEAR))

    # When he speaks on it
    with copy:
        copy.sendall(Request(command=Command.GET_CAPABILITY).encode())

        # Then the pair ends
        assert pair.ended().code == "TDM-VTPM-STRANGER"
    assert gone(pair.guest_pidfd, 1.0)


@pytest.mark.parametrize("command", STRANGE)
def test_its_own_hypervisor_has_no_such_request(pair: PairUnderTest, command: Command) -> None:
    # Given a live guest whose hypervisor is in the attacker's hands
    guest = GuestOf(pair)
    done(guest, tpm.startup(StartupType.CLEAR))
    body = BODIES.get(command)
    request = command.to_bytes(4) + (bytes(body.size) if body else b"")

    # When it asks for what swtpm would do
    answer = pair.ask_raw(request, 4)

    # Then it is refused, and the guest is served on
    assert answer != bytes(4)
    done(guest, tpm.pcr_read([0]))


def swtpm_ioctl(vtpm: SharedTpm, *arguments: str) -> None:
    """Run stock swtpm_ioctl on a swtpm's control channel."""
    command = ["swtpm_ioctl", "--tcp", f"{HOST}:{vtpm.port + 1}", *arguments]
    subprocess.run(command, check=True, timeout=20)
