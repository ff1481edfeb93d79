"""T4: a debugger is attached to the running guest (R6).

Attacker: a local process that reaches the hypervisor's monitor or gdbstub; another guest's escaped
hypervisor.
Control: QEMU with `-gdb` and a monitor at a path: its memory is read by gdbstub and by `pmemsave`,
and its quote is as good as before.
Shows: there is no gdbstub unless an entry has one, and it and the monitor are in a directory of the
builder's; the kernel refuses every other user; a verifier refuses a machine with a debugger by name
(nobody-can-debug-the-guest).
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo import good_run
from demo.good_run import GUEST
from demo.stage import Stage
from peers.bare_machine import plain_machine
from tandem.appraisal.rules import Rule
from tandem.evidence.launch import LaunchEvent, Tag, json_event
from tests.attacks.launches import against, changed, verdict_on
from tests.attacks.quoting_tpm import measure, quoted
from tests.attacks.strangers import NOBODY, tried
from tests.unit.appraisal.forge import Forge, guest_entry, library

SECRET = b"what the guest has in its memory"
ADDRESS = 0x100000
DEBUGGED = "debugged"
DEBUGGERS = ("-gdb", "-s", "-monitor", "-qmp", "-qmp-pretty", "-d", "-D")


def test_control_memory_is_read_and_the_quote_is_as_good(control: Path, tmp_path: Path) -> None:
    # Given a guest with a secret in its memory, and the usual sockets for who manages it
    gdb, qmp, dump = tmp_path / "gdb", tmp_path / "qmp", tmp_path / "dump"
    sockets = (
        *("-gdb", f"unix:{gdb},server=on,wait=off"),
        *("-qmp", f"unix:{qmp},server=on,wait=off"),
    )
    with plain_machine(control, *sockets) as plain:
        machine = plain.machine
        machine.run_until()
        measure(machine)
        before = quoted(machine)
        machine.put(ADDRESS, SECRET)

        # When somebody connects to them
        by_gdb = read_by_gdb(gdb, ADDRESS, len(SECRET))
        save_by_monitor(qmp, ADDRESS, len(SECRET), dump)
        after = quoted(machine)

    # Then he has the secret, twice, and stock tools accept the quote as before
    assert by_gdb == SECRET
    assert dump.read_bytes() == SECRET
    assert after.passes_checkquote(tmp_path)
    assert after.quote.pcr_digest == before.quote.pcr_digest


@pytest.fixture
def hosted(stage: Stage) -> Iterator[Stage]:
    """A host, without a guest afterwards."""
    yield stage
    for guest in (GUEST, DEBUGGED):
        stage.tandem("guest", "stop", guest, "--kill", expect=None)


def test_no_other_user_reaches_monitor_console_or_memory(hosted: Stage) -> None:
    # Given a running guest, and the sockets of its hypervisor
    [pair] = hosted.ask("guest", "start", GUEST)
    pid = pair["hypervisor_pid"]
    sockets = list((hosted.host / "run" / "pairs").glob("*/*.sock"))
    assert {path.name for path in sockets} >= {"qmp.sock", "console.sock"}

    # When nobody, its vTPM's user and those of another pair try them, and its process
    owner = Path(f"/proc/{pid}").stat().st_uid
    vtpm = Path(f"/proc/{pair['vtpm_pid']}").stat().st_uid
    said = [tried(uid, pid, SECRET, sockets) for uid in (NOBODY, vtpm, owner + 1, owner + 2)]

    # Then the kernel refuses each way
    assert {word for each in said for word in each.values()} == {"PermissionError"}


def test_the_hypervisor_has_no_debugger_and_cannot_reach_its_own_monitor(hosted: Stage) -> None:
    # Given a running guest, and a hypervisor that its guest escaped into
    [pair] = hosted.ask("guest", "start", GUEST)
    arguments = Path(f"/proc/{pair['hypervisor_pid']}/cmdline").read_bytes().decode().split("\0")
    owner = Path(f"/proc/{pair['hypervisor_pid']}").stat().st_uid
    sockets = list((hosted.host / "run" / "pairs").glob("*/*.sock"))

    # When its user connects to the monitor and to the builder
    builder = hosted.host / "run" / "builder.sock"
    said = tried(owner, pair["vtpm_pid"], SECRET, [*sockets, builder])

    # Then it reaches neither, nor its vTPM, and there is no stub that it could have opened
    assert set(said.values()) == {"PermissionError"}
    assert not set(arguments) & set(DEBUGGERS)


def test_a_machine_with_a_debugger_is_named_by_the_verdict() -> None:
    # Given a launch whose measured machine has a debugger, and an entry without one
    events = [with_debugger(event) for event in changed()]

    # When its evidence is appraised
    found = against(verdict_on(events))

    # Then the library's entry is against it, and so is the rule about debuggers
    assert "debugger" in found[Rule.CONFIGURATION.title].found
    assert Rule.NO_DEBUGGER.title in found


def test_an_entry_with_a_debugger_is_refused_unless_the_policy_allows_it() -> None:
    # Given a signed library whose entry has a debugger, and evidence of its launch
    entries = {**library()["entries"], "web": guest_entry(debugger=True)}  # type: ignore[dict-item]
    forge = Forge(library=library(entries=entries))

    # When it is appraised by a policy that says nothing of debuggers, and by one that allows them
    strict = forge.verdict()
    forge.policy_changes = {"debugger": True}
    lenient = forge.verdict()

    # Then the first refuses it by that alone
    assert list(against(strict)) == [Rule.NO_DEBUGGER.title]
    assert lenient.word == "trusted"


def test_a_configured_debugger_is_the_builders_alone(hosted: Stage) -> None:
    # Given a guest whose own library has a debugger
    key = hosted.work / "debugged.key"
    hosted.tandem("library", "keygen", "-o", key)
    source = good_run.write_library(hosted, hosted.work / "debugged", good_run.COMMAND_LINE)
    source.write_text(f"{source.read_text()}debugger = true\n")
    hosted.tandem("library", "sign", source, "--key", key)
    own = ("--library", source.with_name("library.dsse.json"), "--library-key", f"{key}.pub")
    [pair] = hosted.ask("guest", "start", DEBUGGED, "--entry", GUEST, *own)
    sockets = list((hosted.host / "run" / "pairs").glob("*/debugger.sock"))

    # When other users, its hypervisor's among them, connect to its stub
    owner = Path(f"/proc/{pair['hypervisor_pid']}").stat().st_uid
    said = [tried(uid, pair["vtpm_pid"], SECRET, sockets) for uid in (NOBODY, owner, owner + 2)]

    # Then there is one, and the kernel refuses them
    assert len(sockets) == 1
    assert {each[str(sockets[0])] for each in said} == {"PermissionError"}


def with_debugger(event: LaunchEvent) -> LaunchEvent:
    """Switch the debugger on in the configuration that an event measures."""
    if event.tag is not Tag.CONFIGURATION:
        return event
    return json_event(event.tag, {**json.loads(event.data), "debugger": True})


def read_by_gdb(path: Path, address: int, size: int) -> bytes:
    """Read physical memory over gdb's remote protocol."""
    with socket.socket(socket.AF_UNIX) as stub:
        stub.settimeout(10)
        stub.connect(str(path))
        packets = ("Qqemu.PhyMemMode:1", f"m{address:x},{size:x}")
        for packet in packets:
            stub.sendall(f"${packet}#{sum(packet.encode()) % 256:02x}".encode())
            answer = b""
            while b"#" not in answer:
                answer += stub.recv(4096)
            stub.sendall(b"+")
    return bytes.fromhex(answer.partition(b"$")[2].partition(b"#")[0].decode())


def save_by_monitor(path: Path, address: int, size: int, file: Path) -> None:
    """Have QEMU write physical memory to a file (QMP `pmemsave`)."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        lines = sock.makefile("rw")
        lines.readline()
        arguments: dict[str, Any] = {"val": address, "size": size, "filename": str(file)}
        for request in (
            {"execute": "qmp_capabilities"},
            {"execute": "pmemsave", "arguments": arguments},
        ):
            lines.write(json.dumps(request) + "\n")
            lines.flush()
            assert "return" in json.loads(lines.readline())
