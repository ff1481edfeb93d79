"""QEMU's command line, from the measured configuration and from descriptors.

Pure.  Every key of the configuration is used and no other key is known: what is measured is in the
machine, and what is in the machine is measured.  What is added here is what confines QEMU and how
the builder reaches it, which no guest can see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from tandem.errors import HostError
from tandem.evidence.launch_plan import CONFIGURATION_FORMAT, SANDBOX

Value = TypeVar("Value")
EXECUTABLE: Final = Path("/usr/bin/qemu-system-x86_64")
ALWAYS_LOADED: Final = ("kvmvapic.bin",)  # by q35 without devices
LOADED_WITH_KERNEL: Final = ("linuxboot_dma.bin",)  # with -kernel
ACCELERATORS: Final = {"kvm": "kvm", "tcg": "tcg,thread=single"}
FIXED: Final[Mapping[str, object]] = {
    "format": CONFIGURATION_FORMAT,
    "hypervisor": "qemu",
    "rtc": "utc",
    "default_devices": False,
    "user_configuration": False,
    "network": [],
    "display": "none",
    "monitor": "builder-qmp",
}
VARIABLE: Final = (
    *("accelerator", "machine", "cpu", "cpus", "memory_mib", "globals", "actions", "devices"),
    *("boot", "disks", "debugger"),
    "vtpm",  # what its vTPM does, of which QEMU knows nothing
)
BOOT_KEYS: Final = {"method", "secure_boot", "variables", "kernel", "initrd", "command_line"}
DISK_KEYS: Final = ("id", "kind", "read_only")
CONSOLE_SET, CODE_SET, VARIABLES_SET, QMP_SET, DISKS_SET = 1, 2, 3, 4, 5
BACKENDS: Final = {
    "isa-serial": ("chardev", "console"),
    "tpm-crb": ("tpmdev", "tpm"),
    "virtserialport": ("chardev", "attester"),
    "pvpanic": None,
    "i6300esb": None,
    "virtio-serial-pci": None,
}


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Descriptor numbers in QEMU's process; None is what the machine is not given."""

    firmware: int
    kernel: int | None
    initrd: int | None
    variables: int | None
    rom_directory: int
    disks: Mapping[str, int]  # by the disk's id
    vtpm_control: int
    qmp: int  # listening socket, as the next three
    console: int
    attester: int
    debugger: int | None
    console_log: int
    qmp_log: int


def arguments(
    configuration: Mapping[str, Any], command_line: str | None, numbers: Numbers
) -> tuple[str, ...]:
    """Give the whole argument list, the program's name first."""
    _refuse_unknown(configuration)
    return (
        "qemu-system-x86_64",
        *("-nodefaults", "-no-user-config", "-display", "none", "-S"),
        *("-sandbox", options("on", SANDBOX)),
        *("-action", options("", configuration["actions"])),
        *_machine(configuration),
        *("-L", _path(numbers.rom_directory)),
        *_firmware(configuration["boot"], numbers),
        *_kernel(configuration["boot"], command_line, numbers),
        *_backends(numbers),
        *_debugger(configuration, numbers),
        *_devices(configuration["devices"]),
        *_disks(configuration, numbers),
    )


def loaded_roms(*, kernel: bool) -> tuple[str, ...]:
    """Name the option ROMs that a machine loads of itself; the firmware makes no difference."""
    return (*ALWAYS_LOADED, *(LOADED_WITH_KERNEL if kernel else ()))


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


def _firmware(boot: Mapping[str, Any], numbers: Numbers) -> list[str]:
    """Load the firmware, with its store of variables where it has one."""
    if boot["method"] == "direct":
        return ["-bios", _path(numbers.firmware)]
    guarded = ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    return [
        *_node("code", CODE_SET, numbers.firmware, read_only=True),
        *_node("variables", VARIABLES_SET, _given(numbers.variables), read_only=False),
        *(guarded if boot["secure_boot"] else ()),
    ]


def _kernel(boot: Mapping[str, Any], command_line: str | None, numbers: Numbers) -> list[str]:
    """Hand over what the configuration says that the machine is handed, and nothing else."""
    found: list[str] = []
    if boot["kernel"]:
        found += ["-kernel", _path(_given(numbers.kernel))]
    if boot["initrd"]:
        found += ["-initrd", _path(_given(numbers.initrd))]
    if boot["command_line"]:
        found += ["-append", _given(command_line)]
    return found


def _disks(configuration: Mapping[str, Any], numbers: Numbers) -> list[str]:
    """Attach disks in their order; firmware boots from what its variables say, else the first."""
    found: list[str] = []
    for index, disk in enumerate(configuration["disks"]):
        node, number = f"disk{index}", _given(numbers.disks.get(disk["id"]))
        found += _node(node, DISKS_SET + index, number, read_only=disk["read_only"])
        members = {"drive": node, "serial": disk["id"]}
        found += ["-device", options("virtio-blk-pci", members)]
    return found


def _node(name: str, fdset: int, number: int, *, read_only: bool) -> list[str]:
    """Make a block node of a descriptor: a path would need rights that QEMU does not have."""
    members = {
        "node-name": name,
        "filename": f"/dev/fdset/{fdset}",
        "read-only": "on" if read_only else "off",
    }
    return ["-add-fd", f"fd={number},set={fdset}", "-blockdev", options("driver=file", members)]


def _given(value: Value | None) -> Value:
    """Give what the configuration says that the machine has."""
    if value is None:
        raise HostError(
            "TDM-QEMU-INPUT-MISSING",
            "the machine configuration has an input that nobody opened",
            hint="run builder and library tools of one version",
        )
    return value


def _backends(numbers: Numbers) -> list[str]:
    """Connect vTPM, monitor, console and attester: all by descriptor, none by path."""
    return [
        *("-chardev", f"socket,id=vtpm,fd={numbers.vtpm_control}"),
        *("-tpmdev", "emulator,id=tpm,chardev=vtpm"),
        *("-add-fd", f"fd={numbers.qmp_log},set={QMP_SET}"),  # for what no builder hears
        *("-chardev", _listening("qmp", numbers.qmp)
          + f",logfile=/dev/fdset/{QMP_SET},logappend=on"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-add-fd", f"fd={numbers.console_log},set={CONSOLE_SET}"),
        *("-chardev", _listening("console", numbers.console)
          + f",logfile=/dev/fdset/{CONSOLE_SET},logappend=on"),
        *("-chardev", _listening("attester", numbers.attester)),
    ]  # fmt: skip


def _debugger(configuration: Mapping[str, Any], numbers: Numbers) -> list[str]:
    """Let a debugger connect (gdb's remote protocol), where the measured configuration says so."""
    if not configuration["debugger"]:
        return []
    listening = _listening("debugger", _given(numbers.debugger))
    return ["-chardev", listening, "-gdb", "chardev:debugger"]


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
        odd += sorted(configuration["boot"].keys() - BOOT_KEYS)
        odd += [name for disk in configuration["disks"] for name in disk if name not in DISK_KEYS]
    if odd:
        raise HostError(
            "TDM-QEMU-CONFIGURATION-UNKNOWN",
            f"the machine configuration has {odd[0]!a}, which no QEMU option here stands for",
            hint="run builder and library tools of one version",
        )
