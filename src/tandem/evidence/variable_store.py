"""Variable store of OVMF's flash: what the firmware will read as its variables at the next boot.

Layout: edk2 `MdeModulePkg/Include/Guid/VariableFormat.h`, authenticated variables, little-endian,
in a firmware volume of their own (PI 1.7, volume 3, 3.2.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tandem.evidence.cursor import Cursor
from tandem.evidence.guid import EFI_GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, guid

HINT: Final = "give OVMF's variable store, such as /usr/share/OVMF/OVMF_VARS_4M.fd"
SYSTEM_NV_DATA: Final = guid("fff12b8d-7696-4c8b-a985-2747075b4f50")
AUTHENTICATED_STORE: Final = guid("aaf32c78-947b-439a-a180-2e144ec37792")
SECURE_BOOT_ENABLE: Final = guid("f0a30bc7-af08-4556-99c4-001009c93a44")
FORMATTED, HEALTHY = 0x5A, 0xFE
VARIABLE: Final = 0x55AA  # StartId of each
ADDED: Final = 0x3F  # state; a bit falls to 0 for each step of its life
BEING_DELETED: Final = 0x3E  # its successor is being written
MAX_STORE: Final = 4 * 1024 * 1024

Variables = Mapping[tuple[bytes, str], bytes]  # by vendor GUID and name


@dataclass(frozen=True, kw_only=True)
class VariableStore:
    """The variables of a store that are valid."""

    variables: Variables

    def read(self, vendor: bytes, name: str) -> bytes:
        """Give a variable's data, none where it does not exist."""
        return self.variables.get((vendor, name), b"")

    @property
    def secure_boot(self) -> bool:
        """Whether firmware that knows Secure Boot enforces it: a platform key, and not disabled.

        So edk2's AuthVariableLib decides (`AuthVariableLibInitialize`) before anything is measured.
        """
        enabled = self.read(SECURE_BOOT_ENABLE, "SecureBootEnable") or b"\1"
        return bool(self.read(EFI_GLOBAL_VARIABLE, "PK")) and enabled == b"\1"

    def security(self, name: str) -> bytes:
        """Give a signature database: db, dbx or dbt."""
        return self.read(IMAGE_SECURITY_DATABASE, name)


def parse_variable_store(data: bytes) -> VariableStore:
    """Read a variable store, or refuse it."""
    cursor = Cursor(data, "variable store", "little", HINT)
    if len(data) > MAX_STORE:
        raise cursor.broken(f"{len(data)} bytes, more than {MAX_STORE}")
    cursor.take(16, "zero vector")
    if cursor.take(16, "file system") != SYSTEM_NV_DATA:
        raise cursor.broken("not a volume of variables")
    cursor.seek(48)
    start = cursor.u16("header length")
    cursor.seek(start)
    if cursor.take(16, "store signature") != AUTHENTICATED_STORE:
        raise cursor.broken("not a store of authenticated variables")
    end = start + cursor.u32("store size")
    if (cursor.u8("format"), cursor.u8("state")) != (FORMATTED, HEALTHY) or end > len(data):
        raise cursor.broken("not formatted, or longer than its volume")
    cursor.take(6, "reserved")
    return VariableStore(variables=_variables(Cursor(data[:end], cursor.what, "little", HINT),
                                              cursor.offset))  # fmt: skip


def _variables(cursor: Cursor, offset: int) -> dict[tuple[bytes, str], bytes]:
    valid: dict[tuple[bytes, str], bytes] = {}
    leaving: dict[tuple[bytes, str], bytes] = {}
    cursor.seek(offset)
    while cursor.left >= 60 and cursor.u16("start of a variable") == VARIABLE:
        state = cursor.u8("state")
        cursor.take(1 + 4 + 8 + 16 + 4, "attributes, count, time and key")
        name_size, data_size = cursor.u32("name size"), cursor.u32("data size")
        vendor = cursor.take(16, "vendor GUID")
        name, data = cursor.take(name_size, "name"), cursor.take(data_size, "data")
        key = (vendor, name.decode("utf-16-le", "replace").rstrip("\0"))
        if state == ADDED:
            valid[key] = data
        elif state == BEING_DELETED:
            leaving[key] = data
        cursor.seek((cursor.offset + 3) & ~3)
    return {**leaving, **valid}
