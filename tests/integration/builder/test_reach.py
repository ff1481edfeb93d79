"""Nobody but the builder reaches a machine's monitor, memory or debugger (DESIGN, section 10).

Control: the same socket is connected to by root, so that it is the rights that keep others out.
"""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tandem.hypervisor import qemu
from tandem.hypervisor.descriptors import connect
from tests.integration.builder.running_host import RunningHost

NOBODY = 65534
REACH = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
try:
    socket.socket(socket.AF_UNIX).connect(sys.argv[1])
    print("reached")
except OSError as error:
    print(type(error).__name__)
"""
USED = {"cont", "stop", "system_powerdown", "query-chardev"}


@pytest.fixture
def pair(host: RunningHost) -> dict[str, Any]:
    return host.start()


def directory(host: RunningHost, pair: dict[str, Any]) -> Path:
    return host.host / "run" / "pairs" / str(pair["pair_id"])


def uid_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


@pytest.mark.parametrize("port", ["qmp.sock", "console.sock", "attester.sock"])
def test_no_other_user_reaches_a_machines_ports(
    host: RunningHost, pair: dict[str, Any], port: str
) -> None:
    # Given a running guest, beside another one, and a port that root reaches (the control)
    other = host.start("brief")
    path = directory(host, pair) / port
    with connect(path.parent, port):
        pass
    # When the guest's own hypervisor, another guest's, its vTPM and a user without rights try
    users = [
        uid_of(each[half]) for each in (pair, other) for half in ("hypervisor_pid", "vtpm_pid")
    ]
    found = [
        subprocess.run(
            [sys.executable, "-c", REACH, str(path), str(uid)],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout.strip()
        for uid in (*users, NOBODY)
    ]
    # Then none of them does, and no two of them are the same user
    assert found == ["PermissionError"] * 5
    assert len({*users, NOBODY, 0}) == 6


def test_a_machine_listens_on_no_network_and_has_no_monitor_but_the_builders(
    host: RunningHost, pair: dict[str, Any]
) -> None:
    # Given a running guest
    pid = pair["hypervisor_pid"]
    # When its arguments and its sockets are looked at
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    links = (os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir())
    sockets = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    network = {
        line.split()[9]
        for name in ("tcp", "tcp6", "udp", "udp6")
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
    }
    # Then there is one monitor, QMP's, and no debugger, readline monitor or socket of a network
    monitors = [words[at + 1] for at, word in enumerate(words) if word == "-mon"]
    assert monitors == ["chardev=qmp,mode=control"]
    assert not {"-s", "-gdb", "-monitor", "-qmp", "-qmp-pretty", "-vnc", "-spice"} & set(words)
    assert not sockets & network


def test_the_driver_executes_no_command_that_reads_or_changes_a_machine() -> None:
    # Given the driver's source
    tree = ast.parse(inspect.getsource(qemu))
    # When each monitor command in it is listed
    commands = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "_execute"
        and isinstance(node.args[0], ast.Constant)
    }
    # Then none dumps memory, plugs a device or opens a debugger
    assert commands == USED
