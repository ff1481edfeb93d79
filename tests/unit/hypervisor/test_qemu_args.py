"""QEMU's command line: exactly this, from exactly that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tandem.errors import HostError
from tandem.evidence.guest_entry import DirectBoot, GuestEntry, Machine, PlatformAuth
from tandem.evidence.launch_plan import machine_configuration
from tandem.evidence.manifest_file import ManifestFile
from tandem.hypervisor.qemu_args import Numbers, arguments, options

FILE = ManifestFile(path="file", size=1, sha256=bytes(32), sha384=bytes(48))
ENTRY = GuestEntry(
    name="web",
    hypervisor="qemu",
    group="default",
    ephemeral=False,
    boot=DirectBoot(
        kernel=FILE,
        initrd=FILE,
        firmware=FILE,
        roms=(FILE, FILE),
        command_line="console=ttyS0 opt=a,b",
        platform_auth=PlatformAuth.FIRMWARE,
    ),
    disks=(),
    machine=Machine(type="q35", cpu="max", cpus=2, memory_mib=512),
)
NUMBERS = Numbers(
    firmware=10,
    kernel=11,
    initrd=12,
    variables=None,
    disks={},
    vtpm_control=13,
    qmp=14,
    console=15,
    attester=16,
    debugger=None,
    console_log=17,
    qmp_log=18,
    rom_directory=20,
)
GOLDEN = """\
qemu-system-x86_64
-nodefaults
-no-user-config
-display none
-S
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-action panic=shutdown,reboot=shutdown,shutdown=poweroff,watchdog=poweroff
-machine q35,dump-guest-core=off,mem-merge=off,sata=off,smbus=off,smm=off,usb=off,vmport=off
-accel tcg,thread=single
-cpu max
-smp 2
-m 512M
-rtc base=utc
-global ICH9-LPC.disable_s3=1
-global ICH9-LPC.disable_s4=1
-L /proc/self/fd/20
-bios /proc/self/fd/10
-kernel /proc/self/fd/11
-initrd /proc/self/fd/12
-append console=ttyS0 opt=a,b
-chardev socket,id=vtpm,fd=13
-tpmdev emulator,id=tpm,chardev=vtpm
-add-fd fd=18,set=4
-chardev socket,id=qmp,fd=14,server=on,wait=off,logfile=/dev/fdset/4,logappend=on
-mon chardev=qmp,mode=control
-add-fd fd=17,set=1
-chardev socket,id=console,fd=15,server=on,wait=off,logfile=/dev/fdset/1,logappend=on
-chardev socket,id=attester,fd=16,server=on,wait=off
-device isa-serial,id=console,chardev=console
-device tpm-crb,id=tpm,ppi=off,tpmdev=tpm
-device pvpanic,id=panic
-device i6300esb,id=watchdog
-device virtio-serial-pci,id=ports
-device virtserialport,id=attester,name=org.tandem.attester,chardev=attester
"""


def configuration() -> dict[str, Any]:
    return machine_configuration(ENTRY, "tcg")


def in_lines(argv: tuple[str, ...]) -> str:
    """Put each option and its value on a line of their own."""
    lines = (f"\n{word}" if word.startswith("-") else f" {word}" for word in argv)
    return "".join(lines).strip() + "\n"


def test_the_command_line_is_the_golden_one() -> None:
    # Given a measured configuration and descriptor numbers
    # When the command line is generated
    argv = arguments(configuration(), ENTRY.command_line, NUMBERS)
    # Then it is the one that was looked at and approved
    assert in_lines(argv) == GOLDEN


def test_kvm_is_named_where_it_was_measured() -> None:
    # Given the configuration of a host whose KVM works
    # When the command line is generated
    argv = arguments(machine_configuration(ENTRY, "kvm"), "", NUMBERS)
    # Then QEMU is told so
    assert argv[argv.index("-accel") + 1] == "kvm"


def test_a_debugger_is_given_where_it_was_measured_and_nowhere_else() -> None:
    # Given the configuration of an entry that allows a debugger
    allowed = machine_configuration(replace(ENTRY, debugger=True), "tcg")
    # When the command lines with it and without it are generated
    argv = arguments(allowed, "", replace(NUMBERS, debugger=30))
    others = arguments(configuration(), "", replace(NUMBERS, debugger=30))
    # Then the one has a gdbstub on an inherited socket, and the other has none
    assert argv[argv.index("-gdb") + 1] == "chardev:debugger"
    assert "socket,id=debugger,fd=30,server=on,wait=off" in argv
    assert not {"-gdb", "-s"} & set(others)
    assert "fd=30" not in " ".join(others)


def test_a_debugger_that_nobody_opened_is_refused() -> None:
    # Given a configuration with a debugger, and no socket for it
    allowed = machine_configuration(replace(ENTRY, debugger=True), "tcg")
    # When the command line is generated
    # Then it is refused, rather than leaving out what was measured
    with pytest.raises(HostError) as refused:
        arguments(allowed, "", NUMBERS)
    assert refused.value.code == "TDM-QEMU-INPUT-MISSING"


@pytest.mark.parametrize(
    "change",
    [
        {"disks": ["/dev/sda"]},
        {"network": ["user"]},
        {"monitor": "stdio"},
        {"surprise": 1},
        {"devices": [{"driver": "e1000"}]},
        {"format": "tandem-machine-2"},
    ],
)
def test_what_no_option_stands_for_is_refused(change: dict[str, object]) -> None:
    # Given a configuration that says something else
    changed = configuration() | change
    # When the command line is generated
    with pytest.raises(HostError) as failed:
        arguments(changed, "", NUMBERS)
    # Then nothing is started that was measured and is not there
    assert failed.value.code == "TDM-QEMU-CONFIGURATION-UNKNOWN"


@pytest.mark.parametrize("key", sorted(machine_configuration(ENTRY, "tcg")))
def test_what_is_missing_is_refused(key: str) -> None:
    # Given a configuration that lacks a key
    changed = {name: value for name, value in configuration().items() if name != key}
    # When the command line is generated
    # Then it is refused
    with pytest.raises(HostError):
        arguments(changed, "", NUMBERS)


def test_a_comma_in_a_value_begins_no_option() -> None:
    # Given a value with a comma
    # When it is written
    # Then QEMU reads it as one value
    assert options("", {"name": "a,b=c"}) == "name=a,,b=c"
