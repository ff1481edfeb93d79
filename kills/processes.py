"""Processes as the kernel shows them: what Tandem says of itself is not asked here.

A pair is a PID namespace: its first process is the vTPM, and the hypervisor is in it too.  Which
state a vTPM uses is seen by the files that it has open.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum, auto
from pathlib import Path
from typing import Final

from tandem.builder.directories import VTPM_STATE
from tandem.hypervisor.process import start_time
from tandem.vtpm.state import SLOT_NAMES

HYPERVISOR: Final = "qemu-system-x86_64"
PTPM: Final = "swtpm"
CONSOLE: Final = "console.log"
DELETED: Final = " (deleted)"  # what proc(5) appends to a link whose file has gone
SERVICES: Final = {
    b"tandem.manager": "manager",
    b"tandem.broker": "broker",
    b"tandem.builder": "builder",
}
FORKER: Final = b"tandem.vtpm"
COMMAND_LINE: Final = b"-append"  # of the guest's kernel: its name, in this campaign


class Role(StrEnum):
    """What a process is; the value is how a report calls it."""

    MANAGER = auto()
    BROKER = auto()
    BUILDER = auto()
    ZYGOTE = auto()
    PTPM = auto()
    SPARE = auto()  # first of a namespace, and no vTPM yet
    VTPM = auto()
    HYPERVISOR = auto()
    OTHER = auto()


HALVES: Final = (Role.VTPM, Role.HYPERVISOR)  # of a pair
PLASTIC: Final = (  # of these, a process may still become another
    *(Role.SPARE, Role.OTHER, Role.MANAGER, Role.BROKER, Role.BUILDER),
)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One process at one look; `states` are (device, inode) of the state slots it has open."""

    pid: int
    start_time: int
    parent: int
    namespace: int
    role: Role
    guest: str = ""  # a hypervisor's by its kernel's command line, a vTPM's by its state's folder
    states: frozenset[tuple[int, int]] = frozenset()


def descendants(root: int) -> Iterator[int]:
    """Give every process below `root`; one that ends meanwhile may be missing."""
    waiting = [root]
    while waiting:
        found = list(_children(waiting.pop()))
        yield from found
        waiting += found


def look(pid: int) -> Seen | None:
    """Give what a process is now; None when it is gone, or a zombie."""
    try:
        started = start_time(pid)
        program = os.path.basename(os.readlink(f"/proc/{pid}/exe")).removesuffix(DELETED)
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        status = Path(f"/proc/{pid}/status").read_text()
        namespace = os.stat(f"/proc/{pid}/ns/pid").st_ino
        slots = _state_files(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    if started is None:
        return None
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    own, parent = lines["NSpid"].split(), int(lines["PPid"])
    return Seen(
        pid=pid,
        start_time=started,
        parent=parent,
        namespace=namespace,
        role=_role(words, program, own, has_state=bool(slots), is_child=parent == os.getpid()),
        guest=_guest(words, [path.parent.name for path in slots.values()]),
        states=frozenset(slots),
    )


def open_console(pid: int) -> int | None:
    """Open what a hypervisor writes its console to, also where the file has lost its name."""
    for link, target in _open_files(pid):
        if target.name == CONSOLE:
            try:
                return os.open(link, os.O_RDONLY | os.O_CLOEXEC)
            except (FileNotFoundError, ProcessLookupError):
                return None
    return None


def open_space(pid: int) -> int | None:
    """Open a process's PID namespace."""
    try:
        return os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None


def _guest(words: list[bytes], folders: list[str]) -> str:
    """Give the guest's name; the state of an ephemeral vTPM does not have it."""
    if COMMAND_LINE in words:
        return words[words.index(COMMAND_LINE) + 1].decode()
    return next((folder for folder in folders if folder != VTPM_STATE), "")


def _role(
    words: list[bytes], program: str, own: list[str], *, has_state: bool, is_child: bool
) -> Role:
    inside = len(own) > 1
    if program == HYPERVISOR:  # outside, the builder tries KVM; without words, exec is under way
        return Role.HYPERVISOR if inside and COMMAND_LINE in words else Role.OTHER
    if inside and own[-1] == "1" and FORKER in words:
        return Role.VTPM if has_state else Role.SPARE
    if inside:
        return Role.OTHER
    if program == PTPM:
        return Role.PTPM
    if FORKER in words:
        return Role.ZYGOTE
    found = next((Role(SERVICES[word]) for word in words if word in SERVICES), Role.OTHER)
    return found if is_child else Role.OTHER  # what a service has forked looks like it until exec


def _state_files(pid: int) -> dict[tuple[int, int], Path]:
    """Give the state slots that a process has open, by device and inode."""
    found = {}
    for link, target in _open_files(pid):
        if target.name in SLOT_NAMES:
            status = os.stat(link)
            found[status.st_dev, status.st_ino] = target
    return found


def _open_files(pid: int) -> Iterator[tuple[str, Path]]:
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except (FileNotFoundError, ProcessLookupError):
        return
    for number in numbers:
        link = f"/proc/{pid}/fd/{number}"
        try:
            yield link, Path(os.readlink(link).removesuffix(DELETED))
        except (FileNotFoundError, ProcessLookupError):
            continue


def _children(pid: int) -> Iterator[int]:
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            yield from map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        return
