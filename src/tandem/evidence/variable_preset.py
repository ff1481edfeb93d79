"""Boot entries preset in a UEFI variable store: what a template must have before its first boot.

A bare store makes firmware look for loaders by itself.  Where Debian's shim finds itself started
like that, its fallback program writes a boot entry and resets the machine; a copy of the template
forgets the entry with each launch, so this would go on for ever.  An entry that names shim by its
own folder (`\\EFI\\debian\\shimx64.efi`) keeps it from looking for the fallback.

Pure.  Layout: edk2 `MdeModulePkg/Include/Guid/VariableFormat.h`, authenticated variables.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from tandem.errors import UsageError
from tandem.evidence.boot_options import ACTIVE, END, FILE_PATH, LoadOption
from tandem.evidence.cursor import Cursor
from tandem.evidence.guid import EFI_GLOBAL_VARIABLE
from tandem.evidence.variable_store import ADDED, HINT, VARIABLE, parse_variable_store

# start, state, attributes, count, time, key, size of name, size of data, vendor
HEADER: Final = struct.Struct("<HBxIQ16sIII16s")
STORE_HEADER_SIZE: Final = 28
NON_VOLATILE, BOOT_SERVICE, RUNTIME = 0x1, 0x2, 0x4
ATTRIBUTES: Final = NON_VOLATILE | BOOT_SERVICE | RUNTIME
DELETED: Final = 0xFD  # the bit of a state that falls when a variable goes
ERASED: Final = 0xFF
MAX_PATH: Final = 255


def preset_boot(store: bytes, paths: Sequence[str]) -> bytes:
    """Give the store with these programs as all of its boot entries, in their order.

    A path is of an EFI system partition (`\\EFI\\BOOT\\BOOTX64.EFI`); firmware looks for it on
    every disk, in the disks' order (UEFI 2.10, 3.1.2: a short-form file path).  UntrustedInput for
    a store that is none; UsageError for a path that is none, or more than the store has room for.
    """
    parse_variable_store(store)
    options = [file_option(path) for path in paths]
    order = struct.pack(f"<{len(options)}H", *range(len(options)))
    added = b"".join(
        _variable(name, data)
        for name, data in (
            *((f"Boot{number:04X}", each.encode()) for number, each in enumerate(options)),
            ("BootOrder", order),
        )
    )
    made, free, end = _without_boot_entries(store)
    if free + len(added) > end or made[free : free + len(added)].strip(bytes([ERASED])):
        raise UsageError(
            "TDM-UEFI-STORE-FULL",
            f"the variable store has no room for {len(paths)} boot entries",
            hint="begin with a store that never ran, such as /usr/share/OVMF/OVMF_VARS_4M.fd",
        )
    made[free : free + len(added)] = added
    return bytes(made)


def is_program(path: str) -> bool:
    """Whether a text is the path of a file on an EFI system partition."""
    plain = path.isascii() and path.isprintable() and len(path) <= MAX_PATH
    return plain and path.startswith("\\") and "/" not in path and not path.endswith("\\")


def file_option(path: str) -> LoadOption:
    """Make the boot option of a program by its path, on whatever disk it is."""
    if not is_program(path):
        raise UsageError(
            "TDM-UEFI-PATH",
            f"{path[:64]!a} is not the path of a program on an EFI system partition",
            hint=r"write it as '\EFI\BOOT\BOOTX64.EFI'",
        )
    name = (path + "\0").encode("utf-16-le")
    node = struct.pack("<BBH", *FILE_PATH, 4 + len(name)) + name
    return LoadOption(attributes=ACTIVE, description=path, path=node + END)


def _without_boot_entries(store: bytes) -> tuple[bytearray, int, int]:
    """Mark the store's boot entries as deleted; gives where free space begins and ends, too."""
    made = bytearray(store)
    cursor = Cursor(store, "variable store", "little", HINT)
    cursor.seek(48)
    start = cursor.u16("header length")
    cursor.seek(start + 16)
    end = start + cursor.u32("store size")
    offset = start + STORE_HEADER_SIZE
    while offset + HEADER.size <= end:
        begin, state, *_, name_size, data_size, vendor = HEADER.unpack_from(store, offset)
        if begin != VARIABLE:
            break
        at = offset + HEADER.size
        name = store[at : at + name_size].decode("utf-16-le", "replace").rstrip("\0")
        if vendor == EFI_GLOBAL_VARIABLE and _is_boot_entry(name):
            made[offset + 2] = state & DELETED
        offset = _aligned(at + name_size + data_size)
    return made, offset, end


def _is_boot_entry(name: str) -> bool:
    return name == "BootOrder" or (name.startswith("Boot") and len(name) == len("Boot0000"))


def _variable(name: str, data: bytes) -> bytes:
    encoded = (name + "\0").encode("utf-16-le")
    header = HEADER.pack(
        *(VARIABLE, ADDED, ATTRIBUTES, 0, bytes(16), 0, len(encoded), len(data)),
        EFI_GLOBAL_VARIABLE,
    )
    whole = header + encoded + data
    return whole.ljust(_aligned(len(whole)), bytes([ERASED]))


def _aligned(offset: int) -> int:
    return (offset + 3) & ~3
