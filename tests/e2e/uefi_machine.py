"""A machine of a library entry with a plain swtpm: QEMU's arguments are the builder's own.

What its firmware measures depends on nothing else of Tandem, so it tests a prediction alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from peers.console import PROMPT_MARK, Console
from peers.plain import swtpm
from tandem.evidence.guest_entry import GuestEntry, UefiBoot
from tandem.evidence.launch_plan import machine_configuration
from tandem.hypervisor.qemu_args import EXECUTABLE, Numbers, arguments

BOOT_SECONDS = 240.0
ROMS = "/usr/share/qemu"
BANKS = "/sys/class/tpm/tpm0/pcr-sha256"
APPENDED = os.O_WRONLY | os.O_CREAT | os.O_APPEND
LOG = "/sys/kernel/security/tpm0/binary_bios_measurements"


@contextlib.contextmanager
def booted(entry: GuestEntry, library: Path, work: Path) -> Iterator[Console]:
    """Boot the entry from its files, and give the guest's console at its shell."""
    assert isinstance(entry.boot, UefiBoot)
    variables = work / "variables"
    shutil.copyfile(library / entry.boot.variables.path, variables)
    with contextlib.ExitStack() as stack:
        control = socket.socket(socket.AF_UNIX)
        stack.callback(control.close)
        control.connect(str(stack.enter_context(swtpm(work))))
        control.set_inheritable(True)
        listening = {
            name: _listening(work / name, stack) for name in ("qmp", "console", "attester")
        }
        numbers = Numbers(
            firmware=_open(library / entry.boot.firmware.path, stack),
            kernel=_open(library / entry.boot.kernel.path, stack) if entry.boot.kernel else None,
            initrd=_open(library / entry.boot.initrd.path, stack) if entry.boot.initrd else None,
            variables=_open(variables, stack, os.O_RDWR),
            rom_directory=_open(Path(ROMS), stack),
            disks={disk.id: _open(library / disk.path, stack) for disk in entry.disks},
            vtpm_control=control.fileno(),
            debugger=None,
            console_log=_open(work / "console.log", stack, APPENDED),
            qmp_log=_open(work / "qmp.log", stack, APPENDED),
            **{name: each.fileno() for name, each in listening.items()},
        )
        command = arguments(machine_configuration(entry, "tcg"), entry.boot.command_line, numbers)
        process = subprocess.Popen(("nice", "-n", "10", EXECUTABLE, *command[1:]), close_fds=False)
        stack.callback(process.wait)
        stack.callback(process.kill)
        _let_run(work / "qmp", stack)
        console = socket.socket(socket.AF_UNIX)
        console.connect(str(work / "console"))
        with Console(console) as connected:
            connected.wait_for(PROMPT_MARK, BOOT_SECONDS)
            yield connected


def registers(console: Console, indices: tuple[int, ...]) -> dict[int, bytes]:
    """Read registers as the guest's kernel shows them."""
    shown = console.run(f"cd {BANKS} && cat {' '.join(map(str, indices))}").split()
    return {index: bytes.fromhex(each) for index, each in zip(indices, shown, strict=True)}


def firmware_log(console: Console) -> bytes:
    """Read the log of the guest's firmware."""
    code = f"print(open('{LOG}', 'rb').read().hex())"
    return bytes.fromhex(console.run(f'python3 -S -c "{code}"').strip())


def _open(path: Path, stack: contextlib.ExitStack, flags: int = os.O_RDONLY) -> int:
    descriptor = os.open(path, flags)
    os.set_inheritable(descriptor, True)
    stack.callback(os.close, descriptor)
    return descriptor


def _listening(path: Path, stack: contextlib.ExitStack) -> socket.socket:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    sock.bind(str(path))
    sock.listen(1)
    sock.set_inheritable(True)
    return sock


def _let_run(path: Path, stack: contextlib.ExitStack) -> None:
    """Let the machine run, by its monitor."""
    monitor = stack.enter_context(socket.socket(socket.AF_UNIX))
    monitor.settimeout(BOOT_SECONDS)
    monitor.connect(str(path))
    with monitor.makefile("rw") as stream:
        stream.readline()  # the greeting
        for command in ("qmp_capabilities", "cont"):
            stream.write(json.dumps({"execute": command}) + "\n")
            stream.flush()
            stream.readline()
