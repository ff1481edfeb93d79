"""QEMU's command line, from the measured configuration and from descriptors.

Pure.  Every key of the configuration is used and no other key is known: what is measured is in the
machine, and what is in the machine is measured.  What is added here is what confines QEMU and how
the builder reaches it, which no guest can see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tandem.errors import HostError
from tandem.evidence.launch_plan import CONFIGURATION_FORMAT, SANDBOX

EXECUTABLE: Final = Path("/usr/bin/qemu-system-x86_64")
LOADED_ROMS: Final = ("kvmvapic.bin", "linuxboot_dma.bin")  # by q35 without devices, -kernel
ACCELERATORS: Final = {"kvm": "kvm", "tcg": "tcg,thread=single"}
FIXED: Final[Mapping[str, object]] = {
    "format": CONFIGURATION_FORMAT,
    "hypervisor": "qemu",
    "boot": "direct-kernel",
    "rtc": "utc",
    "default_devices": False,
    "user_configuration": False,
    "network": [],
    "disks": [],
    "display": "none",
    "debugger": False,
    "monitor": "builder-qmp",
}
VARIABLE: Final = (
    *("accelerator", "machine", "cpu", "cpus", "memory_mib", "globals", "actions", "devices"),
)
BACKENDS: Final = {
    "isa-serial": ("chardev", "console"),
    "tpm-crb": ("tpmdev", "tpm"),
    "virtserialport": ("chardev", "attester"),
    "virtio-serial-pci": None,
}


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Descriptor numbers in QEMU's process."""

    firmware: int
    kernel: int
    initrd: int
    rom_directory: int
    vtpm_control: int
    qmp: int  # listening socket, as the next two
    console: int
    attester: int
    console_log: int


def arguments(
    configuration: Mapping[str, Any], command_line: str, numbers: Numbers
) -> tuple[str, ...]:
    """Give the whole argument list, the program's name first."""
    _refuse_unknown(configuration)
    return (
        "qemu-system-x86_64",
        *("-nodefaults", "-no-user-config", "-display", "none", "-S"),
        *("-sandbox", options("on", SANDBOX)),
        *("-action", options("", configuration["actions"])),
        *_machine(configuration),
        *("-L", _path(numbers.rom_directory), "-bios", _path(numbers.firmware)),
        *("-kernel", _path(numbers.kernel), "-initrd", _path(numbers.initrd)),
        *("-append", command_line),
        *_backends(numbers),
        *_devices(configuration["devices"]),
    )


def options(first: str, members: Mapping[str, object]) -> str:
    """Write a QEMU option list; a comma in a value is doubled."""
    given = [f"{name}={str(value).replace(',', ',,')}" for name, value in members.items()]
    return ",".join([first, *given] if first else given)


def _machine(configuration: Mapping[str, Any]) -> list[str]:
    machine = configuration["machine"]
    found = [
        *("-machine", options(machine["type"], machine["options"])),
        *("-accel", ACCELERATORS[configuration["accelerator"]]),
        *("-cpu", configuration["cpu"]),
        *("-smp", str(configuration["cpus"])),
        *("-m", f"{configuration['memory_mib']}M"),
        *("-rtc", f"base={configuration['rtc']}"),
    ]
    for name, value in configuration["globals"].items():
        found += ["-global", f"{name}={value}"]
    return found


def _backends(numbers: Numbers) -> list[str]:
    """Connect vTPM, monitor, console and attester: all by descriptor, none by path."""
    return [
        *("-chardev", f"socket,id=vtpm,fd={numbers.vtpm_control}"),
        *("-tpmdev", "emulator,id=tpm,chardev=vtpm"),
        *("-chardev", _listening("qmp", numbers.qmp), "-mon", "chardev=qmp,mode=control"),
        *("-add-fd", f"fd={numbers.console_log},set=1"),
        *("-chardev", _listening("console", numbers.console)
          + ",logfile=/dev/fdset/1,logappend=on"),
        *("-chardev", _listening("attester", numbers.attester)),
    ]  # fmt: skip


def _devices(devices: list[Mapping[str, str]]) -> list[str]:
    found: list[str] = []
    for device in devices:
        driver = device["driver"]
        backend = BACKENDS[driver]
        members = {name: value for name, value in device.items() if name != "driver"}
        if backend is not None:
            members[backend[0]] = backend[1]
        found += ["-device", options(driver, members)]
    return found


def _listening(name: str, number: int) -> str:
    return f"socket,id={name},fd={number},server=on,wait=off"


def _path(number: int) -> str:
    return f"/proc/self/fd/{number}"


def _refuse_unknown(configuration: Mapping[str, Any]) -> None:
    """Refuse a configuration that says more, less or other than this module carries out."""
    odd = sorted(configuration.keys() ^ {*FIXED, *VARIABLE})
    odd += [name for name, value in FIXED.items() if configuration.get(name) != value]
    if not odd:
        odd += [each["driver"] for each in configuration["devices"]
                if each["driver"] not in BACKENDS]  # fmt: skip
    if odd:
        raise HostError(
            "TDM-QEMU-CONFIGURATION-UNKNOWN",
            f"the machine configuration has {odd[0]!a}, which no QEMU option here stands for",
            hint="run builder and library tools of one version",
        )
