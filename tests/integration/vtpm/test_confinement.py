"""What a vTPM may not do, seen from outside and tried from inside."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from tandem.privileges import drop_privileges
from tandem.vtpm.confinement import CallFilter, limit_vtpm
from tests.integration.vtpm.guest import Guest
from tests.integration.vtpm.manager_double import ManagerDouble
from tests.integration.vtpm.pair_harness import GUEST_UID, VTPM_UID, PairUnderTest

MakePair = Callable[..., PairUnderTest]


def status(pid: int) -> dict[str, str]:
    """Read /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_every_thread_of_a_vtpm_is_confined(pair: PairUnderTest) -> None:
    # Given a vTPM with a guest
    Guest(pair).start()

    # When the kernel is asked about each of its threads
    # Then none has root, capabilities or ways to gain any, and all are under seccomp
    tasks = os.listdir(f"/proc/{pair.pid}/task")
    assert len(tasks) == 2
    for task in tasks:
        facts = status(int(task))
        assert set(facts["Uid"].split()) == set(facts["Gid"].split()) == {str(VTPM_UID)}
        assert facts["Groups"].strip() == ""
        assert int(facts["CapPrm"], 16) == int(facts["CapEff"], 16) == 0
        assert facts["NoNewPrivs"] == "1"
        assert facts["Seccomp"] == "2"
    assert status(pair.pid)["NSpid"].split()[-1] == "1"


def test_a_confined_process_opens_no_file_and_starts_nothing() -> None:
    # Given a child that confines itself as a vTPM does
    calls = CallFilter()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        drop_privileges(VTPM_UID)
        limit_vtpm()
        calls.load()
        os.write(writing, attempts())
        os._exit(0)
    os.waitpid(child, 0)

    # When it tries to open a file, to make a socket, to fork and to signal
    outcome = os.read(reading, 100)
    os.close(reading)
    os.close(writing)

    # Then each fails with EPERM
    assert outcome == b"1111"


def attempts() -> bytes:
    """Try what is forbidden; give one character for each, `1` for EPERM."""
    import socket

    tries: list[Callable[[], object]] = [
        lambda: os.open("/etc/hostname", os.O_RDONLY),
        socket.socket,
        os.fork,
        lambda: os.kill(1, 0),
    ]
    outcome = b""
    for each in tries:
        try:
            each()
            outcome += b"0"
        except PermissionError:
            outcome += b"1"
    return outcome


def test_no_secret_is_in_arguments_or_environment(
    pair: PairUnderTest, manager: ManagerDouble
) -> None:
    # Given a vTPM and its key
    key = manager.entries["vtpm"].key

    # When arguments and environment of vTPM, hypervisor and zygote are read
    for pid in (pair.pid, pair.guest_pid, pair.zygote.process.pid):
        for name in ("cmdline", "environ"):
            content = Path(f"/proc/{pid}/{name}").read_bytes()

            # Then the key is not there, nor is it in hexadecimal
            assert key not in content
            assert key.hex().encode() not in content


def test_no_descriptor_of_one_pair_is_in_a_process_of_another(
    make_pair: MakePair, manager: ManagerDouble, tmp_path: Path
) -> None:
    # Given two pairs, the second started while the first runs
    pairs = []
    for name in ("one", "two"):
        pair = make_pair(vtpm=name)
        pair.ready()
        pair.start_guest()
        pair.connect()
        pairs.append(pair)

    # When the sockets, pipes and files of their processes are compared
    held = [descriptors(pair.pid) | descriptors(pair.guest_pid) for pair in pairs]

    # Then they share none, and the zygote holds none of either
    zygote = descriptors(pairs[0].zygote.process.pid)
    assert not held[0] & held[1]
    assert not zygote & (held[0] | held[1])


def descriptors(pid: int) -> set[tuple[int, int]]:
    """Give what a process has open, standard descriptors and devices apart."""
    found = set()
    for number in os.listdir(f"/proc/{pid}/fd"):
        facts = os.stat(f"/proc/{pid}/fd/{number}")
        anonymous = os.readlink(f"/proc/{pid}/fd/{number}").startswith("anon_inode:")
        if int(number) > 2 and not stat.S_ISCHR(facts.st_mode) and not anonymous:
            found.add((facts.st_dev, facts.st_ino))
    return found


def test_a_hypervisor_has_its_own_user_and_no_privileges(pair: PairUnderTest) -> None:
    # Given a hypervisor beside a vTPM
    # When the kernel is asked about it
    facts = status(pair.guest_pid)

    # Then it is another user than the vTPM, in the vTPM's PID namespace
    assert set(facts["Uid"].split()) == {str(GUEST_UID)}
    assert int(facts["CapEff"], 16) == 0
    assert facts["NoNewPrivs"] == "1"
    namespaces = [os.stat(f"/proc/{pid}/ns/pid").st_ino for pid in (pair.pid, pair.guest_pid)]
    assert namespaces[0] == namespaces[1] != os.stat("/proc/self/ns/pid").st_ino


def test_state_slots_belong_to_the_vtpm_s_user(pair: PairUnderTest, tmp_path: Path) -> None:
    # Given the slots of a vTPM
    # When their owners and modes are read
    # Then nobody else may read them
    for slot in (tmp_path / "vtpm").iterdir():
        facts = slot.stat()
        assert (facts.st_uid, stat.S_IMODE(facts.st_mode)) == (VTPM_UID, 0o600)
