"""Kernels and what they measure of themselves: Linux's EFI stub, alone or below systemd's stub.

Linux 6.1 `drivers/firmware/efi/libstub/efi-stub-helper.c`: command line and initrd go into PCR 9.
systemd 252 `src/boot/efi/stub.c` measures the sections of a unified kernel image into PCR 11 and a
command line that it was given into PCR 12; where Secure Boot is on, the built-in one stands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tandem.errors import Refused
from tandem.evidence.pe_image import PeImage, Section
from tandem.evidence.prediction import BANKS, Part, PredictedEvent, of_digests, predicted

LINUX_MAGIC_AT: Final = 0x202  # Documentation/arch/x86/boot.rst
LINUX_MAGIC: Final = b"HdrS"
LOADER_INFO: Final = re.compile(rb"#### LoaderInfo: (systemd-(?:boot|stub)) (\d{1,9})[^#]*####")
KNOWN_SYSTEMD: Final = 252  # whose measuring was read
SECTIONS: Final = {  # in the order of `unified_sections`; .pcrsig is never measured
    b".linux": Part.KERNEL,
    b".osrel": Part.KERNEL,
    b".cmdline": Part.COMMAND_LINE,
    b".initrd": Part.INITRD,
    b".splash": Part.KERNEL,
    b".dtb": Part.KERNEL,
    b".pcrpkey": Part.KERNEL,
}
WRAPPED: Final = (b".pcrsig", b".pcrpkey")  # sections that become a part of the initrd
SPACE: Final = 0x20  # a character below becomes one


@dataclass(frozen=True, kw_only=True)
class Started:
    """How a kernel is started: `options` are the load options, as they stand in memory."""

    secure_boot: bool
    options: bytes = b""


def is_linux(image: PeImage) -> bool:
    """Whether an image is a Linux kernel."""
    return image.data[LINUX_MAGIC_AT : LINUX_MAGIC_AT + 4] == LINUX_MAGIC


def systemd_program(image: PeImage) -> str | None:
    """Give `systemd-boot` or `systemd-stub` where an image is one; another version is Refused."""
    magic = image.section(b".sdmagic")
    match = LOADER_INFO.search(image.content(magic)) if magic else None
    if match is None:
        return None
    program, version = match[1].decode("ascii"), int(match[2])
    if version != KNOWN_SYSTEMD:
        raise Refused(
            "TDM-UEFI-UNKNOWN-LOADER",
            f"{program} {version} may measure in another way than {KNOWN_SYSTEMD}",
            hint=f"use {program} {KNOWN_SYSTEMD}, as in Debian 12",
        )
    return program


def application_event(image: PeImage, part: Part, what: str) -> PredictedEvent:
    """Make the event of an application that the firmware loads (EV_EFI_BOOT_SERVICES_APPLICATION).

    Its digest is that of Authenticode, not of the file.
    """
    return of_digests(4, part, what, {bank: (image.authenticode(bank),) for bank in BANKS})


def linux_events(options: bytes, initrd: bytes, what: str = "") -> list[PredictedEvent]:
    """Make the events of Linux's own stub; `initrd` comes by LoadFile2, without one it is empty."""
    events = []
    if options:
        text = options.decode("utf-16-le", "replace").rstrip("\0")
        events.append(predicted(9, Part.COMMAND_LINE, f"command line of the kernel: {text}",
                                options))  # fmt: skip
    if initrd:
        events.append(predicted(9, Part.INITRD, f"initrd{what}", initrd))
    return events


def unified_events(image: PeImage, inner: PeImage, started: Started) -> list[PredictedEvent]:
    """Make the events of systemd's stub and of the kernel in it, up to its start."""
    found = {name: image.section(name) for name in (*SECTIONS, *WRAPPED)}
    sections = {name: each for name, each in found.items() if each is not None}
    events = [event for name in SECTIONS if name in sections
              for event in _section_events(image, name, sections[name])]  # fmt: skip
    options, given = _options(image, sections.get(b".cmdline"), started)
    if given:
        events.append(_given_options(options))
    if not started.secure_boot:  # else the stub vouches for its kernel, past all measuring
        events.append(application_event(inner, Part.KERNEL, "kernel in the unified kernel image"))
    initrd = sections.get(b".initrd")
    content = image.content(initrd) if initrd else b""
    return events + linux_events(options, content, " in the unified kernel image")


def wraps_initrd(image: PeImage) -> bool:
    """Whether the stub makes an initrd from sections, whose bytes are not those of any file."""
    return any(image.section(name) for name in WRAPPED)


def load_options(text: str) -> bytes:
    """Write a command line as load options: UTF-16, tidied as by `mangle_stub_cmdline`."""
    plain = "".join(each if ord(each) > SPACE - 1 else " " for each in text.split("\0")[0])
    return (plain.rstrip(" ") + "\0").encode("utf-16-le", "surrogatepass")


def given_options_event(options: bytes) -> PredictedEvent:
    """Make the event of a command line that a boot loader passes on."""
    return _given_options(options)


def _section_events(image: PeImage, name: bytes, section: Section) -> list[PredictedEvent]:
    """A section is measured as two events: its name with its end, and its content."""
    text = name.decode("ascii")
    content = image.content(section)
    what = f"section {text}"
    if name == b".cmdline":
        what += f": {content.decode('utf-8', 'replace')}"
    return [
        predicted(11, SECTIONS[name], f"name of section {text}", name + b"\0"),
        predicted(11, SECTIONS[name], what, content),
    ]


def _options(image: PeImage, built_in: Section | None, started: Started) -> tuple[bytes, bool]:
    """Choose the command line as `use_load_options` does; whether it is the one that was given."""
    first = int.from_bytes(started.options[:2], "little")
    allowed = not (started.secure_boot and built_in is not None)
    if allowed and first >= SPACE:
        return load_options(started.options.decode("utf-16-le", "replace")), True
    if built_in is None:
        return b"", False
    return load_options(image.content(built_in).decode("utf-8", "replace")), False


def _given_options(options: bytes) -> PredictedEvent:
    text = options.decode("utf-16-le", "replace").rstrip("\0")
    return predicted(12, Part.COMMAND_LINE, f"command line that was passed on: {text}", options)
