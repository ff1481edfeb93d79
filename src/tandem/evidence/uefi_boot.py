"""What a UEFI guest will measure: its whole boot, followed from the firmware to the kernel.

The steps are those of OVMF 2022.11 (edk2 `SecurityPkg/Tcg/Tcg2Pei`, `Tcg2Dxe`,
`DxeTpm2MeasureBootLib`, `DxeImageVerificationLib`): nothing is recorded from a boot.  Where a boot
loader is unknown or its choice cannot be foreseen, its registers are left out, with the reason.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from typing import Final

from tandem.errors import Refused, UntrustedInput
from tandem.evidence import qemu_kernel
from tandem.evidence.boot_options import (
    FILE_PATH,
    HARD_DRIVE,
    BootManager,
    LoadOption,
    boot_manager,
    pci_path,
    refresh,
)
from tandem.evidence.fat import FatFiles
from tandem.evidence.firmware_volume import Volume, measured_volumes
from tandem.evidence.gpt import ESP, HEAD, Partition, PartitionTable, parse_gpt
from tandem.evidence.guid import EFI_GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, guid
from tandem.evidence.kernel_image import (
    Started,
    application_event,
    given_options_event,
    is_linux,
    linux_events,
    systemd_program,
    unified_events,
    wraps_initrd,
)
from tandem.evidence.ovmf_memory import Platform, pei_volumes
from tandem.evidence.pe_image import EFI_APPLICATION, PeImage, parse_pe
from tandem.evidence.prediction import Part, PredictedEvent, Prediction, plain, predicted
from tandem.evidence.signature_database import authority, certificate_names
from tandem.evidence.systemd_boot import chosen_entry, extra_files
from tandem.evidence.variable_store import VariableStore, parse_variable_store

CRTM_VERSION: Final = b"\0\0"  # PcdFirmwareVersionString, which OVMF's builds leave empty
SEPARATOR: Final = bytes(4)
CALLING: Final = b"Calling EFI Application from Boot Option"
RETURNING: Final = b"Returning from EFI Application from Boot Option"
EXITING: Final = (b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success")
REMOVABLE: Final = "EFI/BOOT/BOOTX64.EFI"
XBOOTLDR: Final = guid("bc13c2ff-59e6-4262-a352-b275fd6f7172")
SECURE_BOOT_DRIVER: Final = guid("f0e6a44f-7195-41c3-ac64-54f202cd0a21")  # in builds that have it
CONFIGURATION: Final = (  # Tcg2Dxe's mVariableType
    (EFI_GLOBAL_VARIABLE, "SecureBoot", Part.SECURE_BOOT),
    (EFI_GLOBAL_VARIABLE, "PK", Part.KEYS),
    (EFI_GLOBAL_VARIABLE, "KEK", Part.KEYS),
    (IMAGE_SECURITY_DATABASE, "db", Part.KEYS),
    (IMAGE_SECURITY_DATABASE, "dbx", Part.KEYS),
)
Bytes = bytes | mmap.mmap  # an image may be large: it is looked at where it lies
LOADERS_REGISTERS: Final = (4, 5, 8, 9, 11, 12, 13, 14)


@dataclass(frozen=True, kw_only=True)
class BootDisk:
    """A virtio disk at its PCI address; no content: nothing vouches for it."""

    device: int
    function: int = 0
    content: Bytes | None


@dataclass(frozen=True, kw_only=True)
class UefiMachine:
    """All that a boot depends on; a kernel is one given by fw_cfg, before any disk."""

    firmware: bytes
    variables: bytes
    platform: Platform
    disks: tuple[BootDisk, ...] = ()
    kernel: bytes | None = None
    initrd: bytes = b""
    command_line: str = ""


def predict(machine: UefiMachine) -> Prediction:
    """Follow a boot; firmware or variables that cannot be read are refused."""
    pei, dxe = _volumes(machine.firmware)
    store = parse_variable_store(machine.variables)
    boot = _Boot(machine=machine, dxe=dxe, store=store)
    boot.firmware(pei)
    boot.configuration()
    reason = boot.run()
    unpredicted = {}
    if reason is not None:
        registers = {*LOADERS_REGISTERS, *((7,) if boot.secure_boot else ())}
        if boot.ended_early:
            registers.add(1)
        unpredicted = dict.fromkeys(sorted(registers), reason)
    return Prediction(
        secure_boot=boot.secure_boot, events=tuple(boot.events), unpredicted=unpredicted
    )


def _volumes(firmware: bytes) -> tuple[Volume, Volume]:
    found = measured_volumes(firmware)
    if len(found) != 2:
        raise UntrustedInput(
            "TDM-UEFI-FIRMWARE",
            f"firmware image: {len(found)} volumes in it, not one for PEI and one for DXE",
            hint="give OVMF's code image, such as /usr/share/OVMF/OVMF_CODE_4M.fd",
            offset=0,
        )
    return found[0], found[1]


def variable_data(vendor: bytes, name: str, data: bytes) -> bytes:
    """Write UEFI_VARIABLE_DATA (PC Client Platform Firmware Profile 1.06, section 10.2.6)."""
    return vendor + struct.pack("<QQ", len(name), len(data)) + name.encode("utf-16-le") + data


@dataclass(kw_only=True)
class _Boot:
    """A boot under way."""

    machine: UefiMachine
    dxe: Volume
    store: VariableStore
    events: list[PredictedEvent] = field(default_factory=list)
    attempts: int = 0
    authorities: set[bytes] = field(default_factory=set)
    table_measured: bool = False
    ended_early: bool = False

    @property
    def has_secure_boot(self) -> bool:
        return SECURE_BOOT_DRIVER in self.dxe.files

    @property
    def secure_boot(self) -> bool:
        return self.has_secure_boot and self.store.secure_boot

    def add(self, register: int, part: Part, what: str, *contents: bytes) -> None:
        self.events.append(predicted(register, part, what, *contents))

    def firmware(self, pei: Volume) -> None:
        volumes = pei_volumes(pei, self.store, self.machine.platform)
        self.add(0, Part.FIRMWARE, "version of the firmware: empty", CRTM_VERSION)
        self.add(0, Part.FIRMWARE, "PEI volume of the firmware, in RAM", *volumes)
        self.add(0, Part.FIRMWARE, "DXE volume of the firmware", self.dxe.data)

    def configuration(self) -> None:
        """Measure Secure Boot's variables (MeasureAllSecureVariables)."""
        for vendor, name, part in CONFIGURATION:
            data = self.store.read(vendor, name)
            what = f"variable {name}: {len(data)} bytes"
            if name == "SecureBoot":
                data = bytes([self.secure_boot]) if self.has_secure_boot else b""
                what = f"variable {name}: {'on' if self.secure_boot else 'off'}"
            elif data and part is Part.KEYS:
                what += f" ({'; '.join(certificate_names(data)) or 'no certificate'})"
            self.add(7, part, what, variable_data(vendor, name, data))
        if dbt := self.store.security("dbt"):
            what = f"variable dbt: {len(dbt)} bytes"
            self.add(7, Part.KEYS, what, variable_data(IMAGE_SECURITY_DATABASE, "dbt", dbt))
        self.add(7, Part.PHASE, "separator", SEPARATOR)

    def run(self) -> str | None:
        """Boot; give the reason why what a loader does is not known, if it is not."""
        try:
            if self.store.read(EFI_GLOBAL_VARIABLE, "BootNext"):
                return "the variable store has BootNext"
            manager = boot_manager(self.store, self.dxe)
            if self.machine.kernel is not None:
                self._kernel(self.machine.kernel, manager)
            else:
                self._disks(manager)
        except (Refused, UntrustedInput) as error:
            if not self.attempts:  # the firmware goes on, with boot options that are not known
                self.ended_early = True
                self._ready(boot_manager(self.store, self.dxe))
            return plain(error.problem)
        for action in EXITING:
            self.add(5, Part.PHASE, action.decode("ascii"), action)
        return None

    def _ready(self, manager: BootManager) -> None:
        """Do what ReadyToBoot does before each attempt (OnReadyToBoot)."""
        if self.attempts:
            self.add(4, Part.PHASE, RETURNING.decode("ascii"), RETURNING)
        else:
            for name, data in manager.variables():
                what = f"variable {name}"
                if name != "BootOrder":
                    what += f": {manager.options[int(name[4:], 16)].description}"
                self.add(1, Part.BOOT_OPTIONS, what, data)
        self.add(4, Part.PHASE, CALLING.decode("ascii"), CALLING)
        if not self.attempts:
            for register in range(7):
                self.add(register, Part.PHASE, "separator", SEPARATOR)
        self.attempts += 1

    def _kernel(self, kernel: bytes, manager: BootManager) -> None:
        """Boot what QEMU hands over by fw_cfg (TryRunningQemuKernel): it is loaded first."""
        size = len(self.machine.initrd)
        loaded = qemu_kernel.as_loaded(kernel, size, self.machine.platform.memory_mib)
        image = parse_pe(loaded, "kernel")
        self._load(image, Part.KERNEL, "kernel by fw_cfg")
        self._ready(manager)
        options = qemu_kernel.load_options(self.machine.command_line, size)
        self._start(image, options, None, "kernel by fw_cfg")

    def _disks(self, manager: BootManager) -> None:
        """Try boot options in their order (BootBootOptions)."""
        disks = self.machine.disks
        refresh(manager, self.dxe, [(each.device, each.function) for each in disks])
        for number in manager.numbers:
            option = manager.options[number]
            if not option.boots:
                continue
            self._ready(manager)
            if self._boot_option(option):
                return
        raise _unforeseen("no boot option leads to a boot loader")

    def _boot_option(self, option: LoadOption) -> bool:
        """Boot one option; whether there was a loader."""
        for disk in self.machine.disks:
            whole = option.path.startswith(pci_path(disk.device, disk.function))
            kinds = [kind for kind, _ in option.nodes]
            anywhere = kinds == [FILE_PATH]  # looked for on every disk (BmExpandFileDevicePath)
            if not whole and not anywhere and HARD_DRIVE not in kinds:
                continue
            if disk.content is None:
                raise _unforeseen(f"{option.description!a} boots a disk that nothing vouches for")
            table = parse_gpt(disk.content[:HEAD], len(disk.content))
            path = _file_path(option) or REMOVABLE
            options = b"" if HARD_DRIVE not in kinds and FILE_PATH not in kinds else option.data
            for partition in _candidates(table, option):
                files = FatFiles(partition.content(disk.content))
                loader = files.read(path)
                if loader is not None:
                    self._loader(table, files, path, loader, options)
                    return True
        if FILE_PATH in [kind for kind, _ in option.nodes] or not self.machine.disks:
            return False
        if option.path.startswith(pci_path(0, 0)[:12]):
            return False
        raise _unforeseen(f"the firmware would boot {option.description!a}")

    def _loader(
        self, table: PartitionTable, files: FatFiles, path: str, data: bytes, options: bytes
    ) -> None:
        """Load a boot loader from a disk and start it."""
        if any(each.kind == XBOOTLDR for each in table.partitions):
            raise _unforeseen("the disk has an extended boot loader partition")
        image = parse_pe(data, path)
        self._load(image, Part.LOADER, f"boot loader {path}", table)
        if systemd_program(image) != "systemd-boot":
            self._start(image, options, files, path)
            return
        entry = chosen_entry(files, self.store)
        self._load(entry.image, Part.KERNEL, f"unified kernel image {entry.path}", table)
        if entry.options:
            self.events.append(given_options_event(entry.options))
        self._start(entry.image, entry.options, files, entry.path)

    def _load(
        self, image: PeImage, part: Part, what: str, table: PartitionTable | None = None
    ) -> None:
        """Verify and measure an application, as LoadImage does."""
        if image.subsystem != EFI_APPLICATION:
            raise _unforeseen(f"{what} is no EFI application")
        if self.secure_boot:
            entry = authority(image, self.store.security("db"), self.store.security("dbx"), what)
            if entry is not None and entry not in self.authorities:
                self.authorities.add(entry)
                data = variable_data(IMAGE_SECURITY_DATABASE, "db", entry)
                self.add(7, Part.SIGNER, f"key of db that vouches for {what}", data)
        if table is not None and not self.table_measured:
            self.table_measured = True
            self.add(5, Part.PARTITIONS, "partition table of the boot disk", table.event_data)
        self.events.append(application_event(image, part, what))

    def _start(self, image: PeImage, options: bytes, files: FatFiles | None, path: str) -> None:
        """Follow what an application measures that ends in a kernel."""
        if systemd_program(image) == "systemd-stub":
            inner = image.section(b".linux")
            extra = extra_files(files, path) if files is not None else ()
            if inner is None or wraps_initrd(image) or extra:
                why = f"passes on {extra[0]}" if extra else "has no kernel, or makes an initrd"
                raise _unforeseen(f"{path} {why}")
            kernel = parse_pe(image.content(inner), f"kernel in {path}")
            started = Started(secure_boot=self.secure_boot, options=options)
            self.events += unified_events(image, kernel, started)
        elif is_linux(image):
            self.events += linux_events(options, self.machine.initrd)
        else:
            raise _unforeseen(f"{path} is a boot loader whose measuring is not known here")


def _file_path(option: LoadOption) -> str | None:
    """Give the file that an option names, if any."""
    for kind, data in option.nodes:
        if kind == FILE_PATH:
            return data.decode("utf-16-le", "replace").rstrip("\0").lstrip("\\").replace("\\", "/")
    return None


def _candidates(table: PartitionTable, option: LoadOption) -> list[Partition]:
    """Give the partitions where an option's file may be: the one it names, or each system one."""
    for kind, data in option.nodes:
        if kind == HARD_DRIVE:
            return [each for each in table.partitions if each.unique == data[20:36]]
    return [each for each in table.partitions if each.kind == ESP]


def _unforeseen(why: str) -> Refused:
    return Refused(
        "TDM-UEFI-UNFORESEEN",
        why,
        hint="boot a unified kernel image, by itself or by systemd-boot, from a measured disk",
    )
