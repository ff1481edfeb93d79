"""What the Manager measures of a host whose embedded pTPM nobody else measures into.

A hardware TPM holds what firmware and kernel measured, and the Manager never extends it.  The
embedded one starts empty with each Manager, so the Manager measures what it can see: that is weaker
than a measured boot, and `hardware_root` says so everywhere.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tandem.evidence.event_log import write_log
from tandem.evidence.launch import EV_EVENT_TAG, canonical_json
from tandem.installation import source_digest

KERNEL_REGISTER: Final = 8
SOFTWARE_REGISTER: Final = 9
FIRMWARE_LOG: Final = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
HYPERVISOR: Final = Path("/usr/bin/qemu-system-x86_64")

Entry = tuple[int, int, bytes]


def measure_host() -> list[Entry]:
    """Give one entry for the running kernel, and one for the software that builds pairs."""
    system = os.uname()
    kernel = {
        "release": system.release,
        "version": system.version,
        "command_line": _file_digest(Path("/proc/cmdline")),
    }
    software = {
        "tandem": source_digest().hex(),
        "hypervisor": _file_digest(HYPERVISOR) if HYPERVISOR.exists() else "",
    }
    return [
        (KERNEL_REGISTER, EV_EVENT_TAG, canonical_json(kernel)),
        (SOFTWARE_REGISTER, EV_EVENT_TAG, canonical_json(software)),
    ]


def extensions(entries: list[Entry]) -> Iterator[tuple[int, bytes]]:
    """Give what each entry extends: register and SHA-256 digest."""
    return ((register, hashlib.sha256(data).digest()) for register, _, data in entries)


def embedded_log(entries: list[Entry]) -> bytes:
    """Give the entries as a TCG crypto-agile event log."""
    return write_log(entries)


def firmware_log() -> bytes:
    """Give the event log of a host with a hardware TPM, as the kernel kept it."""
    return FIRMWARE_LOG.read_bytes() if FIRMWARE_LOG.exists() else b""


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
