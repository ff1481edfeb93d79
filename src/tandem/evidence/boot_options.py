"""Boot options of OVMF: what its boot manager makes of the variable store before it boots.

A load option is an EFI_LOAD_OPTION (UEFI 2.10, section 3.1.3).  The steps are those of edk2's
`OvmfPkg/Library/PlatformBootManagerLib/BdsPlatform.c` and of `MdeModulePkg/Library/
UefiBootManagerLib`: a menu, an option for each disk, a shell; what they leave goes into PCR 1.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tandem.evidence.cursor import Cursor
from tandem.evidence.firmware_volume import Volume
from tandem.evidence.guid import EFI_GLOBAL_VARIABLE, guid
from tandem.evidence.variable_store import HINT, VariableStore

ACTIVE, HIDDEN, CATEGORY, CATEGORY_APP = 0x1, 0x8, 0x1F00, 0x100  # attributes of an option
MENU: Final = guid("462caa21-7614-4503-836e-8ab6f4662331")  # UiApp
SHELL: Final = guid("7c04a583-9e3e-4f1c-ad65-e05268d0b4d1")
SHELL_NAME: Final = "EFI Internal Shell"
MENU_NAME: Final = "Boot Manager Menu"
DISK_NAME: Final = "UEFI Misc Device"  # what the boot manager calls a virtio disk
AUTOMATIC: Final = guid("8108ac4e-9f11-4d59-850e-e21a522c59b2")  # marks an option as its own
PCI_ROOT: Final = bytes.fromhex("02010c00d041030a00000000")  # PciRoot(0x0)
END: Final = bytes.fromhex("7fff0400")
HARD_DRIVE, FILE_PATH, VOLUME_FILE, VOLUME = (4, 1), (4, 4), (4, 6), (4, 7)  # types of nodes
MAX_OPTIONS: Final = 256


@dataclass(frozen=True, kw_only=True)
class LoadOption:
    """A boot option; `path` is the device path, its end included."""

    attributes: int
    description: str
    path: bytes
    data: bytes = b""

    def encode(self) -> bytes:
        """Write the variable's data."""
        head = struct.pack("<IH", self.attributes, len(self.path))
        text = (self.description + "\0").encode("utf-16-le", "surrogatepass")
        return head + text + self.path + self.data

    @property
    def boots(self) -> bool:
        """Whether the boot manager tries it by itself."""
        return bool(self.attributes & ACTIVE) and not self.attributes & CATEGORY

    @property
    def nodes(self) -> tuple[tuple[tuple[int, int], bytes], ...]:
        """The nodes of the path before its end: type and sub-type, and the data."""
        return path_nodes(self.path)

    @property
    def opens_menu(self) -> bool:
        """Whether it is the boot manager's menu."""
        return any(kind == VOLUME_FILE and data == MENU for kind, data in self.nodes)


@dataclass(kw_only=True)
class BootManager:
    """Options under way; `numbers` is BootOrder and every number in it has an option."""

    numbers: list[int] = field(default_factory=list)
    options: dict[int, LoadOption] = field(default_factory=dict)

    def add(self, option: LoadOption) -> None:
        """Add an option at the end unless it is there."""
        if any(each == option for each in self.options.values()):
            return
        number = next(each for each in range(0x10000) if each not in self.numbers)
        self.numbers.append(number)
        self.options[number] = option

    def remove(self, number: int) -> None:
        """Remove an option."""
        self.numbers.remove(number)
        del self.options[number]

    def variables(self) -> list[tuple[str, bytes]]:
        """Give what is measured: the order, then each option in that order."""
        order = struct.pack(f"<{len(self.numbers)}H", *self.numbers)
        listed = [(f"Boot{each:04X}", self.options[each].encode()) for each in self.numbers]
        return [("BootOrder", order), *listed]


