"""A vTPM and its guest end together, and what was answered is never lost."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tandem.errors import Refused
from tandem.vtpm.provisioning import Nv
from tandem.vtpm.state import SLOT_NAMES
from tandem.wire import tpm_commands as tpm
from tandem.wire.control import Command, Request
from tandem.wire.zygote_rpc import EndVtpm, SpawnHypervisor, VtpmEnded
from tests.integration.vtpm.guest import Guest
from tests.integration.vtpm.manager_double import ManagerDouble
from tests.integration.vtpm.pair_harness import PairUnderTest, ZygoteUnderTest, gone

MakePair = Callable[..., PairUnderTest]
INDEX = 0x01500001
PLAIN = Nv.AUTHWRITE | Nv.AUTHREAD | Nv.NO_DA


def begin(make_pair: MakePair) -> tuple[PairUnderTest, Guest]:
    """Give a pair with a started guest."""
    pair = make_pair()
    pair.ready()
    pair.start_guest()
    pair.connect()
    guest = Guest(pair)
    guest.start()
    return pair, guest


def refused_start(make_pair: MakePair) -> str:
    """Start a vTPM that must refuse; give its code."""
    pair = make_pair()
    message, _ = pair.status.receive()
    assert isinstance(message, VtpmEnded), message
    assert gone(pair.pidfd, 1.0)
    return message.code


def end(pair: PairUnderTest) -> None:
    """End a pair by its guest's death."""
    pair.kill_guest()
    assert gone(pair.pidfd, 1.0)


def test_the_kernel_ends_the_hypervisor_with_its_vtpm(make_pair: MakePair) -> None:
    # Given a pair
    pair, _ = begin(make_pair)

    # When its vTPM is killed
    os.kill(pair.pid, signal.SIGKILL)

    # Then the hypervisor's process is gone within a second, nobody watching
    assert gone(pair.guest_pidfd, 1.0)


@pytest.mark.parametrize("started", [True, False])
def test_a_vtpm_ends_within_a_second_of_its_guest(make_pair: MakePair, started: bool) -> None:
    # Given a pair whose guest uses its vTPM, or never does
    pair = make_pair()
    pair.ready()
    pair.start_guest()
    if started:
        pair.connect()
        Guest(pair).start()

    # When the hypervisor crashes
    pair.kill_guest()

    # Then the vTPM is gone
    assert gone(pair.pidfd, 1.0)


def test_a_vtpm_ends_within_a_second_even_while_its_manager_stalls(
    make_pair: MakePair, manager: ManagerDouble
) -> None:
    # Given a guest whose command waits for a Manager that does not answer
    pair, _ = begin(make_pair)
    manager.may_answer.clear()
    pair.data.sendall(tpm.nv_define_space(tpm.OWNER, tpm.nv_public(INDEX, PLAIN, 8)))
    time.sleep(0.1)

    # When the hypervisor crashes
    pair.kill_guest()

    # Then the vTPM is gone all the same
    assert gone(pair.pidfd, 1.0)
    manager.may_answer.set()


def test_a_shutdown_of_the_hypervisor_is_answered_and_ends_the_vtpm(make_pair: MakePair) -> None:
    # Given a pair
    pair, _ = begin(make_pair)

    # When QEMU says that it ends
    answer = pair.ask(Command.SHUTDOWN)

    # Then it is answered, and the vTPM gives its reason
    assert answer == bytes(4)
    assert pair.ended().code == "TDM-VTPM-SHUT-DOWN"
    assert gone(pair.pidfd, 1.0)


def test_the_builder_can_end_a_vtpm_that_waits(make_pair: MakePair) -> None:
    # Given a vTPM without a guest
    pair = make_pair()
    pair.ready()

    # When the builder ends it
    pair.status.send(EndVtpm())

    # Then it does
    assert pair.ended().code == "TDM-VTPM-END-ASKED"
    assert gone(pair.pidfd, 1.0)


def test_pairs_outlive_builder_and_zygote(manager: ManagerDouble, tmp_path: Path) -> None:
    # Given a pair of a zygote of its own
    zygote = ZygoteUnderTest()
    pair = PairUnderTest(zygote, manager.open_pair, tmp_path / "vtpm")
    pair.ready()
    pair.start_guest()
    pair.connect()
    guest = Guest(pair)
    guest.start()

    # When builder and zygote are killed
    pair.status.close()
    zygote.process.kill()
    zygote.close()

    # Then the guest still has its TPM, and the two still end together
    assert guest.code(tpm.pcr_read([0])) == 0
    assert guest.define_index(INDEX, PLAIN) == 0
    pair.kill_guest()
    assert gone(pair.pidfd, 1.0)
    pair.data.close()


def test_what_was_answered_survives_the_power(make_pair: MakePair) -> None:
    # Given a guest that wrote an NV index and got its answer
    pair, guest = begin(make_pair)
    assert guest.define_index(INDEX, PLAIN) == 0
    assert guest.code(tpm.nv_write(INDEX, INDEX, b"survives", 0, tpm.password())) == 0

    # When the power fails
    os.kill(pair.pid, signal.SIGKILL)
    assert gone(pair.pidfd, 1.0)

    # Then the next launch reads it
    _, guest = begin(make_pair)
    assert guest.run(tpm.nv_read(INDEX, INDEX, 8, 0, tpm.password())).parameters[2:] == b"survives"


