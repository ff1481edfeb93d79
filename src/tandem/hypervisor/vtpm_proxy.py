"""The kernel's vTPM proxy (`/dev/vtpmx`): makes TPM devices of this host that a process serves.

It is to the host's own vTPM what QEMU is to a guest's.  A device lives as long as its descriptor is
open anywhere; the kernel asks for Startup and self-test as soon as it is made, and shows it when
they were answered.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tandem.errors import HostError

PROXY: Final = Path("/dev/vtpmx")
CLASS: Final = Path("/sys/class/tpmrm")
NEW_DEVICE: Final = 0xC014A100  # VTPM_PROXY_IOC_NEW_DEV, linux/vtpm_proxy.h
REQUEST: Final = struct.Struct("=5I")  # struct vtpm_proxy_new_dev: flags, tpm_num, fd, major, minor
FLAG_TPM2: Final = 1
LOOK_AGAIN_SECONDS: Final = 0.02
ABSENT: Final = (errno.ENOENT, errno.ENODEV, errno.ENXIO)


@dataclass(frozen=True, kw_only=True)
class ProxyDevice:
    """A TPM device that was just made; who has the descriptor serves it."""

    number: int
    descriptor: int

    @property
    def shown(self) -> bool:
        """Whether the kernel has started the TPM and shows its device."""
        return (CLASS / f"tpmrm{self.number}").exists()

    async def wait_until_shown(self) -> None:
        """Wait for that."""
        while not self.shown:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


def open_proxy(path: Path = PROXY) -> int:
    """Open the proxy; its absence has a code of its own."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in ABSENT:
            raise _unusable(path, error) from error
        raise HostError(
            "TDM-HOST-VTPMX-ABSENT",
            f"this kernel offers no {path}, through which a host gets a vTPM",
            hint="load its module: `modprobe tpm_vtpm_proxy`, and at each boot by `echo "
            "tpm_vtpm_proxy > /etc/modules-load.d/tandem.conf`; a kernel without the module needs "
            "CONFIG_TCG_VTPM_PROXY",
        ) from error


def new_device(proxy: int) -> ProxyDevice:
    """Make a TPM 2.0 device; needs CAP_SYS_ADMIN."""
    try:
        answer = fcntl.ioctl(proxy, NEW_DEVICE, REQUEST.pack(FLAG_TPM2, 0, 0, 0, 0))
    except OSError as error:
        raise _unusable(PROXY, error) from error
    _, number, descriptor, _, _ = REQUEST.unpack(answer)
    os.set_inheritable(descriptor, False)
    return ProxyDevice(number=number, descriptor=descriptor)


def _unusable(path: Path, error: OSError) -> HostError:
    return HostError(
        "TDM-HOST-VTPMX-UNUSABLE",
        f"{path} makes no device: {error.strerror}",
        hint="run the builder as root, outside of a container; the kernel's log may say more",
    )