def boot_manager(store: VariableStore, volume: Volume) -> BootManager:
    """Read the store's options and add the menu: all that happens before a kernel by fw_cfg."""
    manager = BootManager()
    order = store.read(EFI_GLOBAL_VARIABLE, "BootOrder")
    if len(order) % 2 or len(order) > 2 * MAX_OPTIONS:
        raise Cursor(b"", "variable store", hint=HINT).broken(f"a BootOrder of {len(order)} bytes")
    for (number,) in struct.iter_unpack("<H", order):
        data = store.read(EFI_GLOBAL_VARIABLE, f"Boot{number:04X}")
        if data and number not in manager.options:
            manager.numbers.append(number)
            manager.options[number] = parse_load_option(data)
    if not any(each.opens_menu for each in manager.options.values()):
        name = volume.user_interface(MENU) or MENU_NAME
        attributes = CATEGORY_APP | ACTIVE | HIDDEN
        manager.add(LoadOption(attributes=attributes, description=name, path=_in(volume, MENU)))
    return manager


def refresh(manager: BootManager, volume: Volume, disks: Sequence[tuple[int, int]]) -> None:
    """Do what precedes a boot from disks, which are given as PCI device and function."""
    found = [
        LoadOption(
            attributes=ACTIVE,
            description=DISK_NAME if number == 1 else f"{DISK_NAME} {number}",
            path=pci_path(*each) + END,
            data=AUTOMATIC,
        )
        for number, each in enumerate(disks, 1)
    ]
    for number in list(manager.numbers):
        option = manager.options[number]
        if option.data == AUTOMATIC and option not in found:
            manager.remove(number)
    for option in found:
        manager.add(option)
    if SHELL in volume.files:
        manager.add(LoadOption(attributes=ACTIVE, description=SHELL_NAME, path=_in(volume, SHELL)))
    for number in list(manager.numbers):
        if _is_stale(manager.options[number], volume):
            manager.remove(number)


def parse_load_option(data: bytes) -> LoadOption:
    """Read an EFI_LOAD_OPTION, or refuse it."""
    cursor = Cursor(data, "boot option", "little", HINT)
    attributes, size = cursor.u32("attributes"), cursor.u16("path length")
    text = bytearray()
    while (unit := cursor.take(2, "description")) != b"\0\0":
        text += unit
    path = cursor.take(size, "device path")
    return LoadOption(
        attributes=attributes,
        description=text.decode("utf-16-le", "surrogatepass"),
        path=path,
        data=cursor.take(cursor.left, "optional data"),
    )


def path_nodes(path: bytes) -> tuple[tuple[tuple[int, int], bytes], ...]:
    """Part a device path into nodes (UEFI 2.10, 10.3.1), as far as it is well formed."""
    found = []
    offset = 0
    while offset + 4 <= len(path) and path[offset] != END[0]:
        size = int.from_bytes(path[offset + 2 : offset + 4], "little")
        if not 4 <= size <= len(path) - offset:
            break
        kind = (path[offset], path[offset + 1])
        found.append((kind, path[offset + 4 : offset + size]))
        offset += size
    return tuple(found)


def pci_path(device: int, function: int) -> bytes:
    """Write PciRoot(0x0)/Pci(device, function), without an end."""
    return PCI_ROOT + bytes((1, 1, 6, 0, function, device))


def _in(volume: Volume, file: bytes) -> bytes:
    """Write the path of a file in a firmware volume."""
    return bytes((*VOLUME, 20, 0)) + volume.name + bytes((*VOLUME_FILE, 20, 0)) + file + END


def _is_stale(option: LoadOption, volume: Volume) -> bool:
    """Whether an option names a file that this firmware does not have."""
    nodes: Mapping[tuple[int, int], bytes] = dict(option.nodes[:2])
    if set(nodes) != {VOLUME, VOLUME_FILE}:
        return False
    return nodes[VOLUME] != volume.name or nodes[VOLUME_FILE] not in volume.files