def test_an_orderly_counter_never_counts_a_value_twice(make_pair: MakePair) -> None:
    # Given an orderly NV counter (TPM_NT_COUNTER, kept in RAM), read after a Shutdown and a quote
    pair, guest = begin(make_pair)
    counter = PLAIN | Nv(1 << 4) | Nv(1 << 26)
    assert guest.define_index(INDEX, counter) == 0
    increment = tpm.command(0x134, (INDEX, INDEX), b"", [tpm.password()])
    reading = tpm.nv_read(INDEX, INDEX, 8, 0, tpm.password())
    assert guest.code(increment) == 0
    assert guest.code(tpm.shutdown(tpm.StartupType.CLEAR)) == 0
    guest.deep_quote()
    assert guest.code(increment) == 0
    last = int.from_bytes(guest.run(reading).parameters[2:])

    # When the power fails, and the next launch counts
    os.kill(pair.pid, signal.SIGKILL)
    assert gone(pair.pidfd, 1.0)
    _, guest = begin(make_pair)
    assert guest.code(increment) == 0

    # Then the value is one that was never seen
    assert int.from_bytes(guest.run(reading).parameters[2:]) > last


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB where the vTPM's state is."""
    path = tmp_path / "vtpm"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_disk_that_is_full_ends_the_pair_without_an_answer(
    make_pair: MakePair, small_disk: Path
) -> None:
    # Given a started guest, and a disk that somebody else has filled
    pair, _ = begin(make_pair)
    with pytest.raises(OSError, match="No space left"), (small_disk / "other").open("wb") as file:
        file.write(bytes(256 * 1024))

    # When it changes its persistent state
    answer = pair.execute(tpm.nv_define_space(tpm.OWNER, tpm.nv_public(INDEX, PLAIN, 8)))

    # Then it gets no answer, and the pair ends with the reason
    assert answer == b""
    assert pair.ended().code == "TDM-STATE-NOT-WRITTEN"
    assert gone(pair.guest_pidfd, 1.0)


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        ("delete", "TDM-STATE-MISSING"),
        ("damage", "TDM-STATE-DAMAGED"),
        ("older", "TDM-STATE-OLDER"),
    ],
)
def test_a_state_that_is_not_the_newest_is_refused_and_never_made_anew(
    make_pair: MakePair, tmp_path: Path, manager: ManagerDouble, attack: str, code: str
) -> None:
    # Given a vTPM with a history, and a copy of its slots from before its last launch
    slots = [tmp_path / "vtpm" / name for name in SLOT_NAMES]
    end(begin(make_pair)[0])
    copies = [slot.read_bytes() for slot in slots]
    end(begin(make_pair)[0])

    # When somebody with the disk deletes, damages or replaces both
    for slot, copy in zip(slots, copies, strict=True):
        match attack:
            case "delete":
                slot.unlink()
            case "damage":
                slot.write_bytes(slot.read_bytes()[:-1] + b"\x00")
            case _:
                slot.write_bytes(copy)
    known = manager.entries["vtpm"].digest

    # Then the vTPM does not start, says why, and the Manager's record is untouched
    assert refused_start(make_pair) == code
    assert manager.entries["vtpm"].digest == known


def test_a_second_process_on_the_control_channel_ends_the_pair(make_pair: MakePair) -> None:
    # Given a builder that kept a copy of the hypervisor's end of the control channel
    pair = make_pair()
    pair.ready()
    copy = pair.control.dup()
    pair.start_guest()
    pair.connect()
    Guest(pair).start()

    # When another process speaks on it
    copy.sendall(Request(command=Command.GET_CAPABILITY).encode())

    # Then the pair ends
    assert pair.ended().code == "TDM-VTPM-STRANGER"
    assert gone(pair.guest_pidfd, 1.0)


def test_the_hypervisor_of_another_namespace_is_not_served(make_pair: MakePair) -> None:
    # Given a vTPM that waits
    pair = make_pair()
    pair.ready()

    # When a process speaks that was not forked beside it
    pair.control.sendall(Request(command=Command.GET_CAPABILITY).encode())

    # Then it gets no answer
    assert pair.ended().code == "TDM-VTPM-STRANGER"


def test_a_pair_has_one_vtpm_and_no_hypervisor_without_it(
    zygote: ZygoteUnderTest, make_pair: MakePair
) -> None:
    # Given a pair whose vTPM has ended
    pair, _ = begin(make_pair)
    end(pair)

    # When a hypervisor is asked for it
    request = SpawnHypervisor(
        pair_id=pair.pair_id, argv=("/bin/true",), uid=1, groups=(), numbers=()
    )
    with pytest.raises(Refused) as refusal:
        zygote.spawn(request, [2, 2, 2])

    # Then there is none
    assert refusal.value.code == "TDM-PAIR-WITHOUT-VTPM"


def test_a_command_in_pieces_is_one_command(make_pair: MakePair) -> None:
    # Given a started guest
    pair, _ = begin(make_pair)
    command = tpm.pcr_read([0])

    # When its command comes byte by byte, and one that never becomes whole after it
    for position in range(len(command)):
        pair.data.sendall(command[position : position + 1])
    whole = pair.data.recv(4096)
    pair.data.sendall(struct.pack(">HII", tpm.NO_SESSIONS, 0xFFFFFFFF, 0x17E))
    never = pair.data.recv(4096)

    # Then the first is answered, the second refused for its size, and the vTPM lives
    assert whole[6:10] == bytes(4)
    assert never == tpm.response(0x142)
    assert pair.execute(command) == whole


def test_a_second_data_connection_is_refused(make_pair: MakePair) -> None:
    # Given a pair with its data connection
    pair, guest = begin(make_pair)
    _, theirs = socket.socketpair()

    # When the hypervisor offers another
    answer = pair.ask(Command.SET_DATAFD, descriptors=[theirs.fileno()])
    theirs.close()

    # Then it is not taken, and the first still works
    assert answer != bytes(4)
    assert guest.code(tpm.pcr_read([0])) == 0
