"""What runs a guest's instructions on this host: KVM where it truly does, else QEMU's own TCG.

`/dev/kvm` may open, and even create a machine, on a host where QEMU then fails or never executes
anything (nested virtualisation that is half there, a CPU model that the host cannot give).  So this
starts a machine whose firmware is three instructions, and believes only its answer.
"""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Final

from tandem.evidence.launch_plan import Accelerator

DEVICE: Final = Path("/dev/kvm")
PROBE_SECONDS: Final = 5.0
ANSWER: Final = 0x10
ANSWERED_STATUS: Final = ANSWER << 1 | 1  # isa-debug-exit, hw/misc/debugexit.c
DEBUG_PORT: Final = 0xF4
FIRMWARE_SIZE: Final = 64 * 1024
RESET_VECTOR: Final = 16  # bytes before the end of the firmware
ANSWER_CODE: Final = bytes((0xB0, ANSWER, 0xE6, DEBUG_PORT))  # mov $ANSWER, %al; out %al, $PORT
HLT: Final = b"\xf4"
# Should the builder die meanwhile; preexec_fn is not for processes with threads.
END_WITH_PARENT: Final = ("/usr/bin/setpriv", "--pdeathsig", "KILL")


def device_groups(device: Path = DEVICE) -> tuple[int, ...] | None:
    """Give the groups that a process without privilege needs for /dev/kvm; None: it never may."""
    try:
        status = device.stat()
    except OSError:
        return None
    others, group = stat.S_IROTH | stat.S_IWOTH, stat.S_IRGRP | stat.S_IWGRP
    if status.st_mode & others == others:
        return ()
    if status.st_mode & group == group and status.st_gid != 0:
        return (status.st_gid,)
    return None


def probe(executable: Path, cpu: str, uid: int) -> Accelerator:
    """Let an unprivileged QEMU run three instructions of a `cpu` under KVM."""
    groups = device_groups()
    if groups is None:
        return "tcg"
    firmware = os.memfd_create("probe", os.MFD_CLOEXEC)
    try:
        os.write(firmware, _firmware())
        return "kvm" if _answers(executable, cpu, firmware, uid, groups) else "tcg"
    finally:
        os.close(firmware)


def _firmware() -> bytes:
    body = HLT * (FIRMWARE_SIZE - RESET_VECTOR)
    return body + ANSWER_CODE + HLT * (RESET_VECTOR - len(ANSWER_CODE))


def _answers(executable: Path, cpu: str, firmware: int, uid: int, groups: tuple[int, ...]) -> bool:
    command = [
        *END_WITH_PARENT,
        *(str(executable), "-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", "q35", "-accel", "kvm", "-cpu", cpu, "-m", "16M"),
        *("-bios", f"/proc/self/fd/{firmware}"),
        *("-device", f"isa-debug-exit,iobase={DEBUG_PORT:#x},iosize=1"),
    ]
    try:
        done = subprocess.run(  # noqa: S603 (no shell, and the executable is measured)
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            pass_fds=[firmware],
            user=uid,
            group=uid,
            extra_groups=groups,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == ANSWERED_STATUS
