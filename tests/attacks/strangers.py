"""Other users of the host, as processes that try what a debugger or a thief would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

NOBODY: Final = 65534
SCRIPT: Final = """
import ctypes, json, os, socket, sys
uid, pid, secret, sockets = json.loads(sys.argv[1])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
secret = bytes.fromhex(secret)
calls = ctypes.CDLL(None, use_errno=True)

def memory():
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            start, end = (int(each, 16) for each in span.split("-"))
            if not rights.startswith("rw") or end - start > 1 << 30:
                continue
            try:
                memory.seek(start)
                if secret in memory.read(end - start):
                    return "found"
            except OSError:
                continue
    return "read, not found"

def trace():
    if calls.ptrace(16, pid, 0, 0):  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), "ptrace")
    calls.ptrace(17, pid, 0, 0)
    return "attached"

def steal():
    pidfd = os.pidfd_open(pid)
    taken = [number for number in range(64) if calls.syscall(438, pidfd, number, 0) >= 0]
    if not taken:  # pidfd_getfd(2)
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return "taken"

def signal():
    os.kill(pid, 19)  # SIGSTOP
    os.kill(pid, 18)
    return "stopped"

def connect(path):
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        try:
            socket.socket(socket.AF_UNIX, kind).connect(path)
        except OSError as error:
            refused = error
        else:
            return "connected"
    raise refused

said = {}
tries = {"memory": memory, "trace": trace, "steal": steal, "signal": signal,
         "descriptors": lambda: str(os.listdir(f"/proc/{pid}/fd")),
         "environment": lambda: open(f"/proc/{pid}/environ").read() and "read"}
tries |= {path: (lambda path=path: connect(path)) for path in sockets}
for name, attempt in tries.items():
    try:
        said[name] = attempt()
    except OSError as error:
        said[name] = type(error).__name__
print(json.dumps(said))
"""


def names_of_sockets(pid: int) -> list[str]:
    """Name the sockets of a process that somebody could connect to, by path or abstract name."""
    inodes = {
        target.removeprefix("socket:[").removesuffix("]")
        for entry in Path(f"/proc/{pid}/fd").iterdir()
        if (target := os.readlink(entry)).startswith("socket:")
    }
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return [row[7] for row in rows if row[6] in inodes and len(row) > 7]


def tried(uid: int, pid: int, secret: bytes = b"", sockets: Sequence[Path] = ()) -> dict[str, Any]:
    """Have a user without any privilege try everything on a process; give what came of each.

    `memory` is "found" where the secret was; a refusal is the name of its OSError.
    """
    asked = json.dumps([uid, pid, secret.hex(), [str(path) for path in sockets]])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, asked], capture_output=True, text=True, check=True
    )
    said: dict[str, Any] = json.loads(done.stdout)
    return said
