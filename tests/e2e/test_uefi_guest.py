"""UEFI guests: booted from measured disks and kernels, with Secure Boot where the entry says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peers.console import PROMPT_MARK, Console
from tandem.cli.guest import connect_console
from tests.e2e.uefi_host import FIRMWARE, PROGRAMS, UefiHost

BOOT_SECONDS = 240.0  # 13 to 31 on a machine that does nothing else
BANK = "/sys/class/tpm/tpm0/pcr-sha256"
FIRMWARES_REGISTERS = range(8)
NEVER_EXTENDED = "0" * 64
VARIABLES = "/sys/firmware/efi/efivars"
OWN = "Own-11111111-2222-3333-4444-555555555555"
pytestmark = pytest.mark.skipif(
    not all(Path(each).exists() for each in (FIRMWARE, *PROGRAMS)),
    reason="ovmf, mtools, dosfstools, binutils or sbsigntool is not installed",
)


@pytest.fixture(scope="module")
def uefi_host() -> Iterator[UefiHost]:
    host = UefiHost()
    yield host
    host.close()


@pytest.fixture
def host(uefi_host: UefiHost) -> Iterator[UefiHost]:
    yield uefi_host
    uefi_host.stop_all()


@contextmanager
def console_of(host: UefiHost, entry: str, mark: str = PROMPT_MARK) -> Iterator[Console]:
    """Start a guest of this entry, and give its console once it printed `mark`."""
    host.start(entry)
    with Console(connect_console(host.host, entry)) as console:
        console.wait_for(mark, BOOT_SECONDS)
        yield console


def registers(console: Console) -> dict[int, str]:
    printed = console.run(f"cd {BANK} && grep . * && cd /").lower().split()
    return {int(index): value for index, _, value in (line.partition(":") for line in printed)}


def locked_down(console: Console) -> bool:
    """Whether the kernel found Secure Boot on: Debian's then locks itself down."""
    return "[integrity]" in console.run("cat /sys/kernel/security/lockdown")


def write_variable(console: Console) -> None:
    console.run(f"mount -t efivarfs efivarfs {VARIABLES}")
    console.run(f"printf '\\7\\0\\0\\0x' > {VARIABLES}/{OWN}")
    assert OWN in console.run(f"ls {VARIABLES}")


def test_a_uki_alone_is_measured_by_firmware_and_stub(host: UefiHost) -> None:
    # Given a guest with OVMF, and a UKI that QEMU hands to it
    with console_of(host, "uki") as console:
        predicted = host.ask("guest", "show", "uki")[0]["launch"]["registers"]
        # When it reads its registers
        found = registers(console)
    # Then 17 and 18 are the builder's, as said before the first instruction
    assert {str(index): found[index] for index in (17, 18)} == predicted
    # And 0 to 7 are the firmware's, 11 what systemd's stub measured of the kernel
    assert NEVER_EXTENDED not in {found[index] for index in (*FIRMWARES_REGISTERS, 11)}


def test_two_launches_measure_the_same(host: UefiHost) -> None:
    # Given a guest that boots from a measured disk, its variables a fresh copy at each launch
    with console_of(host, "plain") as console:
        predicted = host.ask("guest", "show", "plain")[0]["launch"]["registers"]
        first = registers(console)
        # When it writes a variable and a disk for data, and boots again
        write_variable(console)
        console.run("echo kept | dd of=/dev/vdb conv=fsync 2>/dev/null")
    host.stop_all()
    with console_of(host, "plain") as console:
        second = registers(console)
        written = console.run("head -c 4 /dev/vdb")
        read_only = console.run("cat /sys/block/vda/ro").strip()
    # Then all of its registers are the same, those of firmware, stub and builder among them
    assert second == first
    assert {str(index): first[index] for index in (17, 18)} == predicted
    assert NEVER_EXTENDED not in {first[index] for index in (*FIRMWARES_REGISTERS, 11)}
    # And the data is still there, on the one disk that can be written to
    assert (written, read_only) == ("kept", "1")


def test_a_disk_for_data_is_one_guests_at_a_time(host: UefiHost) -> None:
    # Given a guest with a disk that it writes to
    host.start("plain")
    # When another guest of the same entry is started
    refusal = host.refusal("guest", "start", "second", "--entry", "plain")
    # Then it is refused: two systems on one disk would destroy it
    assert refusal["code"] == "TDM-DISK-BUSY"


def test_kept_variables_are_the_guests_own_and_measured(host: UefiHost) -> None:
    # Given a guest that keeps its variables, and writes one
    with console_of(host, "kept") as console:
        write_variable(console)
        before = registers(console)
    host.stop_all()
    # When it boots again
    with console_of(host, "kept") as console:
        predicted = host.ask("guest", "show", "kept")[0]["launch"]["registers"]
        after = registers(console)
        console.run(f"mount -t efivarfs efivarfs {VARIABLES}")
        listed = console.run(f"ls {VARIABLES}")
    # Then the variable is there, and PCR 18 says that the store is another
    assert OWN in listed
    assert after[18] != before[18]
    assert after[18] == predicted["18"]


def test_secure_boot_boots_what_was_signed(host: UefiHost) -> None:
    # Given a store of variables with Debian's snakeoil keys, and a loader and UKI signed with them
    # When the guest boots
    with console_of(host, "signed") as console:
        # Then its kernel knows that it was checked
        assert locked_down(console)


@pytest.mark.parametrize(
    ("entry", "mark"), [("unsigned", "Access Denied"), ("tampered", "(Access|Security)[^\n]*")]
)
def test_secure_boot_refuses_what_was_not_signed(host: UefiHost, entry: str, mark: str) -> None:
    # Given the same store, and a loader, or a UKI alone, without a signature
    # When the guest boots
    with console_of(host, entry, mark) as console:
        # Then the firmware refuses it, and no kernel starts
        assert "tandem: user space" not in console.transcript


def test_shim_and_grub_boot_debians_signed_kernel(host: UefiHost) -> None:
    # Given the store with Microsoft's keys, Debian's shim and GRUB, and a kernel as Debian has it
    # When the guest boots
    with console_of(host, "debian") as console:
        found = registers(console)
        # Then the whole chain was checked, and GRUB measured what it read
        assert locked_down(console)
    assert NEVER_EXTENDED not in {found[index] for index in (8, 9, 14)}
