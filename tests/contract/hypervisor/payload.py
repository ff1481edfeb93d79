"""Kernels of a few instructions: each does one thing that a guest's system can do to its machine.

They have the header of a Linux bzImage, so that QEMU loads them as one; SeaBIOS then starts them in
real mode.  Registers and values are those of q35's ACPI (ICH9, PMBASE 0x600 as SeaBIOS sets it), of
QEMU's pvpanic, and of Intel's 6300ESB watchdog (datasheet 300641, section 16).
"""

from __future__ import annotations

import struct
from typing import Final

SECTOR: Final = 512
SETUP_SECTORS: Final = 0x1F1  # Linux x86 boot protocol, section 1.2
ENTRY: Final = 0x200
CODE: Final = 0x280  # behind the header
PROTECTED: Final = 4096  # bytes of what a real kernel runs in protected mode
HALT: Final = b"\xf4\xeb\xfd"  # hlt; jmp -3


def _out_word(port: int, value: int) -> bytes:
    return b"\xba" + port.to_bytes(2, "little") + b"\xb8" + value.to_bytes(2, "little") + b"\xef"


def _out_byte(port: int, value: int) -> bytes:
    return b"\xba" + port.to_bytes(2, "little") + b"\xb0" + bytes([value]) + b"\xee"


def _select(register: int) -> bytes:
    """Choose a PCI configuration register of the device in ebx: mov eax, ebx; or al; out 0xcf8."""
    return b"\x66\x89\xd8\x0c" + bytes([register]) + b"\xba\xf8\x0c\x66\xef"


PM1_CONTROL: Final = 0x604
SLEEP_ENABLE: Final = 1 << 13
SLEEP_S3: Final = 1 << 10
POWER_OFF: Final = _out_word(PM1_CONTROL, SLEEP_ENABLE)
SLEEP: Final = _out_word(PM1_CONTROL, SLEEP_ENABLE | SLEEP_S3)
RESET: Final = _out_byte(0x64, 0xFE)  # the keyboard controller's line
PANIC: Final = _out_byte(0x505, 1)
BEAT: Final = b"\xba\xf8\x03\xb0x\xee\xb9\xff\xff\xe2\xfe\xeb\xf8"  # write x to COM1, wait, again
_FIND_WATCHDOG: Final = (
    b"\x66\xbb\x00\x00\x00\x80"  # mov ebx, 0x80000000
    b"\x66\x89\xd8\xba\xf8\x0c\x66\xef\xba\xfc\x0c\x66\xed"  # read its first configuration register
    b"\x66\x3d\x86\x80\xab\x25\x74\x09"  # cmp eax, 0x25ab8086; je found
    b"\x66\x81\xc3\x00\x08\x00\x00\xeb\xe2"  # add ebx, 0x800; jmp to the reading
)
WATCHDOG: Final = (  # enabled, at 1 MHz: it runs out after two seconds
    _FIND_WATCHDOG + _select(0x60) + _out_word(0xCFC, 4) + _select(0x68) + _out_byte(0xCFC, 2)
)


def kernel_that(code: bytes) -> bytes:
    """Give a kernel that runs `code`, then halts."""
    image = bytearray(2 * SECTOR + PROTECTED)
    image[SETUP_SECTORS] = 1
    struct.pack_into("<I", image, 0x1F4, PROTECTED // 16)  # syssize
    struct.pack_into("<H", image, 0x1FE, 0xAA55)  # boot_flag
    image[ENTRY : ENTRY + 2] = bytes((0xEB, CODE - ENTRY - 2))  # jmp CODE
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, 0x0204)  # protocol version
    image[0x211] = 1  # loadflags: LOADED_HIGH
    struct.pack_into("<I", image, 0x22C, 0x7FFFFFFF)  # initrd_addr_max
    image[CODE : CODE + len(code) + len(HALT)] = code + HALT
    return bytes(image)
