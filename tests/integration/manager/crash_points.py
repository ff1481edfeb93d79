"""Kill a process after its n-th write, sync or TPM command, and say what a power cut would leave.

The process is forked and traced with ptrace(2).  Every system call that changes a file, syncs one,
or crosses a socket or a pipe is an event, seen at its return, with the bytes that it carried.  From
the events follows what the disk holds when the power fails instead of the process: what was synced,
and any part of what was not.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
LIBC.ptrace.restype = ctypes.c_long
TRACEME, GETREGS, SYSCALL, SETOPTIONS = 0, 12, 24, 0x4200
SYSGOOD_EXITKILL = 1 | 1 << 20
SYSCALL_STOP = signal.SIGTRAP | 0x80
RDI, RSI, RDX, R10, RAX, ORIG_RAX = 14, 13, 12, 7, 10, 15  # struct user_regs_struct, x86-64
FAILED = 1 << 63


class Kind(Enum):
    """What an event does; the system calls are those of x86-64."""

    WRITE = auto()
    TRUNCATE = auto()
    SYNC = auto()
    UNLINK = auto()
    SENT = auto()  # a command to the TPM, or a word to the test
    RECEIVED = auto()


SYSTEM_CALLS = {
    0: Kind.RECEIVED,  # read
    1: Kind.SENT,  # write
    18: Kind.WRITE,  # pwrite64
    20: Kind.SENT,  # writev
    44: Kind.SENT,  # sendto
    45: Kind.RECEIVED,  # recvfrom
    74: Kind.SYNC,  # fsync
    75: Kind.SYNC,  # fdatasync
    77: Kind.TRUNCATE,  # ftruncate
    87: Kind.UNLINK,  # unlink
}
THROUGH_SOCKETS = (Kind.SENT, Kind.RECEIVED)


@dataclass(frozen=True, kw_only=True)
class Event:
    """One system call that succeeded."""

    kind: Kind
    path: str
    offset: int = 0
    data: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a process did until it ended or was killed; from `begun` on is the measured part."""

    events: tuple[Event, ...]
    begun: int
    killed: bool


def run(work: Callable[[Callable[[bytes], None]], None], *, kill_after: int, begin: bytes) -> Run:
    """Run `work` in a child and kill it after so many events, counted from its word `begin` on."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _traced_child(work, writing)
    try:
        return _followed(child, kill_after, begin)
    finally:
        os.close(reading)
        os.close(writing)


def _traced_child(work: Callable[[Callable[[bytes], None]], None], writing: int) -> None:
    try:
        LIBC.ptrace(TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        work(partial(_say, writing))
        os._exit(0)
    finally:
        os._exit(1)


def _say(writing: int, word: bytes) -> None:
    os.write(writing, word)


def _followed(child: int, kill_after: int, begin: bytes) -> Run:
    os.waitpid(child, 0)
    LIBC.ptrace(SETOPTIONS, child, None, SYSGOOD_EXITKILL)
    events: list[Event] = []
    begun, entering = -1, True
    while True:
        LIBC.ptrace(SYSCALL, child, None, None)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            assert status == 0, f"the child failed: {status}"
            return Run(events=tuple(events), begun=begun, killed=False)
        if os.WSTOPSIG(status) != SYSCALL_STOP:
            continue
        if not entering:
            event = _event(child)
            if event is not None:
                events.append(event)
                if event.data == begin and event.kind is Kind.SENT:
                    begun = len(events)
            if begun >= 0 and len(events) - begun >= kill_after:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return Run(events=tuple(events), begun=begun, killed=True)
        entering = not entering


def _event(child: int) -> Event | None:
    """Give the system call that returns now, where it is an event."""
    registers = (ctypes.c_ulonglong * 27)()
    LIBC.ptrace(GETREGS, child, None, ctypes.byref(registers))
    kind = SYSTEM_CALLS.get(registers[ORIG_RAX])
    result = registers[RAX]
    if kind is None or result & FAILED:
        return None
    if kind is Kind.UNLINK:
        return Event(kind=kind, path=_text(child, registers[RDI]))
    path = os.readlink(f"/proc/{child}/fd/{registers[RDI]}")
    if kind in THROUGH_SOCKETS:
        if not path.startswith(("socket:", "pipe:")):
            assert kind is Kind.RECEIVED, f"{path} is written at its file offset"
            return None  # a file that is read
        return Event(kind=kind, path=path, data=_bytes(child, registers[RSI], result))
    if kind is Kind.WRITE:
        data = _bytes(child, registers[RSI], result)
        return Event(kind=kind, path=path, offset=registers[R10], data=data)
    return Event(kind=kind, path=path, offset=registers[RSI] if kind is Kind.TRUNCATE else 0)


def _bytes(child: int, address: int, size: int) -> bytes:
    with open(f"/proc/{child}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(size)


def _text(child: int, address: int) -> str:
    return _bytes(child, address, 4096).split(b"\0", 1)[0].decode()


def power_cut(
    files: Sequence[Path],
    events: Sequence[Event],
    target: Path,
    survives: Callable[[int], bool],
    *,
    before: Sequence[Path],
) -> None:
    """Write into `target` what a disk holds of `files` after a power cut at the end of `events`.

    `before` are copies of them from before the events.  Of what was not synced after it was
    written, the k-th change (counted from the last one, which is 0) is there where `survives(k)`.
    A file that was removed is there still, until its directory is synced.
    """
    for file, copy in zip(files, before, strict=True):
        if _gone(file, events):
            continue
        own = [(at, each) for at, each in enumerate(events) if each.path == str(file)]
        changes = [(at, each) for at, each in own if each.kind in (Kind.WRITE, Kind.TRUNCATE)]
        synced = max((at for at, each in own if each.kind is Kind.SYNC), default=-1)
        unsynced = [at for at, _ in changes if at > synced]
        lost = {at for k, at in enumerate(reversed(unsynced)) if not survives(k)}
        image = bytearray(copy.read_bytes() if copy.exists() else b"")
        for at, change in changes:
            if at not in lost:
                _apply(image, change)
        if image or copy.exists():
            (target / file.name).write_bytes(image)


def _gone(file: Path, events: Sequence[Event]) -> bool:
    """Tell whether a file was removed for good: not made again, and its directory synced since."""
    own = [at for at, each in enumerate(events) if each.path == str(file)]
    if not own or events[own[-1]].kind is not Kind.UNLINK:
        return False
    return any(
        each.kind is Kind.SYNC and each.path == str(file.parent) for each in events[own[-1] :]
    )


def _apply(image: bytearray, change: Event) -> None:
    if change.kind is Kind.TRUNCATE:
        del image[change.offset :]
    end = change.offset + len(change.data)
    if len(image) < end:
        image.extend(bytes(end - len(image)))
    image[change.offset : end] = change.data


def copy_all(files: Collection[Path], target: Path) -> None:
    """Copy those files that there are."""
    for file in files:
        if file.exists():
            shutil.copy(file, target / file.name)
