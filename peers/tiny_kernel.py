"""A kernel that says who it is and stops: enough to see which one a machine really booted.

It has the header of a Linux bzImage, so that QEMU and SeaBIOS load it as one, with command line and
initrd; what runs is some instructions that write a text to QEMU's debug console.
"""

from __future__ import annotations

import struct
from typing import Final

DEBUG_PORT: Final = 0x402
SECTOR: Final = 512
SETUP_SECTORS: Final = 1  # beside the boot sector
HEADER: Final = 0x1F1  # Linux x86 boot protocol, section 1.2: setup_sects and on
ENTRY: Final = 0x200  # real-mode code begins with a jump over the rest of the header
CODE: Final = 0x280
TEXT: Final = 0x2C0
PROTECTED: Final = 4096  # bytes of the part that a real kernel runs in protected mode
HALTED_FIRMWARE: Final = b"\xf4" * 65536  # for `-bios`: it halts, and leaves the TPM to the guest


def tiny_kernel(name: str) -> bytes:
    """Give a bzImage that writes `booted NAME.` to the debug console, and halts."""
    image = bytearray((1 + SETUP_SECTORS) * SECTOR + PROTECTED)
    image[HEADER] = SETUP_SECTORS
    struct.pack_into("<I", image, 0x1F4, PROTECTED // 16)  # syssize
    struct.pack_into("<H", image, 0x1FE, 0xAA55)  # boot_flag
    image[ENTRY : ENTRY + 2] = bytes((0xEB, CODE - ENTRY - 2))  # jmp CODE
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, 0x0204)  # protocol version
    image[0x211] = 1  # loadflags: LOADED_HIGH
    struct.pack_into("<I", image, 0x22C, 0x7FFFFFFF)  # initrd_addr_max
    # The segment that it runs in is the setup's plus 0x20: offsets are relative to ENTRY.
    code = (
        b"\xfa\x8c\xc8\x8e\xd8"  # cli; mov ax, cs; mov ds, ax
        + b"\xbe" + struct.pack("<H", TEXT - ENTRY)  # mov si, TEXT
        + b"\xba" + struct.pack("<H", DEBUG_PORT)  # mov dx, DEBUG_PORT
        + b"\xac\x84\xc0\x74\x03\xee\xeb\xf8"  # lodsb; test al, al; jz +3; out dx, al; jmp -8
        + b"\xf4\xeb\xfd"  # hlt; jmp -3
    )  # fmt: skip
    image[CODE : CODE + len(code)] = code
    text = f"booted {name}.".encode() + b"\0"
    image[TEXT : TEXT + len(text)] = text
    return bytes(image)
